"""Components made of components. Two points use the same names, so the modules are the public names."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosstask_composition import balancers, curricula, discovery, samplers, wrappers

__all__ = ["balancers", "curricula", "discovery", "samplers", "wrappers"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
