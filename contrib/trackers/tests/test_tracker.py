"""A run followed as lines of JSON: what stands there is what the run's own files and another observer say."""

import json
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from crosstask import RunRecord, TransferEngine
from crosstask.errors import CrosstaskError, OptionError, PluginError
from crosstask.graph import TransferGraph
from crosstask.options import component, state
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.settings import Settings
from crosstask.testing import conformance
from crosstask_digits import Digits
from crosstask_trackers import Jsonl, Point, Sink, TrackedRun, Tracker, jsonl, library, line, tracker
from crosstask_trackers.testing import EVERY, WRITTEN, Heard, expected_figures, short_run, small_run

test_conformance = conformance(Jsonl)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are written where the process is are not to lie in the repository."""
    monkeypatch.chdir(tmp_path)


def lines(path: Path, event: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    return [each for each in found if event in (None, each["event"])]


def last_table(path: Path, name: str) -> list[dict[str, Any]]:
    told = [each for each in lines(path, "table") if each["name"] == name][-1]
    return [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]


# A whole run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord, Heard]:
    out, heard = tmp_path_factory.mktemp("whole"), Heard()
    record = small_run(out, heard, observers=[{"use": "jsonl", "every": EVERY}])
    return out, record, heard


def test_figures_of_steps_are_those_that_the_training_told(whole: tuple[Path, RunRecord, Heard]) -> None:
    out, record, heard = whole
    steps = lines(out / "tracked.jsonl", "step")
    assert [each["step"] for each in steps] == list(WRITTEN)
    assert {each["series"] for each in steps} == {"multitask"}
    found = {(name, each["step"]): value for each in steps for name, value in each["values"].items()}
    assert found == {(name, step): value for name, step, value in expected_figures(heard)}
    result = record.results["multitask"]  # recorded steps: 1, 10, 20, 22
    for name, kept in [
        ("losses", result["losses"]),
        ("weights", result["weights"]),
        ("conflicts", result["conflicts"]),
    ]:
        for key, values in kept.items():
            at = [(step, value) for step, value in zip(result["steps"], values, strict=True) if step in (10, 20)]
            if name != "losses":  # the record's losses are means since the point before
                assert [(step, found[f"multitask/{name}/{key}", step]) for step, _ in at] == at
    assert {name for name, step in found if step == 10} >= {f"multitask/scores/{t}" for t in result["tasks"]}
    assert all(abs(each["time"] - time.time()) < 600 for each in steps)


def test_tables_files_and_results_are_the_runs_own(whole: tuple[Path, RunRecord, Heard]) -> None:
    out, record, _ = whole
    graph = TransferGraph.load(out / "graph.json")
    rows = {(row["source"], row["target"]): row for row in last_table(out / "tracked.jsonl", "transfers")}
    assert len(rows) == 6
    for edge in graph.all_edges():
        row = rows[edge.source, edge.target]
        assert (row["coefficient"], row["low"], row["high"]) == (edge.transfer_coefficient, edge.low, edge.high)
        assert (row["n"], row["evidence"], row["found_by"]) == (0, edge.evidence.value, edge.found_by)
    for name in ("graph.json", "graph.graphml", "report.html"):
        assert (out / "tracked" / name).read_bytes() == (out / name).read_bytes()
    assert (out / "tracked" / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "tracked" / "results" / "multitask.json").read_text()) == record.results["multitask"]
    stages = last_table(out / "tracked.jsonl", "stages")
    assert [(row["stage"], row["status"]) for row in stages][-1] == ("multitask", "finished")
    figures = {k: v for each in lines(out / "tracked.jsonl", "figures") for k, v in each["values"].items()}
    result = record.results["multitask"]
    for task, score in result["scores"].items():
        assert figures[f"multitask/result/scores/{task}"] == score
        assert figures[f"multitask/result/gains/{task}"] == result["gains"][task]["mean"]
        assert figures[f"multitask/result/gains/{task}_low"] == result["gains"][task]["low"]
    assert figures["summary/tasks"] == 3
    assert lines(out / "tracked.jsonl")[-1] | {"time": 0, "run": ""} == {
        "event": "end", "time": 0, "run": "", "status": "finished", "error": None,
    }  # fmt: skip


def test_parameters_are_recipe_versions_and_seed(whole: tuple[Path, RunRecord, Heard]) -> None:
    out, record, _ = whole
    (run,) = lines(out / "tracked.jsonl", "run")
    told = run["parameters"]
    assert run["run"] == record.run_id
    assert run["name"] == "small"
    assert told["recipe.source.options.train"] == 200
    assert told["recipe.observers.0.options.every"] == EVERY
    assert told["tracker.every"] == EVERY
    assert told["budget.steps"] == 10
    assert (told["seed"], told["seeds"]) == (0, 2)
    assert told["versions.torch"] == torch.__version__
    assert "versions.crosstask-rgb" in told
    assert "versions.crosstask-trackers" in told


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [RuntimeError("lost at sftp://me:word@host/x"), KeyboardInterrupt()], ids=repr)
def test_a_run_that_was_stopped_says_so_and_goes_on_where_it_is_resumed(tmp_path: Path, stop: BaseException) -> None:
    heard = Heard()
    heard.stop = stop
    with pytest.raises(type(stop)):
        small_run(tmp_path, Jsonl(), heard)
    end = lines(tmp_path / "tracked.jsonl")[-1]
    failed = isinstance(stop, RuntimeError)
    assert end["status"] == ("failed" if failed else "interrupted")
    assert end["error"] == ("RuntimeError: lost at sftp://(not shown)@host/x" if failed else "KeyboardInterrupt: ")
    stages = last_table(tmp_path / "tracked.jsonl", "stages")
    assert (stages[-1]["stage"], stages[-1]["status"]) == ("multitask", end["status"])
    assert [each["step"] for each in lines(tmp_path / "tracked.jsonl", "step")] == [1, 6], (
        "the last it heard of is written too"
    )

    record = small_run(tmp_path, Jsonl(every=1), resume=True)
    found = lines(tmp_path / "tracked.jsonl")
    assert {each["run"] for each in found} == {record.run_id}
    assert [each["status"] for each in found if each["event"] == "end"] == [end["status"], "finished"]
    steps = [each for each in found if each["event"] == "step"]
    assert [each["step"] for each in steps] == [1, 6, *range(1, 23)]
    assert steps[0]["values"] == steps[2]["values"]


def test_what_an_earlier_run_left_in_the_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of another run")
    old = time.time() - 3600
    os.utime(tmp_path / "report.html", (old, old))
    made = Jsonl()
    with Run(Registry(), observers=[made]) as run:
        run.folder = tmp_path
        run.tell("run_started", record=RunRecord(run_id="r", name="n"))
        run.tell("run_finished", record=RunRecord(run_id="r", name="n", summary={"odd": "text"}), error=None)
    assert {each["name"] for each in lines(tmp_path / "tracked.jsonl", "file")} == {"run.json"}


def test_an_engine_from_python_ends_as_it_is_closed(tmp_path: Path) -> None:
    digits = Digits(tasks=("digits", "parity")).load()
    made = Jsonl(path="first.jsonl")
    with TransferEngine(observers=[made], discoverers=["skills"], run_id="mine") as engine:
        engine.register(digits)
        graph = engine.discover()
    (run,), end = lines(tmp_path / "first.jsonl", "run"), lines(tmp_path / "first.jsonl")[-1]
    assert (run["run"], end["status"]) == ("mine", "finished")
    assert len(last_table(tmp_path / "first.jsonl", "transfers")) == len(list(graph.all_edges())) == 2
    kept = TransferGraph.load(tmp_path / "first" / "graph.json")
    assert kept.task_ids == graph.task_ids
    assert [(e.source, e.target, e.transfer_coefficient, e.low, e.high) for e in kept.all_edges()] == [
        (e.source, e.target, e.transfer_coefficient, e.low, e.high) for e in graph.all_edges()
    ]

    again = Jsonl(path="second.jsonl")
    with pytest.raises(ZeroDivisionError), TransferEngine(observers=[again]) as engine:
        engine.register(digits) or 1 / 0
    assert lines(tmp_path / "second.jsonl")[-1]["error"] == "ZeroDivisionError: division by zero"
    again.close()  # nothing is open any more
    assert lines(tmp_path / "second.jsonl")[-1]["status"] == "failed"


def test_a_script_that_closes_nothing_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status in ((None, "finished"), (ValueError("x"), "failed")):
        path = tmp_path / f"{status}.jsonl"
        made = Jsonl(path=str(path))
        made.stage_started("s", 1)
        if error is not None:
            monkeypatch.setattr(sys, "last_value", error, raising=False)
        made._at_exit()  # what the interpreter calls
        assert lines(path)[-1]["status"] == status


def test_the_interpreter_does_call_it(tmp_path: Path) -> None:
    code = "from crosstask_trackers import Jsonl\nmade = Jsonl(path='x.jsonl')\nmade.stage_started('s', 1)\n1 / 0"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False).returncode
    assert lines(tmp_path / "x.jsonl")[-1]["error"] == "ZeroDivisionError: division by zero"


# What a series is -----------------------------------------------------------------------------------------------------


def followed(path: Path, every: int, *steps: tuple[str, int, dict[str, Any]], finish: str = "") -> list[dict[str, Any]]:
    made = Jsonl(path=str(path), every=every)
    for stage, step, metrics in steps:
        made.training_step(stage, step, metrics)
    if finish:
        made.stage_finished(finish, None)
    made.close()
    return lines(path, "step")


def test_trainings_of_one_name_follow_one_another_and_last_steps_are_kept(tmp_path: Path) -> None:
    told = [("s", step, {"losses": {"a": float(step)}}) for step in (*range(1, 8), *range(1, 5))]
    told += [("s", step, {"losses": {"a": 9.0}, "task": "a"}) for step in (1, 2)]
    found = followed(tmp_path / "x.jsonl", 5, *told, finish="s")
    assert [(each["series"], each["step"], each["values"]) for each in found] == [
        ("s", 1, {"s/losses/a": 1.0}),
        ("s", 5, {"s/losses/a": 5.0}),
        ("s", 7, {"s/losses/a": 7.0}),  # the end of the first
        ("s", 8, {"s/losses/a": 1.0}),  # the second begins: 7 + 1
        ("s/a", 1, {"s/losses/a": 9.0}),
        ("s", 11, {"s/losses/a": 4.0}),  # 7 + 4
        ("s/a", 2, {"s/losses/a": 9.0}),
    ]


def test_what_is_no_number_is_left_out_and_what_is_not_finite_is_not(tmp_path: Path) -> None:
    metrics = {
        "losses": {"a": torch.tensor(0.5), "b": math.nan}, "rate": 2, "on": True, "word": "7", "many": torch.ones(3),
        "none": None, "flag": torch.tensor(True), "deep": {"er": {"x": 1}}, "huge": 10**400,
    }  # fmt: skip
    (found,) = followed(tmp_path / "x.jsonl", 1, ("s", 1, metrics), ("s", 2, {"word": "nothing"}))
    assert found["values"] == {"s/losses/a": 0.5, "s/losses/b": None, "s/rate": 2.0, "s/deep/er/x": 1.0}


def test_trainings_of_single_tasks_are_followed_where_asked_for(tmp_path: Path) -> None:
    assert not Jsonl().hears_every_step
    made = Jsonl(trainings=True, every=4)
    small_run(tmp_path, made, multitask={"tasks": ["digits", "parity"], "budget": {"steps": 4}})
    found = {each["series"] for each in lines(tmp_path / "tracked.jsonl", "step")}
    assert "multitask" in found
    assert found & {"train/digits", "multitask/digits"}


def test_two_stages_of_a_name_have_results_of_their_own(tmp_path: Path) -> None:
    made = Jsonl(path=str(tmp_path / "x.jsonl"))
    for number in range(2):
        made.stage_started("a/b", 3)
        made.stage_finished("a/b", RunRecord(run_id="r", name="n", seed=number))
    made.stage_finished("never begun", None)
    made.close()
    kept = sorted(path.name for path in (tmp_path / "x" / "results").iterdir())
    assert kept == ["a_b-2.json", "a_b.json"]
    figures = {k: v for each in lines(tmp_path / "x.jsonl", "figures") for k, v in each["values"].items()}
    assert (figures["a/b/result/seed"], figures["a/b-2/result/seed"]) == (0, 1)


def test_measured_edges_say_of_how_many_measurements(tmp_path: Path) -> None:
    made = Jsonl(path=str(tmp_path / "x.jsonl"))
    engine = TransferEngine(observers=[made], budget={"steps": 4, "samples": 20}, train={"steps": 4}, seeds=2)
    with engine:
        engine.register(Digits(tasks=("digits", "parity"), train=100).load())
        graph = engine.discover()
    rows = [row for row in last_table(tmp_path / "x.jsonl", "transfers") if row["evidence"] == "measured"]
    known = {(e.source, e.target): e for e in graph.measured_edges()}
    assert rows
    for row in rows:
        edge = known[row["source"], row["target"]]
        assert (row["n"], row["coefficient"]) == (max(1, len(edge.measurements)), edge.transfer_coefficient)


def test_without_pillow_the_picture_is_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    made = Jsonl(path=str(tmp_path / "x.jsonl"))
    made.task_registered(next(iter(Digits(tasks=("digits",)).load())))
    made.close()
    assert (tmp_path / "x" / "graph.svg").read_text().startswith("<svg")


# What fails stops nothing ---------------------------------------------------------------------------------------------


class Memory(Sink):
    """Keeps calls; raises or waits as it was told."""

    def __init__(self, of: "Troubled") -> None:
        self.of = of
        of.trouble("open")

    def points(self, points: Any) -> None:
        self.of.trouble("points")
        self.of.calls += [("point", point.step) for point in points]

    def figures(self, values: Any) -> None:
        self.of.trouble("figures")
        self.of.calls.append(("figures", dict(values)))

    def table(self, name: str, columns: Any, rows: Any) -> None:
        self.of.calls.append(("table", name))

    def image(self, name: str, path: Path) -> None:
        self.of.calls.append(("image", name))

    def file(self, name: str, path: Path) -> None:
        self.of.calls.append(("file", name))

    def end(self, status: str, error: str | None) -> None:
        self.of.trouble("end")
        self.of.calls.append(("end", status))


def going_on() -> threading.Event:
    made = threading.Event()
    made.set()
    return made


@component
class Troubled(Tracker):
    """A tracker whose calls fail so many times, or take so long."""

    calls: list[Any] = state(factory=list)
    failures: dict[str, int] = state(factory=dict)
    go_on: Any = state(factory=going_on)
    tried: list[str] = state(factory=list)

    def trouble(self, what: str) -> None:
        self.tried.append(what)
        self.go_on.wait(60)
        if self.failures.get(what, 0) > 0:
            self.failures[what] -= 1
            raise ConnectionError("https://me:word@server is down")

    def open(self, run: TrackedRun) -> Sink:
        return Memory(self)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    monkeypatch.setattr(line, "_PAUSE", 0.01)
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_what_fails_for_a_while_is_written_in_order(told: list[dict[str, Any]]) -> None:
    made = Troubled(every=1)
    made.failures = {"open": 2, "points": 3, "end": 1}
    for step in range(1, 1201):
        made.training_step("s", step, {"loss": 1.0})
    made.stage_finished("s", RunRecord(run_id="r", name="n"))
    made.close()
    kinds = [call[0] for call in made.calls]
    assert [step for kind, step in made.calls if kind == "point"] == list(range(1, 1201))
    assert kinds[1200:] == ["figures", "file", "end"]
    (said,) = told  # once, though six calls failed
    assert said["why"] == "ConnectionError: https://(not shown)@server is down"
    assert "the run goes on" in said["event"]


def test_a_server_that_is_down_stops_no_run_and_is_told_of_once(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    made, heard = Troubled(every=1), Heard()
    made.failures = {"open": 10**9}
    record = small_run(tmp_path, made, heard)
    assert record.status == "finished"
    assert len(heard.steps) == 22
    assert made.calls == []
    about = [each for each in told if each.get("tracker") == made.origin]
    assert [each["event"].partition(";")[0] for each in about] == [
        "a tracker cannot write", "a tracker has not everything of this run",
    ]  # fmt: skip
    assert about[1]["steps"] == 22
    assert about[1]["others"] >= 5


def test_one_thing_that_cannot_be_written_does_not_take_the_rest(told: list[dict[str, Any]]) -> None:
    made = Troubled(every=1)
    made.failures = {"figures": 4}
    made.stage_finished("s", RunRecord(run_id="r", name="n"))
    made.training_step("s", 1, {"loss": 1.0})
    made.close()
    assert made.tried.count("figures") == 4
    assert [call[0] for call in made.calls] == ["file", "point", "end"]
    assert told[-1]["steps"] == 0
    assert told[-1]["others"] == 1


def test_a_server_that_hangs_is_waited_for_as_long_as_said_and_what_waits_is_bounded(
    told: list[dict[str, Any]],
) -> None:
    made = Troubled(every=1, waiting=50, patience=0.3)
    made.go_on.clear()
    started = time.monotonic()
    for step in range(1, 10_001):
        made.training_step("s", step, {"loss": 1.0})
    for _ in range(1100):
        made.stage_finished("s", RunRecord(run_id="r", name="n"))
    took = time.monotonic() - started
    writing = made._live.line._thread  # type: ignore[union-attr]
    made.close()
    assert 0.25 < time.monotonic() - started - took < 1.2
    assert told[-1]["steps"] == 10_000
    assert told[-1]["others"] > 1100
    made.go_on.set()
    writing.join(60)  # it wakes up, finds that it is over, and writes nothing
    assert made.calls == []


def test_a_disk_that_is_full_does_not_hide_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[dict[str, Any]]
) -> None:
    made = Troubled()
    made.task_registered(next(iter(Digits(tasks=("digits",)).load())))

    def full(*_: object, **__: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(TransferGraph, "export", full)
    monkeypatch.setattr(Path, "write_text", full)
    made.stage_finished("s", RunRecord(run_id="r", name="n"))
    made.close()
    assert [call[0] for call in made.calls] == ["figures", "end"]
    assert [each["why"] for each in told] == ["OSError: full"]


# Settings, processes --------------------------------------------------------------------------------------------------


def with_settings(made: Tracker, **settings: Any) -> Run:
    tables = {made.plugin: settings}
    return Run(Registry(settings=Settings(tables=tables)), observers=[made])


def test_settings_say_what_options_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Jsonl(patience=2.0)
    assert (made.said("every"), made.said("patience"), made.said("path")) == (10, 2.0, None)
    monkeypatch.setenv("CROSSTASK_TRACKERS_EVERY", "3")
    monkeypatch.setenv("CROSSTASK_TRACKERS_TRAININGS", "true")
    with with_settings(made, patience=5, path="7"):
        assert (made.said("every"), made.said("patience"), made.said("path")) == (3, 2.0, "7")
        assert made.hears_every_step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evry": 3}, "settings of trackers: no option 'evry'; did you mean 'every'"),
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"every": "often"}, "settings of trackers: every must be"),
    ],
)
def test_settings_are_checked_as_options_are(settings: dict[str, Any], message: str) -> None:
    made = Jsonl()
    with with_settings(made, **settings) as run, pytest.raises(OptionError, match=message):
        run.tell("stage_started", stage="s", total=1)


def test_secrets_are_not_written(tmp_path: Path) -> None:
    made = Jsonl(path=str(tmp_path / "x.jsonl"))
    recipe = {"own": {"api_key": "hidden-1", "url": "http://me:hidden-2@host"}}
    with Run(
        Registry(settings=Settings(tables={"trackers": {"path": "http://me:hidden-3@host"}})), observers=[made]
    ) as run:
        run.tell("run_started", record=RunRecord(run_id="r", name="n", recipe=recipe))
        run.tell("run_finished", record=RunRecord(run_id="r", name="n", recipe=recipe), error=None)
    text = (tmp_path / "x.jsonl").read_text() + (tmp_path / "x" / "run.json").read_text()
    assert "hidden" not in text
    assert "(set, not shown)" in text


def test_of_several_processes_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not small_or_nothing(tmp_path / "no.jsonl").exists()
    monkeypatch.setenv("RANK", "0")
    assert small_or_nothing(tmp_path / "yes.jsonl").exists()
    monkeypatch.setenv("RANK", "1")
    store = f"file://{tmp_path}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        assert small_or_nothing(tmp_path / "group.jsonl").exists()
    finally:
        torch.distributed.destroy_process_group()


def small_or_nothing(path: Path) -> Path:
    made = Jsonl(path=str(path))
    for hook, given in (
        ("stage_started", ("s", 1)),
        ("training_step", ("s", 1, {"loss": 1.0})),
        ("stage_finished", ("s", None)),
        ("edges_discovered", ([], "d")),
        ("run_finished", (RunRecord(run_id="r", name="n"), None)),
    ):
        getattr(made, hook)(*given)
    made.task_registered(next(iter(Digits(tasks=("digits",)).load())))
    made.close()
    return path


def test_a_copy_does_not_write() -> None:
    made = Troubled()
    made.stage_started("s", 1)
    assert pickle.loads(pickle.dumps(Jsonl(every=3))).every == 3
    copied = made.__getstate__()
    assert not {"_followed_run", "_read", "_context"} & set(copied)
    made.close()


def test_a_missing_library_is_one_line_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "nosuch", None)
    with pytest.raises(PluginError, match=r"^crosstask-x needs nosuch-lib: pip install nosuch-lib$"):
        library("nosuch", "nosuch-lib", "crosstask-x")
    assert library("json", "json", "x") is json
    (tmp_path / "broken_inside.py").write_text("import not_there_either")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_either"):
        library("broken_inside", "x", "y")


def test_a_tracker_that_does_not_say_where(told: list[dict[str, Any]]) -> None:
    made = Tracker(patience=2)
    made.stage_started("s", 1)
    made.close()
    assert told[0]["why"] == "NotImplementedError: Tracker does not say where to write"


def test_versions_of_what_is_not_installed_are_left_out() -> None:
    assert dict(tracker._installed("torch", "no-such-thing")) == {"torch": torch.__version__}


def test_a_point_is_plain_and_a_sink_must_be_whole() -> None:
    assert Point(series="s", step=1, seconds=0.0, figures={"a": 1.0}).figures["a"] == 1.0
    with pytest.raises(TypeError, match="abstract"):
        Sink()  # type: ignore[abstract]
    assert issubclass(PluginError, CrosstaskError)


def test_a_pause_before_the_next_try_ends_with_the_patience(
    told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_PAUSE", 60.0)
    made = Troubled(every=1, patience=0.5)
    made.failures = {"open": 1}
    made.stage_started("s", 1)
    writing = made._live.line._thread  # type: ignore[union-attr]
    made.close()
    writing.join(30)
    assert not writing.is_alive()
    assert made.calls == []
    assert told[-1]["others"] >= 2


def test_a_summary_with_intervals_is_figures(tmp_path: Path) -> None:
    made = Jsonl(path=str(tmp_path / "x.jsonl"))
    summary = {"gain": {"mean": 0.5, "low": 0.25, "high": 0.75}, "word": "text"}
    short_run(made, range(1, 3))
    made.run_finished(RunRecord(run_id="again", name="n", seconds=2.0, summary=summary), None)
    figures = lines(tmp_path / "x.jsonl", "figures")[-1]["values"]
    assert figures == {
        "summary/gain": 0.5, "summary/gain_low": 0.25, "summary/gain_high": 0.75, "summary/seconds": 2.0,
    }  # fmt: skip


def test_a_full_disk_and_a_killed_process_leave_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file takes 40 bytes of each line that does not fit, as a full disk does."""
    path = tmp_path / "t.jsonl"
    sink = jsonl.JsonlSink(path, TrackedRun(run_id="r", name="n", folder=None, parameters={}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            sink.figures({"lost": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    sink.figures({"kept": 1.0})
    assert [each["event"] for each in lines(path)] == ["run", "figures"]
    with path.open("a") as file:
        file.write('{"event": "st')  # killed while it wrote
    sink.figures({"kept": 2.0})
    assert json.loads(path.read_text().splitlines()[-1])["values"] == {"kept": 2.0}
