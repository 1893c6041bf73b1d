"""How far a run has come, in `progress.json` of its folder: what somebody who looks on from elsewhere can follow."""

from __future__ import annotations

import bisect
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs

from crosstask.options import component, option, record, state, structure
from crosstask.points.observer import Observer

FILE = "progress.json"
_POINTS = 200  # of a curve: where there are more, every other one goes
_EVERY = 0.5  # seconds between two writings


@record
class Part:
    """A stage of work that has begun: how many of its parts are done, and for how long it took or has taken."""

    name: str
    total: int | None = None
    done: int = 0
    detail: str = ""
    seconds: float = 0.0
    ended: bool = False


@record
class Curve:
    """What a training told of itself, by the names of its figures; None is what was not finite, or not told."""

    steps: tuple[int, ...] = ()
    values: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    stride: int = 1


class Line:
    """A curve that grows."""

    def __init__(self, known: Curve | None = None) -> None:
        known = known or Curve()
        self.steps, self.stride = list(known.steps), known.stride
        self.values = {name: list(values) for name, values in known.values.items()}

    def wants(self, step: int) -> bool:
        """Whether a step is one of those that are kept."""
        return step % self.stride == 0 or not self.steps or step <= self.steps[-1]

    def add(self, step: int, figures: dict[str, float | None]) -> None:
        """A further point. A training that is repeated, or goes on from an earlier step, replaces what it had."""
        kept = bisect.bisect_left(self.steps, step)
        if not kept:
            self.stride = 1
        del self.steps[kept:]
        self.steps.append(step)
        for name in dict.fromkeys([*self.values, *figures]):
            values = self.values.setdefault(name, [None] * kept)
            values[kept:] = [figures.get(name)]
        if len(self.steps) > _POINTS:
            self.stride *= 2
            self.steps = self.steps[::2]
            self.values = {name: values[::2] for name, values in self.values.items()}

    def plain(self) -> dict[str, Any]:
        """What a `Curve` is written as."""
        return {"steps": self.steps, "values": self.values, "stride": self.stride}


@record
class Followed:
    """The parts of a run in the order in which they began, and the curves of its trainings by stage. `seconds` have
    gone by since it was started, or resumed.
    """

    run_id: str
    seconds: float = 0.0
    parts: tuple[Part, ...] = ()
    curves: dict[str, Curve] = attrs.field(factory=dict)


def read_progress(folder: Path, run_id: str) -> Followed:
    """How far a run has come; nothing is known of it where the file is missing, damaged or of another run."""
    try:
        found: Followed = structure(json.loads((folder / FILE).read_text("utf-8")), Followed, FILE)
    except (OSError, ValueError, RecursionError):
        return Followed(run_id=run_id)
    return found if found.run_id == run_id else Followed(run_id=run_id)


@component
class Follower(Observer):
    """Writes what it hears to the folder of a run, half a second after it at the latest; a file that cannot be written
    stops nothing.

    It hears of the steps that stages tell of themselves, and no training looks at its loss for it. In a resumed run the
    curves go on where they were.
    """

    folder: str = option(help="of the run")
    run_id: str = option(help="of the run")
    _begun: list[tuple[dict[str, Any], float]] = state(factory=list)
    _curves: dict[str, Line] = state(factory=dict)
    _began: float = state(factory=time.monotonic)
    _written: float = state(-math.inf)
    _later: threading.Timer | None = state(None)
    _one_writes: Any = state(factory=threading.Lock)
    _over: bool = state(False)

    hears_every_step: ClassVar[bool] = False

    def run_started(self, record: Any) -> None:
        known = read_progress(Path(self.folder), self.run_id).curves
        self._curves.update({stage: Line(curve) for stage, curve in known.items()})
        self._write(now=True)

    def stage_started(self, stage: str, total: int | None) -> None:
        self._begun.append(({"name": str(stage), "total": _whole(total)}, time.monotonic()))
        self._write(now=True)

    def stage_progress(self, stage: str, detail: str) -> None:
        self._change(stage, lambda part: {"done": part.get("done", 0) + 1, "detail": str(detail)[:200]})
        self._write()

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        if "task" in metrics:  # of one task: a part of the stage, not its own steps
            return
        step = _whole(step) or 0
        line = self._curves.setdefault(str(stage), Line())
        self._change(stage, lambda _: {"done": step})
        if not line.wants(step):
            self._write()
            return
        losses = metrics.get("losses")
        told = {**(losses if isinstance(losses, dict) else {}), **metrics}
        numbers = {str(name): number for name, value in told.items() if (number := _number(value)) is not None}
        with self._one_writes:  # a timer may be writing
            line.add(step, {name: number if math.isfinite(number) else None for name, number in numbers.items()})
        self._write()

    def stage_finished(self, stage: str, result: Any) -> None:
        self._change(stage, lambda part: {"done": part["total"] or part.get("done", 0), "detail": "", "ended": True})
        self._write(now=True)

    def run_finished(self, record: Any, error: BaseException | None) -> None:
        self._write(now=True)
        with self._one_writes:  # the folder may soon be another run's
            self._over = True

    def _change(self, stage: str, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """The part of that name which began last and has not ended."""
        for part, began in reversed(self._begun):
            if part["name"] == str(stage) and not part.get("ended"):
                with self._one_writes:
                    part.update(changes(part), seconds=time.monotonic() - began)
                return

    def _write(self, now: bool = False) -> None:
        soon = self._written + _EVERY - time.monotonic()
        if not now and soon > 0:
            if self._later is None:  # whatever comes after it, or does not
                self._later = threading.Timer(soon, self._write, (True,))
                self._later.daemon = True
                self._later.start()
            return
        with self._one_writes:
            if self._over:
                return
            self._written, self._later = time.monotonic(), None
            told = {
                "run_id": self.run_id,
                "seconds": self._written - self._began,
                "parts": [part for part, _ in self._begun],
                "curves": {stage: line.plain() for stage, line in list(self._curves.items())},
            }
            path = Path(self.folder) / FILE
            part = path.with_name(f".{FILE}.part")
            try:
                part.write_text(json.dumps(told, allow_nan=False), "utf-8")
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)


def _whole(value: Any) -> int | None:
    """A whole number of whatever a plugin takes for one."""
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) else None


def _number(value: Any) -> float | None:
    """A number, or a tensor of one; None for anything else."""
    if isinstance(value, bool | str) or getattr(value, "numel", lambda: 1)() != 1:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
