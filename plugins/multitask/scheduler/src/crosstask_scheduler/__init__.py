"""Samplers: which tasks take part in the next step of joint training."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosstask_scheduler.loss_based import LossBased
    from crosstask_scheduler.performance import Performance
    from crosstask_scheduler.performance_based import PerformanceBased
    from crosstask_scheduler.round_robin import RoundRobin
    from crosstask_scheduler.uniform import Uniform

__all__ = ["LossBased", "Performance", "PerformanceBased", "RoundRobin", "Uniform"]

_MODULES = {
    "LossBased": "loss_based",
    "Performance": "performance",
    "PerformanceBased": "performance_based",
    "RoundRobin": "round_robin",
    "Uniform": "uniform",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:  # lazily: the manifest is in this package and must not import torch
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
