"""The stage: what it measures, of what it decides, what it compares with, what a run that was killed repeats."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from crosstask import Evidence, Registry, TransferEdge, TransferEngine, TransferGraph
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, RecipeError
from crosstask.job import run_recipe
from crosstask.learning.models import ModelSpec
from crosstask.options import structure, unstructure
from crosstask.points.store import Store
from crosstask.recipe import load_recipe
from crosstask.records import Budget, Interval
from crosstask.store import open_store, upkeep
from crosstask.store.graphs import kept_graph
from crosstask.tasks import Portfolio
from crosstask.testing import blobs, reference_registry
from crosstask_lifelong import Arrival, Lifelong, LifelongResult
from crosstask_lifelong.beliefs import LEVEL, TARGET, Pair, Scales, expected, within
from crosstask_lifelong.plugin import PLUGIN
from crosstask_lifelong.stage import best_of_drawn, estimate
from crosstask_lifelong.testing import REFERENCE, Tries, truth

QUICK = Budget(steps=2, batch_size=8)
REGISTRY = reference_registry(PLUGIN, REFERENCE)


def engine(count: int = 6, **given: Any) -> TransferEngine:
    made = TransferEngine(
        registry=REGISTRY, model=ModelSpec(hidden=(4,)), train=QUICK, discoverers=(), seeds=1, **given
    )
    made.register(Portfolio([blobs(f"t{number}", seed=number) for number in range(count)]))
    return made


def arrive(made: TransferEngine, **options: Any) -> LifelongResult:
    given = {"estimators": [Tries(estimates=True)], "probe": Tries(), "judge": Tries(), **options}
    found: LifelongResult = made.run_stage("lifelong", **given).record
    return found


def test_each_arrival_is_learned_from_the_best_of_the_most_promising() -> None:
    probe, judge = Tries(), Tries()
    with engine() as made:
        done = arrive(made, probe=probe, judge=judge, per_task=2)
        graph = made.graph
    assert [(each.task, each.known) for each in done.arrivals] == [(f"t{n}", n) for n in range(6)]
    for number, each in enumerate(done.arrivals):
        ranked = sorted((f"t{n}" for n in range(number)), key=lambda s: -truth(s, each.task))
        assert each.looked_at == number
        assert len(each.tried) == min(2, number)
        if each.source is not None:
            assert each.source == max(each.tried, key=lambda s: truth(s, each.task))
            assert each.expected == pytest.approx(truth(each.source, each.task), abs=0.02), "it is measured well"
            assert each.gain.mean == pytest.approx(truth(each.source, each.task) / 2)
        elif ranked:
            assert max(truth(s, each.task) for s in each.tried) <= 0
            assert each.gain == Interval(mean=0.0, low=0.0, high=0.0)
        assert each.trainings == 1 + (2 * (len(each.tried) + 1) if each.tried else 0), "of two seeds, with the control"
    assert sorted(probe.pairs) == sorted((s, e.task) for e in done.arrivals for s in e.tried)
    assert len(probe.pairs) <= 2 * 6
    assert judge.pairs == [(e.source, e.task) for e in done.arrivals if e.source is not None]
    assert {(e.source, e.target) for e in graph.measured_edges()} == set(probe.pairs)
    assert done.later == done.arrivals[1:]
    assert done.gain.mean == pytest.approx(statistics.mean(e.gain.mean for e in done.later))
    assert (done.regret, done.over("random_gain")) == (None, None)


def test_the_others_are_measured_only_to_compare() -> None:
    with engine() as made:
        plain = arrive(made)
    probe = Tries()
    with engine() as made:
        done = arrive(made, probe=probe, compare=99)
        assert len(made.graph.measured_edges()) == plain.pairs, "nothing of it is in the graph"
    assert [(e.source, e.tried, e.gain) for e in done.arrivals] == [(e.source, e.tried, e.gain) for e in plain.arrivals]
    for each in done.later:
        values = sorted((truth(f"t{n}", each.task) for n in range(each.known)), reverse=True)
        own = truth(each.source, each.task) if each.source else 0.0
        assert each.regret == pytest.approx(max(0.0, values[0]) - own)
        assert (each.best is None) == (values[0] <= 0)
        assert each.random_gain == pytest.approx(statistics.mean(values) / 2)
        drawn = [max(0.0, *pair) / 2 for pair in itertools.combinations(values, 2)] or [max(0.0, values[0]) / 2]
        assert each.tried_gain == pytest.approx(statistics.mean(drawn)), "by going through all draws"
    over = done.over("random_gain")
    assert over is not None
    assert over.mean == pytest.approx(statistics.mean(e.gain.mean - (e.random_gain or 0.0) for e in done.later))
    assert Lifelong.summary(done)["regret_to_the_best_source"] == done.regret
    assert "Regret" in Lifelong.sections(done, TransferGraph())[0].html
    assert len(done._rows()) == 6
    assert "6 arrivals" in done._headline()


def test_a_few_drawn_at_random_are_enough_to_compare() -> None:
    judge = Tries()
    with engine(8) as made:
        done = arrive(made, compare=2, judge=judge)
    for each in done.later:
        asked = [s for s, t in judge.pairs if t == each.task]
        assert len(asked) in {min(2, each.known), min(3, each.known)}
        others = [s for s in asked if s != each.source] if len(asked) > 2 else asked
        assert each.random_gain == pytest.approx(statistics.mean(truth(s, each.task) / 2 for s in others))
        assert each.regret == pytest.approx(
            max(0.0, *(truth(s, each.task) for s in asked)) - (truth(each.source, each.task) if each.source else 0.0)
        )


def test_work_grows_with_the_number_of_tasks_not_with_its_square() -> None:
    estimator, probe = Tries(estimates=True), Tries()
    with engine(12) as made:
        done = arrive(made, estimators=[estimator], probe=probe, per_task=1, candidates=3)
    assert max(each.looked_at for each in done.arrivals) == 3
    assert len(estimator.pairs) == 1 + 2 + 3 * 9
    assert len(probe.pairs) == 11
    with engine(12) as made:
        again = arrive(made, per_task=1, candidates=3)
    assert [e.tried for e in again.arrivals] == [e.tried for e in done.arrivals], "who is drawn follows from the seed"


def test_what_is_measured_already_is_not_measured_again() -> None:
    probe = Tries()
    with engine(3) as made:
        made.graph.add(
            TransferEdge(
                source="t0", target="t1", transfer_coefficient=0.9, evidence=Evidence.MEASURED, uncertainty=0.01
            )
        )
        done = arrive(made, probe=probe, estimators=[])
    assert ("t0", "t1") not in probe.pairs
    assert done.arrivals[1].source == "t0"
    assert done.arrivals[1].tried == ()


def test_what_cannot_be_measured_is_told_and_ends_nothing() -> None:
    with engine(3) as made:
        done = arrive(made, probe=Tries(refused=("t0",)), per_task=1, order=["t0", "t2", "t1"])
    assert done.arrivals[1].notes == ("t0 cannot be measured",)
    assert (done.arrivals[1].source, done.arrivals[1].tried) == (None, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": ["t0", "t9"]}, "order: no task 't9'"),
        ({"order": ["t0", "t1", "t0"]}, "order: task 't0' arrives twice"),
        ({"order": ["t0"]}, "two tasks are needed"),
    ],
)
def test_a_wrong_order_is_found_before_any_work(options: dict[str, Any], message: str) -> None:
    with engine(3) as made, pytest.raises(RecipeError, match=message):
        made.run_stage("lifelong", **options)
    with pytest.raises(OptionError, match="per_task must be >= 1"):
        Lifelong(per_task=0)


def test_one_measurement_says_something_of_its_source_its_target_and_all() -> None:
    """The closed form: a share of its distance from what was expected, the common variance over the whole."""
    scales = Scales(source=0.1, pair=0.05, slope=0.02)
    tried = [Pair("a", "x", 1.0, 0.5, 0.1)]
    whole = LEVEL**2 + TARGET**2 + 0.1**2 + 0.05**2 + 0.02**2 + 0.1**2
    surprise = 0.5 - 0.02
    wanted = [Pair("a", "x", 1.0), Pair("a", "y", 2.0), Pair("b", "x"), Pair("b", "y")]
    shared = [whole - 0.1**2, LEVEL**2 + 0.1**2 + 2 * 0.02**2, LEVEL**2 + TARGET**2, LEVEL**2]
    prior = [0.02, 0.04, 0.0, 0.0]
    right = [p + surprise * c / whole for p, c in zip(prior, shared, strict=True)]
    assert expected(tried, wanted, scales) == pytest.approx(right)
    assert expected([], wanted) == pytest.approx([0.05, 0.1, 0.0, 0.0]), "at first the estimates alone"


def test_effects_of_drawn_data_come_back() -> None:
    generator = np.random.default_rng(0)
    gives, takes = generator.normal(size=40) * 0.08, generator.normal(size=40) * 0.2
    tried = []
    for target in range(40):
        for source in generator.permutation(40)[:4]:
            score = float(generator.normal())
            value = float(0.1 + takes[target] + gives[source] + 0.06 * score + generator.normal() * 0.02)
            tried.append(Pair(f"s{source}", f"t{target}", score, value + generator.normal() * 0.05, 0.05))
    wanted = [Pair(f"s{n}", "t0") for n in range(40)]
    found = expected(tried, wanted)
    assert np.corrcoef(found, gives)[0, 1] > 0.85
    with_score, without = expected(tried, [Pair("new", "t0", 1.0), Pair("new", "t0")])
    assert with_score - without == pytest.approx(0.06, abs=0.02)


def test_z_scores_and_estimates() -> None:
    assert within([1.0, 3.0]) == [-1.0, 1.0]
    assert within([2.0, 2.0]) == [0.0, 0.0]
    graph = TransferGraph(TaskDescriptor(task_id=t) for t in "ab")
    assert estimate(graph, "a", "b") == 0.0
    for value, by in ((0.4, "x"), (0.2, "y")):
        graph.add(TransferEdge(source="a", target="b", transfer_coefficient=value, found_by=by))
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.9, evidence=Evidence.MEASURED))
    assert estimate(graph, "a", "b") == 0.2, "the newest that was not measured"


def test_the_best_of_some_drawn() -> None:
    values = [0.9, 0.4, 0.1, 0.0, -0.2]
    for count in (1, 2, 3, 5, 9):
        drawn = [max(each) for each in itertools.combinations(values, min(count, 5))]
        assert best_of_drawn(values, count) == pytest.approx(statistics.mean(drawn))


def test_a_result_without_later_arrivals_and_a_judge_that_gives_coefficients() -> None:
    done = LifelongResult(arrivals=(Arrival(task="a", known=0),), per_task=2)
    assert (done.gain.mean, done.regret) == (0.0, None)
    assert structure(unstructure(done), LifelongResult) == done
    assert Lifelong.sections(done, TransferGraph())[0].title == "Tasks that arrive"
    with engine(3) as made:
        found = arrive(made, judge=Tries(estimates=True))
    assert all(e.gain.mean == pytest.approx(truth(e.source, e.task)) for e in found.arrivals if e.source)


def test_what_nobody_could_judge_is_not_a_gain_of_nothing() -> None:
    with engine() as made:
        known = arrive(made)
    with engine() as made:
        none = arrive(made, judge=Tries(refused=tuple(made.portfolio.ids)))
    with engine() as made:
        few = arrive(made, judge=Tries(refused=("t0", "t1")), compare=9)
    learned = [each for each in none.later if each.source is not None]
    assert [each.source for each in learned] == [each.source for each in known.later if each.source is not None]
    assert {each.gain for each in learned} == {None}
    assert all("cannot be measured" in each.notes[-1] for each in learned)
    assert known.gain is not None
    judged = [each for each in few.later if each.gain is not None]
    assert 0 < len(judged) < len(few.later)
    assert few.gain is not None
    assert few.gain.mean == pytest.approx(statistics.mean(each.gain.mean for each in judged))  # type: ignore[union-attr]
    assert {each.regret for each in few.later if each.gain is None} == {None}
    alone = attrs.evolve(none, arrivals=(none.arrivals[0], learned[0]))
    assert alone.gain is None
    assert alone._headline().endswith("mean gain unknown")
    assert alone._rows()[1]["gain"] is alone._rows()[1]["gain_low"] is None
    for found in (alone, few):
        assert structure(unstructure(found), LifelongResult) == found
        assert Lifelong.sections(found, TransferGraph())[0].html
    assert "not known" in Lifelong.sections(alone, TransferGraph())[0].html


# Real runs on digits --------------------------------------------------------------------------------------------------

SMALL = [
    'source.tasks=["low", "high", "parity"]', "train.steps=20", "budget.steps=5", "seeds=2",
    "lifelong.compare=1",
]  # fmt: skip


def test_the_recipe_runs_and_two_runs_are_one_graph(tmp_path: Path) -> None:
    registry = Registry.installed()
    for seed in (0, 1):
        recipe = load_recipe("lifelong", registry, [*SMALL, f"seed={seed}"]).recipe
        record = run_recipe(recipe, tmp_path / str(seed), registry=registry)
        assert len(record.result("lifelong", registry).arrivals) == 3
        assert "Tasks that arrive" in (tmp_path / str(seed) / "report.html").read_text("utf-8")
    ours, theirs = (open_store(str(tmp_path / name / "store.db")) for name in "01")
    before = _rows(ours) | _rows(theirs)
    done = upkeep.merge(ours, theirs)
    assert done.added > 0
    assert _rows(ours) >= before, "no row is lost"
    known, whole = _rows(ours), kept_graph(ours).graph
    assert upkeep.merge(ours, theirs).added == 0
    assert _rows(ours) == known
    assert len(whole.task_ids) == 3, "tasks are known by their data"
    counts = [max(1, len(edge.measurements)) for edge in whole.measured_edges()]
    assert sum(counts) == 6, "three pairs of each run; each is a measurement"
    ours.close()
    theirs.close()


def _rows(store: Store) -> set[tuple[str, str]]:
    return {(kind, row.key) for kind in store.kinds() for row in store.rows(kind)}
