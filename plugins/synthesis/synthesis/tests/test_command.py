"""`crosstask synthesize`, in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.points.source import Source
from crosstask.tasks import Portfolio
from crosstask.testing import installed, invoke, reference_registry, small_portfolio
from crosstask_synthesis.cli import command
from crosstask_synthesis.plugin import PLUGIN

RECIPE = """
source = "plane"
model = { hidden = [8] }
train = { steps = 20, learning_rate = 0.02 }
executor = "serial"
"""


@component
class Plane(Source):
    """The small portfolio."""

    def load(self) -> Portfolio:
        return small_portfolio(models=False)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    plane = Plugin("plane", [Extension("source", "plane", f"{__name__}:Plane")], api=(2, 0))
    found = reference_registry(PLUGIN, plane)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    with installed(found):
        yield str(path)


def test_json_and_weights(recipe: str, tmp_path: Path) -> None:
    made = json.loads(
        invoke(command, "mirrored", "--recipe", recipe, "--strategy", "reference", "--out", "o", "--json")
    )
    assert made["task_id"] == "mirrored"
    assert 0 <= made["score"] <= 1
    assert load_file(tmp_path / "o" / "mirrored.safetensors")


def test_a_table(recipe: str) -> None:
    told = invoke(command, "mirrored", "--recipe", recipe, "--out", "o")
    for words in ("mirrored: made by", "untrained", "with full training", "weights: "):
        assert words in told
