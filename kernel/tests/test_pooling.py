"""Pooling of measurements, drift, and graphs of several runs as one: against published figures and drawn data."""

from __future__ import annotations

import datetime
import functools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import attrs
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from crosstask import Evidence, GraphError, StoreError, TaskDescriptor, TransferEdge, TransferGraph, open_store
from crosstask.errors import CrosstaskError
from crosstask.graph import Merged
from crosstask.points.store import Store
from crosstask.pooling import Repeats, chi_square_tail, estimate_drift, false_discoveries, pool
from crosstask.store import upkeep
from crosstask.store.graphs import keep_graph, kept_graph

DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

# Borenstein, Hedges, Higgins & Rothstein, Introduction to Meta-Analysis (2009), tables 14.1 and 14.2
EFFECTS = (0.095, 0.277, 0.367, 0.664, 0.462, 0.185)
VARIANCES = (0.033, 0.031, 0.050, 0.011, 0.043, 0.023)


def test_random_effects_are_those_of_the_textbook() -> None:
    found = pool(EFFECTS, [math.sqrt(v) for v in VARIANCES])
    told = (found.mean, found.error, found.between, found.p)
    assert told == pytest.approx((0.358, 0.105, 0.037, 0.035), abs=4e-3), "which the book has from effects not rounded"
    own = [1 / v for v in VARIANCES]
    q = sum(w * e * e for w, e in zip(own, EFFECTS, strict=True)) - (
        sum(w * e for w, e in zip(own, EFFECTS, strict=True)) ** 2 / sum(own)
    )
    assert found.q == pytest.approx(q)
    assert found.between == pytest.approx((q - 5) / (sum(own) - sum(w * w for w in own) / sum(own)))
    weights = [1 / (v + found.between) for v in VARIANCES]
    assert found.weights == pytest.approx([w / sum(weights) for w in weights])


def test_measurements_that_agree_are_weighed_by_their_variance_alone() -> None:
    found = pool((0.30, 0.34), (0.1, 0.05))
    assert found.between == 0.0
    assert found.mean == pytest.approx((0.30 / 0.01 + 0.34 / 0.0025) / (1 / 0.01 + 1 / 0.0025))
    assert found.error == pytest.approx((1 / 0.01 + 1 / 0.0025) ** -0.5)
    assert pool((0.3,), (0.1,)).error == 0.1


def test_an_older_measurement_counts_less_by_what_the_walk_adds_to_it() -> None:
    """Two measurements: the older has its variance and that of the way to the newer, the closed form of the filter."""
    found = pool((0.3, 0.5), (0.1, 0.1), (0.0, 10.0), drift=0.002)
    older, newer = 0.01 + 0.02, 0.01
    assert found.mean == pytest.approx((0.3 / older + 0.5 / newer) / (1 / older + 1 / newer))
    assert found.error == pytest.approx((1 / older + 1 / newer) ** -0.5)
    assert pool((0.3, 0.5), (0.1, 0.1), (7.0, 7.0), drift=0.002) == pool((0.3, 0.5), (0.1, 0.1))
    # Three: Kalman's filter with a flat beginning, step by step
    mean, variance = 0.1, 0.02**2
    for value, error, gap in ((0.16, 0.05, 3.0), (0.13, 0.04, 1.0)):
        variance += 0.001 * gap
        gain = variance / (variance + error**2)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    three = pool((0.1, 0.16, 0.13), (0.02, 0.05, 0.04), (0.0, 3.0, 4.0), drift=0.001)
    assert three.between == 0.0, "what the drift explains is no disagreement"
    assert (three.mean, three.error) == (pytest.approx(mean), pytest.approx(math.sqrt(variance)))


def test_the_tail_of_chi_square() -> None:
    for value, freedom, table in ((3.841, 1, 0.05), (5.991, 2, 0.05), (7.815, 3, 0.05), (18.307, 10, 0.05)):
        assert chi_square_tail(value, freedom) == pytest.approx(table, abs=1e-4)
    assert chi_square_tail(16.919, 9) == pytest.approx(0.05, abs=1e-4)
    assert chi_square_tail(0.0, 4) == 1.0
    # a pair measured 1601 times that agree; scipy 1.17, scipy.stats.chi2.sf
    assert chi_square_tail(1600.0, 1600) == pytest.approx(0.4952983875783587, rel=1e-9)
    assert chi_square_tail(1500.0, 1499) == pytest.approx(0.4878601322706867, rel=1e-9)


