"""Every order honours prerequisites and ends at the target; each strategy does what its name says."""

from __future__ import annotations

from typing import Any

import attrs
import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import DataError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.training import History, evaluate, fit
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Curriculum, CurriculumStep, Interval
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask.testing.tasks import small_task
from crosstask_orders import (
    AdaptiveDifficulty,
    DiverseSampling,
    EasyToHard,
    TransferPotential,
    UncertaintyDriven,
)
from crosstask_orders.adaptive_difficulty import gain_of
from crosstask_orders.plugin import PLUGIN

STRATEGIES = [AdaptiveDifficulty, DiverseSampling, EasyToHard, TransferPotential, UncertaintyDriven]
each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def portfolio_of(complexity: dict[str, float], **needs: tuple[str, ...]) -> Portfolio:
    descriptors = [
        TaskDescriptor(task_id=t, complexity=c, prerequisites=needs.get(t, ())) for t, c in complexity.items()
    ]
    return Portfolio(Task(descriptor=d) for d in descriptors)


def graph_of(portfolio: Portfolio, edges: dict[tuple[str, str], float], **options: Any) -> TransferGraph:
    graph = TransferGraph(task.descriptor for task in portfolio)
    for (source, target), coefficient in edges.items():
        graph.add(TransferEdge(source=source, target=target, transfer_coefficient=coefficient, **options))
    return graph


def step(task_id: str, gain: float) -> CurriculumStep:
    zero, gained = Interval(mean=0.5, low=0, high=1), Interval(mean=gain, low=gain, high=gain)
    return CurriculumStep(step=1, task_id=task_id, score=zero, scratch_score=zero, gain=gained)


def walk(planner: CurriculumPlanner, curriculum: Curriculum, gains: Any) -> list[str]:
    """The path that `next_task` takes when the n-th step gains the n-th of `gains`."""
    history: list[CurriculumStep] = []
    while (task := planner.next_task(curriculum, history)) is not None:
        history.append(step(task, next(gains)))
    return [s.task_id for s in history]


