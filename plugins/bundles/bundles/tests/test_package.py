"""Packages that `crosstask plugins new bundle` and `new publisher` write: what they carry is found."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosstask import Registry
from crosstask.cli.plugins.new import scaffold
from crosstask.graph import TransferGraph
from crosstask.run import Run
from crosstask.testing import reference_registry, run_checks
from crosstask.testing.commands import installed
from crosstask_bundles import Imported, open_bundle
from crosstask_bundles.testing import REFERENCE, small_bundle
from tests.environments import Environment


@pytest.fixture(autouse=True, scope="module")
def one_registry() -> Iterator[Registry]:
    """The manifests of all that is installed are read once."""
    with installed(Registry.installed()) as registry:
        yield registry


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Both packages, as if they were installed."""
    registry = reference_registry(REFERENCE)
    for point in ("bundle", "publisher"):
        (folder,) = scaffold(point, f"my-{point}", tmp_path)
        monkeypatch.syspath_prepend(str(folder / "src"))
        manifest = importlib.import_module(f"crosstask_my_{point}.plugin").PLUGIN
        registry.register(manifest, distribution=f"crosstask-my-{point}")
    yield registry
    for name in [name for name in sys.modules if name.startswith("crosstask_my_")]:
        del sys.modules[name]


def test_a_written_package_carries_a_bundle_that_is_found(written: Registry) -> None:
    kind = written.component_class("bundle", "my_bundle")
    assert [outcome for outcome in run_checks(kind, registry=written) if not outcome.ok] == []
    tasks = Registry.installed().create("source", "digits", {"tasks": ["parity", "loop"]}).load()
    graph = TransferGraph(task.descriptor for task in tasks)
    for bundles in (["my_bundle"], []):  # by its name, and because it is installed
        with Run(written) as run:
            imported = Imported(bundles=bundles)
            run.add(imported)
            edges = run.call(imported, "discover", portfolio=tasks, graph=graph)
        assert {(edge.source, edge.target) for edge in edges} == {("parity", "loop"), ("loop", "parity")}
        assert [use.licence for use in imported.uses] == ["CC0-1.0"]


def test_a_written_publisher_publishes(written: Registry, tmp_path: Path) -> None:
    publisher = written.create("publisher", "my_publisher", {"root": str(tmp_path / "root")})
    where = Path(publisher.send(small_bundle()))  # type: ignore[attr-defined]
    assert where.parent == tmp_path / "root" / "CC0-1.0"
    assert open_bundle(where).digest == small_bundle().digest


LOOK = """
import json
from crosstask import Registry, TransferGraph
from crosstask_bundles import Imported

tasks = Registry.installed().create("source", "digits", {"tasks": ["parity", "loop"]}).load()
found = Imported(bundles=["my_bundle"])
edges = found.discover(tasks, TransferGraph(task.descriptor for task in tasks))
print(json.dumps([[edge.source, edge.target, edge.evidence.value] for edge in edges]))
"""


@pytest.mark.slow
@pytest.mark.packaging
def test_the_package_is_built_installed_and_found(tmp_path: Path) -> None:
    """As its author publishes it: a wheel, beside the kernel and this family alone."""
    fresh = Environment(tmp_path)
    for member in ("kernel", "bundles/bundles", "sources/sources", "sources/digits"):
        fresh.install_member(member)
    fresh.run("crosstask", "plugins", "new", "bundle", "my-bundle")
    fresh.install(fresh.wheel(tmp_path / "crosstask-my-bundle", tmp_path))
    found = json.loads(fresh.run("python", "-c", LOOK))
    assert sorted(found) == [["loop", "parity", "measured"], ["parity", "loop", "measured"]]
    assert "0 failed" in fresh.run("crosstask", "plugins", "check", "my-bundle")
    told = fresh.run("python", "-m", "pytest", "-q", "-W", "error", "crosstask-my-bundle")
    assert " passed" in told.splitlines()[-1]