def test_false_discoveries_of_the_paper() -> None:
    """Benjamini & Hochberg 1995, section 3.1: of fifteen, the four smallest count."""
    p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590,
        1.0,
    ]  # fmt: skip
    assert false_discoveries(p[::-1]) == 0.0095
    assert false_discoveries([0.5, 0.9]) < 0
    assert false_discoveries([]) < 0


def drawn(rate: float, between: float, groups: int, seed: int, times: int = 4) -> list[Repeats]:
    generator, made = np.random.default_rng(seed), []
    for _ in range(groups):
        count = int(generator.integers(2, times + 1))
        when = np.sort(generator.uniform(0, 100, count))
        walk = np.cumsum(np.r_[0, generator.normal(size=count - 1) * np.sqrt(rate * np.diff(when))])
        errors = generator.uniform(0.03, 0.08, count)
        noise = generator.normal(size=count) * errors + generator.normal(size=count) * between
        made.append(Repeats(generator.uniform(-0.5, 0.5) + walk + noise, errors, when))
    return made


def test_the_drift_of_drawn_data_comes_back() -> None:
    """Of 40 draws each, 38 to 40 intervals hold the truth; here one of each."""
    for rate, seed in ((1e-3, 3), (1e-4, 4)):
        found = estimate_drift(drawn(rate, 0.03, 60, seed))
        assert found is not None
        assert found.low <= rate <= found.high < 4 * rate
        assert found.low < found.rate < found.high
    found = estimate_drift(drawn(0.0, 0.05, 60, seed=7))
    assert found is not None
    assert not found.told, "repeats that differ, whatever the time between them, do not drift"
    assert math.sqrt(found.between) == pytest.approx(0.05, abs=0.01)


def test_the_likelihood_of_pairs_is_the_normal_one_of_their_difference() -> None:
    """Two measurements, no errors to speak of, the same gap: the rate is the mean squared difference over the gap,
    and whether it is drift or disagreement cannot be told.
    """
    generator = np.random.default_rng(0)
    moved = generator.normal(size=200) * 0.2
    found = estimate_drift([Repeats((0.0, d), (0.001, 0.001), (0.0, 5.0)) for d in moved])
    assert found is not None
    whole = found.rate * 5 + 2 * found.between
    assert whole == pytest.approx(float((moved**2).mean()), rel=0.02)
    assert not found.told
    fine = [Repeats((0.0, 0.0, d), (0.001,) * 3, (0.0, 0.0, 5.0)) for d in moved]  # the same at one time: it is drift
    found = estimate_drift(fine)
    assert found is not None
    assert found.told
    assert found.rate == pytest.approx(float((moved**2).mean()) / 5, rel=0.05)


def test_without_repeats_at_two_times_there_is_no_drift() -> None:
    assert estimate_drift([]) is None
    assert estimate_drift([Repeats((0.1,), (0.1,), (0.0,))]) is None
    assert estimate_drift([Repeats((0.1, 0.4), (0.1, 0.1), (3.0, 3.0))]) is None


# --- Graphs


def measured(source: str, target: str, value: float, error: float = 0.05, **more: object) -> TransferEdge:
    half = 1.959963984540054 * error
    return TransferEdge(
        source=source, target=target, transfer_coefficient=value, evidence=Evidence.MEASURED, uncertainty=error,
        low=max(-1.0, value - half), high=min(1.0, value + half), **{"found_by": "probe", **more},  # type: ignore[arg-type]
    )  # fmt: skip


def graph(*edges: TransferEdge, prints: dict[str, str] | None = None, names: Iterable[str] = "abc") -> TransferGraph:
    made = TransferGraph()
    for name in names:
        made.add_task(TaskDescriptor(task_id=name), (prints or {}).get(name))
    for edge in edges:
        made.add(edge)
    return made


def evidence(merged: Merged | TransferGraph) -> dict[tuple[str, str], object]:
    """All that a graph knows of its pairs, in no order of its own."""
    known = merged.graph if isinstance(merged, Merged) else merged
    return {(a, b): known.evidence(a, b) for a in known.task_ids for b in known.task_ids if known.evidence(a, b)}


