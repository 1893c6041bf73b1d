"""A task's score over time: recorded, tested for a drop, healed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from crosstask.descriptors import MultiInput, TensorData
from crosstask.errors import DataError, of_kind
from crosstask.learning.objectives import Metric, metric_of
from crosstask.learning.training import judged, predict
from crosstask.learning.transferring import weights_digest
from crosstask.options import structure
from crosstask.points.stage import Engine
from crosstask.records import Curriculum
from crosstask.tasks import Task
from crosstask_monitoring.contract import Detector, Level, rows_of, since
from crosstask_monitoring.history import History
from crosstask_monitoring.records import Entry, Operation, Reading
from crosstask_monitoring.surgery import Surgery, parts

_ON_VALIDATION = "on its validation data"


class Monitor:
    """Watches the models of an engine's tasks.

    Scores are kept by task and by the digest of the model that they are of, in the engine's store where it has one, and
    appended to the descriptors' performance histories. What is compared with them is the model's score while it was
    healthy: entries recorded as a `reference`, else its score on the task's validation data. Labelled samples that are
    recorded with their inputs are kept (the last `keep` of each task, in this process), to heal from.

    A model that an earlier process replaced is put in place again. `alpha` and `least` are those of `Surgery`;
    `detector` is a component of the point `detector`, by name, as a table or as an object; the default one without.
    """

    def __init__(
        self,
        engine: Engine,
        detector: Any = None,
        *,
        keep: int = 2000,
        alpha: float = 0.05,
        least: float = 0.0,
        history: History | None = None,
    ) -> None:
        self.engine = of_kind(engine, Engine, "Monitor: engine")  # type: ignore[type-abstract]
        self.detector: Detector = engine.component(Detector, "detector", detector)
        self.keep = structure(keep, int, "Monitor: keep")
        if self.keep < 1:
            raise DataError(f"Monitor: keep must be at least 1, got {keep}")
        self.history = History(engine) if history is None else history
        chance, gain = structure(alpha, float, "Monitor: alpha"), structure(least, float, "Monitor: least")
        self.surgery = Surgery(engine, chance, gain, self.history)
        self._samples: dict[tuple[str, str], list[tuple[str, TensorData]]] = {}
        for task_id in self.history.tasks():
            if task_id in engine.portfolio:
                self.surgery.resume(engine.portfolio[task_id])

    # Recording --------------------------------------------------------------------------------------------------------

    def record(
        self,
        task_id: str,
        score: float | None = None,
        *,
        samples: int = 1,
        inputs: Tensor | MultiInput | None = None,
        outputs: Tensor | None = None,
        targets: Tensor | None = None,
        when: str = "",
        reference: bool = False,
    ) -> Entry:
        """Write down a score of the model that is in place: as it is, with the number of samples behind it; of
        `outputs` and `targets`, by the task's metric; or of `inputs` and `targets`, which the model answers now.

        `reference`: it was healthy. `when` is a time in ISO form, for labels that come late. DataError for a score that
        the metric cannot have.
        """
        task = self.engine.portfolio[task_id]
        if (score is None) == (targets is None):
            raise DataError(f"task {task_id!r}: record takes a score, or targets with inputs or outputs")
        metric, digest = metric_of(task), self._digest(task)
        if targets is not None:
            if (inputs is None) == (outputs is None):
                raise DataError(f"task {task_id!r}: targets are recorded with inputs or with outputs")
            if outputs is None:
                assert inputs is not None
                outputs = predict(self.surgery._model(task), inputs)
            if len(outputs) != len(targets) or not len(targets):
                raise DataError(f"task {task_id!r}: {len(outputs)} outputs for {len(targets)} targets")
            told = inputs if inputs is not None else outputs
            data = task.over(test=(told, targets)).data("test") if inputs is not None else TensorData(outputs, targets)
            score, samples = judged(outputs, task.over(test=data), "test"), len(data)
        value = structure(score, float, f"task {task_id!r}: score")
        _check(value, metric, task_id)
        entry = self.history.add(
            Entry(task=task_id, model=digest, kind="reference" if reference else "score", metric=metric.told,
                  score=value, samples=samples, when=when)
        )  # fmt: skip
        task.record(metric.told, value)
        if inputs is not None and not reference:
            held = self._samples.setdefault((task_id, digest), [])
            held.append((entry.when, data))
            held.sort(key=lambda each: each[0])
            while len(held) > 1 and sum(len(each) for _, each in held[1:]) >= self.keep:
                held.pop(0)
        return entry

    def _digest(self, task: Task) -> str:
        return weights_digest(task.model) if task.model is not None else ""

    def _reference(self, task: Task, digest: str) -> list[Entry]:
        """What the model scored while it was healthy; measured on the validation data where nothing was recorded."""
        known = self.history.of(task.task_id, "reference", model=digest)
        own = [entry for entry in known if entry.note == _ON_VALIDATION]
        if known:  # two processes may have looked at the same validation data: they count once
            return [entry for entry in known if entry.note != _ON_VALIDATION or entry is own[0]]
        if task.model is None or not task.has_data("validation"):
            raise DataError(
                f"task {task.task_id!r}: what it scores while it is healthy is not known: record(…, reference=True), "
                "or give it validation data and a model"
            )
        data = task.data("validation")
        score = judged(predict(task.model, data.inputs), task, "validation")
        made = Entry(task=task.task_id, model=digest, kind="reference", metric=metric_of(task).told, score=score,
                     samples=len(data), note=_ON_VALIDATION)  # fmt: skip
        return [self.history.add(made)]

    # Checking ---------------------------------------------------------------------------------------------------------

    def check(self, task_id: str | None = None) -> dict[str, Reading]:
        """What the detector makes of the scores of a task, or of every one that has any, since its model is in place.
        An alarm is written into the history once.
        """
        if task_id is not None:
            self.engine.portfolio[task_id]
        self.history.refresh()
        names = [task_id] if task_id is not None else list(self._monitored())
        return {name: self._read(self.engine.portfolio[name]) for name in names}

    def _monitored(self) -> Iterator[str]:
        for name in self.history.tasks():
            if name in self.engine.portfolio and self.history.of(name, "score"):
                yield name

    def _read(self, task: Task) -> Reading:
        digest, metric = self._digest(task), metric_of(task)
        reference = _rows(self._reference(task, digest))
        entries = self.history.of(task.task_id, "score", model=digest)
        stream = _rows(entries)
        found = self.engine.run.call(
            self.detector, "read", reference=reference, stream=stream, limits=tuple(metric.range)
        )
        alarm = found.alarm
        began = since(reference, stream[: alarm + 1]) if alarm is not None else None
        recent = stream[began:] if began is not None else stream
        if alarm is not None and not self.history.of(task.task_id, "alarm", model=digest):
            note = f"{self.detector.origin}: {found.statistic[alarm]:.4g} at record {alarm}, since record {began}"
            self.history.add(Entry(task=task.task_id, model=digest, kind="alarm", metric=metric.told, note=note))
        return Reading(
            task=task.task_id, model=digest, metric=metric.told, detector=self.detector.origin, records=len(entries),
            samples=int(stream[:, 1].sum()), reference=Level.of(reference).interval(metric.range),
            recent=Level.of(recent).interval(metric.range) if len(recent) else None,
            statistic=found.statistic, threshold=found.threshold, alarm_at=alarm, began=began,
        )  # fmt: skip

    # Healing ----------------------------------------------------------------------------------------------------------

    def heal(
        self,
        task_id: str,
        *,
        data: TensorData | tuple[Any, Any] | None = None,
        planner: Any = None,
        transfer: Any = None,
        max_tasks: int = 5,
        force: bool = False,
    ) -> Operation:
        """Where a task's score has dropped (or with `force`): plan a curriculum for what it is now, train it, and put
        its model in place if it is better. A healthy task is left alone.

        It learns from `data`, labelled samples (inputs, targets) of what the task is now, or from those that were
        recorded since the drop probably began. DataError where they are too few.
        """
        task = self.engine.portfolio[task_id]
        self.history.refresh()
        reading = self._read(task) if not force else None
        if reading is not None and not reading.alarm:
            told = f"no drop in {reading.records} records"
            return Operation(task=task_id, metric=reading.metric, reason=told, old=reading.model, new=reading.model)
        given = self._now(task, reading) if data is None else _described(task, data)
        splits = parts(given, self.engine.run.generator("parts", task_id, self._digest(task)))

        def planned(name: str) -> Curriculum:
            return self.engine.generate_curriculum(name, planner, max_tasks)

        return self.surgery.operate(task, splits, planned, transfer=transfer)

    def _now(self, task: Task, reading: Reading | None) -> TensorData:
        """The labelled samples that were recorded since the drop began."""
        digest = self._digest(task)
        held = self._samples.get((task.task_id, digest), [])
        if reading is not None and reading.began is not None:
            start = self.history.of(task.task_id, "score", model=digest)[reading.began].when
            held = [(when, data) for when, data in held if when >= start]
        if not held:
            raise DataError(
                f"task {task.task_id!r}: no labelled samples since the drop: record(…, inputs=, targets=), or heal(…, "
                "data=(inputs, targets))"
            )
        return _joined([data for _, data in held])

    def roll_back(self, task_id: str) -> str:
        """Put the model in place that was there before; its digest. See `Surgery.roll_back`."""
        return self.surgery.roll_back(task_id)


def _rows(entries: list[Entry]) -> Tensor:
    known = [(entry.score, entry.samples) for entry in entries if entry.score is not None]
    return rows_of([score for score, _ in known], [samples for _, samples in known]).reshape(-1, 2)


def _check(value: float, metric: Metric, task_id: str) -> None:
    low, high = metric.range
    if not math.isfinite(value):  # also of a metric without limits: no detector could read it, now or later
        raise DataError(f"task {task_id!r}: {metric.told} must be a finite number, got {value:g}")
    if not low <= value <= high:
        raise DataError(f"task {task_id!r}: {metric.told} goes from {low:g} to {high:g}, got {value:g}")


def _described(task: Task, data: TensorData | tuple[Any, Any]) -> TensorData:
    return data if isinstance(data, TensorData) else task.over(train=data).data("train")


def _joined(found: list[TensorData]) -> TensorData:
    inputs: list[Any] = [each.inputs for each in found]
    if isinstance(inputs[0], MultiInput):
        whole = {name: torch.cat([each.parts[name] for each in inputs]) for name in inputs[0].parts}
        joined: Any = MultiInput(whole, named=inputs[0].named)
    else:
        joined = torch.cat(inputs)
    return TensorData(joined, torch.cat([each.targets for each in found]))
