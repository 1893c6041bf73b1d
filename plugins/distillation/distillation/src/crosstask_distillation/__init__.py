"""Meta-knowledge distilled from several tasks: what distillers share, the distillation stage."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_distillation.encoders import EncoderDistiller
    from crosstask_distillation.given import check_rate, conditions, inputs_of, with_models
    from crosstask_distillation.left_out import generalization
    from crosstask_distillation.records import DistillationResult
    from crosstask_distillation.stage import Distillation

__all__ = [
    "Distillation",
    "DistillationResult",
    "EncoderDistiller",
    "check_rate",
    "conditions",
    "generalization",
    "inputs_of",
    "with_models",
]

__getattr__ = lazily(
    __name__,
    {
        "Distillation": "stage",
        "DistillationResult": "records",
        "EncoderDistiller": "encoders",
        "check_rate": "given",
        "conditions": "given",
        "generalization": "left_out",
        "inputs_of": "given",
        "with_models": "given",
    },
)