def test_one_pair_of_two_runs_is_pooled_by_its_uncertainty() -> None:
    one = graph(measured("a", "b", 0.30, 0.1, accuracy_gain=0.1, accuracy_gain_low=0.0, accuracy_gain_high=0.2))
    two = graph(measured("a", "b", 0.34, 0.05, best_strategy="finetune", convergence_speed_gain=2.0))
    both = one.merge(two)
    (edge,) = both.graph.evidence("a", "b")
    assert edge.transfer_coefficient == pytest.approx((0.30 / 0.01 + 0.34 / 0.0025) / 500)
    assert edge.uncertainty == pytest.approx(500**-0.5)
    assert (edge.low, edge.high) == (
        pytest.approx(edge.transfer_coefficient - 1.959964 * 500**-0.5),
        pytest.approx(edge.transfer_coefficient + 1.959964 * 500**-0.5),
    )
    assert (edge.accuracy_gain, edge.convergence_speed_gain, edge.best_strategy) == (0.1, 2.0, "finetune")
    assert (edge.accuracy_gain_low, edge.accuracy_gain_high) == (pytest.approx(0.0), pytest.approx(0.2))
    assert edge.measured
    assert [e.transfer_coefficient for e in edge.measurements] == [0.30, 0.34]
    assert both.conflicts == []
    assert both.ageing == "no pair was measured at two times: nothing ages"
    assert TransferGraph.from_json(both.graph.to_json()).to_json() == both.graph.to_json()


def test_the_same_measurement_is_never_counted_twice() -> None:
    one = graph(measured("a", "b", 0.30, origin="monday"))
    again = graph(measured("a", "b", 0.30, origin="tuesday", when=DAY))
    assert one.merge(one).graph.to_json() == one.to_json()
    once = one.merge(again).graph.evidence("a", "b")
    assert [(e.uncertainty, e.measurements, e.when) for e in once] == [(0.05, (), DAY)]
    two = graph(measured("a", "b", 0.36))
    both = one.merge(two).graph
    for more in (one, two, again, both):
        assert [
            (e.transfer_coefficient, e.uncertainty, len(e.measurements))
            for e in both.merge(more).graph.evidence("a", "b")
        ] == [(pytest.approx(0.33), pytest.approx(0.05 / math.sqrt(2)), 2)]


def test_a_conflict_says_the_pair_both_values_and_the_test() -> None:
    one = graph(measured("a", "b", 0.50, 0.02, origin="monday"), measured("b", "a", 0.1), measured("c", "a", 0.2))
    two = graph(measured("a", "b", 0.10, 0.02, origin="friday"), measured("b", "a", 0.12), measured("c", "b", 0.2))
    both = one.merge(two)
    (conflict,) = both.conflicts
    assert (conflict.source, conflict.target) == ("a", "b")
    assert sorted(e.transfer_coefficient for e in conflict.measurements) == [0.1, 0.5]
    q = 0.4**2 / (2 * 0.02**2)
    assert conflict.q == pytest.approx(q)
    assert conflict.p == pytest.approx(math.erfc(math.sqrt(q / 2)))
    for said in ("a -> b", "+0.500 ± 0.039 (monday)", "+0.100 ± 0.039 (friday)", "Cochran's Q 200.0"):
        assert said in str(conflict)
    edge = both.graph.edge("a", "b")
    assert edge is not None
    assert edge.transfer_coefficient == pytest.approx(0.3)
    between = 0.4**2 / 2 - 0.02**2  # of two alike, the method of moments is their variance less that of their errors
    assert edge.uncertainty == pytest.approx(math.sqrt((0.02**2 + between) / 2))
    assert one.conflicts() == []


