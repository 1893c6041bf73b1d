"""The kernel's tests see fake plugins only. Their package must be importable by name, in worker processes too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crosstask.registry import Registry

collect_ignore = ["crosstask_fakes"]  # the template there has a test that is for the project made of it


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root distribution's list of who offers what is not looked at: it may be installed here."""
    for name in ("packages", "shipped_index"):
        monkeypatch.setattr(f"crosstask.registry.{name}", dict)


@pytest.fixture
def registry() -> Registry:
    """The kernel's own components and the fakes."""
    from crosstask_fakes.registry import with_fakes

    return with_fakes()


@pytest.fixture
def installed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The same, for whoever asks what is installed."""
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: registry))
    return registry