NAMES = [f"t{i}" for i in range(8)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Portfolio, TransferGraph]:
    """Any DAG of prerequisites over up to eight tasks in any order, with any edges."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(2, len(NAMES)))]
    needs = {
        name: tuple(draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3))) if i else ()
        for i, name in enumerate(names)
    }
    shown = draw(st.permutations(names))
    portfolio = portfolio_of({n: draw(st.floats(0, 1)) for n in shown}, **needs)
    pairs = [(a, b) for a in names for b in names if a != b]
    known = draw(st.lists(st.sampled_from(pairs), unique=True))
    return portfolio, graph_of(portfolio, {pair: draw(st.floats(-1, 1)) for pair in known})


@each_strategy
@settings(max_examples=60, deadline=None)
@given(world=worlds(), size=st.integers(1, 8), gains=st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_any_dag_is_honoured(
    strategy: type[CurriculumPlanner], world: tuple[Portfolio, TransferGraph], size: int, gains: list[float]
) -> None:
    portfolio, graph = world
    target = portfolio.ids[0]
    needs = {t.task_id: t.descriptor.prerequisites for t in portfolio}
    planner = strategy()
    required = nx.ancestors(portfolio.prerequisite_graph(), target)
    if len(required) >= size:
        with pytest.raises(DataError, match=f"needs {len(required)} prerequisites"):
            planner.plan(portfolio, graph, target, size)
        return
    curriculum = planner.plan(portfolio, graph, target, size)
    walked = walk(planner, curriculum, iter(gains))
    for path in (list(curriculum.task_sequence), walked):
        assert path[-1] == target
        assert len(path) == len(set(path)) <= size
        for place, task in enumerate(path):
            assert set(needs[task]) <= set(path[:place]), f"{task} comes before what it needs"
    assert planner.plan(portfolio, graph, target, size) == curriculum


@each_strategy
def test_a_cycle_is_named(strategy: type[CurriculumPlanner]) -> None:
    portfolio = portfolio_of({"a": 0.1, "b": 0.2, "c": 0.3, "goal": 0.9}, a=("c",), b=("a",), c=("b",))
    with pytest.raises(DataError, match=r"cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"):
        strategy().plan(portfolio, graph_of(portfolio, {}), "goal", 3)


@each_strategy
def test_too_small_for_the_prerequisites(strategy: type[CurriculumPlanner]) -> None:
    portfolio = portfolio_of({"a": 0.1, "b": 0.2, "goal": 0.9}, b=("a",), goal=("b",))
    with pytest.raises(DataError, match="max_tasks must be at least 3, got 2"):
        strategy().plan(portfolio, graph_of(portfolio, {}), "goal", 2)


@each_strategy
def test_a_task_that_hurts_stays_out(strategy: type[CurriculumPlanner]) -> None:
    portfolio = portfolio_of({"good": 0.1, "bad": 0.2, "goal": 0.9})
    edges = {("good", "goal"): 0.5, ("bad", "goal"): -0.5}
    graph = graph_of(portfolio, edges, uncertainty=0.1)
    assert strategy().plan(portfolio, graph, "goal", 5).task_sequence == ("good", "goal")


@each_strategy
def test_found_by_name_with_options(strategy: type[CurriculumPlanner]) -> None:
    registry = Registry()
    registry.register(PLUGIN)
    made = [registry.create("curriculum", name, {"minimum": 0.3}) for name in registry.names("curriculum")]
    assert sum(type(m) is strategy for m in made) == 1


def test_easy_to_hard_by_complexity_and_no_harder_than_the_target() -> None:
    portfolio = portfolio_of({"middle": 0.5, "hard": 0.9, "easy": 0.1, "goal": 0.6})
    graph = graph_of(portfolio, {(t, "goal"): 0.4 for t in ("middle", "hard", "easy")})
    assert EasyToHard().plan(portfolio, graph, "goal", 4).task_sequence == ("easy", "middle", "goal")
    assert EasyToHard(harder=True).plan(portfolio, graph, "goal", 4).task_sequence[-2] == "hard"
    assert EasyToHard().plan(portfolio, graph, "goal", 2).task_sequence == ("middle", "goal"), "hardest kept"


def test_transfer_potential_best_last_and_by_way_of_others() -> None:
    portfolio = portfolio_of({"far": 0.1, "near": 0.2, "weak": 0.3, "goal": 0.9, "alone": 0.1})
    edges = {("near", "goal"): 0.8, ("weak", "goal"): 0.3, ("far", "near"): 0.5}
    planned = TransferPotential().plan(portfolio, graph_of(portfolio, edges), "goal", 5)
    assert planned.task_sequence == ("weak", "far", "near", "goal"), "far gives 0.5 * 0.8 = 0.4, alone nothing"
    assert TransferPotential().plan(portfolio, graph_of(portfolio, edges), "goal", 2).task_sequence[0] == "near"


def test_transfer_potential_prefers_a_direct_edge_to_a_path() -> None:
    portfolio = portfolio_of({"a": 0.1, "b": 0.2, "goal": 0.9})
    edges = {("a", "goal"): -0.2, ("a", "b"): 0.9, ("b", "goal"): 0.9}
    planned = TransferPotential().plan(portfolio, graph_of(portfolio, edges), "goal", 3)
    assert planned.task_sequence == ("b", "goal"), "what was seen of a itself counts"


def test_diverse_sampling_passes_over_a_twin() -> None:
    portfolio = portfolio_of({"best": 0.1, "twin": 0.1, "other": 0.1, "goal": 0.9})
    edges = {("best", "goal"): 0.8, ("twin", "goal"): 0.79, ("other", "goal"): 0.5}
    edges |= {("best", "twin"): 0.95, ("twin", "best"): 0.95, ("best", "other"): 0.1, ("other", "best"): 0.1}
    graph = graph_of(portfolio, edges)
    assert DiverseSampling().plan(portfolio, graph, "goal", 3).task_sequence == ("other", "best", "goal")
    greedy = DiverseSampling(diversity=0.0).plan(portfolio, graph, "goal", 3).task_sequence
    assert greedy == ("twin", "best", "goal")


def test_uncertainty_driven_tries_what_is_little_known() -> None:
    portfolio = portfolio_of({"known": 0.1, "vague": 0.1, "goal": 0.9})
    graph = graph_of(portfolio, {})
    for source, coefficient, error in (("known", 0.5, 0.01), ("vague", 0.3, 0.4)):
        edge = TransferEdge(source=source, target="goal", transfer_coefficient=coefficient)
        graph.add(attrs.evolve(edge, uncertainty=error))
    assert UncertaintyDriven().plan(portfolio, graph, "goal", 2).task_sequence == ("vague", "goal")
    assert UncertaintyDriven(exploration=0.0).plan(portfolio, graph, "goal", 2).task_sequence[0] == "known"


LADDER = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "goal": 0.9}


@pytest.mark.parametrize(
    ("gains", "path"),
    [
        ([0.03] * 6, "a b c d e goal"),
        ([0.2] * 6, "a c e goal"),
        ([0.2, -0.1, 0.03, 0.03, 0.03, 0.03], "a c b d e goal"),
        ([-0.1, -0.1, 0, 0], "a b goal"),
        ([-0.005] * 6, "a b c d e goal"),
    ],
    ids=["steady", "ahead: every other is skipped", "a loss: one step back", "stuck: to the target", "noise"],
)
def test_adaptive_difficulty_reacts_to_gains(gains: list[float], path: str) -> None:
    portfolio = portfolio_of(LADDER)
    planner = AdaptiveDifficulty()
    curriculum = planner.plan(portfolio, graph_of(portfolio, {}), "goal", 6)
    assert curriculum.task_sequence == ("a", "b", "c", "d", "e", "goal")
    assert walk(planner, curriculum, iter(gains)) == path.split()


def test_adaptive_difficulty_when_stuck_still_does_what_the_target_needs() -> None:
    portfolio = portfolio_of(LADDER, goal=("d",), d=("c",))
    planner = AdaptiveDifficulty()
    curriculum = planner.plan(portfolio, graph_of(portfolio, {}), "goal", 6)
    assert walk(planner, curriculum, iter([-0.1] * 6)) == ["a", "b", "c", "d", "goal"]


def test_gains_of_errors_are_shares() -> None:
    """A loss of 0.5 in an error of 100 is noise, one of 50 is not; scores between 0 and 1 are compared as they are."""

    def of(score: float, scratch: float) -> CurriculumStep:
        values = [Interval(mean=v, low=v, high=v) for v in (score, scratch, score - scratch)]
        return CurriculumStep(step=1, task_id="a", score=values[0], scratch_score=values[1], gain=values[2])

    assert gain_of(of(0.7, 0.4)) == pytest.approx(0.3)
    one = Interval(mean=0.6, low=0.6, high=0.6)
    judged = attrs.evolve(of(0.9, 0.4), target_score=one, progress=attrs.evolve(one, mean=-0.1))
    assert gain_of(judged) == pytest.approx(-0.1), "the target's own progress comes first"
    better = attrs.evolve(judged, target_score=attrs.evolve(one, mean=-9.0), alone_score=attrs.evolve(one, mean=-5.0))
    of_errors = attrs.evolve(better, progress=attrs.evolve(one, mean=5.0))
    assert gain_of(of_errors) == pytest.approx(0.5), "of errors a share"
    assert gain_of(of(-100.5, -100.0)) == pytest.approx(-0.5 / 100.5)
    assert gain_of(of(-100.0, -150.0)) == pytest.approx(50 / 150)
    assert gain_of(of(2.0, 1.0)) == pytest.approx(0.5)


@component
class Learner(Transfer):
    """Fine-tunes, or forgets everything: a learner that makes progress, and one that makes none."""

    forgets: bool = option(False, help="whether the weights are zero afterwards")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        history = fit(model, task, budget, generator)
        if self.forgets:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            history.values[-1] = evaluate(model, task, "validation")  # which planners see
        return history


def test_adaptive_difficulty_leads_another_learner_another_way() -> None:
    names = ("halves", "moons", "quarters", "turned")
    tasks = [small_task(name) for name in names]
    for place, task in enumerate(tasks):
        task.descriptor = attrs.evolve(task.descriptor, complexity=0.1 + 0.2 * place, prerequisites=())
    budget = Budget(steps=40, learning_rate=1e-2, evaluate_every=20)
    paths = {}
    for forgets in (False, True):
        with TransferEngine(discoverers=(), auto_discover=False, train=budget, budget=budget, seeds=2) as engine:
            engine.register(Portfolio(tasks))
            planner = AdaptiveDifficulty(patience=1, progress=1.0, setback=0.1)
            plan = engine.generate_curriculum("turned", planner, 4)
            assert plan.task_sequence == names
            done = engine.run_curriculum(plan, Learner(forgets=forgets), planner=planner)
            paths[forgets] = done.curriculum
    assert paths[False].task_sequence == names
    assert paths[False].adjustments == ()
    assert paths[True].task_sequence == ("halves", "turned"), "what the target lost by halves ends the preparation"
    [change] = paths[True].adjustments
    assert (change.step, change.task_id) == (2, "turned")
    assert "where moons was planned" in change.reason