def test_measured_comes_before_predicted_and_the_surer_guess_before_the_other() -> None:
    guess = TransferEdge(source="a", target="b", transfer_coefficient=-0.9, found_by="gnn", uncertainty=0.01)
    vague = TransferEdge(source="b", target="a", transfer_coefficient=0.3, found_by="gnn", uncertainty=0.4)
    surer = TransferEdge(source="b", target="a", transfer_coefficient=0.2, found_by="gnn", uncertainty=0.1)
    other = TransferEdge(source="b", target="a", transfer_coefficient=0.7, found_by="skills")
    one, two = graph(measured("a", "b", 0.3), vague), graph(guess, surer, other)
    for both in (one.merge(two).graph, two.merge(one).graph):
        assert both.coefficient("a", "b") == 0.3
        assert len(both.evidence("a", "b")) == 2
        assert [e.transfer_coefficient for e in both.evidence("b", "a")] == [0.7, 0.2], "the surest speaks: it is last"
    newer = graph(attrs.evolve(vague, when=DAY))
    kept = {e.found_by: e.transfer_coefficient for e in two.merge(newer).graph.evidence("b", "a")}
    assert kept == {"skills": 0.7, "gnn": 0.3}, "of one finder's the newest stays"


def test_what_edges_say_besides_is_kept() -> None:
    one = graph(measured("a", "b", 0.3, estimates={"logme": 1.0}, shared_representations={"trunk": 0.5}))
    two = graph(measured("a", "b", 0.4, estimates={"leep": -2.0}, sample_efficiency_gain=4.0, speed_capped=True))
    (edge,) = one.merge(two).graph.evidence("a", "b")
    assert (edge.estimates, edge.shared_representations) == ({"logme": 1.0, "leep": -2.0}, {"trunk": 0.5})
    assert (edge.sample_efficiency_gain, edge.convergence_speed_gain, edge.speed_capped) == (4.0, None, True)
    assert edge.accuracy_gain is None


def test_without_an_interval_nothing_is_known_and_no_measurement_is_certain() -> None:
    bare = TransferEdge(source="a", target="b", transfer_coefficient=0.3, evidence=Evidence.MEASURED)
    assert bare.standard_error == 1.0
    assert measured("a", "b", 0.5, 0.0).standard_error == 0.005
    assert attrs.evolve(bare, uncertainty=0.2).standard_error == 0.2
    cut = attrs.evolve(bare, transfer_coefficient=0.95, low=0.55, high=1.0)
    assert cut.standard_error == pytest.approx(0.4 / 1.959963984540054), "the side that the range does not cut"


values = st.sampled_from([-0.2, 0.0, 0.1, 0.3, 0.35])
whens = st.sampled_from([None, DAY, DAY + datetime.timedelta(days=30)])


@st.composite
def graphs(draw: st.DrawFn) -> TransferGraph:
    made = graph()
    for source, target in draw(st.lists(st.permutations("abc").map(lambda t: tuple(t[:2])), max_size=4)):
        if draw(st.booleans()):
            made.add(measured(source, target, draw(values), draw(st.sampled_from([0.03, 0.1])), when=draw(whens)))
        else:
            by, when = draw(st.sampled_from(["gnn", "x"])), draw(whens)
            made.add(
                TransferEdge(source=source, target=target, transfer_coefficient=draw(values), found_by=by, when=when)
            )
    return made


def alike(one: TransferGraph, two: TransferGraph) -> bool:
    """Equal evidence, the pooled numbers to rounding."""
    first, second = evidence(one), evidence(two)
    assert set(first) == set(second)
    for pair, edges in first.items():
        key = lambda e: (e.evidence.value, e.found_by)  # noqa: E731
        for a, b in zip(sorted(edges, key=key), sorted(second[pair], key=key), strict=True):  # type: ignore[call-overload]
            assert key(a) == key(b)
            assert (a.transfer_coefficient, a.uncertainty) == (
                pytest.approx(b.transfer_coefficient),
                b.uncertainty if b.uncertainty is None else pytest.approx(b.uncertainty),
            )
            assert (a.when, a.measurements) == (b.when, b.measurements)
        assert one.coefficient(*pair) == pytest.approx(two.coefficient(*pair))
    return True


@given(graphs(), graphs(), graphs())
@settings(max_examples=60, deadline=None)
def test_evidence_is_the_same_in_whatever_order_graphs_are_merged(
    a: TransferGraph, b: TransferGraph, c: TransferGraph
) -> None:
    both = a.merge(b).graph
    assert alike(both, b.merge(a).graph)
    assert alike(both.merge(b).graph, both)
    assert alike(a.merge(a).graph, a)
    assert alike(both.merge(c).graph, a.merge(b.merge(c).graph).graph)
    assert alike(both.merge(both).graph, both)


