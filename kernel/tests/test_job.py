"""The main job on fake plugins: what it writes, how it resumes, how it fails."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
from structlog.testing import capture_logs

from crosstask import (
    DataError,
    OptionError,
    RecipeError,
    Registry,
    RunError,
    RunRecord,
    Settings,
    StoreError,
    TransferGraph,
    UnknownComponentError,
    Unread,
    open_store,
)
from crosstask.frozen import freeze, read_frozen
from crosstask.job import load_run, run_recipe
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, unstructure
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.recipe import Recipe, recipe_from
from crosstask.records import Interval
from crosstask.report import write_report
from crosstask.store.processes import birth, host
from crosstask.store.sql import SqlStore
from crosstask_fakes.components import FakeObserver
from crosstask_fakes.registry import with_fakes
from crosstask_fakes.stages import Looked, Measured, Prepared

MODEL = {"from": "prepare", "take": "model"}
VALUES: dict[str, Any] = {
    "name": "fakes",
    "seeds": 2,
    "source": {"use": "fake"},
    "model": {"kind": "mlp", "hidden": [8]},
    "train": {"steps": 60, "learning_rate": 0.02, "evaluate_every": 10},
    "budget": {"steps": 20, "samples": 20, "learning_rate": 0.02, "evaluate_every": 5},
    "transfer": {"use": "fake"},
    "measure": {"model": MODEL, "chosen": {"from": "prepare", "take": "names"}},
    "prepare": {"task": "task0"},
    "look": {},
    "own": {"use": "measure", "task": "task1"},
}


def recipe(registry: Registry | None = None, without: str = "", **changes: object) -> Recipe:
    """All the fakes' stages, the model that was prepared measured beside a trained one."""
    values = {key: value for key, value in {**VALUES, **changes}.items() if key not in without.split()}
    return recipe_from(values, registry or with_fakes())


def heard_by(observer: FakeObserver, what: str = "stage_started") -> list[str]:
    return [value for name, value in observer.heard if name == what]


# What it writes -------------------------------------------------------------------------------------------------------


def test_a_whole_run_writes_everything(tmp_path: Path, registry: Registry) -> None:
    observer = FakeObserver()
    record = run_recipe(recipe(), tmp_path / "out", registry=registry, observers=[observer])
    out = tmp_path / "out"
    assert record.status == "finished"
    assert load_run(out) == record
    graph = TransferGraph.load(out / "graph.json")
    assert len(graph.task_ids) == 4
    assert set(TransferGraph.load(out / "graph.graphml").task_ids) == set(graph.task_ids)
    page = (out / "report.html").read_text()
    assert "<html" in page[:200].lower()
    assert "a model of task0" in page
    assert list(record.results) == ["prepare", "look", "measure", "own"], "in the order in which they ran"
    assert record.result("look", registry) == Looked(edges=6, mean=0.5)
    assert record.result("prepare", registry).task == "task0"
    own = record.result("own", registry)
    assert isinstance(own, Measured)
    assert own.score > 0.9, "the task's own model, trained; clusters far apart"
    assert own.trained == 3
    assert record.result("measure", registry).chosen == ("task0", "task1")
    assert record.summary == {
        "prepared": "task0",
        "edges_found": 6,
        "mean_coefficient": 0.5,
        "measured_score": record.result("measure", registry).score,
        "own: measured_score": own.score,
    }
    assert observer.heard[0] == ("run_started", record.run_id)
    assert observer.heard[-1] == ("run_finished", "finished")
    assert len(heard_by(observer, "task_registered")) == 4
    assert heard_by(observer) == ["prepare", "train", "measure", "train", "measure"]


def test_same_seed_same_figures_and_another_seed_others(tmp_path: Path, registry: Registry) -> None:
    wild = {"size": 3}
    records = [
        run_recipe(recipe(seed=seed, wild=wild), tmp_path / name, registry=registry)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    figures = [json.dumps([unstructure(r.summary), r.results]) for r in records]
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]


def test_processes_give_the_same_figures(tmp_path: Path, registry: Registry) -> None:
    serial = run_recipe(recipe(), tmp_path / "serial", registry=registry)
    pool = run_recipe(recipe(executor={"use": "process", "workers": 2}), tmp_path / "pool", registry=registry)
    assert (serial.summary, serial.results) == (pool.summary, pool.results)


