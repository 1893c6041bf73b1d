"""The stage `heal`."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from torch import nn

from crosstask.descriptors import TensorData
from crosstask.errors import RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.own_models import copied
from crosstask.learning.training import evaluate
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio, Task
from crosstask_monitoring.history import History
from crosstask_monitoring.monitor import Monitor
from crosstask_monitoring.records import HealResult, Operation, Phase, Reading
from crosstask_monitoring.surgery import FEWEST

MORE = 5
"""Attempts of one model, after which it is left as it is."""


@component
class Heal(Stage):
    """A task's model in use: samples come in, its score is recorded batch by batch, a drop is found, healed by a
    curriculum, and the model replaced only if the new one is better.

    `stream` names whose samples come in, one after another: the task's own (of its test data), or those of tasks held
    back as unseen (of their training data; on their test data models are compared in the end). The engine's model of
    the task is what is in place when the stream ends.
    """

    Result: ClassVar[type] = HealResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[dict[str, Any]] = {"model": nn.Module}
    keeps: ClassVar[bool] = False

    task: str = option(help="the task whose model is in use")
    stream: tuple[str, ...] = option(help="whose samples come in, one after another")
    batch: int = option(40, ge=1, help="labelled samples behind each record")
    records: int | None = option(
        None, ge=1, help="records of each part of the stream; all that its data give by default"
    )
    collect: int = option(4, ge=1, help="records after an alarm whose samples are waited for before healing")
    detector: Part = part("detector", help="what says that a score has dropped")
    planner: Part | None = part("curriculum", None, help="what plans the curriculum")
    transfer: Part | None = part("transfer", None, help="how; the recipe's transfer by default")
    max_tasks: int = option(3, ge=1, help="tasks of the curriculum, the target among them")
    alpha: float = option(0.05, gt=0, lt=1, help="the chance that a candidate that is no better replaces the model")
    least: float = option(0.0, ge=0, help="by how much a candidate must be better at least")

    def check(self, portfolio: Portfolio) -> None:
        if self.task not in portfolio:
            raise RecipeError(f"task: no task {self.task!r} to learn{nearest(self.task, portfolio.ids)}")
        task = portfolio[self.task]
        for split in ("train", "validation"):
            if not task.has_data(split):
                raise RecipeError(f"task: {self.task!r} has no {split} data")
        if not self.stream:
            raise RecipeError("stream: name whose samples come in")
        unseen = {each.task_id: each for each in portfolio.unseen}
        for name in self.stream:
            if name != self.task and name not in unseen:
                told = "is a task that others learn from: hold it back as unseen" if name in portfolio else "is no task"
                raise RecipeError(f"stream: {name!r} {told}{nearest(name, [self.task, *unseen])}")
            split = _streamed(name, self.task)
            other = portfolio[name]
            if not other.has_data(split) or (name != self.task and not other.has_data("test")):
                raise RecipeError(f"stream: {name!r} has no {split if not other.has_data(split) else 'test'} data")
            ours, theirs = (each.data(split).inputs.shape[1:] for each in (task.over(**{split: task.train}), other))
            if ours != theirs or other.descriptor.output_dim != task.descriptor.output_dim:
                raise RecipeError(f"stream: samples of {name!r} are none of {self.task!r}: other inputs or outputs")
            if len(other.data(split)) < self.batch:
                raise RecipeError(f"stream: {name!r} has {len(other.data(split))} samples, less than a batch")

    def work(self, engine: Engine) -> Outcome:
        made = self.made_of("detector")[0], self.made_of("planner"), self.made_of("transfer")
        detector, planner, transfer = made[0], *((own[0] if own else None) for own in made[1:])
        task = engine.portfolio[self.task]
        engine.train([self.task])
        assert task.model is not None  # it has training data
        first = copied(task.model)
        monitor = Monitor(engine, detector, alpha=self.alpha, least=self.least, history=History(engine, stored=False))
        streams = [(name, self._batches(engine.portfolio[name])) for name in self.stream]
        self.context.tell("stage_started", stage="heal", total=sum(len(own) for _, own in streams))
        scores: list[float] = []
        alarms: list[int] = []
        operated: list[int] = []
        operations: list[Operation] = []
        readings: list[Reading] = []
        placed, starts, since_alarm, tries, reference = [0], [], 0, 0, None
        for name, batches in streams:
            starts.append((name, len(scores), len(batches)))
            for batch in batches:
                scores.append(_score(monitor, self.task, batch))
                reading = monitor.check(self.task)[self.task]
                reference = reference or reading.reference
                readings[len(placed) - 1 :] = [reading]
                self.context.tell("stage_progress", stage="heal", detail=f"{name}: {scores[-1]:.3f}")
                if not reading.alarm:
                    continue
                since_alarm += 1
                if since_alarm == 1:
                    alarms.append(len(scores) - 1)
                enough = (reading.records - (reading.began or 0)) * self.batch >= 5 * FEWEST
                if since_alarm <= self.collect * (tries + 1) or not enough or tries >= MORE:
                    continue
                operation = monitor.heal(self.task, planner=planner, transfer=transfer, max_tasks=self.max_tasks)
                operated.append(len(scores) - 1)
                operations.append(operation)
                tries += 1
                if operation.replaced:
                    placed.append(len(scores))
                    since_alarm = tries = 0
        last = task.model
        phases = tuple(self._phase(engine, task, first, last, *start) for start in starts)
        assert reference is not None  # each part of the stream has a batch
        result = HealResult(
            task=self.task, metric=readings[0].metric, detector=detector.origin, batch=self.batch, scores=tuple(scores),
            reference=reference, phases=phases, alarms=tuple(alarms), operated=tuple(operated),
            operations=tuple(operations), readings=tuple(readings), placed=tuple(placed[: len(readings)]),
        )  # fmt: skip
        self.context.tell("stage_finished", stage="heal", result=result)
        return Outcome(result, {"model": last})

    def _batches(self, task: Task) -> list[TensorData]:
        data = task.data(_streamed(task.task_id, self.task))
        count = len(data) // self.batch
        if self.records is not None:
            count = min(count, self.records)
        return [data.take(slice(n * self.batch, (n + 1) * self.batch)) for n in range(count)]

    def _phase(
        self, engine: Engine, task: Task, first: nn.Module, last: nn.Module, name: str, start: int, records: int
    ) -> Phase:
        judge = "validation" if name == self.task else "test"
        data = engine.portfolio[name].data(judge)
        now = task.over(train=task.train, test=attrs.evolve(data, table=None, rows=None))
        before, after = (evaluate(model, now, "test") for model in (first, last))
        return Phase(task=name, start=start, records=records, before=before, after=after, samples=len(data))

    @classmethod
    def summary(cls, result: HealResult) -> dict[str, Any]:
        rows: dict[str, Any] = {
            "monitored": f"{result.task}, {len(result.scores)} records, {len(result.alarms)} alarms"
        }
        for at, operation in zip(result.operated, result.operations, strict=True):
            rows[f"attempt at record {at}"] = f"{operation.outcome}: {operation.reason}"
        for phase in result.phases:
            rows[f"{result.metric} on {phase.task}"] = f"{phase.before:.3f} before, {phase.after:.3f} after"
        return rows

    @classmethod
    def sections(cls, result: HealResult, graph: TransferGraph) -> list[Section]:
        from crosstask_monitoring.report import section  # deferred: plotly is heavy

        return [section(result)]


def _streamed(name: str, task: str) -> str:
    return "test" if name == task else "train"


def _score(monitor: Monitor, task_id: str, batch: TensorData) -> float:
    score = monitor.record(task_id, inputs=batch.inputs, targets=batch.targets).score
    assert score is not None
    return score