def test_older_evidence_counts_less_where_repeats_show_drift() -> None:
    generator = np.random.default_rng(1)
    names = [f"t{n:02}" for n in range(12)]
    old, soon, late = graph(names=names), graph(names=names), graph(names=names)
    for a in names:
        for b in names:
            if a != b:
                level = generator.uniform(-0.3, 0.3)
                for made, days in ((old, 0), (soon, 1), (late, 400)):
                    walked = level + generator.normal() * 0.0003**0.5 * days**0.5 + generator.normal() * 0.02
                    made.add(
                        measured(a, b, float(np.clip(walked, -1, 1)), 0.02, when=DAY + datetime.timedelta(days=days))
                    )
    merged = old.merge(soon).graph.merge(late)
    assert merged.drift is not None
    assert merged.drift.low <= 0.0003 <= merged.drift.high
    assert "older ones count less" in merged.ageing
    edge = merged.graph.edge("t00", "t01")
    newest = late.edge("t00", "t01")
    assert edge is not None
    assert newest is not None
    assert abs(edge.transfer_coefficient - newest.transfer_coefficient) < 0.01, "a year ago is nearly forgotten"
    assert len(merged.conflicts) < 10, "what drifts does not disagree"
    undated = old.merge(graph(measured("t00", "t01", 0.3), names=names)).graph.merge(late).graph.edge("t00", "t01")
    assert undated is not None
    assert statistics.mean(e.transfer_coefficient for e in undated.measurements) == pytest.approx(
        undated.transfer_coefficient, abs=0.02
    ), "where one has no date, none of the pair ages"
    steady = old.merge(graph(measured("t00", "t01", 0.3, when=DAY + datetime.timedelta(days=9)), names=names))
    assert "not told from none, nothing ages" in steady.ageing


def test_a_date_is_given_to_those_that_have_none() -> None:
    later = DAY + datetime.timedelta(days=1)
    both = graph(measured("a", "b", 0.1)).merge(graph(measured("a", "b", 0.15, when=DAY, origin="r"))).graph
    (edge,) = both.dated(later, "run").evidence("a", "b")
    assert (edge.when, [(e.when, e.origin) for e in edge.measurements]) == (DAY, [(DAY, "r"), (later, "run")]) or [
        (e.when, e.origin) for e in edge.measurements
    ] == [(later, "run"), (DAY, "r")]
    assert both.evidence("a", "b")[0].measurements[-1].when is None, "the graph itself is as it was"


# --- Who is who


def test_a_task_is_known_again_by_its_data() -> None:
    one = graph(measured("a", "b", 0.3), prints={"a": "A", "b": "B"}, names="ab")
    two = graph(measured("x", "b", 0.5), prints={"x": "A", "b": "B", "y": "Y"}, names=["x", "b", "y"])
    both = one.merge(two)
    assert both.known_as == {"x": "a"}
    assert both.graph.task_ids == ["a", "b", "y"]
    assert [both.graph.fingerprint(t) for t in "aby"] == ["A", "B", "Y"]
    assert len(both.graph.evidence("a", "b")[0].measurements) == 2
    twice = graph(prints={"p": "A", "q": "A"}, names="pq")
    for there in (twice, graph(prints={"q": "A", "p": "A"}, names="qp")):
        assert one.merge(there).known_as == there.merge(one).known_as == {}, "either could be it: not whoever is first"
    assert twice.merge(one).graph.task_ids == ["p", "q", "a", "b"], "which of two is meant cannot be known"


def test_two_tasks_of_one_id_are_refused_until_somebody_says_which() -> None:
    one, two = graph(prints={"a": "A"}), graph(measured("a", "b", 0.3), prints={"a": "Z"})
    with pytest.raises(GraphError, match=r"task 'a' is another one .*fingerprints A and Z.*same=\{'a': ID\}.*renamed"):
        one.merge(two)
    assert one.merge(two, same={"a": "a"}).graph.coefficient("a", "b") == 0.3
    both = one.merge(two.renamed({"a": "a2"})).graph
    assert both.task_ids == ["a", "b", "c", "a2"]
    assert (both.coefficient("a2", "b"), both.edge("a", "b")) == (0.3, None)
    other = TransferGraph([TaskDescriptor(task_id="b", task_type="regression")])
    with pytest.raises(GraphError, match=r"'b' is another one .*task_type 'classification' and 'regression'"):
        one.merge(other)