def test_a_run_without_stages_and_one_that_transfers_nothing(tmp_path: Path) -> None:
    """A third party installs the kernel and what it wants: nothing else is asked for."""
    registry = Registry()
    stage = Extension("stage", "wild", "crosstask_fakes.stages:FakeWild")
    source = Extension("source", "fake", "crosstask_fakes.components:FakeSource")
    serial = Extension("executor", "serial", "crosstask.executors:SerialExecutor", default=True)
    registry.register(Plugin("x", [stage, source, serial], api=(2, 0)))
    for name, stages in (("none", {}), ("one", {"wild": {"size": 4}})):
        made = recipe_from({"source": "fake", **stages}, registry)
        record = run_recipe(made, tmp_path / name, registry=registry)
        assert record.status == "finished"
        assert list(record.results) == list(stages)
    with pytest.raises(UnknownComponentError, match="no transfer named 'lp_ft'"):
        run_recipe(recipe_from({"source": "fake", "transfer": "lp_ft"}, registry), tmp_path / "x", registry=registry)


def test_without_plotly_a_run_finishes_without_a_report(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosstask.job.available", lambda: False)
    record = run_recipe(recipe(without="measure own"), tmp_path, registry=registry)
    assert record.status == "finished"
    assert {path.name for path in tmp_path.iterdir()} >= {"run.json", "graph.json", "graph.graphml"}
    assert not (tmp_path / "report.html").exists()


def test_only_components_that_a_present_stage_names_are_made(tmp_path: Path, registry: Registry) -> None:
    broken = [Extension(p, "broken", "nowhere:Nothing", default=True) for p in ("synthesis", "curriculum", "balancer")]
    registry.register(Plugin("broken", broken, api=(2, 0)))
    assert run_recipe(recipe(), tmp_path, registry=registry).status == "finished"


def test_wrappers_change_what_is_discovered(tmp_path: Path, registry: Registry) -> None:
    wrapped = recipe(wrappers=[{"use": "fake"}], without="measure own")
    record = run_recipe(wrapped, tmp_path, registry=registry)
    assert record.summary["mean_coefficient"] == pytest.approx(-0.5)


def test_a_run_says_which_distributions_it_used_and_which_it_could_have(tmp_path: Path, registry: Registry) -> None:
    mine = Extension("chooser", "mine", "crosstask_fakes.choosers:Last")
    registry.register(Plugin("mine", [mine], api=(2, 0)), distribution="crosstask-mine", version="2.5")
    registry.register(Plugin("idle", [], api=(2, 0)), distribution="crosstask-idle", version="7")
    plain = run_recipe(recipe(), tmp_path / "plain", registry=registry)
    assert plain.used == {"crosstask-fakes": "1.0", "crosstask-kernel": "0.1.0"}
    other = run_recipe(recipe(registry, prepare={"chooser": "mine"}), tmp_path / "other", registry=registry)
    assert other.used == {"crosstask-fakes": "1.0", "crosstask-kernel": "0.1.0", "crosstask-mine": "2.5"}
    for record in (plain, other):
        assert record.versions["crosstask-idle"] == "7"
        assert {"python", "torch", "crosstask-mine"} <= set(record.versions)


# Results --------------------------------------------------------------------------------------------------------------


def test_a_run_stays_readable_where_a_stages_plugin_is_not_installed(tmp_path: Path, registry: Registry) -> None:
    record = run_recipe(recipe(without="measure own", twin={"use": "prepare"}), tmp_path, registry=registry)
    written = (tmp_path / "run.json").read_bytes()
    lost = Registry()
    lost.register(Plugin("others", [], api=(2, 0)))
    read = load_run(tmp_path)
    for name in ("prepare", "twin"):
        found = read.result(name, lost)
        assert isinstance(found, Unread)
        assert found.reason.startswith("no stage named 'prepare'")
        assert found.data == record.results[name] == unstructure(record.result(name, registry))
        assert isinstance(read.result(name, registry), Prepared)
    denied = with_fakes(Settings(deny=("fakes",), origins={"deny": "here"}))
    assert "not loaded: fakes" in read.result("look", denied).reason
    graph = TransferGraph.load(tmp_path / "graph.json")
    page = write_report(read, graph, tmp_path / "again.html", lost).read_text()
    assert "This result cannot be shown: no stage named 'prepare'" in page
    again = json.dumps(unstructure(attrs.evolve(read, name=read.name)), indent=1, allow_nan=False)
    assert again.encode() == written, "and it is written again untouched"


def test_a_result_that_its_stage_cannot_read_any_more_says_why(tmp_path: Path, registry: Registry) -> None:
    record = run_recipe(recipe(without="measure own"), tmp_path, registry=registry)
    older = attrs.evolve(record, results={**record.results, "look": {"edges": 9, "pairs": 3}})
    found = older.result("look", registry)
    assert isinstance(found, Unread)
    assert found.reason == "look: unknown option 'pairs'; valid: edges, mean"
    assert found.data == {"edges": 9, "pairs": 3}
    with pytest.raises(KeyError):
        record.result("measure", registry)
    assert unstructure(older)["results"]["look"] == {"edges": 9, "pairs": 3}


def test_which_stage_a_table_is() -> None:
    record = RunRecord(run_id="1", name="x", recipe={"joint2": {"use": "multitask"}, "look": {}, "source": "fake"})
    assert [record.stage_of(name) for name in ("joint2", "look", "gone")] == ["multitask", "look", "gone"]


# Once is enough -------------------------------------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    for place in places:
        monkeypatch.setattr(place, forbidden)


TRAINS = (
    "crosstask.learning.transferring.fit",
    "crosstask.learning.own_models.fit",
    "crosstask.learning.own_models.train_alone",
    "crosstask.learning.own_models.train_together",
    "crosstask.curriculum_path.fit",
)


def test_second_run_measures_nothing_again(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_recipe(recipe(), tmp_path, registry=registry)
    forbid(monkeypatch, *TRAINS, "crosstask_fakes.stages.evaluate")
    observer = FakeObserver()
    second = run_recipe(recipe(), tmp_path, registry=registry, observers=[observer])
    assert (second.summary, second.results) == (first.summary, first.results)
    assert second.run_id != first.run_id
    assert heard_by(observer) == []
    assert len(heard_by(observer, "edges_discovered")) > 0, "a stage that changes the engine works again"


def test_a_changed_stage_works_again_and_those_before_it_do_not(tmp_path: Path, registry: Registry) -> None:
    run_recipe(recipe(), tmp_path, registry=registry)
    observer = FakeObserver()
    changed = recipe(own={"use": "measure", "task": "task2"})
    run_recipe(changed, tmp_path, registry=registry, observers=[observer])
    assert heard_by(observer) == ["train", "measure"]


def test_runs_in_two_folders_share_a_store(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "shared" / "all.db")
    first = run_recipe(recipe(), tmp_path / "one", registry=registry, store=url)
    forbid(monkeypatch, *TRAINS)
    second = run_recipe(recipe(), tmp_path / "two", registry=registry, store=url)
    assert second.summary == first.summary


# Resuming -------------------------------------------------------------------------------------------------------------


def test_resume_continues_a_failed_run(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        forbid(patch, "crosstask_fakes.stages.evaluate")
        with pytest.raises(AssertionError) as caught:
            run_recipe(recipe(), tmp_path, registry=registry)
        assert caught.value.__notes__ == ["in stage 'measure' (crosstask-fakes 1.0)"]
        failed = load_run(tmp_path)
        assert failed.status == "failed"
        assert failed.error == "AssertionError: done again"
        assert list(failed.results) == ["prepare", "look"], "what had finished is kept and written"
        assert failed.summary["prepared"] == "task0"
        assert "a model of task0" in (tmp_path / "report.html").read_text()
        with pytest.raises(RunError, match="another recipe"):
            run_recipe(recipe(seed=3), tmp_path, registry=registry, resume=True)
        with pytest.raises(AssertionError):
            run_recipe(None, tmp_path, registry=registry, resume=True)
    forbid(monkeypatch, *TRAINS)
    observer = FakeObserver()
    record = run_recipe(recipe(), tmp_path, registry=registry, resume=True, observers=[observer])
    assert (record.status, record.error) == ("finished", None)
    assert (record.run_id, record.started) == (failed.run_id, failed.started)
    assert heard_by(observer) == ["train", "measure", "train", "measure"]
    assert list(record.results) == ["prepare", "look", "measure", "own"]


def test_a_slip_leaves_an_earlier_run_as_it_was(tmp_path: Path, registry: Registry) -> None:
    """What is found when the tasks are read or the stages checked: the record, the report and what `--resume` takes."""
    first = run_recipe(recipe(), tmp_path, registry=registry)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".json", ".html")}

    before = files()
    assert {"run.json", "graph.json", "progress.json", "report.html"} <= set(before)
    for slip, told in (
        ({"prepare": {"task": "task9"}}, "fakes has no 'task9'"),
        ({"source": {"use": "fake", "count": 0}}, "empty"),
    ):
        with pytest.raises((RecipeError, DataError), match=told):
            run_recipe(recipe(**slip), tmp_path, registry=registry)
        assert files() == before
    store = open_store(str(tmp_path / "store.db"))
    found = {payload["record"]["status"]: payload["folder"] for _, payload in store.entries("runs")}
    store.close()
    assert found == {"finished": str(tmp_path.resolve()), "failed": ""}
    assert run_recipe(None, tmp_path, registry=registry, resume=True).run_id == first.run_id


def test_a_recipe_without_stages_is_said(tmp_path: Path, registry: Registry) -> None:
    with capture_logs() as logs:
        record = run_recipe(recipe_from({"source": "fake"}, registry), tmp_path, registry=registry)
    (said,) = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert said.startswith("the recipe has no stage: there is nothing to do")
    assert (record.status, record.notes) == ("finished", (said,))


def test_a_first_slip_is_recorded(tmp_path: Path, registry: Registry) -> None:
    for task in ("task9", "task8"):
        with pytest.raises(RecipeError, match=task):
            run_recipe(recipe(prepare={"task": task}), tmp_path, registry=registry)
        record = load_run(tmp_path)
        assert (record.status, task in str(record.error)) == ("failed", True)


def test_resume_needs_a_run(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        run_recipe(recipe(), tmp_path, registry=registry, resume=True)
    with pytest.raises(RecipeError, match="a recipe is needed to start a run"):
        run_recipe(None, tmp_path, registry=registry)


@pytest.fixture
def failed(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A run in the folder "first" that failed in its stage `measure`."""
    with monkeypatch.context() as patch:
        forbid(patch, "crosstask_fakes.stages.evaluate")
        with pytest.raises(AssertionError):
            run_recipe(recipe(), tmp_path / "first", registry=registry)
    return load_run(tmp_path / "first")


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_whose_folder_was_moved_is_resumed(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    url = str(tmp_path / "shared.db") if shared else None
    with monkeypatch.context() as patch:
        forbid(patch, "crosstask_fakes.stages.evaluate")
        with pytest.raises(AssertionError):
            run_recipe(recipe(), tmp_path / "first", registry=registry, store=url)
    before = load_run(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    forbid(monkeypatch, *TRAINS)
    record = run_recipe(None, tmp_path / "second", registry=registry, store=url, resume=True)
    assert (record.status, record.run_id, record.started) == ("finished", before.run_id, before.started)
    with pytest.raises(RunError, match=rf"this store does not know run {before.run_id}"):
        run_recipe(None, tmp_path / "second", registry=registry, store=str(tmp_path / "other.db"), resume=True)


def test_rows_of_runs_that_cannot_be_read_block_no_resume(
    tmp_path: Path, registry: Registry, failed: RunRecord
) -> None:
    folder = tmp_path / "first"
    store = open_store(str(folder / "store.db"))
    for number, payload in enumerate(
        [None, [], "x", {"folder": str(folder)}, {"folder": str(folder), "record": {"a": 1}}]
    ):
        store.put("runs", f"strange{number}", payload)
    store.put("runs", "damaged", {"folder": str(folder), "record": {}})
    store.close()
    with sqlite3.connect(folder / "store.db") as connection:
        connection.execute("UPDATE crosstask_runs SET payload = '{' WHERE key = 'damaged'")
    connection.close()
    assert run_recipe(None, folder, registry=registry, resume=True).run_id == failed.run_id


@pytest.mark.parametrize("lost", ["row", "run.json"])
def test_of_the_two_places_where_a_run_is_written_one_is_enough(
    tmp_path: Path, registry: Registry, failed: RunRecord, lost: str
) -> None:
    folder = tmp_path / "first"
    if lost == "row":
        with sqlite3.connect(folder / "store.db") as connection:
            connection.execute("UPDATE crosstask_runs SET payload = '{'")
        connection.close()
    else:
        (folder / "run.json").write_text("{")
    record = run_recipe(None, folder, registry=registry, resume=True)
    assert (record.run_id, record.status) == (failed.run_id, "finished")


def test_a_run_that_is_at_work_is_not_resumed_and_one_that_died_was_interrupted(
    tmp_path: Path, registry: Registry, failed: RunRecord
) -> None:
    folder, mark = tmp_path / "first", tmp_path / "first" / f".running-{failed.run_id}"
    assert not mark.exists(), "it ended"
    written = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**written, "status": "running"}))
    assert load_run(folder).status == "interrupted", "nobody says that it runs"
    here = {"host": host(), "pid": os.getpid(), "born": birth(os.getpid())}
    mark.write_text(json.dumps(here))
    os.utime(mark, (time.time() - 7200,) * 2)
    assert load_run(folder).status == "running", "its process lives, however long a step may take"
    with pytest.raises(RunError, match=rf"run {failed.run_id} is at work in .*: give this one another folder"):
        run_recipe(recipe_from({"source": "fake", "transfer": "fake"}, registry), folder, registry=registry)
    with pytest.raises(RunError, match=rf"run {failed.run_id} in .* is still at work \(process {os.getpid()} on"):
        run_recipe(None, folder, registry=registry, resume=True)
    mark.write_text(json.dumps({**here, "host": "elsewhere"}))
    assert load_run(folder).status == "running", "touched a moment ago"
    os.utime(mark, (time.time() - 7200,) * 2)
    assert load_run(folder).status == "interrupted", "no sign of life for long"
    mark.write_text(json.dumps({**here, "born": "1"}))
    assert load_run(folder).status == "interrupted", "another process had that number"
    assert run_recipe(None, folder, registry=registry, resume=True).status == "finished"
    assert not mark.exists()


def test_a_store_that_is_deleted_in_mid_run_is_said(tmp_path: Path, registry: Registry) -> None:
    class Deletes(FakeObserver):
        def stage_progress(self, stage: str, detail: str) -> None:
            for path in tmp_path.glob("store.db*"):
                path.unlink()

    with pytest.raises(StoreError, match=r"the store .*store\.db was deleted or moved away while it was in use"):
        run_recipe(recipe(), tmp_path, registry=registry, observers=[Deletes()])
    record = load_run(tmp_path)
    assert record.status == "failed"
    assert "was deleted" in str(record.error)


def test_a_run_whose_end_cannot_be_stored_says_why_it_ended(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full: what is said is the first error, and the run does not count as running."""

    def full(self: SqlStore, *args: object, **options: object) -> None:
        raise StoreError("database or disk is full")

    def unwritable(self: Path, *args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    class Fills(FakeObserver):
        def stage_progress(self, stage: str, detail: str) -> None:
            monkeypatch.setattr(SqlStore, "put", full)
            monkeypatch.setattr(Path, "write_bytes", unwritable)

    with pytest.raises(StoreError, match=r"^database or disk is full") as caught:
        run_recipe(recipe(), tmp_path, registry=registry, observers=[Fills()])
    notes = [each for each in caught.value.__notes__ if "its end" in each]
    assert ["run.json" in notes[0], "report.html" in notes[1]] == [True, True]
    assert all("No space left on device" in each for each in notes)
    monkeypatch.undo()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running", "the last that could be written"
    assert load_run(tmp_path).status == "interrupted"
    assert run_recipe(None, tmp_path, registry=registry, resume=True).status == "finished"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from crosstask.job import run_recipe
from crosstask_fakes.registry import with_fakes
from test_job import recipe
run_recipe(recipe(train={{"steps": {steps}, "accumulate": 2}}), Path({out!r}), registry=with_fakes())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_resumes_and_repeats_no_training(
    tmp_path: Path, registry: Registry, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 1500  # accumulated, each by itself: a fleet would end as one
    script = SCRIPT.format(tests=str(Path(__file__).parent), steps=steps, out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.DEVNULL)
    deadline = time.time() + 90
    done: list[object] = []
    while time.time() < deadline and process.poll() is None and not done:
        time.sleep(0.05)
        if (tmp_path / "store.db").exists():
            with_store = open_store(str(tmp_path / "store.db"))
            done = list(with_store.entries("models"))
            with_store.close()
    assert done, "the run stored no model in time"
    (mark,) = tmp_path.glob(".running-*")
    process.send_signal(how)
    process.wait(30)
    kept = len(done)
    assert load_run(tmp_path).status == "interrupted"
    assert mark.exists() == (how == signal.SIGKILL)
    assert (json.loads((tmp_path / "run.json").read_text())["status"] == "running") == (how == signal.SIGKILL)
    trained: list[str] = []
    import crosstask.learning.own_models as place

    def counted(real):  # type: ignore[no-untyped-def]
        def counting(spec, tasks, budget, seeds, device):  # type: ignore[no-untyped-def]
            trained.extend(task.task_id for task in tasks)
            return real(spec, tasks, budget, seeds, device)

        return counting

    for name in ("train_alone", "train_together"):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    record = run_recipe(recipe(train={"steps": steps, "accumulate": 2}), tmp_path, registry=registry, resume=True)
    assert record.status == "finished"
    assert len(trained) <= 3 - kept


def test_files_are_whole_after_each_stage_and_stay_so_in_a_resumed_run(tmp_path: Path, registry: Registry) -> None:
    """For whoever looks on, and if the process is killed."""
    seen: list[tuple[str, tuple[str, ...], int]] = []

    class Looks(FakeObserver):
        def stage_started(self, stage: str, total: int | None) -> None:
            if stage != "train":
                graph = TransferGraph.load(tmp_path / "graph.json")
                seen.append((stage, tuple(load_run(tmp_path).results), len(list(graph.edges()))))

    run_recipe(recipe(without="own"), tmp_path, registry=registry, observers=[Looks()])
    assert seen == [("prepare", (), 0), ("measure", ("prepare", "look"), 6)]
    record = load_run(tmp_path)
    assert run_recipe(None, tmp_path, registry=registry, resume=True, observers=[Looks()]).status == "finished"
    store = SqlStore(str(tmp_path / "store.db"))
    for row in list(store.rows("stages")):
        store.delete("stages", row.key)  # they work again
    store.close()
    seen.clear()
    run_recipe(None, tmp_path, registry=registry, resume=True, observers=[Looks()])
    assert seen == [(stage, tuple(record.results), 6) for stage in ("prepare", "measure")]
    (tmp_path / "graph.json").unlink()
    seen.clear()
    run_recipe(None, tmp_path, registry=registry, resume=True, observers=[Looks()])
    assert seen == [], "taken from the store"
    assert len(list(TransferGraph.load(tmp_path / "graph.json").edges())) == 6


# What cannot be run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": {"use": "fak"}}, UnknownComponentError, "no source named 'fak'; did you mean 'fake'"),
        ({"source": {"use": "fake", "cuont": 2}}, OptionError, "unknown option 'cuont'; did you mean 'count'"),
        ({"source": {"use": "fake", "count": "two"}}, OptionError, "count must be an integer, got 'two'"),
        ({"source": {"use": "fake", "count": -1}}, OptionError, "count must be >= 0"),
        ({"source": {"use": "fake", "count": 0}}, DataError, "portfolio 'fakes' is empty"),
        ({"source": {"use": "fake", "poison": True}}, DataError, "'task0', train data: inputs hold NaN"),
        ({"prepare": {"task": "task9"}}, RecipeError, "^prepare: task: fakes has no 'task9'"),
        ({"own": {"use": "measure", "task": "taks1"}}, RecipeError, "^own: no task 'taks1'.*did you mean 'task1'"),
        ({"look": {"discoverers": ["fkae"]}}, UnknownComponentError, "discoverers: no discovery named 'fkae'"),
        ({"own": {"use": "measure", "balancer": "x"}}, UnknownComponentError, "balancer: no balancer named 'x'"),
        ({"look": {"discoverers": [{"use": "fake", "x": 1}]}}, OptionError, "unknown option 'x'; valid: coefficient"),
        ({"executor": "proces"}, UnknownComponentError, "no executor named 'proces'; did you mean 'process'"),
        ({"observers": ["fkae"]}, UnknownComponentError, "no observer named 'fkae'"),
        ({"wrappers": [{"use": "fake", "x": 1}]}, OptionError, "unknown option 'x'"),
        ({"requires": {"fakes": ">=2"}}, RecipeError, "requires plugin fakes >=2; version 1.0 is installed"),
        ({"requires": {"other": ">=2"}}, RecipeError, "it is not installed"),
        ({"requires": {"fakes": "new"}}, RecipeError, "'new' is not a version specifier"),
    ],
)
def test_bad_recipes_fail_before_any_training(
    tmp_path: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    forbid(monkeypatch, *TRAINS)
    observer = FakeObserver()
    with pytest.raises(error, match=message.replace("(", r"\(")):
        run_recipe(recipe(**changes), tmp_path, registry=registry, observers=[observer])
    assert heard_by(observer) == [], "no stage has worked"


def test_an_unwritable_folder_and_damaged_results(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the output folder"):
        run_recipe(recipe(), tmp_path / "file", registry=registry)
    with pytest.raises(RunError, match=r"no run in"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{nonsense")
    with pytest.raises(RunError, match="is not a run's record"):
        load_run(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "row"])
def test_what_is_damaged_in_the_store_is_measured_again(tmp_path: Path, registry: Registry, damage: str) -> None:
    run_recipe(recipe(), tmp_path, registry=registry)
    changed = recipe(own={"use": "measure", "task": "task2"})  # wants the models again
    fresh = run_recipe(changed, tmp_path / "fresh", registry=registry)
    weights = sorted((tmp_path / "store.weights").iterdir())
    before = {path.name: path.read_bytes() for path in weights}
    if damage == "row":
        with sqlite3.connect(tmp_path / "store.db") as connection:
            for kind in ("models", "stages", "tasks"):
                connection.execute(f"UPDATE crosstask_{kind} SET payload = substr(payload, 1, 9)")
        connection.close()
    for path in weights if damage != "row" else ():
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:50])
    with capture_logs() as logged:
        again = run_recipe(changed, tmp_path, registry=registry)
    assert (again.summary, again.results) == (fresh.summary, fresh.results)
    told = [(each["kind"], each["key"]) for each in logged if each["event"].startswith("damaged entry")]
    assert {kind for kind, _ in told} >= {"models", "stages"}
    assert len(told) == len(set(told)), "one warning for each"
    assert {path.name: path.read_bytes() for path in (tmp_path / "store.weights").iterdir()} == before
    with capture_logs() as logged:
        run_recipe(changed, tmp_path, registry=registry)
    assert not any(each["event"].startswith("damaged entry") for each in logged), "it is whole again"


def test_a_stage_of_a_broken_plugin_stops_the_run_and_names_it(tmp_path: Path, registry: Registry) -> None:
    lost = Extension("stage", "lost", "crosstask_fakes.stages:Nowhere")
    registry.register(Plugin("lost", [lost], api=(2, 0)), distribution="lost-dist", version="3")
    with pytest.raises(
        RecipeError, match=r"\[lost\]: stage 'lost' \(lost-dist 3\): crosstask_fakes.stages has no 'Nowh"
    ):
        run_recipe(recipe(registry, lost={}), tmp_path, registry=registry)
    assert not (tmp_path / "run.json").exists()


# Frozen ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_frozen_and_can_be_repeated_with_the_same_plugins(tmp_path: Path, registry: Registry) -> None:
    record = run_recipe(recipe(), tmp_path / "first", registry=registry)
    text = freeze(record)
    assert text == (
        f"# plugins of run {record.run_id} (fakes), {record.started}\ncrosstask-fakes==1.0\ncrosstask-kernel==0.1.0\n"
    )
    file = tmp_path / "plugins.txt"
    file.write_text(text)
    assert read_frozen(file) == record.used
    again = run_recipe(recipe(), tmp_path / "again", registry=registry, frozen=file)
    assert again.results == record.results


def mine(registry: Registry) -> Recipe:
    extension = Extension("chooser", "mine", "crosstask_fakes.choosers:Last")
    registry.register(Plugin("mine", [extension], api=(2, 0)), distribution="crosstask-mine", version="2.5")
    return recipe(registry, prepare={"chooser": "mine"})


DIFFERENCES: dict[str, tuple[Callable[[Registry], Recipe], str, list[str]]] = {
    "another version": (
        lambda registry: recipe(),
        "crosstask-fakes==1.1\ncrosstask-kernel==0.1.0",
        ["crosstask-fakes is 1.0, it names 1.1"],
    ),
    "one that is used and not named": (
        mine,
        "crosstask-fakes==1.0",
        [
            "crosstask-kernel 0.1.0 is used, which it does not name",
            "crosstask-mine 2.5 is used, which it does not name",
        ],
    ),
    "one that is not installed": (
        lambda registry: recipe(),
        "# a comment\ncrosstask-fakes == 1.0  # and one more\ncrosstask-kernel==0.1.0\n\nlost==3\n",
        ["lost 3 is not installed (or cannot be used)"],
    ),
    "all at once": (
        mine,
        "crosstask-fakes==0.9\ncrosstask-kernel==0.1.0\nlost==3",
        [
            "crosstask-mine 2.5 is used, which it does not name",
            "crosstask-fakes is 1.0, it names 0.9",
            "lost 3 is not installed (or cannot be used)",
        ],
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_other_plugins_than_the_frozen_are_refused_before_any_work(
    tmp_path: Path, registry: Registry, case: str
) -> None:
    make, text, said = DIFFERENCES[case]
    file = tmp_path / "plugins.txt"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        run_recipe(make(registry), tmp_path / "out", registry=registry, frozen=file)
    assert str(caught.value) == f"not the plugins of {file}: " + "; ".join(said)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("line", ["crosstask-fakes", "crosstask-fakes>=1.0", "==1.0"])
def test_a_file_that_is_not_frozen(tmp_path: Path, registry: Registry, line: str) -> None:
    file = tmp_path / "plugins.txt"
    file.write_text(f"crosstask-kernel==0.1.0\n{line}\n")
    with pytest.raises(RecipeError, match=rf"plugins.txt, line 2: expected name==version, got '{line}'"):
        run_recipe(recipe(), tmp_path, registry=registry, frozen=file)


def test_a_file_of_frozen_plugins_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "frozen.txt"
    path.write_bytes(b"\xef\xbb\xbfcrosstask-fakes==1.0\r\n")
    assert read_frozen(path) == {"crosstask-fakes": "1.0"}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"frozen\.txt: cannot be read"):
        read_frozen(path)


def test_a_result_whose_own_code_refuses_it_says_why(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Looked) -> None:
        raise TypeError("too few")

    record = RunRecord(run_id="x", name="x", results={"look": {"edges": 1, "mean": 0.5}})
    assert record.result("look", registry) == Looked(edges=1, mean=0.5)
    monkeypatch.setattr(Looked, "__init__", lambda self, **given: refuse(self))
    assert record.result("look", registry) == Unread("look: TypeError: too few", {"edges": 1, "mean": 0.5})


def test_used_are_also_components_that_a_stage_asks_for_as_it_works(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's default discoverers, say, which no option of a stage names; also where the stage finished before."""

    @component
    class Asking(Stage):
        """Asks for another plugin's component while it works."""

        Result: ClassVar[type] = Interval

        def work(self, engine: Engine) -> Outcome:
            self.context.component("observer", "late")
            return Outcome(Interval(mean=0.0, low=0.0, high=0.0))

    globals()["Asking"] = Asking
    offer = [Extension("stage", "asking", f"{__name__}:Asking", summary="Asks")]
    registry.register(Plugin("asking", offer, api=(2, 0)), distribution="crosstask-asking", version="2.0")
    late = [Extension("observer", "late", "crosstask.testing.references:ReferenceObserver", summary="Late")]
    registry.register(Plugin("late", late, api=(2, 0)), distribution="crosstask-late", version="3.0")
    recipe = recipe_from({"source": "fake", "asking": {}}, registry)
    record = run_recipe(recipe, tmp_path, registry=registry)
    assert {"crosstask-asking": "2.0", "crosstask-late": "3.0"}.items() <= record.used.items()
    monkeypatch.setattr(Asking, "work", lambda self, engine: pytest.fail("it has finished before"))
    again = run_recipe(recipe, tmp_path / "again", registry=registry, store=str(tmp_path / "store.db"))
    assert again.used == record.used
    resumed = run_recipe(None, tmp_path, registry=registry, resume=True)
    assert resumed.used == record.used
    newer = with_fakes()
    newer.register(Plugin("asking", offer, api=(2, 0)), distribution="crosstask-asking", version="2.0")
    newer.register(Plugin("late", late, api=(2, 0)), distribution="crosstask-late", version="3.1")
    told = run_recipe(recipe, tmp_path / "newer", registry=newer, store=str(tmp_path / "store.db"))
    assert told.used == {**record.used, "crosstask-late": "3.1"}, "as of one that is here, and would do it now"
