"""The main job: the stages of a recipe in order, with everything they found written to a folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import torch

from crosstask.components import Component
from crosstask.context import LocalContext
from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, RecipeError, RunError, StoreError, nearest
from crosstask.frozen import check_frozen
from crosstask.learning.devices import resolve_device
from crosstask.manifest import DEFAULT
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.points.observer import Observer
from crosstask.points.store import Store
from crosstask.recipe import Approve, BoundStage, Recipe, bind, recipe_from
from crosstask.records import RunRecord
from crosstask.registry import Registry, Status
from crosstask.report import available, write_report
from crosstask.report.following import FILE, Follower
from crosstask.stages import Finished, check_stage, run_stage, summary_of
from crosstask.store import open_store
from crosstask.store.graphs import keep_graph
from crosstask.store.processes import alone, signed, still_at_work
from crosstask.tasks import Portfolio
from crosstask.writing import atomic, unwritten


def run_recipe(
    recipe: Recipe | None,
    out: Path,
    *,
    registry: Registry | None = None,
    store: str | None = None,
    resume: bool = False,
    device: str | None = None,
    observers: Iterable[Observer] = (),
    trace: Any = None,
    frozen: Path | None = None,
    approve: Approve | None = None,
) -> RunRecord:
    """Run a recipe and write run.json, graph.json, graph.graphml, report.html and the store to `out`.

    Every measurement is kept as soon as it is done: a run that is killed and started again repeats none of them, and
    with `resume` it also keeps its id, its start and, if `recipe` is None, its recipe, wherever its folder is now. Runs
    that share a store share the work: each measurement is done by one of them. What is wrong before the first stage
    begins leaves an earlier run in the folder as it was. RecipeError and RunError say
    what is wrong before any work is done: unknown components or options, a folder that cannot be written, with `frozen`
    (a file that `crosstask plugins freeze` wrote) other plugins or versions than it names. `approve` is asked about the
    recipe of a run that is resumed without one.
    """
    registry = registry or Registry.installed()
    out = Path(out)
    _make_writable(out)
    opened = open_store(store or str(out / "store.db"), registry=registry)
    mark = None
    try:
        with alone(out / ".beginning"):
            record = _begin(recipe, opened, out, resume)
            mark = _mark_of(out, record.run_id)
            _write_text(mark, json.dumps(signed()))
        if recipe is None and approve is not None:  # from the folder, which may be somebody else's
            approve(record.recipe, {})
        again = recipe_from(record.recipe, registry, record.name)
        return _Job(again, record, opened, out, registry, device, trace, frozen).run(observers)
    finally:
        if mark is not None:
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)
        opened.close()


def load_run(folder: Path) -> RunRecord:
    """The record of a run, from its folder. A run that was killed as it worked is one that was interrupted. RunError if
    there is none or it is damaged.
    """
    record = _read_record(Path(folder))
    if record.status == "running" and still_running(Path(folder), record.run_id) is None:
        return attrs.evolve(record, status="interrupted")
    return record


def _read_record(folder: Path) -> RunRecord:
    path = folder / "run.json"
    try:
        made: RunRecord = structure(json.loads(path.read_text(encoding="utf-8")), RunRecord, str(path))
    except OSError as error:
        raise RunError(
            f"no run in {folder}: {path.name} cannot be read ({error.strerror}){runs_beside(folder)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not a run's record: {error}") from None
    return made


def runs_beside(folder: Path) -> str:
    """The end of an error about a folder that holds no run: the nearest name of one beside it that holds some (itself
    or in a folder of its own); nothing where there is none.
    """
    try:
        place = Path(os.path.abspath(folder)).parent  # noqa: PTH100 - links stay as they are written
        found = [
            each.name
            for each in place.iterdir()
            if each.name != folder.name and ((each / "run.json").is_file() or next(each.glob("*/run.json"), None))
        ]
    except (OSError, ValueError):
        return ""
    return nearest(folder.name, found) if found else ""


def still_running(folder: Path, run_id: str) -> str | None:
    """Where a run is at work that was started in a folder: "process 7 on host". None: it is not.

    A run leaves a mark in its folder and touches it while it works (`still_at_work`).
    """
    return still_at_work(_mark_of(folder, run_id))


def _mark_of(folder: Path, run_id: str) -> Path:
    return folder / f".running-{run_id}"


def _other_run(out: Path, run_id: str) -> dict[str, bytes]:
    """What a run overwrites as it begins, of another one in the folder that has results: name of a file -> content."""
    try:
        other = _read_record(out)
    except RunError:
        return {}
    if other.run_id == run_id or not other.results:
        return {}
    return {name: (out / name).read_bytes() for name in ("run.json", FILE) if (out / name).is_file()}


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another run of this process may begin here, too
    except OSError as error:
        raise RunError(f"cannot write to the output folder {out}: {error.strerror or error}") from None


def _begin(recipe: Recipe | None, store: Store, out: Path, resume: bool) -> RunRecord:
    if resume:
        record = _earlier(store, out)
        if recipe is not None and unstructure(recipe) != record.recipe:
            raise RunError(
                f"{out} holds a run of another recipe or other options; leave out --resume to start a new run"
            )
        if (where := still_running(out, record.run_id)) is not None:
            raise RunError(f"run {record.run_id} in {out} is still at work ({where}): wait for it, or stop it first")
    elif recipe is None:
        raise RecipeError("a recipe is needed to start a run")
    for mark in out.glob(".running-*"):  # the later of two would overwrite what the other has found
        other = mark.name.removeprefix(".running-")
        if (where := still_running(out, other)) is not None:
            raise RunError(f"run {other} is at work in {out} ({where}): give this one another folder, or stop that one")
    if resume:
        return attrs.evolve(record, status="running", error=None)
    assert recipe is not None
    return RunRecord(
        run_id=uuid.uuid4().hex[:12],
        name=recipe.name,
        seed=recipe.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=unstructure(recipe),
    )


def _earlier(store: Store, out: Path) -> RunRecord:
    """The run to resume: that of the folder's run.json, wherever the folder was when it was started, or the last one
    that was started in this place. Rows that are damaged or of another release are passed over.
    """
    try:
        written = _read_record(out)
    except RunError:
        written = None
    found = []
    for key, payload in store.entries("runs"):
        here = isinstance(payload, dict) and payload.get("folder") == str(out.resolve())
        if here or (written is not None and key == written.run_id):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record: RunRecord = structure(payload["record"], RunRecord, "stored run")
                found.append(record)
    if found:
        return max(reversed(found), key=lambda each: each.started)  # of equals the last
    if written is None:
        raise RunError(f"nothing to resume in {out}: no run was started there with this store")
    with contextlib.suppress(StoreError):  # a store need not list its rows
        if any(row.key == written.run_id for row in store.rows("runs")):  # a damaged one: run.json says the same
            return written
    raise RunError(f"nothing to resume in {out}: this store does not know run {written.run_id} of its run.json")


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end: the run ends as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Terminated`, once: a second one ends the process. Nothing changes where the
    application has handlers of its own, or outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    changed = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]

    def back() -> None:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)

    def stop(number: int, _: Any) -> None:
        back()
        raise Terminated(number)

    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        back()


def engine_for(
    recipe: Recipe,
    registry: Registry,
    store: Store | None,
    device: str | None = None,
    observers: Iterable[Observer] = (),
    run_id: str = "",
    trace: Any = None,
) -> TransferEngine:
    """An engine as a recipe describes it, with its observers and wrappers, and no tasks yet."""

    def create(point: str, choice: Choice) -> Any:
        return registry.create(point, choice.use, choice.options)

    listening = [create("observer", c) for c in recipe.observers] + [create("wrapper", c) for c in recipe.wrappers]
    return TransferEngine(
        model=recipe.model,
        train=recipe.train,
        budget=recipe.budget,
        seed=recipe.seed,
        seeds=recipe.seeds,
        device=resolve_device(device or recipe.device),
        store=store,
        registry=registry,
        executor=create("executor", recipe.executor),
        auto_discover=False,  # a recipe says what discovers: its stage does, for all pairs at once
        transfer=recipe.transfer,
        observers=[*observers, *listening],
        run_id=run_id,
        trace=trace,
    )


def load_portfolio(recipe: Recipe, engine: TransferEngine) -> Portfolio:
    """The recipe's tasks."""
    source = engine.run.component("source", recipe.source.use, recipe.source.options)
    portfolio: Portfolio = engine.run.call(source, "load")
    portfolio.check()
    return portfolio


