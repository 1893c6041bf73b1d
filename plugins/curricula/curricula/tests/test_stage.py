"""The stage `curriculum`: the path beside other ways to the target, what it refuses, in a recipe and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import RecipeError
from crosstask.graph import Evidence
from crosstask.job import load_run, run_recipe
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, structure, unstructure
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.observer import Observer
from crosstask.recipe import recipe_from
from crosstask.records import Budget, Curriculum, CurriculumStep
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask.testing import conformance, reference_registry, small_graph, small_portfolio
from crosstask_curricula import Curriculum as Stage
from crosstask_curricula import CurriculumComparison
from crosstask_curricula.plugin import PLUGIN

TRAIN = Budget(steps=30, learning_rate=0.02, evaluate_every=10)
FEW = Budget(steps=10, samples=40, learning_rate=0.02, evaluate_every=5)


@component
class Hasty(CurriculumPlanner):
    """Goes from the second task straight to the target."""

    def rank(self, portfolio: Any, graph: Any, target: str, candidates: list[str]) -> list[str]:
        return sorted(candidates)

    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        done = [step.task_id for step in history]
        left = [t for t in curriculum.task_sequence if t not in done]
        return None if curriculum.target in done else left[-1] if len(done) == 2 else left[0]


MORE = Plugin("more", [Extension("curriculum", "hasty", f"{__name__}:Hasty", summary="For tests.")], api=(2, 0))


def registry() -> Registry:
    return reference_registry(PLUGIN, MORE)


test_conformance = conformance(Stage, options={"target": "quarters", "explain": True}, registry=registry())


def engine_with(store: str = ":memory:", observers: tuple[Observer, ...] = ()) -> TransferEngine:
    engine = TransferEngine(
        model=ModelSpec(hidden=(8,)), train=TRAIN, budget=FEW, seeds=2, discoverers=(), auto_discover=False,
        transfer="reference", store=store, registry=registry(), observers=observers,
    )  # fmt: skip
    engine.register(small_portfolio(models=False))
    for edge in small_graph(engine.portfolio).edges():
        engine.graph.add(edge)
    return engine


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with engine_with() as made:
        yield made


def test_the_path_and_the_other_ways(engine: TransferEngine) -> None:
    outcome = engine.run_stage("curriculum", target="quarters")
    found = outcome.record
    assert isinstance(found, CurriculumComparison)
    steps = found.curriculum.steps
    assert [step.task_id for step in steps] == list(found.curriculum.curriculum.task_sequence)
    assert steps[-1].task_id == "quarters"
    assert outcome.artifacts == {"order": found.curriculum.curriculum.task_sequence}
    best = engine.graph.best_sources("quarters", 1)[0].source
    [single] = found.transfers
    assert (single.source, single.target) == (best, "quarters")
    assert single == engine.transfer_knowledge(best, "quarters", samples=True)
    assert found.baselines == {"from scratch": steps[-1].scratch_score, f"best single source: {best}": single.score}
    assert found.attributions == ()
    assert structure(unstructure(found), CurriculumComparison, "record") == found
    plan = engine.generate_curriculum("quarters", max_tasks=4)
    assert found.curriculum == engine.run_curriculum(plan, planner="reference")


def test_a_source_that_was_measured_comes_before_one_that_is_predicted_to_help_more(engine: TransferEngine) -> None:
    known = next(e for e in engine.graph.edges_into("quarters") if e.transfer_coefficient > 0)
    for edge in engine.graph.edges_into("quarters"):
        if edge.source != known.source:
            engine.graph.networkx.remove_edge(edge.source, "quarters")
            guess = {"evidence": Evidence.PREDICTED, "transfer_coefficient": 0.99, "found_by": "guess"}
            engine.graph.add(attrs.evolve(edge, **guess, low=None, high=None))
    found = engine.run_stage("curriculum", target="quarters").record
    assert found.source_measured
    assert list(found.baselines)[1] == f"best single source: {known.source}"
    engine.graph.networkx.remove_edge(known.source, "quarters")
    cannot = sorted(e.source for e in engine.graph.edges_into("quarters"))[0]
    engine.graph.rule_out(cannot, "quarters", "its inputs have another shape")
    found = engine.run_stage("curriculum", target="quarters").record
    assert not found.source_measured
    [single] = found.transfers
    assert single.source != cannot, "what cannot be tried is not tried"
    assert list(found.baselines)[1] == f"source predicted to be the best: {single.source}"


def test_which_layers_carried_the_transfer(engine: TransferEngine) -> None:
    found = engine.run_stage("curriculum", target="quarters", explain=True).record
    [single], [why] = found.transfers, found.attributions
    assert (why.source, why.target, why.gain) == (single.source, single.target, single.performance_gain)
    assert list(Stage.summary(found))[-1] == "carried_by"


def test_a_task_that_nothing_is_known_to_help(engine: TransferEngine) -> None:
    for edge in list(engine.graph.edges()):
        engine.graph.add(attrs.evolve(edge, transfer_coefficient=-0.5, low=None, high=None))
    found = engine.run_stage("curriculum", target="halves", max_tasks=2).record
    assert found.transfers == ()
    assert list(found.baselines) == ["from scratch"]
    assert "best_source" not in Stage.summary(found)


def test_a_planner_that_changes_its_mind(engine: TransferEngine) -> None:
    found = engine.run_stage("curriculum", target="quarters", planner="hasty").record
    path = found.curriculum.curriculum
    assert len(path.task_sequence) == 3
    assert path.adjustments[0].task_id == "quarters"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "quaters"}, "curriculum: target: no task 'quaters'.*did you mean 'quarters'"),
        ({"target": "mirrored"}, "target: task 'mirrored' is held back as unseen"),
        ({"target": "bare"}, "target: task 'bare' has no training data"),
        ({"target": "untested"}, "target: task 'untested' has no test data"),
        (
            {"target": "quarters", "max_tasks": 2},
            r"max_tasks: 'quarters' needs 2 prerequisites \(halves, moons\): it must be at least 3, got 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    engine: TransferEngine, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.register_task(Task(descriptor=TaskDescriptor(task_id="bare", input_shape=(2,), output_dim=2)))
    engine.register_task(Task(descriptor="untested", train=(torch.randn(4, 2), torch.arange(4) % 2)))
    monkeypatch.setattr(engine, "train", lambda tasks=None: pytest.fail("trained before the check"))
    with pytest.raises(RecipeError, match=said):
        engine.run_stage("curriculum", **options)


def test_a_second_engine_trains_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store.db")
    with engine_with(store) as first:
        found = first.run_stage("curriculum", target="quarters", explain=True)
    for place in ("crosstask.learning.transferring.fit", "crosstask.curriculum_path.fit"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("trained again"))
    with engine_with(store) as second:
        again = second.run_stage("curriculum", target="quarters", explain=True)
    assert (again.record, again.artifacts) == (found.record, found.artifacts)


VALUES: dict[str, Any] = {
    "name": "paths",
    "seeds": 2,
    "source": "reference",
    "executor": "serial",
    "model": {"hidden": [8]},
    "train": unstructure(TRAIN),
    "budget": unstructure(FEW),
    "transfer": "reference",
    "curriculum": {"target": "turned", "max_tasks": 3},
}


def test_in_a_recipe(tmp_path: Path) -> None:
    found = registry()
    record = run_recipe(recipe_from(VALUES, found), tmp_path, registry=found)
    result = record.result("curriculum", found)
    assert isinstance(result, CurriculumComparison)
    assert load_run(tmp_path).result("curriculum", found) == result
    assert record.summary["target"] == "turned"
    assert record.summary["curriculum"] == " → ".join(result.curriculum.curriculum.task_sequence)
    assert record.summary["target_with_curriculum"]["mean"] == result.curriculum.steps[-1].score.mean
    page = (tmp_path / "report.html").read_text("utf-8")
    assert ">Curriculum</h2>" in page
    assert ">Learning curves</h2>" in page
    assert "Why it transferred" not in page
    with pytest.raises(RecipeError, match=r"curriculum: target: no task 'turnd'"):
        run_recipe(recipe_from({**VALUES, "curriculum": {"target": "turnd"}}, found), tmp_path / "b", registry=found)


def test_its_progress_is_told() -> None:
    heard: list[tuple[str, str]] = []

    @component
    class Ear(Observer):
        """Notes what it hears of stages."""

        def stage_started(self, stage: str, total: int | None) -> None:
            heard.append(("started", stage))

        def stage_finished(self, stage: str, result: Any) -> None:
            heard.append(("finished", stage))

    with engine_with(observers=(Ear(),)) as made:
        made.run_stage("curriculum", target="quarters", explain=True)
    told = [event for event in heard if event[1] != "train"]
    assert told == [(what, stage) for stage in ("curriculum", "explain") for what in ("started", "finished")]
