"""The stage `explain`: what it does in an engine and in a recipe, what it refuses, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.training import History, fit
from crosstask.options import component, structure, unstructure
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval
from crosstask.tasks import Task
from crosstask.testing import conformance, reference_registry, small_task, trained
from crosstask_transfer import BlockAttribution, Explain, LayerAttribution, attribute_layers, attribution
from crosstask_transfer.plugin import PLUGIN

test_conformance = conformance(
    Explain, options={"source": "moons", "target": "quarters"}, registry=reference_registry(PLUGIN)
)

BUDGET = Budget(steps=20, batch_size=16, learning_rate=1e-2, evaluate_every=5)


@component
class Tune(Transfer):
    """Plain fine-tuning."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator)


def engine(store: Path | None = None, **options: Any) -> TransferEngine:
    made = TransferEngine(
        budget=BUDGET, seeds=2, discoverers=(), auto_discover=False, store=store and f"sqlite:///{store}",
        registry=reference_registry(PLUGIN), transfer=Tune(), **options,
    )  # fmt: skip
    for name in ("moons", "quarters"):
        made.register_task(trained(small_task(name)))
    return made


def test_it_is_the_transfer_and_its_attribution() -> None:
    with engine() as one:
        outcome = one.run_stage("explain", source="moons", target="quarters")
    with engine() as other:
        result = other.transfer_knowledge("moons", "quarters")
        tasks = (other.portfolio[name] for name in ("moons", "quarters"))
        wanted = attribute_layers(other.method(), *tasks, result)
    assert outcome.record == wanted
    assert outcome.artifacts == {}
    assert [block.block for block in wanted.blocks] == ["trunk.1", "trunk.3"]
    assert structure(unstructure(wanted), LayerAttribution, "attribution") == wanted


def test_its_own_method_comes_before_the_engines() -> None:
    with engine() as made:
        by_name = made.run_stage("explain", source="moons", target="quarters", strategy="reference").record
        by_default = made.run_stage("explain", source="moons", target="quarters").record
    assert "'reference'" in by_name.strategy
    assert "Tune" in by_default.strategy


def test_what_was_explained_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path / "store.db") as first:
        found = first.run_stage("explain", source="moons", target="quarters").record
    monkeypatch.setattr(attribution, "ablated_score", lambda *_: pytest.fail("measured again"))
    with engine(tmp_path / "store.db") as second:
        assert second.run_stage("explain", source="moons", target="quarters").record == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "mons", "target": "quarters"}, "explain: source: no task 'mons'.*did you mean 'moons'"),
        ({"source": "moons", "target": "halfs"}, "explain: target: no task 'halfs'"),
        ({"source": "moons", "target": "mirrored"}, "target: task 'mirrored' is held back as unseen"),
        ({"source": "bare", "target": "quarters"}, "source: task 'bare' has no training data"),
        ({"source": "moons", "target": "bare"}, "target: task 'bare' has no training data"),
        ({"source": "moons", "target": "moons"}, "target: 'moons' is the source, too"),
    ],
)
def test_tasks_that_do_not_fit_are_refused_before_any_work(options: dict[str, str], said: str) -> None:
    with engine() as made:
        made.register_task(Task(descriptor=TaskDescriptor(task_id="bare", input_shape=(2,), output_dim=2)))
        made.register_task(small_task("mirrored"), unseen=True)
        with pytest.raises(RecipeError, match=said):
            made.run_stage("explain", **options)


def around(mean: float, width: float = 0.03) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width)


def explained(gain: Interval) -> LayerAttribution:
    def block(name: str, lost: float, alone: float, frozen: float | None) -> BlockAttribution:
        return BlockAttribution(
            block=name, weights=1200, without=around(0.9 - lost), alone=around(0.8 + alone), lost_without=around(lost),
            gained_alone=around(alone), lost_frozen=None if frozen is None else around(frozen),
            share_lost=Interval(mean=lost / 0.1, low=0.55, high=1.25), share_alone=around(alone / 0.1, 0.4),
        )  # fmt: skip

    blocks = (block("trunk.1", 0.08, 0.06, -0.01), block("trunk.3", 0.02, -0.05, 0.01), block("head", 0.01, 0.0, None))
    return LayerAttribution(
        source="digits", target="prime", strategy="lp_ft", metric="accuracy", split="test", gain=gain, blocks=blocks,
        seeds=3,
    )  # fmt: skip


def test_summary() -> None:
    found = explained(around(0.1, 0.05))
    assert Explain.summary(found) == {
        "explained": "digits → prime", "explained_gain": found.gain, "carried_by": "trunk.1",
    }  # fmt: skip
    vague = attrs.evolve(found, blocks=found.blocks[1:])
    assert Explain.summary(vague)["carried_by"] == "no single layer"


def test_the_report_says_which_layer_carried_it() -> None:
    [section] = Explain.sections(explained(around(0.1, 0.05)), TransferGraph())
    assert section.title == "Why it transferred"
    for shown in ("<strong>trunk.1</strong> carried most: without it 0.080 are lost (80 % [55 to 125] of the gain)",
                  "1,200", "−50 % [−90 to −10]", "+0.100 [+0.050, +0.150]"):  # fmt: skip
        assert shown in section.html


@pytest.mark.parametrize(("mean", "told"), [(0.02, "is not beyond doubt"), (-0.2, "did not help")])
def test_a_gain_that_is_none_is_not_explained_away(mean: float, told: str) -> None:
    [section] = Explain.sections(explained(around(mean, 0.05)), TransferGraph())
    assert told in section.html
    assert "carried most" not in section.html


def test_names_are_never_markup() -> None:
    evil = '<script>alert("x")</script>'
    found = attrs.evolve(explained(around(0.1)), source=evil, target=evil, strategy=evil, metric=evil)
    found = attrs.evolve(found, blocks=tuple(attrs.evolve(block, block=evil) for block in found.blocks))
    [section] = Explain.sections(found, TransferGraph())
    assert "<script>alert" not in section.html