def check_requirements(recipe: Recipe, registry: Registry) -> None:
    """RecipeError if a plugin that the recipe requires is missing, unusable or of another version."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    for name, wanted in recipe.requires.items():
        try:
            allowed = SpecifierSet(wanted)
        except InvalidSpecifier:
            raise RecipeError(f"requires.{name}: {wanted!r} is not a version specifier such as '>=1.2,<2'") from None
        found = [r for r in registry.plugins() if name in (r.name, r.distribution)]
        usable = [r for r in found if r.status is Status.OK]
        if not usable:
            why = f"{found[0].origin} is {found[0].status.value}: {found[0].reason}" if found else "it is not installed"
            told = "" if found else f". Try: pip install '{name}{wanted}'"
            raise RecipeError(f"the recipe requires plugin {name}{' ' if wanted else ''}{wanted}; {why}{told}")
        has = usable[0]
        if wanted and not (has.version and has.version in allowed):
            raise RecipeError(
                f"the recipe requires plugin {name} {wanted}; version {has.version or 'unknown'} is installed. "
                f"Try: pip install '{has.distribution}{wanted}'"
            )


def check_components(recipe: Recipe, registry: Registry) -> dict[str, str]:
    """Create every component once, so that a wrong name or option is found before hours of work, not after. The
    distributions that offer them, with their versions.
    """
    context = LocalContext(registry=registry)
    kernel = [("source", recipe.source), ("executor", recipe.executor)]
    if recipe.transfer.use != DEFAULT or registry.defaults("transfer"):  # who transfers nothing needs no method for it
        kernel.append(("transfer", recipe.transfer))
    kernel += [("observer", choice) for choice in recipe.observers] + [
        ("wrapper", choice) for choice in recipe.wrappers
    ]
    made = [context.resolve(point, choice) for point, choice in kernel]
    for each in bind(recipe, registry):
        each.stage.bind(context)
        made.append(each.stage)
    found: set[str] = set()
    for component in made:
        _collect(component, found)
    return versions_of(found, registry)


def versions_of(origins: set[str], registry: Registry) -> dict[str, str]:
    """Distribution -> version of what the origins of components name."""
    return {record.distribution: record.version for record in registry.plugins() if record.origin in origins}


def _collect(made: Component, found: set[str]) -> None:
    found.add(made.offered_by)
    for parts in made.all_parts().values():
        for part in parts:
            _collect(part, found)


class _Job:
    """One run of a recipe: its engine, and the record as it grows."""

    def __init__(
        self, recipe: Recipe, record: RunRecord, store: Store, out: Path, registry: Registry, device: str | None,
        trace: Any, frozen: Path | None,
    ) -> None:  # fmt: skip
        self.recipe, self.record, self.store, self.out = recipe, record, store, out
        self.registry, self.device = registry.preferring(recipe.prefer), device
        self.trace, self.frozen = trace, frozen
        self.earlier = _other_run(out, record.run_id)
        self.begun = False  # whether its stages have: until then the folder is the earlier run's

    def run(self, observers: Iterable[Observer]) -> RunRecord:
        started = time.perf_counter()
        recipe = self.recipe
        check_requirements(recipe, self.registry)
        named = check_components(recipe, self.registry)
        if self.frozen is not None:
            check_frozen(self.frozen, named, self.registry)
        listening = [*observers, Follower(folder=str(self.out), run_id=self.record.run_id)]
        self.engine = engine_for(
            recipe, self.registry, self.store, self.device, listening, self.record.run_id, self.trace
        )
        self.engine.run.folder = self.out
        error: BaseException | None = None
        mark = _mark_of(self.out, self.record.run_id)
        try:
            with terminable():
                self._update(versions=self._versions(), used={**named, **self._kernel()})
                self._write_record()
                with self.engine.run as run:
                    if run.claims is not None:
                        run.claims.also = mark.touch
                    run.tell("run_started", record=self.record)
                    self._work()
                self._update(status="finished")
        except BaseException as caught:
            error = caught
            status = "interrupted" if isinstance(caught, KeyboardInterrupt) else "failed"
            told = f"{type(caught).__name__}: {caught}"
            self.record = attrs.evolve(self.record, status=status, error=told)
            raise
        finally:
            used = versions_of(self.engine.run.used(), self.registry)  # with those that a stage asked for as it worked
            seconds = self.record.seconds + time.perf_counter() - started
            self.record = attrs.evolve(self.record, seconds=seconds, used={**self.record.used, **used})
            self._end(error)
            self.engine.run.tell("run_finished", record=self.record, error=error)
            self.engine.run.closed(error)
            if not self.begun:  # the last that is written
                self._give_back()
        return self.record

    def _end(self, error: BaseException | None) -> None:
        """Write how it ended, as far as that can be done: where the disk is full or the store is gone, its error is to
        be seen and not what follows from it. A run whose end is not written counts as interrupted.
        """
        files = () if self.earlier and not self.begun else (self._write_record, self._write_graph)
        for write in (self._update, *files):
            try:
                write()
            except CrosstaskError as failed:
                if error is None:
                    raise
                note = f"its end could not be written: {failed}"
                if str(failed) != str(error) and note not in getattr(error, "__notes__", ()):
                    error.add_note(note)

    def _give_back(self) -> None:
        """Write again what the folder held of an earlier run."""
        for name, content in self.earlier.items():
            with contextlib.suppress(CrosstaskError), atomic(self.out / name, "to", needed=len(content)) as part:
                part.write_bytes(content)

    def _versions(self) -> dict[str, str]:
        found = {"python": platform.python_version(), "torch": torch.__version__}
        return found | {r.distribution: r.version for r in self.registry.plugins() if r.status is Status.OK}

    def _kernel(self) -> dict[str, str]:
        return {r.distribution: r.version for r in self.registry.plugins() if r.name == "kernel"}

    def _update(self, **changes: Any) -> None:
        """Change the record and keep it, so that a killed run can be found again."""
        notes = tuple(dict.fromkeys([*self.record.notes, *self.engine.notes]))
        self.record = attrs.evolve(self.record, notes=notes, **changes)
        elsewhere = self.earlier and not self.begun and self.record.status != "running"
        place = "" if elsewhere else str(self.out.resolve())
        payload = {"folder": place, "record": unstructure(self.record)}
        self.store.put("runs", self.record.run_id, payload, run_id=self.record.run_id, replace=True)

    def _work(self) -> None:
        stages = bind(self.recipe, self.registry, self.record.name)
        self.engine.register(load_portfolio(self.recipe, self.engine))
        for each in stages:
            check_stage(each.stage, self.engine, each.name)
        self.begun = True
        if not stages:
            note = "the recipe has no stage: there is nothing to do (a stage is a table, such as [discovery])"
            self.engine.run.log.warning(note)
            self.engine.notes.append(note)
        before = set(self.record.results)  # in a resumed run: the files have them, and as much of the graph
        if not before or not (self.out / "graph.json").exists():
            before = set()
            self._write_graph(report=False)
        finished = Finished()
        for each in stages:
            outcome = run_stage(self.engine, each.stage, each.name, finished)
            self._update(results={**self.record.results, each.name: unstructure(outcome.record)})
            self._summarise(each, outcome.record)
            self._write_record()  # for whoever looks on, and if the process is killed
            if not each.stage.keeps and each.name not in before:  # others leave the graph as it is
                self._write_graph(report=False)

    def _summarise(self, each: BoundStage, result: Any) -> None:
        prefix = (
            "" if each.name == each.stage.name else f"{each.name}: "
        )  # a second stage of a kind has rows of its own
        rows = {f"{prefix}{name}": value for name, value in summary_of(each.stage, result).items()}
        self._update(summary={**self.record.summary, **rows})

    def _write_record(self) -> None:
        _write_text(self.out / "run.json", json.dumps(unstructure(self.record), indent=1, allow_nan=False))

    def _write_graph(self, report: bool = True) -> None:
        try:
            if self.engine.graph.task_ids:
                self.engine.export_transfer_graph(self.out / "graph.json")
                if not report:
                    return
                keep_graph(self.store, self.engine.graph, self.record.run_id)
                self.engine.export_transfer_graph(self.out / "graph.graphml")
                if available():
                    write_report(self.record, self.engine.graph, self.out / "report.html", self.registry)
                else:
                    self.engine.run.log.warning("no report: it needs plotly, pip install 'crosstask-kernel[report]'")
        except OSError as error:
            raise RunError(unwritten(error, self.out, "to")) from None


def _write_text(path: Path, text: str) -> None:
    """Write a file as a whole: whenever it is read or the process killed, it is the old one or the new one."""
    data = text.encode()
    with atomic(path, "to", needed=len(data), kind=RunError) as part:
        part.write_bytes(data)
