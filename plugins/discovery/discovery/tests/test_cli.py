"""The command `discover` on a recipe, with a source and a discoverer from a folder of one-off plugins."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from crosstask.graph import TransferGraph
from crosstask_discovery.cli import command

PLUGIN = '''
from crosstask import Discoverer, Extension, Plugin, Portfolio, Source, Task, TaskDescriptor, TransferEdge, component

OFFERS = [Extension("source", "three", "three:Three"), Extension("discovery", "longer", "three:Longer")]
PLUGIN = Plugin("three", OFFERS, api=(2, 0))


@component
class Three(Source):
    """Three tasks."""

    def load(self):
        rows = [[float(n), 1.0] for n in range(8)], [0, 1] * 4
        about = (TaskDescriptor(task_id=name, input_shape=(2,), output_dim=2) for name in ("a", "bb", "ccc"))
        return Portfolio(Task(descriptor=each, train=rows, validation=rows, test=rows) for each in about)


@component
class Longer(Discoverer):
    """The longer the name, the better."""

    capabilities = frozenset({"descriptors_only"})

    def discover(self, portfolio, graph):
        return [TransferEdge(source=s.task_id, target=t.task_id, transfer_coefficient=0.1 * len(s.task_id))
                for s, t in portfolio.pairs()]
'''
RECIPE = '[source]\nuse = "three"\n\n[discovery]\ndiscoverers = ["longer"]\n'


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "three.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.setenv("CROSSTASK_PLUGINS_DIR", str(tmp_path / "plugins"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    yield path
    sys.modules.pop("three", None)


def test_it_writes_the_graph_and_shows_the_strongest(recipe: Path) -> None:
    out = recipe.parent / "out"
    told = CliRunner().invoke(command, ["--recipe", str(recipe), "--out", str(out)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "Strongest transfer" in told.output
    graph = TransferGraph.load(out / "graph.json")
    best = max((e for e in graph.edges() if e.found_by == ""), key=lambda e: e.transfer_coefficient)
    assert best.source == "ccc"
    assert set(TransferGraph.load(out / "graph.graphml").task_ids) == {"a", "bb", "ccc"}


def test_json_is_the_graph(recipe: Path) -> None:
    given = ["--recipe", str(recipe), "--out", str(recipe.parent / "out"), "--json"]
    told = CliRunner().invoke(command, given, catch_exceptions=False)
    assert TransferGraph.from_json(json.loads(told.stdout)).task_ids == ["a", "bb", "ccc"]