def test_same_names_tasks_of_both() -> None:
    one, two = graph(measured("a", "b", 0.3)), graph(measured("x", "b", 0.5), names="xb")
    both = one.merge(two, same={"x": "a"})
    assert both.graph.task_ids == ["a", "b", "c"]
    assert len(both.graph.evidence("a", "b")[0].measurements) == 2
    for same, message in (
        ({"z": "a"}, "no task 'z' in the other graph"),
        ({"x": "z"}, "'x' is 'z': no task 'z' in the this graph"),
        ({"x": "b"}, "tasks 'b' and 'x' would both be 'b'"),
        ({"x": 3}, "same"),
        ("x", "same must be a table"),
    ):
        with pytest.raises(CrosstaskError, match=message):
            one.merge(two, same=same)  # type: ignore[arg-type]


def test_a_renamed_graph_is_the_same_under_other_ids() -> None:
    task = TaskDescriptor(task_id="b", prerequisites=("a",), transfer_efficiency={"a": 0.5, "q": 1.0})
    made = graph(measured("a", "b", 0.3)).merge(graph(measured("a", "b", 0.5))).graph
    made.add_task(task, "B")
    made.rule_out("b", "a", "shapes")
    again = made.renamed({"a": "z"})
    assert again.task("b").prerequisites == ("z",)
    assert again.task("b").transfer_efficiency == {"z": 0.5, "q": 1.0}
    assert dict(again.impossible) == {("b", "z"): "shapes"}
    assert again.fingerprint("b") == "B"
    (edge,) = again.evidence("z", "b")
    assert {e.source for e in edge.measurements} == {"z"}
    assert again.renamed({"z": "a"}).to_json()["edges"] == made.to_json()["edges"]
    with pytest.raises(GraphError, match="tasks 'a' and 'c' would both be 'c'"):
        made.renamed({"a": "c"})
    with pytest.raises(GraphError, match="no task 'q'"):
        made.renamed({"q": "c"})


def test_measurements_and_dates_are_checked() -> None:
    with pytest.raises(GraphError, match="a measurement is of 'b' -> 'a', or pooled itself"):
        attrs.evolve(measured("a", "b", 0.1), measurements=(measured("b", "a", 0.1),))
    with pytest.raises(GraphError, match="without a time zone"):
        measured("a", "b", 0.1, when=datetime.datetime(2026, 1, 1))


def test_sites_that_find_the_same_numbers_are_two_measurements(tmp_path: Path) -> None:
    """Three sites where nothing is gained and one where something is: the mean of four, not of two."""
    found = [measured("a", "b", value, site=site) for value, site in ((0.0, "1"), (0.0, "2"), (0.0, "3"), (0.1, "4"))]
    for order in (found, found[::-1]):
        made = functools.reduce(lambda one, two: one.merge(two).graph, map(graph, order))
        for name in ("g.json", "g.graphml", "g.gexf"):
            made = made.merge(TransferGraph.load(made.export(tmp_path / name))).graph
        edge = made.edge("a", "b")
        assert edge is not None
        assert (edge.transfer_coefficient, edge.site) == (pytest.approx(0.025), "")
        assert sorted(each.site for each in edge.measurements) == ["1", "2", "3", "4"]


# --- Stores


def whole(store: Store) -> dict[tuple[str, str], tuple[int, float]]:
    made = kept_graph(store).graph
    return {
        (e.source, e.target): (max(1, len(e.measurements)), round(e.transfer_coefficient, 6))
        for e in made.measured_edges()
    }


