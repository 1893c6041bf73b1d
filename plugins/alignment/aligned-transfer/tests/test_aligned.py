"""The transfer method: by name from the engine, what it aligns, what it refuses, what it says."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest
import structlog
import torch
from torch import Tensor, nn

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import receive
from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.parts import Choice
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry, small_portfolio
from crosstask_aligned_transfer import AlignedTransfer
from crosstask_aligned_transfer.aligned import _Between
from crosstask_aligned_transfer.plugin import PLUGIN
from crosstask_alignment.testing import REFERENCE, ReferenceAlignment, digits

BUDGET = Budget(steps=8, batch_size=16, learning_rate=0.01)


@component
class Notes(ReferenceAlignment):
    """Notes the features of each domain."""

    seen: ClassVar[list[list[int]]] = []

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        self.seen.append(torch.bincount(domain).tolist())
        return super().misalignment(features, domain, outputs, progress)


@component
class Counts(Transfer):
    """A first method that notes its steps."""

    steps: ClassVar[list[int]] = []

    def learn(self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: Any) -> Any:
        self.steps.append(budget.steps)
        return fit(model, task, budget, generator)


def pair() -> tuple[Task, Task]:
    tasks = small_portfolio()
    return tasks["moons"], tasks["turned"]


def test_each_step_aligns_a_batch_of_the_source_with_one_of_the_target() -> None:
    Notes.seen.clear()
    Counts.steps.clear()
    source, target = pair()
    method = AlignedTransfer(alignment=Notes(), before=Counts(), before_share=0.25)
    result = method.transfer(source, target, BUDGET, 2, "test")
    assert Counts.steps == [2, 2]
    assert Notes.seen == [[16, 16]] * 12
    assert result.curve.steps == (0, 2, 8)
    assert (result.source, result.target, result.seeds) == ("moons", "turned", 2)
    assert result.options["weight"] == 0.1
    assert _Between(method, source.data().inputs).identity() == method.identity()
    AlignedTransfer(alignment=Notes(), before=Counts(), before_share=0.0).transfer(source, target, BUDGET, 1, "test")
    assert Counts.steps == [2, 2]


def test_without_the_sources_inputs_it_is_fine_tuning_and_says_so() -> None:
    source, target = pair()
    assert source.model is not None
    weights = []
    method = AlignedTransfer(alignment=Notes())
    for learn in (method.learn, None):
        receiver, _, _ = receive(source.model, target, 0, True)
        generator = torch.Generator().manual_seed(0)
        if learn is None:
            fit(receiver, target, BUDGET, generator)
        else:
            with structlog.testing.capture_logs() as told:
                learn(receiver, source.model, target, BUDGET, generator)
            assert [entry["event"] for entry in told] == ["not_aligned"]
            assert told[0]["why"] == "only the source's model is known, not its inputs"
        weights.append([p.detach() for p in receiver.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    with structlog.testing.capture_logs() as told:
        method.learn(receive(source.model, target, 1, True)[0], source.model, target, BUDGET, generator)
    assert not told, "it was said of the first seed"


def test_what_it_needs() -> None:
    source, target = pair()
    method = AlignedTransfer(alignment=Notes())
    bare = Task(descriptor=source.descriptor, model=source.model)
    with pytest.raises(DataError, match="'moons' has no training data: an alignment needs its inputs"):
        method.transfer(bare, target, BUDGET, 1, "test")
    untrained = Task(descriptor=source.descriptor, train=source.train)
    with pytest.raises(DataError, match="'moons' has no trained model"):
        method.transfer(untrained, target, BUDGET, 1, "test")
    wide = Task(descriptor=TaskDescriptor(task_id="wide", output_dim=2), train=(torch.zeros(4, 3), torch.arange(4) % 2))
    with pytest.raises(DataError, match="inputs of 'moons' and 'wide' differ in kind"):
        method.transfer(source, wide, BUDGET, 1, "test")


def test_the_engine_finds_it_and_its_alignment_by_name() -> None:
    registry = reference_registry(PLUGIN, *_alignments())
    budget = Budget(steps=40, batch_size=32, learning_rate=5e-3, samples=40)
    with TransferEngine(
        registry=registry, model=ModelSpec(hidden=(32,)), seeds=1, discoverers=(), budget=budget,
        train=Budget(steps=60, learning_rate=5e-3),
    ) as engine:  # fmt: skip
        engine.register(Portfolio([digits(), digits("inverted")]))
        options = {"alignment": {"use": "critic"}, "weight": 0.5}
        plain = Choice(use="aligned", options={**options, "weight": 0.0})
        result = engine.transfer_knowledge(
            "digits", "inverted", transfer_strategy=Choice(use="aligned", options=options)
        )
        other = engine.transfer_knowledge("digits", "inverted", transfer_strategy=plain)
    assert "aligned" in result.strategy
    assert result.options["alignment"]["use"] == "critic"
    assert result.score.mean != other.score.mean


def test_the_adapted_model_is_the_one_that_was_measured() -> None:
    source, target = pair()
    method = AlignedTransfer(alignment=Notes(), weight=100.0)
    with TransferEngine(
        registry=reference_registry(PLUGIN, REFERENCE), seeds=2, discoverers=(), budget=attrs.evolve(BUDGET, steps=40)
    ) as engine:
        engine.register(Portfolio([source, target]))
        with structlog.testing.capture_logs() as told:
            found = engine.adapt(source.task_id, target.task_id, method)
        plain = engine.adapt(source.task_id, target.task_id, AlignedTransfer(alignment=Notes(), weight=0.0))
        assert evaluate(found.model, target, "test") == pytest.approx(found.score.values[0])
        assert evaluate(found.model, target, "test") != evaluate(plain.model, target, "test")
        assert "not_aligned" not in [entry["event"] for entry in told]


def _alignments() -> tuple[Plugin, ...]:
    more = Extension("alignment", "noting", f"{__name__}:Notes", summary="For checks.")
    return (REFERENCE, Plugin("noting", [more], api=(2, 0)))
