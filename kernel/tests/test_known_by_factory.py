"""What is stored follows from the factory of a source's model, too: it draws the weights that no source has."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, TransferEngine
from crosstask.learning.modules import Head, know
from crosstask.learning.transferring import source_digest
from crosstask.testing import blobs
from crosstask_fakes.registry import with_fakes

FEW = Budget(steps=3, batch_size=8)
Build = Callable[[], nn.Module]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))


def drawing(gain: float, lock: Any = None) -> Build:
    """A factory whose heads begin with weights of this size."""

    def build() -> nn.Module:
        assert lock is None or not lock.locked()
        made = network()
        with torch.no_grad():
            made[2].weight.mul_(gain)  # type: ignore[index,union-attr,operator]
        return made

    return build


def learned() -> nn.Module:
    torch.manual_seed(0)
    return network()


def opened(build: Build, place: str, store: Path | None) -> TransferEngine:
    """An engine with a source of one and the same weights, whose factory is the task's or was kept on the model."""
    made = TransferEngine(registry=with_fakes(), discoverers=[], train=FEW, budget=FEW, seeds=2, store=store)
    source, model = blobs("source"), learned()
    if place == "task":
        source.build = build
    else:
        know(model, build=build)
    made.register_task(source, model)
    made.register_task(blobs("target", seed=1))
    return made


def found(engine: TransferEngine) -> dict[str, Any]:
    """By what gives it: what is found of a transfer from the source."""
    with engine:
        advice = engine.advise("target", "fake", share=1.0)
        result = engine.transfer_knowledge("source", "target", "fake")
        model = engine.adapt("source", "target", "fake").model
        assert advice.rows[0].evidence.startswith("tried on")
        return {
            "advise": advice.rows[0].expected,
            "transfer": (result.curve, result.scratch_curve),
            "adapt": [tensor.tolist() for tensor in model.state_dict().values()],
        }


@pytest.mark.parametrize("place", ["task", "model"])
def test_with_another_factory_nothing_is_taken_from_the_store(place: str, tmp_path: Path) -> None:
    first = found(opened(drawing(1.0), place, tmp_path / "store.db"))
    other = found(opened(drawing(30.0), place, None))
    for name, value in other.items():
        assert first[name] != value, f"{name}: the factories matter"
    assert found(opened(drawing(30.0), place, tmp_path / "store.db")) == other


@pytest.mark.parametrize("place", ["task", "model"])
def test_with_a_factory_that_does_the_same_everything_is(place: str, tmp_path: Path) -> None:
    first = found(opened(drawing(2.0), place, tmp_path / "store.db"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosstask_fakes.components.fit", lambda *_, **__: pytest.fail("learned again"))
        patch.setattr("crosstask.learning.transferring.fit", lambda *_, **__: pytest.fail("learned again"))
        patch.setattr("crosstask.learning.together.train_fleet", lambda *_, **__: pytest.fail("learned again"))
        assert found(opened(drawing(2.0), place, tmp_path / "store.db")) == first


@pytest.mark.parametrize("place", ["task", "model"])
def test_a_factory_that_nobody_knows_shares_nothing(place: str, tmp_path: Path) -> None:
    """Not with another one, and not with itself."""

    def kept(engine: TransferEngine) -> dict[str, set[str]]:
        with engine:
            store = engine.store
            assert store is not None
            return {kind: {key for key, _ in store.entries(kind)} for kind in ("transfers", "models")}

    first = found(opened(drawing(1.0, threading.Lock()), place, tmp_path / "store.db"))
    before = kept(opened(drawing(1.0), place, tmp_path / "store.db"))
    assert found(opened(drawing(30.0, threading.Lock()), place, tmp_path / "store.db")) != first
    assert found(opened(drawing(1.0, threading.Lock()), place, tmp_path / "store.db")) == first
    after = kept(opened(drawing(1.0), place, tmp_path / "store.db"))
    assert {kind: len(keys) for kind, keys in after.items()} == {kind: 3 * len(keys) for kind, keys in before.items()}


@pytest.mark.parametrize("place", ["task", "model"])
@pytest.mark.parametrize("lock", [None, threading.Lock()], ids=["known", "unknown"])
def test_stages_are_known_by_the_factories_of_given_models(place: str, lock: Any) -> None:
    prints = []
    for gain in (1.0, 30.0):
        with opened(drawing(gain, lock), place, None) as engine, warnings.catch_warnings():
            warnings.simplefilter("error")  # a stage that is kept is said to have changed the engine
            engine.run_stage("measure", task="target")
            prints.append(engine.fingerprint())
            assert engine.fingerprint() == prints[-1], "in one engine it is the same"
    assert prints[0] != prints[1]


def test_stages_are_known_by_models_that_an_opened_engine_would_not_train(tmp_path: Path) -> None:
    options: dict[str, Any] = {"registry": with_fakes(), "discoverers": []}

    def print_of(place: str, **other: Any) -> list[Any]:
        with TransferEngine.open(tmp_path / place, **options, **other) as again:
            assert again.given_models == {}
            assert again.portfolio["source"].model is not None
            return again.fingerprint()

    saved = []
    for steps in (3, 30):
        budget = attrs.evolve(FEW, steps=steps)
        with TransferEngine(**options, train=budget, budget=FEW, seeds=2) as made:
            made.register_task(blobs("source"))
            made.train()
            made.save(tmp_path / str(steps), data=True)
            saved.append(made.fingerprint())
    assert [print_of(place) for place in ("3", "30")] == saved, "it would train the same"
    told = print_of("30", train=FEW)
    assert told not in saved
    assert told != print_of("30", train=FEW, seed=1)


def test_a_task_is_known_by_its_head() -> None:
    plain, named = blobs("a"), blobs("a")
    named.head = "2"
    other = blobs("a")
    other.head = "0"
    assert len({task.fingerprint() for task in (plain, named, other)}) == 3
    assert plain.content() == named.content(), "it learns the same"


def test_a_source_is_its_weights_its_head_and_its_factory() -> None:
    told = {source_digest(learned())}
    assert source_digest(learned()) in told
    moved, loose = learned(), learned()
    with torch.no_grad():
        moved[0].weight[0, 0] += 1.0  # type: ignore[index,union-attr,operator]
    know(loose, head=Head(None, (("2.weight", 0),)))
    for model in (moved, loose):
        told.add(source_digest(model))
    for gain in (1.0, 2.0):
        model = learned()
        know(model, build=drawing(gain))
        told.add(source_digest(model))
    assert len(told) == 5


class Power(nn.Module):
    """Looks like any other of its class."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def test_a_stage_is_known_by_what_a_module_that_it_is_given_does(tmp_path: Path) -> None:
    scores = []
    for function in (torch.square, torch.zeros_like):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), Power(function), nn.Linear(8, 3))
        store = tmp_path / "store.db"
        with TransferEngine(registry=with_fakes(), discoverers=[], train=FEW, budget=FEW, store=store) as engine:
            engine.register_task(blobs("a"))
            scores.append(engine.run_stage("measure", task="a", model=model).record.score)
    assert scores[0] != scores[1]
