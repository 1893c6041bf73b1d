"""The stage `synthesis`: judged where there are data, expected scores from the synthesizer, resumed, shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate
from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.records import Budget, Interval, Provenance
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance, reference_registry, small_portfolio
from crosstask.testing.references import ReferenceSynthesizer
from crosstask_synthesis.expectation import Make, expected_score
from crosstask_synthesis.owners import ByOutputs
from crosstask_synthesis.plugin import PLUGIN
from crosstask_synthesis.records import SynthesisResult
from crosstask_synthesis.stage import Synthesis

ASKED: list[str] = []
"""For which tasks a model was made."""


@component
class Telling(ReferenceSynthesizer):
    """The reference, which writes down what it is asked for, and says what can be expected."""

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Tensor | None
    ) -> nn.Module:
        ASKED.append(new_task.task_id)
        return super().synthesize(new_task, sources, graph, inputs)

    def expect(
        self, make: Make, model: nn.Module, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph,
        inputs: Tensor | None,
    ) -> tuple[Interval | None, str]:  # fmt: skip
        return expected_score(make, model, new_task, sources, graph, inputs)


@component
class ByName(ByOutputs, Telling):
    """One that looks for the outputs of the new task in others."""


TELLING = Plugin(
    "telling",
    [
        Extension("synthesis", "telling", f"{__name__}:Telling"),
        Extension("synthesis", "by_name", f"{__name__}:ByName"),
    ],
    api=(2, 0),
)


def registry() -> Registry:
    return reference_registry(PLUGIN, TELLING)


test_conformance = conformance(Synthesis, options={"task": "mirrored", "synthesizer": "telling"}, registry=registry())


def plane() -> Portfolio:
    """The small portfolio without models; what is to be expected of its unseen task, known from no source of its
    domain, is measured on models for the others.
    """
    known = small_portfolio(models=False)
    mirrored = known["mirrored"]
    mirrored.descriptor = attrs.evolve(mirrored.descriptor, domain="plane/mirrored")
    return known


def engine_with(portfolio: Portfolio, store: str = ":memory:") -> TransferEngine:
    engine = TransferEngine(
        model=ModelSpec(hidden=(16,)), train=Budget(steps=40, learning_rate=0.01), store=store, registry=registry()
    )
    engine.register(portfolio)
    return engine


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    ASKED.clear()
    with engine_with(plane()) as made:
        yield made


def test_a_model_is_made_and_judged(engine: TransferEngine) -> None:
    outcome = engine.run_stage("synthesis", task="mirrored")  # by the default of the registry
    result, model, task = outcome.record, outcome.artifacts["model"], engine.portfolio["mirrored"]
    assert result.score == evaluate(model, task)
    assert result.full_training_score > 0.6
    assert (result.task_id, result.metric) == ("mirrored", "accuracy")
    assert result.provenance.expected is None, "the reference says nothing of what can be expected"
    assert task.model is None, "nothing is trained on its labels that could be learned from"
    assert Synthesis.summary(result) == {
        "unseen_task": "mirrored",
        "zero_shot_score": result.score,
        "full_training_score": result.full_training_score,
        "zero_shot_share": result.score / result.full_training_score,
        "unseen_task_by_chance": result.chance,
    }
    train, test = task.data("train").targets, task.data("test").targets
    assert result.chance == pytest.approx((test == train.mode().values).float().mean().item())
    assert not result.learned_nothing


def test_the_synthesizer_says_what_can_be_expected(engine: TransferEngine) -> None:
    result = engine.run_stage("synthesis", task="mirrored", synthesizer="telling").record
    assert result.provenance.expected is not None
    assert result.provenance.notes[-1].startswith("expected score: ")
    assert ASKED[0] == "mirrored"
    assert set(ASKED[1:]) == set(engine.portfolio.ids), "known tasks are made as the new one was"


def test_a_task_without_labels_is_not_judged() -> None:
    portfolio = plane()
    bare = Portfolio(portfolio, unseen=[Task(descriptor=portfolio["mirrored"].descriptor)])
    with engine_with(bare) as engine:
        outcome = engine.run_stage("synthesis", task="mirrored", synthesizer="telling")
    result = outcome.record
    assert (result.score, result.full_training_score) == (None, None)
    assert outcome.artifacts["model"](torch.zeros(3, 2)).shape == (3, 2)
    assert Synthesis.summary(result)["zero_shot_share"] is None
    (section,) = Synthesis.sections(result, TransferGraph())
    assert "could not be judged" in section.html


def test_what_was_made_is_not_made_again_but_its_module_is(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    with engine_with(plane(), store) as engine:
        first = engine.run_stage("synthesis", task="mirrored", synthesizer="telling")
    ASKED.clear()
    with engine_with(plane(), store) as engine:
        again = engine.run_stage("synthesis", task="mirrored", synthesizer="telling")
    assert again.record == first.record
    assert ASKED == ["mirrored"], "one module, and no expected score"
    inputs = small_portfolio()["mirrored"].data("test").inputs
    assert torch.equal(again.artifacts["model"](inputs), first.artifacts["model"](inputs))
    assert again.artifacts["model"].provenance == first.record.provenance


def test_what_cannot_be_done_is_said_before_any_work(engine: TransferEngine) -> None:
    with pytest.raises(RecipeError, match=r"synthesis: task: no task 'mirored'.*did you mean 'mirrored'"):
        engine.run_stage("synthesis", task="mirored")
    alone = Portfolio([Task(descriptor=TaskDescriptor(task_id="bare"))], unseen=small_portfolio().unseen)
    with pytest.raises(RecipeError, match="no task but 'mirrored' has a model, or data to train one"):
        Synthesis(task="mirrored").check(alone)
    engine.register_task(TaskDescriptor(task_id="nameless", output_dim=2), unseen=True)
    engine.register_task(TaskDescriptor(task_id="values", task_type="regression"), unseen=True)
    names = r"synthesis: task 'nameless' needs the names of its classes, .*: say TaskDescriptor\(classes=\.\.\.\)"
    with pytest.raises(RecipeError, match=names):
        engine.run_stage("synthesis", task="nameless", synthesizer="by_name")
    with pytest.raises(RecipeError, match=r"task 'values' needs its output_dim, .*: say TaskDescriptor\(output_dim="):
        engine.run_stage("synthesis", task="values", synthesizer="by_name")
    assert not ASKED


def test_the_section_says_from_what_and_how_well() -> None:
    told = Provenance(
        strategy="weighted_ensemble", new_task="mix<", sources={"a": 0.75, "b": 0.25}, confidence=0.5,
        notes=("c left out: has none of the classes",), expected=Interval(mean=0.8, low=0.7, high=0.9),
    )  # fmt: skip
    result = SynthesisResult(task_id="mix<", provenance=told, metric="accuracy", score=0.85, full_training_score=0.9)
    (section,) = Synthesis.sections(result, TransferGraph())
    assert section.title == "Zero-shot synthesis"
    for words in ("mix&lt;", "weighted ensemble", "0.500", "c left out", "0.700 to 0.900", "synthesised, no training"):
        assert words in section.html
    many = attrs.evolve(told, notes=tuple(f"{name} left out" for name in "cdef"))
    (section,) = Synthesis.sections(attrs.evolve(result, provenance=many), TransferGraph())
    assert "<details><summary>4 notes on how it was made</summary>" in section.html
