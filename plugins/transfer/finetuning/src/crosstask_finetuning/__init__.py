"""Transfer methods."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstask_finetuning.distillation import Distillation
    from crosstask_finetuning.feature_extraction import FeatureExtraction
    from crosstask_finetuning.fine_tuning import FineTuning
    from crosstask_finetuning.gradual_unfreezing import GradualUnfreezing
    from crosstask_finetuning.l2_sp import L2SP
    from crosstask_finetuning.lp_ft import LPFT

_WHERE = {
    "Distillation": "distillation",
    "FeatureExtraction": "feature_extraction",
    "FineTuning": "fine_tuning",
    "GradualUnfreezing": "gradual_unfreezing",
    "L2SP": "l2_sp",
    "LPFT": "lp_ft",
}
__all__ = ["L2SP", "LPFT", "Distillation", "FeatureExtraction", "FineTuning", "GradualUnfreezing"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'crosstask_finetuning' has no attribute {name!r}")
    import importlib  # deferred, as the algorithms are: they import torch

    return getattr(importlib.import_module(f"crosstask_finetuning.{_WHERE[name]}"), name)
