"""A registry of the kernel's own components and the fakes."""

from __future__ import annotations

from crosstask.builtin import PLUGIN as KERNEL
from crosstask.registry import Registry
from crosstask.settings import Settings
from crosstask_fakes.plugin import PLUGIN


def with_fakes(settings: Settings | None = None, version: str = "1.0") -> Registry:
    """As if the distributions of both were installed, and no other."""
    made = Registry(settings)
    made.register(KERNEL, distribution="crosstask-kernel", version="0.1.0")
    made.register(PLUGIN, distribution="crosstask-fakes", version=version)
    return made
