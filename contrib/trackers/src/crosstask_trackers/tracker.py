"""The life of a run as figures, tables, pictures and files: what every tracker does, whatever it writes to."""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import attrs

from crosstask.errors import CrosstaskError, OptionError, nearest
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.logs import logger
from crosstask.options import component, hints, option, structure, unstructure
from crosstask.points.observer import Observer
from crosstask.records import Interval, RunRecord
from crosstask.settings import without_secrets
from crosstask.showing import flat
from crosstask.tasks import Task
from crosstask_trackers.line import Line
from crosstask_trackers.sink import Point, Sink, TrackedRun

_CALLS = 1000
"""Tables, pictures and files that may wait, beside the points."""
_DRAWN = 200
"""Tasks up to which the graph is drawn: a picture of more shows nothing."""
_ROWS = 10_000
"""Rows of the table of transfers: of more, the strongest."""
_TABLES = 10.0
"""Seconds between two states of the tables while a run works; the last state is always written."""
_TRANSFERS = (
    "source", "target", "coefficient", "low", "high", "n", "evidence", "relation", "accuracy_gain", "strategy",
    "found_by",
)  # fmt: skip
_STAGES = ("stage", "parts", "seconds", "status")


@component
class Tracker(Observer):
    """What trackers share: a subclass says in `plugin` which plugin it is, and in `open` where things go.

    What an option does not say the settings do (`[tool.crosstask.PLUGIN]`, CROSSTASK_PLUGIN_KEY), and then its usual
    value. Figures are written by a thread of their own; a tracker that fails is told of once and stops nothing. Where
    a run has several processes the first one writes.
    """

    every: int | None = option(None, ge=1, help="write one of so many steps (10); those with scores are always written")
    trainings: bool | None = option(
        None, help="follow trainings of single tasks too (no): they then look at their loss at every step, one by one"
    )
    waiting: int | None = option(None, ge=1, help="steps that may wait to be written (10000); further ones are dropped")
    patience: float | None = option(None, ge=0, help="seconds that the end of a run waits for the tracker (30)")

    plugin: ClassVar[str] = ""
    """The name of its plugin, whose settings it reads."""
    usual: ClassVar[Mapping[str, Any]] = {"every": 10, "trainings": False, "waiting": 10_000, "patience": 30.0}
    """The values of options that neither the user nor the settings give; None for those that are not here."""

    def check(self) -> None:
        """Raise a CrosstaskError that says what is missing (a library, a key). Called before a run does any work."""

    def open(self, run: TrackedRun) -> Sink:
        """Begin a run in the tracker, or go on with the one that has this id. Called in the thread that writes, again
        if it fails.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where to write")

    def said(self, name: str) -> Any:
        """The value of an option: as it was given, else of the settings, else the usual one."""
        given = getattr(self, name)
        return self._settings().get(name, self.usual.get(name)) if given is None else given

    def _settings(self) -> dict[str, Any]:
        known = self.__dict__.get("_read")
        if known is not None and known[0] is self._context:
            found: dict[str, Any] = known[1]
            return found
        kinds, read = hints(type(self)), {}
        options = {f.name for f in attrs.fields(type(self)) if f.init}
        for key, value in self.context.settings(self.plugin).items():
            if key not in options:
                raise OptionError(f"settings of {self.plugin}: no option {key!r}{nearest(key, options)}")
            wanted, where = kinds[key], f"settings of {self.plugin}: {key}"
            read[key] = structure(_value(value, wanted), wanted, where)
        attrs.evolve(self, **{**self.options(), **read})  # their bounds are those of the options
        self.__dict__["_read"] = (self._context, read)
        return read

    # --- What observers hear

    @property
    def hears_every_step(self) -> bool:  # type: ignore[override]
        """Only where `trainings` asks for it."""
        return bool(self.said("trainings"))

    def run_started(self, record: RunRecord) -> None:
        self._followed(record)

    def task_registered(self, task: Task) -> None:
        self._hear("task", task)

    def edges_discovered(self, edges: list[TransferEdge], discoverer: str) -> None:
        self._hear("edges", edges)

    def stage_started(self, stage: str, total: int | None) -> None:
        self._hear("stage_started", stage, total)

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        self._hear("step", stage, step, metrics)

    def stage_finished(self, stage: str, result: Any) -> None:
        self._hear("stage_finished", stage, result)

    def run_finished(self, record: RunRecord, error: BaseException | None) -> None:
        if (live := self._followed(record)) is not None:
            live.finished(record, error)
            self._forget()

    def close(self, error: BaseException | None = None) -> None:
        """End what is followed, where no run and no engine does: it "finished", or `error` stopped it."""
        if (live := self._live) is not None:
            live.finished(None, error)
            self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """A tracker sent to another process, or copied, does not write."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_followed_run", "_read")}

    def _hear(self, what: str, *told: Any) -> None:
        """Hand on what was heard. All that is raised is what the user can mend: settings, a missing library."""
        if (live := self._followed()) is not None:
            try:
                getattr(live, what)(*told)
            except Exception as failed:  # a full disk
                live.failed(failed)

    @property
    def _live(self) -> _Live | None:
        return self.__dict__.get("_followed_run")

    def _followed(self, record: RunRecord | None = None) -> _Live | None:
        """What is being written, from the first thing heard on; None in a process that is not to write."""
        if self._live is None and _is_first():
            self._settings()
            self.check()
            self.__dict__["_followed_run"] = _Live(self, record)
            self.context.when_closed(self.close)
            atexit.register(self._at_exit)
        return self._live

    def _at_exit(self) -> None:
        """A script that closes nothing, or failed."""
        self.close(getattr(sys, "last_value", None))

    def _forget(self) -> None:
        self.__dict__.pop("_followed_run", None)
        atexit.unregister(self._at_exit)