def test_a_store_keeps_what_its_runs_measured_and_two_stores_are_one(tmp_path: Path) -> None:
    one, two = open_store(str(tmp_path / "a.db")), open_store(str(tmp_path / "b.db"))
    prints = {"a": "A", "b": "B"}
    first = graph(measured("a", "b", 0.3), prints=prints)
    keep_graph(one, first, "r1", DAY)
    keep_graph(one, graph(measured("b", "a", 0.1), prints=prints), "r1", DAY)
    keep_graph(one, graph(TransferEdge(source="a", target="b", transfer_coefficient=1.0)), "guessed")
    keep_graph(two, graph(measured("x", "b", 0.4), prints={"x": "A", "b": "B"}, names="xb"), "r2")
    keep_graph(two, graph(measured("a", "b", -0.9), prints={"a": "other data", "b": "B"}), "r3")
    keep_graph(two, graph(measured("a", "b", 0.5), prints=prints), "r1", DAY)
    assert whole(one) == {("a", "b"): (1, 0.3), ("b", "a"): (1, 0.1)}, "the same run adds to what was kept of it"
    assert [row.key for row in one.rows("graphs")] == ["r1"], "what nobody measured is not kept"
    pooled = {("a", "b"): (3, 0.4), ("b", "a"): (1, 0.1), ("a (other )", "b"): (1, -0.9)}
    assert upkeep.merge(one, two) == upkeep.Merged(added=2, joined=1)
    assert whole(one) == pooled
    rows = [row.payload for row in one.rows("graphs")]
    assert upkeep.merge(one, two) == upkeep.Merged(known=3)
    assert [row.payload for row in one.rows("graphs")] == rows, "merging again changes nothing"
    upkeep.merge(two, one)
    assert sorted(whole(two).values()) == sorted(pooled.values()), "in whatever order; who comes first gives the ids"
    edge = kept_graph(one).graph.edge("a", "b")
    assert edge is not None
    assert {e.origin for e in edge.measurements} == {"r1", "r2"}
    one.put("graphs", "bad", {"schema": "?"})
    with pytest.raises(StoreError, match="the stored graph of run 'bad' cannot be read"):
        kept_graph(one)
    one.close()
    two.close()


def test_a_run_id_that_is_taken_again_for_other_data_pools_nothing(tmp_path: Path) -> None:
    """Neither in one store nor where two are merged."""
    before = graph(measured("a", "b", 0.1), prints={"a": "A", "b": "B"}, names="ab")
    since = graph(measured("a", "b", 0.9), prints={"a": "other", "b": "B"}, names="ab")
    unknown = graph(measured("b", "a", 0.5), names="ab")
    one, two = open_store(str(tmp_path / "a.db")), open_store(str(tmp_path / "b.db"))
    for made in (before, since, since, unknown):
        keep_graph(one, made, "nightly")
    wanted = {("a", "b"): (1, 0.1), ("a (other)", "b"): (1, 0.9), ("b", "a"): (1, 0.5)}
    assert whole(one) == wanted
    keep_graph(two, since, "nightly")
    assert upkeep.merge(one, two).joined == 0
    assert whole(one) == wanted
    assert upkeep.merge(two, one).joined == 1
    assert sorted(whole(two).values()) == sorted(wanted.values())
    one.close()
    two.close()


def test_of_the_same_data_under_two_ids_each_keeps_its_own(tmp_path: Path) -> None:
    """Whichever of them a run has first, or if it has only one."""
    store = open_store(str(tmp_path / "s.db"))
    prints = {"a": "A", "b": "A", "t": "T"}
    keep_graph(store, graph(measured("a", "t", 0.1), measured("b", "t", 0.7), prints=prints, names="abt"), "r1")
    keep_graph(store, graph(measured("a", "t", 0.2), measured("b", "t", 0.8), prints=prints, names="bat"), "r2")
    keep_graph(store, graph(measured("b", "t", 0.9), prints={"b": "A", "t": "T"}, names="bt"), "r3")
    assert whole(store) == {("a", "t"): (2, 0.15), ("b", "t"): (3, 0.8)}
    store.close()


def test_the_same_data_under_two_ids_stay_two_tasks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.db"))
    for run, value in (("r1", 0.3), ("r2", 0.4)):
        keep_graph(
            store, graph(measured("a", "b", value), measured("a", "c", 0.9), prints=dict.fromkeys("ab", "A")), run
        )
    keep_graph(store, graph(measured("b", "a", 0.0), prints={"a": "Z", "b": "Z"}, names="ab"), "r3")
    assert whole(store) == {
        ("a", "b"): (2, 0.35), ("a", "c"): (1, 0.9), ("b (Z)", "a (Z)"): (1, 0.0),
    }  # fmt: skip
    store.close()
