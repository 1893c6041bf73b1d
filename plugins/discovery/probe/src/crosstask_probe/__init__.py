"""Measured transfer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstask_probe.probe import Probe

__all__ = ["Probe"]


def __getattr__(name: str) -> Any:
    if name == "Probe":
        from crosstask_probe.probe import Probe  # deferred: imports torch

        return Probe
    raise AttributeError(f"module 'crosstask_probe' has no attribute {name!r}")
