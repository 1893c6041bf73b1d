"""What earlier runs came to, read from what the store keeps: which strategy scored how, for what kind of task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError
from crosstask.options import structure

Features = tuple[float, ...]
NEAR = 0.99
"""A training was done when its curve first came to this part of the way to its best."""


@attrs.frozen
class Trial:
    """One strategy in one setting: what it scored, and the optimiser steps that took (None: not known).

    Trials of one `setting` differ in the strategy alone; settings of one `place` (a task with so many samples) are
    repeats of it, from other sources say.
    """

    strategy: str
    setting: tuple[Any, ...]
    place: tuple[Any, ...]
    features: Features
    metric: str
    score: float
    steps: float | None = None


def described(task: TaskDescriptor, samples: int | None) -> Features | None:
    """What a task is like, as numbers of about 1: samples, classes and inputs by logarithm, complexity. None where its
    descriptor leaves one of the first three open.
    """
    size = min((n for n in (task.sample_count, samples) if n), default=0)
    inputs = task.input_dim
    if not size or not inputs or not task.output_dim:
        return None
    return (
        math.log10(size) - 2,
        (math.log2(1 + task.output_dim) - 2) / 2,
        (math.log10(inputs) - 2) / 2,
        (0.5 if task.complexity is None else task.complexity) - 0.5,
    )


def told(tasks: Iterable[tuple[str, Any]], present: Iterable[TaskDescriptor]) -> dict[str, TaskDescriptor | None]:
    """Descriptors by task id, those that are present first. None where one id stands for tasks that differ in what they
    are like: nobody knows which of them an earlier run meant.
    """
    found: dict[str, TaskDescriptor | None] = {task.task_id: task for task in present}
    mine = set(found)
    for _, payload in tasks:
        try:
            read = structure(payload, TaskDescriptor, "a stored task")
        except (CrosstaskError, TypeError, ValueError):
            continue
        if read.task_id in mine:
            continue
        before = found.setdefault(read.task_id, read)
        if before is not None and (_alike(before) != _alike(read)):
            found[read.task_id] = None
    return found


def _alike(task: TaskDescriptor) -> tuple[Any, ...]:
    return task.task_type, described(task, None)


def transfers(entries: Iterable[tuple[str, Any]], tasks: Mapping[str, TaskDescriptor | None]) -> list[Trial]:
    """Trials of transfer methods: finished `TransferResult`s."""
    found = []
    for _, entry in entries:
        read = _read(entry, "source", "target", "strategy", "metric", "score", "budget")
        task = None if read is None else _task(tasks, read["target"])
        score = None if read is None else _number(read["score"], "mean")
        if read is None or task is None or score is None or not isinstance(read["budget"], Mapping):
            continue
        samples, steps, name = read["budget"].get("samples"), read["budget"].get("steps"), _component(read["strategy"])
        features = described(task, samples if isinstance(samples, int) else None)
        if features is None or name is None:
            continue
        place = (task.task_id, samples, steps)
        found.append(
            Trial(
                strategy=name, setting=(*place, str(read["source"]), entry.get("seed"), entry.get("split")),
                place=place, features=features, metric=str(read["metric"]), score=score,
                steps=_until_near(entry.get("curve"), steps),
            )
        )  # fmt: skip
    return found


def stages(
    entries: Iterable[tuple[str, Any]], tasks: Mapping[str, TaskDescriptor | None]
) -> tuple[list[Trial], list[Trial]]:
    """(trials of balancers, of synthesis): records of finished stages that name a balancer with scores by task, or the
    provenance of a model with its score.
    """
    joint, made = list[Trial](), list[Trial]()
    for _, entry in entries:
        record = entry.get("record") if isinstance(entry, Mapping) else None
        read = _read(record, "balancer", "scores", "metrics", "tasks")
        if read is not None:
            joint.extend(_joint(read, record, tasks))
        read = _read(record, "task_id", "provenance", "metric", "score")
        if read is not None:
            made.extend(_made(read, tasks))
    return joint, made


def _joint(read: Mapping[str, Any], record: Any, tasks: Mapping[str, TaskDescriptor | None]) -> Iterable[Trial]:
    name = _component(read["balancer"])
    if name is None or not isinstance(read["scores"], Mapping) or not isinstance(read["metrics"], Mapping):
        return
    together = tuple(sorted(map(str, read["scores"])))
    for task_id in together:
        task, score = _task(tasks, task_id), _number(read["scores"], task_id)
        features = None if task is None else described(task, None)
        if features is not None and score is not None:
            setting = (together, task_id, str(record.get("sharing")), record.get("seed"))
            yield Trial(name, setting, (task_id, together), features, str(read["metrics"].get(task_id)), score)


def _made(read: Mapping[str, Any], tasks: Mapping[str, TaskDescriptor | None]) -> Iterable[Trial]:
    told_by, task = read["provenance"], _task(tasks, read["task_id"])
    name = _component(told_by.get("strategy")) if isinstance(told_by, Mapping) else None
    features, score = None if task is None else described(task, None), _number(read, "score")
    if name is not None and task is not None and features is not None and score is not None:
        sources = told_by.get("sources")
        of = tuple(sorted(map(str, sources))) if isinstance(sources, Mapping) else ()
        yield Trial(name, (task.task_id, of), (task.task_id,), features, str(read["metric"]), score)


def _read(entry: Any, *names: str) -> Mapping[str, Any] | None:
    return entry if isinstance(entry, Mapping) and all(name in entry for name in names) else None


def _task(tasks: Mapping[str, TaskDescriptor | None], name: Any) -> TaskDescriptor | None:
    return tasks.get(name) if isinstance(name, str) else None


def _number(entry: Any, name: str) -> float | None:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _component(origin: Any) -> str | None:
    """The name in `transfer 'lp_ft' (crosstask-finetuning 0.1.0)`, or the name itself."""
    if not isinstance(origin, str) or not origin:
        return None
    parts = origin.split("'")
    return parts[1] if len(parts) >= 3 else origin


def _until_near(curve: Any, steps: Any) -> float | None:
    """Optimiser steps until a learning curve came near to its best; all steps where there is no curve."""
    if isinstance(curve, Mapping):
        values, at = curve.get("values"), curve.get("steps")
        if isinstance(values, list) and isinstance(at, list) and len(values) == len(at) > 1:
            wanted = values[0] + NEAR * (max(values) - values[0])
            return float(next(step for step, value in zip(at, values, strict=True) if value >= wanted))
    return float(steps) if isinstance(steps, int | float) else None