class _Live:
    """One run as it is followed: what is not written yet, and what tables are made of."""

    def __init__(self, tracker: Tracker, record: RunRecord | None) -> None:
        context = tracker.context
        self.origin, self.patience, self.every = tracker.origin, tracker.said("patience"), tracker.said("every")
        self.began, self.has_failed = time.time(), False
        self.folder = None if context.folder is None else Path(context.folder)
        run_id = record.run_id if record else getattr(context, "run_id", "") or uuid.uuid4().hex[:12]
        run = TrackedRun(
            run_id=run_id,
            name=record.name if record else "crosstask",
            folder=self.folder,
            parameters=_parameters(tracker, record),
        )
        self.line = Line(lambda: tracker.open(run), most=tracker.said("waiting"), calls=_CALLS, told=self._told)
        self.graph = TransferGraph()
        self.rows: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self.stages: list[list[Any]] = []
        self.begun: list[tuple[int, float]] = []
        self.new_edges, self.shown = False, time.monotonic()
        self.last: dict[str, tuple[int, dict[str, Any]]] = {}
        self.offsets: dict[str, tuple[int, int]] = {}
        self.files = tempfile.TemporaryDirectory(prefix="crosstask-tracker-", ignore_cleanup_errors=True)
        self.line.call(lambda sink: None)  # it opens: whoever looks sees that the run has begun

    def _told(self, why: str) -> None:
        told = without_secrets(why)
        logger().warning("a tracker cannot write; the run goes on, it is tried again", tracker=self.origin, why=told)

    def failed(self, error: Exception) -> None:
        """Something could not be prepared for the tracker; told once."""
        if not self.has_failed:
            self.has_failed = True
            self._told(f"{type(error).__name__}: {error}")

    # --- Steps

    def step(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Most steps end here after a comparison: nothing of them is read, let alone copied from a device."""
        task = metrics.get("task")
        series = f"{stage}/{task}" if task is not None else stage
        before, offset = self.offsets.get(series, (0, 0))
        if step <= before:  # another training of that name: it follows on the axis
            self._rest(series)
            offset += before
        self.offsets[series] = (step, offset)
        if step == 1 or step % self.every == 0 or "scores" in metrics:
            self.last.pop(series, None)
            self._write(series, offset + step, metrics)
        else:
            self.last[series] = (offset + step, dict(metrics))

    def _rest(self, series: str) -> None:
        """The last step of a training that is over, if it was none of those that are written."""
        if series in self.last:
            self._write(series, *self.last.pop(series))

    def _write(self, series: str, step: int, metrics: Mapping[str, Any]) -> None:
        figures = dict(_numbers(metrics, series.partition("/")[0] if "task" in metrics else series))
        if figures:
            self.line.point(Point(series=series, step=step, seconds=time.time(), figures=figures))

    # --- Stages

    def stage_started(self, stage: str, total: int | None) -> None:
        self.begun.append((len(self.stages), time.monotonic()))
        self.stages.append([stage, total, None, "running"])

    def stage_finished(self, stage: str, result: Any) -> None:
        for series in [name for name in self.last if name.partition("/")[0] == stage]:
            self._rest(series)
        for place, (row, began) in reversed(list(enumerate(self.begun))):
            if self.stages[row][0] == stage:
                self.stages[row][2:] = [round(time.monotonic() - began, 3), "finished"]
                del self.begun[place]
                break
        if attrs.has(type(result)):
            number = sum(row[0] == stage for row in self.stages)
            told = stage if number < 2 else f"{stage}-{number}"
            self._figures({f"{told}/result/{name}": value for name, value in _results(result)})
            self._text(f"results/{_safe(told)}.json", json.dumps(unstructure(result), indent=1))
        self._tables()

    def _figures(self, given: Mapping[str, Any]) -> None:
        values = {name: number for name, value in given.items() if (number := _number(value)) is not None}
        if values:
            self.line.call(lambda sink: sink.figures(values))

    def _text(self, name: str, text: str) -> None:
        path = Path(self.files.name) / f"{uuid.uuid4().hex}{Path(name).suffix}"
        path.write_text(text, "utf-8")
        self.line.call(lambda sink: sink.file(name, path))

    def _tables(self, now: bool = False) -> None:
        if not now and time.monotonic() < self.shown + _TABLES:
            return
        self.shown = time.monotonic()
        stages = [tuple(row) for row in self.stages]
        if stages:
            self.line.call(lambda sink: sink.table("stages", _STAGES, stages))
        if self.new_edges:
            self.new_edges = False
            strongest = sorted(self.rows.values(), key=lambda row: -abs(row[2]))[:_ROWS]
            self.line.call(lambda sink: sink.table("transfers", _TRANSFERS, strongest))

    # --- Who helps whom

    def task(self, task: Task) -> None:
        if task.task_id not in self.graph.task_ids:
            self.graph.add_task(task.descriptor)

    def edges(self, edges: list[TransferEdge]) -> None:
        for edge in edges:
            self._row(edge)
            if self.folder is None and {edge.source, edge.target} <= set(self.graph.task_ids):
                self.graph.add(edge)
        self._tables()

    def _row(self, edge: TransferEdge) -> None:
        self.new_edges = True
        n = (len(edge.measurements) or 1) if edge.measured else 0
        self.rows[edge.source, edge.target, edge.found_by] = (
            edge.source, edge.target, edge.transfer_coefficient, edge.low, edge.high, n, edge.evidence.value,
            edge.relation.value, edge.accuracy_gain, edge.best_strategy, edge.found_by,
        )  # fmt: skip

    def _graph(self) -> None:
        """The graph as files and as a picture: what the run has written, or what was heard of an engine's."""
        made = Path(self.files.name)
        found = {name: self._written(name) for name in ("graph.json", "graph.graphml", "report.html")}
        graph = self.graph
        if self.folder is None and graph.task_ids:
            found |= {name: graph.export(made / name) for name in ("graph.json", "graph.graphml")}
        elif (path := found["graph.json"]) is not None:
            graph = TransferGraph.load(path)
            for edge in graph.all_edges():  # of stages that were not done again, too
                self._row(edge)
        for name, path in found.items():
            if path is not None:
                self.line.call(lambda sink, name=name, path=path: sink.file(name, path))  # type: ignore[misc]
        if 0 < len(graph.task_ids) <= _DRAWN:
            drawn = graph.plot()
            try:
                picture = drawn.save(made / "graph.png")
                self.line.call(lambda sink: sink.image("graph", picture))
            except CrosstaskError:  # without Pillow
                svg = drawn.save(made / "graph.svg")
                self.line.call(lambda sink: sink.file("graph.svg", svg))

    def _written(self, name: str) -> Path | None:
        """A file of the run's folder, if it is this run's: not one that an earlier run left there."""
        path = None if self.folder is None else self.folder / name
        return path if path is not None and path.is_file() and path.stat().st_mtime >= self.began - 1 else None

    # --- The end

    def finished(self, record: RunRecord | None, error: BaseException | None) -> None:
        """Everything that is left, then how it ended; waits as long as `patience` says and not longer."""
        status = "finished" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        why = None if error is None else without_secrets(f"{type(error).__name__}: {error}")
        try:
            for series in list(self.last):
                self._rest(series)
            for row, began in self.begun:
                self.stages[row][2:] = [round(time.monotonic() - began, 3), status]
            if record is not None:
                self._summary(record)
            self._graph()
            self._tables(now=True)
        except Exception as error_here:  # a full disk, a graph that cannot be read
            self.failed(error_here)
        self.line.call(lambda sink: sink.end(status, why))
        if not self.line.close(self.patience):
            lost = {"steps": self.line.lost_points, "others": self.line.lost_calls}
            logger().warning("a tracker has not everything of this run", tracker=self.origin, **lost)
        self.files.cleanup()

    def _summary(self, record: RunRecord) -> None:
        figures: dict[str, Any] = {}
        for name, value in record.summary.items():
            plain = unstructure(value)
            if isinstance(plain, dict):
                figures |= {f"summary/{name}{end}": number for end, number in _ends(plain)}
            else:
                figures[f"summary/{name}"] = plain
        self._figures({**figures, "summary/seconds": record.seconds})
        plain = unstructure(record)
        self._text("run.json", json.dumps(without_secrets(plain), indent=1))


def _is_first() -> bool:
    """Whether this process is to write: of those of a distributed run the first."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return bool(torch.distributed.get_rank() == 0)
    return os.environ.get("RANK", "0") == "0"  # torchrun says so before they know one another


def _parameters(tracker: Tracker, record: RunRecord | None) -> dict[str, Any]:
    """What made the run: recipe, seed, versions of what it uses, the tracker's settings; nothing secret."""
    context = tracker.context
    found: dict[str, Any] = {"seed": context.seed, "device": context.device}
    if context.seeds is not None:
        found["seeds"] = context.seeds
    if context.budget is not None:
        found["budget"] = unstructure(context.budget)
    if record is not None:
        found["recipe"] = record.recipe
        used = record.used or {}
        found["versions"] = {n: v for n, v in record.versions.items() if n in used or not n.startswith("crosstask-")}
    else:
        found["versions"] = dict(_installed("crosstask-kernel", "torch"))
    found["tracker"] = {"use": tracker.name, **{k: v for k, v in tracker.options().items() if v is not None}}
    found["settings"] = context.settings(tracker.plugin)
    return dict(_leaves(without_secrets(unstructure(found))))


def _installed(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a list of tables by number."""
    for key, value in table.items():
        inside = value
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            inside = {str(number): item for number, item in enumerate(value)}
        if isinstance(inside, Mapping):
            yield from _leaves(inside, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any, wanted: Any) -> Any:
    """A setting; text of the environment as TOML reads it, where an option is not text."""
    if isinstance(value, str) and "str" not in str(wanted):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            return value
    return value


def _numbers(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif (number := _number(value)) is not None:
            yield f"{prefix}/{name}", number


def _results(result: Any) -> Iterator[tuple[str, Any]]:
    """The figures of a stage's record, those by task too; of an interval its mean and its ends."""
    yield from flat(result).items()
    for field in attrs.fields(type(result)):
        value = getattr(result, field.name)
        for key, inside in value.items() if isinstance(value, Mapping) else ():
            if isinstance(inside, Interval):
                yield from ((f"{field.name}/{key}{end}", number) for end, number in _ends(unstructure(inside)))
            else:
                yield f"{field.name}/{key}", inside


def _ends(interval: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts of an interval, by what is put behind its name."""
    ends = {"mean": "", "low": "_low", "high": "_high"}
    return ((ends[name], interval[name]) for name in ends if name in interval)


def _number(value: Any) -> float | None:
    """A number, or what holds one (a tensor without axes); None for anything else. NaN is a figure."""
    if isinstance(value, bool | str) or value is None:
        return None
    if not isinstance(value, int | float):
        if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
            return None
        value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
    try:
        return float(value)
    except OverflowError:  # an integer that no float is near
        return None


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-." else "_" for c in name)
