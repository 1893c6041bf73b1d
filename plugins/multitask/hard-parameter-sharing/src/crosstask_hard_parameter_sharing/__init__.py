"""Hard parameter sharing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosstask_hard_parameter_sharing.hard_parameter_sharing import HardParameterSharing, SharedTrunk

__all__ = ["HardParameterSharing", "SharedTrunk"]


def __getattr__(name: str) -> object:
    if name in __all__:  # lazily: the manifest is in this package and must not import torch
        from crosstask_hard_parameter_sharing import hard_parameter_sharing

        return getattr(hard_parameter_sharing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
