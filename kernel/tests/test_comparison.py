"""What `crosstask compare` finds: against figures worked out by hand and with scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from scipy import stats

import crosstask.cli
from crosstask import Registry, RunRecord, TransferGraph
from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge
from crosstask.learning.metrics import confidence_interval
from crosstask.options import unstructure
from crosstask.report.comparison import Comparison, Difference, compare


def graph(prints: dict[str, str] | None = None, **edges: tuple[float, ...]) -> TransferGraph:
    """Tasks with what their data are, and edges such as `a_b=(0.3, 0.1, 0.5)`: coefficient and interval."""
    made = TransferGraph()
    for task, data in (prints or {"a": "1", "b": "2", "c": "3"}).items():
        made.add_task(TaskDescriptor(task_id=task), data or None)
    for name, (mean, *ends) in edges.items():
        source, target = name.split("_")
        low, high = ends or (None, None)
        told = {"transfer_coefficient": mean, "evidence": Evidence.MEASURED, "found_by": "probe"}
        made.add(TransferEdge(source=source, target=target, low=low, high=high, **told))  # type: ignore[arg-type]
    return made


def run(name: str = "one", **told: Any) -> RunRecord:
    return attrs.evolve(RunRecord(run_id=name, name="x", recipe={"seeds": 3, "s": {}}, status="finished"), **told)


def scores(*values: float) -> dict[str, Any]:
    return dict(unstructure(confidence_interval(values)))


def of(found: tuple[Difference, ...], where: str) -> Difference:
    (each,) = (each for each in found if each.where == where)
    return each


def test_the_same_run_has_no_differences() -> None:
    one = run(results={"s": {"score": 0.5, "gain": scores(0.1, 0.2), "seconds": 3.0}}, summary={"n": 1, "t": "x"})
    found = compare((one, graph(a_b=(0.3,))), (one, graph(a_b=(0.3,))))
    assert found == Comparison("one", "one", pairs=1, same=3)
    assert not found.differs


def test_scores_of_the_same_seeds_are_compared_in_pairs() -> None:
    one, two = (0.71, 0.83, 0.64, 0.9), (0.75, 0.84, 0.70, 0.93)
    a = run(results={"s": {"score": scores(*one)}})
    b = run("two", results={"s": {"score": scores(*two)}}, versions={"torch": "9"})
    found = compare((a, graph()), (b, graph()))
    each = of(found.scores, "s.score")
    expected = stats.ttest_rel(two, one).confidence_interval(0.95)
    assert each.paired
    assert each.certain
    assert each.change == pytest.approx(0.035)
    assert (each.low, each.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert found.differs
    assert found.versions == (Difference("torch", None, "9"),)
    for other in (attrs.evolve(b, seed=1), attrs.evolve(b, recipe={"seeds": 2})):
        each = of(compare((a, graph()), (other, graph())).scores, "s.score")
        assert not each.paired
        assert not each.certain, "two independent samples that overlap"


def test_scores_of_other_seeds_are_compared_by_their_intervals() -> None:
    """For symmetric intervals of equal width MOVER is sqrt(2) times the half width; each side takes its own ends."""
    a = run(summary={"even": {"mean": 0.5, "low": 0.4, "high": 0.6}, "odd": {"mean": 0.5, "low": 0.2, "high": 0.6}})
    b = run("two", seed=1, summary={"even": {"mean": 0.7, "low": 0.6, "high": 0.8},
                                    "odd": {"mean": 0.9, "low": 0.8, "high": 1.0}})  # fmt: skip
    found = compare((a, graph()), (b, graph())).scores
    even, odd = of(found, "summary.even"), of(found, "summary.odd")
    assert (even.low, even.high) == pytest.approx((0.2 - 0.1 * math.sqrt(2), 0.2 + 0.1 * math.sqrt(2)))
    assert even.certain
    assert (odd.low, odd.high) == pytest.approx((0.4 - math.hypot(0.1, 0.1), 0.4 + math.hypot(0.1, 0.3)))
    assert even.name == "even"


def test_a_single_value_has_no_interval() -> None:
    a = run(results={"s": {"score": scores(0.5), "fixed": {"mean": 1, "low": 1, "high": 1}, "accuracy": 0.25}})
    b = run("two", results={"s": {"score": scores(0.75), "fixed": {"mean": 2, "low": 2, "high": 2}, "accuracy": 1}})
    for each in compare((a, graph()), (b, graph())).scores:
        assert (each.low, each.high, each.certain) == (None, None, False)
    assert of(compare((a, graph()), (b, graph())).scores, "s.accuracy").change == 0.75


def test_what_was_told_is_listed_to_the_last_option() -> None:
    a = run(recipe={"s": {"parts": [{"use": "x", "n": 1}, "y"], "list": [1, 2], "gone": None, "empty": {}}, "seeds": 3})
    b = run("two", recipe={"s": {"parts": [{"use": "x", "n": 2}, "y"], "list": [1, 3], "new": 7}, "seeds": 3})
    found = compare((a, graph()), (b, graph()))
    told = {each.where: (each.first, each.second) for each in found.recipe}
    assert told == {"s.parts[0].n": (1, 2), "s.list": ([1, 2], [1, 3]), "s.new": (None, 7), "s.empty": ({}, None)}
    assert all(each.change is None for each in found.recipe)


def test_edges_with_their_signs() -> None:
    one = graph(a_b=(0.5, 0.4, 0.6), b_a=(0.2, 0.1, 0.3), a_c=(0.1,), c_a=(0.2, 0.1, 0.3), b_c=(0.3, 0.2, 0.4))
    two = graph(a_b=(-0.5, -0.6, -0.4), b_a=(-0.1, -0.3, 0.1), a_c=(-0.1,), c_a=(0.2, 0.1, 0.3), c_b=(0.1, 0.0, 0.2))
    found = compare((run(), one), (run("two"), two))
    assert found.pairs == 4
    edges = {(edge.source, edge.target): edge for edge in found.edges}
    assert set(edges) == {("a", "b"), ("b", "a"), ("a", "c")}, "one is the same, two have no counterpart"
    assert {pair: edge.sign for pair, edge in edges.items()} == {
        ("a", "b"): "sign changed beyond doubt", ("b", "a"): "sign changed", ("a", "c"): "sign changed",
    }  # fmt: skip
    change = edges["a", "b"].change
    assert change.change == pytest.approx(-1.0)
    assert (change.low, change.high) == pytest.approx((-1 - 0.1 * math.sqrt(2), -1 + 0.1 * math.sqrt(2)))
    assert edges["a", "c"].change.low is None, "no interval is known"
    assert edges["a", "b"].evidence == ("measured", "measured")
    assert [edge.source + edge.target for edge in found.ranked()] == ["ab", "ba", "ac"]
    assert (found.only_first, found.only_second) == (("b → c",), ("c → b",))
    assert found.lists() == {"only one knows": ("b → c",), "only two knows": ("c → b",)}
    assert "4 transfers are known to both, 3 of them with another coefficient, 3 with another sign" in found.told()


def test_rows_of_a_result_are_known_by_what_they_are_called() -> None:
    def result(*rows: tuple[str, str, float]) -> dict[str, Any]:
        items = [
            {"source": a, "strategy": f"transfer 'x' (dist {score})", "kept": str(score), "score": score, "steps": [b]}
            for a, b, score in rows
        ]
        return {"rows": items, "curve": {"values": [1, 2]}, "options": {"score": 1}, "note": "long" * 30}

    one = result(("a", "", 0.1), ("b", "", 0.2), ("b", "", 0.3), ("c", "", 0.4))
    two = result(("b", "", 0.2), ("b", "", 0.5), ("a", "", 0.2))
    two["options"], two["curve"] = {"score": 2}, {"values": [3, 4]}
    found = compare((run(results={"s": one}), graph()), (run("two", results={"s": two}), graph()))
    assert {each.where: each.change for each in found.scores} == pytest.approx(
        {"s.rows[a, transfer 'x'].score": 0.1, "s.rows[b, transfer 'x' #2].score": 0.2}
    )
    assert found.left_out == ("s.rows: 1 rows that only one of them has",)


def test_cost_is_apart_from_scores() -> None:
    one = {"cost": {"steps": 10, "gain": 1}, "single_cost": {"steps": 5}, "seconds": 2.0, "steps": 3, "flag": True}
    two = {"cost": {"steps": 30, "gain": 2}, "single_cost": {"steps": 5}, "seconds": 3.0, "steps": 4, "flag": False}
    a, b = run(results={"s": one}, seconds=10.0), run("two", results={"s": two}, seconds=12.5)
    found = compare((a, graph()), (b, graph()))
    assert {each.where: each.change for each in found.costs} == {"seconds": 2.5, "s.cost.steps": 20, "s.seconds": 1.0}
    assert [each.where for each in found.scores] == ["s.cost.gain"]


def test_what_is_of_other_things_is_not_compared() -> None:
    a = run(results={"s": {"metric": "accuracy", "score": 0.5, "deep": {"target": "a", "score": 1}}, "t": {"score": 1},
                     "u": {"score": 1}}, recipe={"t": {"use": "x"}, "seeds": 3})  # fmt: skip
    b = run("two", results={"s": {"metric": "f1", "score": 0.7}, "t": {"score": 2}, "v": {}}, recipe=a.recipe)
    b = attrs.evolve(b, recipe={"t": {"use": "y"}, "seeds": 3})
    found = compare((a, graph()), (b, graph()))
    assert found.scores == ()
    assert found.left_out == (
        "s: metric accuracy against f1", "t: stage x against y", "u: only one has come to it",
        "v: only two has come to it",
    )  # fmt: skip
    c = run("two", results={"s": {"metric": "accuracy", "score": 0.5, "deep": {"target": "b", "score": 2}}})
    assert "s.deep: target a against b" in compare((a, graph()), (c, graph())).left_out
    texts = compare((run(summary={"path": "a → b"}), graph()), (run("two", summary={"path": "b"}), graph()))
    assert texts.scores == (Difference("summary.path", "a → b", "b"),)


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ({}, {"a": "1"}, "the first run has no tasks (yet)"),
        ({"a": "1"}, {}, "the second run has no tasks (yet)"),
        ({"a": "1", "b": "2"}, {"a": "1"}, "only the first run has task 'b'"),
        ({"a": "1"}, {"a": "1", "b": "2", "c": "3"}, "only the second run has tasks 'b', 'c'"),
        ({"a": "1"}, {"a": "2"}, "other data, or another split of them, behind task 'a'"),
        ({"a": "1"}, {"a": ""}, "only one of them says which data are behind task 'a'"),
        (
            dict.fromkeys("abcdefg", "1"), dict.fromkeys("abcdefg", "2"),
            "other data, or another split of them, behind tasks 'a', 'b', 'c', 'd', 'e' and 2 more",
        ),
    ],
)  # fmt: skip
def test_runs_of_other_tasks_or_data_are_not_compared(one: dict[str, str], two: dict[str, str], why: str) -> None:
    graphs = [graph(each) if each else TransferGraph() for each in (one, two)]
    a, b = run(summary={"x": 1}, results={"s": {"score": 1}}), run("two", summary={"x": 2}, results={"s": {"score": 2}})
    found = compare((a, graphs[0]), (b, graphs[1]))
    assert found.why_not == (why,)
    assert (found.scores, found.edges, found.costs) == ((), (), ())


# The command ----------------------------------------------------------------------------------------------------------


def write(folder: Path, record: RunRecord, made: TransferGraph) -> str:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(unstructure(record)))
    made.export(folder / "graph.json")
    return str(folder)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(crosstask.cli.cli, ["compare", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def folders(tmp_path: Path, installed: Registry) -> dict[str, str]:
    many = {f"t{n}": str(n) for n in range(7)}
    pairs = [(a, b) for a in many for b in many if a != b]
    edges = {f"{a}_{b}": (0.1, 0.0, 0.2) for a, b in pairs}
    turned = dict.fromkeys(edges, (-0.2, -0.3, -0.1))
    one = run(results={"s": {"score": scores(0.5, 0.6, 0.7), "total_steps": 10}}, summary={"path": "x", "n": 1})
    two = run("two", results={"s": {"score": scores(0.6, 0.71, 0.8), "total_steps": 30}, "more": {}},
              summary={"path": "y", "n": 2}, recipe={"seeds": 3, "s": {"o": 1}})  # fmt: skip
    return {
        "one": write(tmp_path / "one", one, graph(many, **edges)),
        "two": write(tmp_path / "two", two, graph(many, **turned)),
        "other": write(tmp_path / "other", run("other"), graph({"t0": "9"})),
        "same": write(tmp_path / "same", attrs.evolve(one, run_id="same", seconds=9.0), graph(many, **edges)),
    }


def test_the_command_says_what_differs_and_exits_with_it(folders: dict[str, str]) -> None:
    code, told = invoke(folders["one"], folders["two"])
    assert code == 1
    for said in (
        "one and two\n", "┃ one ", "What they were told", "s.o", "Transfers, 20 of 42 (--json has all)", "+0.103",
        "paired *", "+20", "not compared: more: only two has come to it",
        "42 transfers are known to both, 42 of them with another coefficient, 42 with another sign; 0 scores",
    ):  # fmt: skip
        assert said in told, said
    code, told = invoke(folders["one"], folders["same"])
    assert (code, "0 of them with another coefficient" in told) == (0, True), "time alone is no difference"
    code, told = invoke(folders["one"], folders["other"], folders["same"])
    assert code == 2
    assert "they cannot be compared: only the first run has tasks 't1', 't2', 't3', 't4', 't5' and 1 more" in told
    code, told = invoke(folders["one"], str(Path(folders["one"]) / "nowhere"))
    assert code not in (0, 2) or "no run" in told
    assert invoke(folders["one"])[0] == 2


def test_the_runs_are_headed_by_their_folders_in_the_order_given(folders: dict[str, str], tmp_path: Path) -> None:
    for name, made in (("x", "two"), ("y", "one")):
        (tmp_path / name).mkdir()
        Path(folders[made]).rename(tmp_path / name / "run")
    told = invoke(str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run") + "/.")[1]
    assert told.startswith(f"{Path('x/run')} and {Path('y/run')}\n")
    assert f"┃ {Path('x/run')}" in told
    assert f"not compared: more: only {Path('x/run')} has come to it" in told
    same = invoke(str(tmp_path / "x" / "run"), str(tmp_path / "x" / "run"))[1]
    assert same.startswith("run and run\n")


def test_the_command_as_json(folders: dict[str, str]) -> None:
    code, told = invoke(folders["one"], folders["two"], folders["other"], "--json")
    assert code == 2
    two, other = json.loads(told)
    assert (two["first"], two["second"], two["why_not"]) == ("one", "two", [])
    assert len(two["edges"]) == 42
    assert two["edges"][0]["change"]["change"] == pytest.approx(-0.3)
    (score,) = (each for each in two["scores"] if each["where"] == "s.score")
    assert score["first"]["values"] == [0.5, 0.6, 0.7]
    assert score["paired"] is True
    assert other["why_not"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (None, 0.9),  # as run.json keeps NaN
        (0.9, math.nan),
        (True, False),
        ([0.1, 0.2], [0.1, 0.3]),
        ([0.1, 0.2], [0.1]),
        ([[0.1, None]], [[0.1, 0.4]]),
        (scores(0.1, 0.2), {"mean": None, "low": None, "high": None, "values": [None, None]}),
        (scores(0.1, 0.2), 0.15),
        (0.5, "none"),
    ],
)
def test_what_is_no_number_in_one_of_them_is_not_the_same(one: Any, two: Any) -> None:
    for first, second in ((one, two), (two, one)):
        a = run(summary={"accuracy": first}, results={"s": {"score": first}})
        b = run("two", summary={"accuracy": second}, results={"s": {"score": second}})
        found = compare((a, graph()), (b, graph()))
        assert {each.where.partition("[")[0] for each in found.scores} == {"summary.accuracy", "s.score"}
        same = compare((a, graph()), (attrs.evolve(a, run_id="two"), graph()))
        assert not same.differs, "NaN is NaN"


def test_what_only_one_of_them_has_is_not_the_same() -> None:
    a = run(
        summary={"accuracy": 0.5, "gain": 0.1}, results={"s": {"by_task": {"a": {"score": 0.5}, "b": {"score": 1}}}}
    )
    b = run("two", summary={"accuracy": 0.5}, results={"s": {"by_task": {"a": {"score": 0.5}}}})
    found = compare((a, graph()), (b, graph()))
    assert found.scores == (Difference("summary.gain", 0.1, None),)
    assert found.left_out == ("s.by_task.b: only the first has it",)
    assert compare((b, graph()), (a, graph())).left_out == ("s.by_task.b: only the second has it",)


def test_rows_with_long_names_are_found_by_them() -> None:
    rows = [{"source": f"{'t' * 70}{n}", "score": n / 10} for n in range(3)]
    a, b = run(results={"s": {"rows": rows}}), run("two", results={"s": {"rows": rows[::-1]}})
    found = compare((a, graph()), (b, graph()))
    assert not found.differs
    assert found.same == 3


def test_a_transfer_with_another_interval_or_evidence_is_another_finding() -> None:
    one, two = (run(), graph(a_b=(1.0, 0.2, 1.0))), (run("two"), graph(a_b=(1.0, 0.9, 1.0)))
    found = compare(one, two)
    assert found.differs
    assert found.told().startswith("1 transfers are known to both, 0 of them with another coefficient")
    predicted = graph()
    (edge,) = two[1].edges()
    predicted.add(attrs.evolve(edge, evidence=Evidence.PREDICTED))
    assert compare(two, (run(), predicted)).edges[0].evidence == ("measured", "predicted")
