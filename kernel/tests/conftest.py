"""The kernel's tests see fake plugins only. Their module must be importable by name, in worker processes too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crosstask.builtin import PLUGIN as KERNEL
from crosstask.registry import Registry


@pytest.fixture
def registry() -> Registry:
    """The kernel's own components and the fakes."""
    from crosstask_fakes import PLUGIN

    made = Registry()
    made.register(KERNEL)
    made.register(PLUGIN, distribution="crosstask-fakes", version="1.0")
    return made
