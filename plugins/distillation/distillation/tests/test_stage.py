"""The stage `distillation`: from which tasks, what it provides, resumed, shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.parts import reference
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.recipe import bind, recipe_from
from crosstask.records import Budget, MetaKnowledge
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance, reference_registry, small_portfolio
from crosstask_distillation import testing
from crosstask_distillation.plugin import PLUGIN
from crosstask_distillation.records import DistillationResult
from crosstask_distillation.stage import Distillation


@component
class Taking(Stage):
    """Takes what distillation provides."""

    Result: ClassVar[type] = DistillationResult
    encoder: nn.Module | None = reference(nn.Module, help="the network to start from")

    def work(self, engine: Engine) -> Outcome:
        features = self.referred("encoder")(engine.portfolio["moons"].data("test").inputs)
        known = MetaKnowledge(
            kind="representation", source_tasks=("moons",), embedding=tuple(features.mean(0).tolist())
        )
        return Outcome(DistillationResult(knowledge=known))


TAKING = Plugin("taking", [Extension("stage", "taking", f"{__name__}:Taking")], api=(2, 0))
REGISTRY = reference_registry(PLUGIN, testing.PLUGIN, TAKING)

test_conformance = conformance(Distillation, registry=REGISTRY)
test_conformance_with_an_encoder = conformance(Distillation, options={"distiller": "first_trunk"}, registry=REGISTRY)


def engine_with(portfolio: Portfolio, store: str = ":memory:") -> TransferEngine:
    engine = TransferEngine(
        model=ModelSpec(hidden=(16,)), train=Budget(steps=40, learning_rate=0.01), store=store, registry=REGISTRY
    )
    engine.register(portfolio)
    return engine


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with engine_with(small_portfolio(models=False)) as made:
        yield made


def test_from_all_that_are_learned_from(engine: TransferEngine) -> None:
    outcome = engine.run_stage("distillation")
    result = outcome.record
    assert list(result.knowledge.source_tasks) == engine.portfolio.ids
    assert "reference" in result.distiller
    assert set(outcome.artifacts) == {"tensors"}
    assert outcome.artifacts["tensors"]["norm"] > 0
    assert Distillation.summary(result) == {
        "distilled_from": "moons, halves, turned, quarters, shuffled",
        "generalization_score": None,
    }
    named = engine.run_stage("distillation", distiller="reference", tasks=["halves", "moons"]).record
    assert named.knowledge.source_tasks == ("halves", "moons")


def test_a_distiller_with_an_encoder_provides_it(engine: TransferEngine) -> None:
    outcome = engine.run_stage("distillation", distiller="first_trunk", tasks=["halves"])
    encoder, inputs = outcome.artifacts["encoder"], engine.portfolio["halves"].data("test").inputs
    model = engine.portfolio["halves"].model
    assert model is not None
    assert torch.equal(encoder(inputs), Headless(model)(inputs))


def test_other_stages_refer_to_the_encoder(engine: TransferEngine) -> None:
    engine.run_stage("distillation", distiller="first_trunk")
    taken = engine.run_stage("taking", encoder={"from": "distillation"}).record
    assert len(taken.knowledge.embedding) == 16
    engine.run_stage("distillation", distiller="reference")
    with pytest.raises(CrosstaskError, match=r"stage 'distillation' gave no 'encoder' in this run.*tensors"):
        engine.run_stage("taking", encoder={"from": "distillation"})


def test_a_resumed_run_has_the_encoder_without_distilling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store.db")
    with engine_with(small_portfolio(models=False), store) as engine:
        first = engine.run_stage("distillation", distiller="first_trunk")
    monkeypatch.delattr(testing.FirstTrunk, "distill")
    with engine_with(small_portfolio(models=False), store) as engine:
        again = engine.run_stage("distillation", distiller="first_trunk")
    assert again.record == first.record
    inputs = small_portfolio()["moons"].data("test").inputs
    assert torch.equal(again.artifacts["encoder"](inputs), first.artifacts["encoder"](inputs))
    assert {k: v.tolist() for k, v in again.artifacts["tensors"].items()} == {
        k: v.tolist() for k, v in first.artifacts["tensors"].items()
    }


def test_what_cannot_be_done_is_said_before_any_work(engine: TransferEngine) -> None:
    with pytest.raises(RecipeError, match=r"distillation: tasks: no task 'halfes'.*did you mean 'halves'"):
        engine.run_stage("distillation", distiller="reference", tasks=["halfes"])
    with pytest.raises(RecipeError, match="task 'mirrored' is unseen: nothing is learned from it"):
        engine.run_stage("distillation", distiller="reference", tasks=["mirrored"])
    bare = Portfolio([Task(descriptor=TaskDescriptor(task_id="bare"))])
    with pytest.raises(RecipeError, match="none has a model, or data to train one: bare"):
        Distillation(distiller="reference").check(bare)


def test_models_without_data_are_distilled_without_samples() -> None:
    tasks = [Task(descriptor=task.descriptor, model=task.model) for task in small_portfolio()]
    with engine_with(Portfolio([Task(descriptor=t.descriptor) for t in tasks])) as engine:
        for task, given in zip(engine.portfolio, tasks, strict=True):
            task.model = given.model
        assert engine.run_stage("distillation", distiller="reference").record.knowledge.source_tasks


@pytest.mark.parametrize(("score", "said"), [(0.25, "<strong>0.250</strong>"), (None, "was not measured")])
def test_the_section_says_what_is_known(score: float | None, said: str) -> None:
    known = MetaKnowledge(
        kind="prior", source_tasks=("a", "b<"), domains=("d",), generalization_score=score,
        applicability_conditions={"aligned": True},
    )  # fmt: skip
    (section,) = Distillation.sections(DistillationResult(knowledge=known), TransferGraph())
    assert section.title == "Meta-knowledge"
    for words in ("a, b&lt;", "(d)", said, "aligned: True"):
        assert words in section.html


def test_a_missing_encoder_is_said_when_the_recipe_is_checked(engine: TransferEngine) -> None:
    """Not after the distillation: the recipe knows that a later stage takes it."""
    values = {
        "source": "python",
        "distillation": {"distiller": "reference"},
        "taking": {"encoder": {"from": "distillation"}},
    }
    stage = bind(recipe_from(values, REGISTRY), REGISTRY)[0].stage
    stage.bind(engine.run)
    with pytest.raises(RecipeError, match="has no encoder, which a later stage takes"):
        stage.check(engine.portfolio)
