"""The stage `few_shot`: its tasks, where it starts, what it provides, resumed, refused, shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.engine import TransferEngine
from crosstask.errors import OptionError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.options import component
from crosstask.points.observer import Observer
from crosstask.points.stage import Outcome
from crosstask.tasks import Portfolio
from crosstask.testing import blobs, reference_registry, small_portfolio
from crosstask_meta import testing
from crosstask_meta.plugin import PLUGIN
from crosstask_meta.stage import FewShot

REGISTRY = reference_registry(PLUGIN, testing.PLUGIN)
SMALL: dict[str, Any] = {"ways": 2, "shots": 2, "queries": 3, "steps": 12, "meta_batch": 2, "test_episodes": 10}


def engine_with(store: str = ":memory:", portfolio: Portfolio | None = None, **given: Any) -> TransferEngine:
    engine = TransferEngine(model=ModelSpec(hidden=(16,)), store=store, registry=REGISTRY, **given)
    engine.register(portfolio or small_portfolio(models=False))
    return engine


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with engine_with() as made:
        yield made


def weights(outcome: Outcome) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in outcome.artifacts["learner"].state_dict().items()}


def test_all_tasks_and_the_unseen_ones_in_the_test(engine: TransferEngine) -> None:
    outcome = engine.run_stage("few_shot", **SMALL)
    result = outcome.record
    assert (result.train, result.test) == (tuple(engine.portfolio.ids), ("mirrored",))
    assert (result.held_out, result.start, result.adapter) == ("tasks", "", "")
    assert result.options["model"]["hidden"] == [16]
    assert outcome.artifacts["learner"](torch.zeros(3, 2)).shape == (3, 2)
    summary = FewShot.summary(result)
    scores = ["few_shot_accuracy", "few_shot_untrained", "few_shot_by_chance"]
    assert list(summary) == ["few_shot", "few_shot_learner", *scores]
    assert summary["few_shot_by_chance"] == 1 / result.ways
    assert summary["few_shot"] == "2-way 2-shot"
    assert "reference" in summary["few_shot_learner"]


def test_classes_of_one_task(engine: TransferEngine) -> None:
    names = ["upper left", "lower right"]
    result = engine.run_stage("few_shot", tasks=["quarters"], held_out=names, **SMALL).record
    assert (result.held_out, set(result.test)) == ("classes", set(names))
    assert set(result.train) == {"upper right", "lower left"}


def test_it_starts_from_what_another_stage_gives(engine: TransferEngine) -> None:
    given = engine.run_stage("giving").artifacts["encoder"]
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    refers = {"encoder": {"from": "giving"}, "learner": "nearest_means"}
    outcome = engine.run_stage("few_shot", **refers, **SMALL)
    assert outcome.record.start == "the encoder of giving"
    assert FewShot.summary(outcome.record)["few_shot_start"] == "the encoder of giving"
    assert {n: t.shape for n, t in outcome.artifacts["learner"].state_dict().items()} == {
        n: t.shape for n, t in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    headed = engine.run_stage("few_shot", encoder={"from": "giving", "take": "encoder"}, **SMALL)
    assert set(headed.artifacts["learner"].state_dict()) == {f"trunk.{n}" for n in before} | {
        "head.weight",
        "head.bias",
    }
    spec = engine.run_stage("few_shot", model={"from": "giving"}, **SMALL).record
    assert spec.options["model"]["hidden"] == [7]
    assert spec.start == ""


def test_only_the_adapter_is_trained_on_what_another_stage_gives(engine: TransferEngine) -> None:
    before = engine.run_stage("giving").artifacts["encoder"].state_dict()
    options = {"encoder": {"from": "giving"}, "learner": "nearest_means", "adapter": "reference"}
    outcome = engine.run_stage("few_shot", **options, **SMALL)
    assert "'reference'" in outcome.record.adapter
    found = outcome.artifacts["learner"].state_dict()
    assert torch.equal(found["0.weight"], before["0.weight"])
    assert torch.equal(found["0.bias"], before["0.bias"])
    assert bool(found["0.shift_0"].any())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tasks": ["quarters"], "held_out": ["upper left", "lower right"]},
        {"encoder": {"from": "giving"}},
        {"encoder": {"from": "giving"}, "learner": "nearest_means", "adapter": "reference"},
    ],
    ids=["tasks", "classes", "encoder", "adapter"],
)
def test_a_resumed_run_trains_nothing(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store.db")
    with engine_with(store) as engine:
        engine.run_stage("giving")
        first = engine.run_stage("few_shot", **options, **SMALL)
    monkeypatch.setattr("crosstask_meta.stage.run_few_shot", None)
    with engine_with(store) as engine:
        engine.run_stage("giving")
        again = engine.run_stage("few_shot", **options, **SMALL)
    assert again.record == first.record
    assert weights(again) == weights(first)


def test_observers_hear_each_step() -> None:
    heard: list[Any] = []

    @component
    class Hearing(Observer):
        """Notes what it hears."""

        def stage_started(self, stage: str, total: int | None) -> None:
            heard.append((stage, total))

        def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
            heard.append((stage, step))

        def stage_finished(self, stage: str, result: Any) -> None:
            heard.append((stage, result.ways))

    with engine_with(observers=[Hearing()]) as engine:
        engine.run_stage("few_shot", **SMALL)
    assert heard == [("few_shot", 12), *(("few_shot", step) for step in range(1, 13)), ("few_shot", 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["moon"]}, "few_shot: no task 'moon' in portfolio .*; did you mean 'moons'"),
        (
            {"tasks": ["moons", "halves"], "held_out": ["half"]},
            "there is no task 'half' to hold out; did you mean 'hal",
        ),
        ({"tasks": ["quarters"], "held_out": ["upper lef"]}, "has no class 'upper lef' to hold out; did you mean 'upp"),
        ({"tasks": ["moons", "halves"], "ways": 3}, "3-way episodes need 3 classes, task '.*' has 2"),
        ({"tasks": ["quarters"], "ways": 3}, "task 'quarters': 3-way episodes need 3 classes to train on, got 1"),
        ({"tasks": ["quarters"], "shots": 12}, "12 support and 3 query samples need 15 samples of each class"),
        ({"tasks": ["moons", "halves"], "held_out": ["moons", "halves"]}, "2 of 2 tasks are held out: both sides need"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(
    engine: TransferEngine, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosstask_meta.stage.run_few_shot", None)
    with pytest.raises(RecipeError, match=message):
        engine.run_stage("few_shot", **{**SMALL, **options})


def test_tasks_with_other_inputs_and_without_classes_are_refused() -> None:
    unlike = Portfolio([blobs("one"), testing.clouds("c", 3)])
    with (
        engine_with(portfolio=unlike) as engine,
        pytest.raises(RecipeError, match=r"one shape, got one \(2,\), c \(12,\)"),
    ):
        engine.run_stage("few_shot", **SMALL | {"held_out": ["c"], "tasks": ["one", "c"]})
    numbers = blobs("numbers", task_type="regression", classes=1)
    with engine_with(portfolio=Portfolio([numbers])) as engine, pytest.raises(RecipeError, match="a regression task"):
        engine.run_stage("few_shot", **SMALL)


def test_a_network_and_an_encoder_are_one_too_many() -> None:
    with pytest.raises(OptionError, match="model is not used where there is an encoder"):
        FewShot(model=ModelSpec(), encoder=nn.Linear(2, 2))


def test_the_section_says_where_it_started(engine: TransferEngine) -> None:
    plain = engine.run_stage("few_shot", **SMALL).record
    (section,) = FewShot.sections(plain, TransferGraph())
    assert section.title == "Few-shot learning"
    assert "2-way 2-shot" in section.html
    assert "started from" not in section.html
    engine.run_stage("giving")
    options = {"encoder": {"from": "giving"}, "learner": "nearest_means", "adapter": "reference"}
    (section,) = FewShot.sections(engine.run_stage("few_shot", **options, **SMALL).record, TransferGraph())
    assert "It started from the encoder of giving. The network was frozen: " in section.html
