"""Requests whose task is not said: what a router sees of them, and what every tool answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.learning.training import predict
from crosstask.tasks import Portfolio, Task
from crosstask_routing.contract import Array

COMPONENTS = 8
"""Principal components that describe what inputs of a task look like."""


def alike(portfolio: Portfolio, wanted: Sequence[str]) -> list[Task]:
    """The tasks whose requests can be mixed: classifications with inputs and classes of the same shape, training and
    test data. Of those named all must be; else all that are like the first. DataError where fewer than two are.
    """
    tasks = [portfolio[name] for name in wanted] if wanted else list(portfolio)
    fitting = [task for task in tasks if _answers(task)]
    for task in tasks if wanted else ():
        if task not in fitting:
            raise DataError(f"task {task.task_id!r} is no classification of plain inputs with training and test data")
    found = [task for task in fitting if _shape(task) == _shape(fitting[0])]
    if wanted and len(found) < len(tasks):
        other = next(task for task in tasks if task not in found)
        raise DataError(f"task {other.task_id!r} has {_told(other)}, {tasks[0].task_id!r} has {_told(tasks[0])}")
    if len(found) < 2:
        raise DataError("requests need at least two classification tasks of the same inputs and number of classes")
    return found


def _answers(task: Task) -> bool:
    if task.descriptor.task_type != "classification" or not (task.has_data("train") and task.has_data("test")):
        return False
    return isinstance(task.data("test").inputs, torch.Tensor)


def _shape(task: Task) -> tuple[object, ...]:
    return tuple(task.data("test").inputs.shape[1:]), task.descriptor.output_dim


def _told(task: Task) -> str:
    shape, classes = _shape(task)
    return f"inputs {shape} and {classes} classes"


@attrs.frozen(eq=False)
class Views:
    """What inputs of each task look like: a Gaussian with the first principal components of its training inputs and one
    variance for all else (Tipping and Bishop 1999, probabilistic principal components).

    The context of a request is 1 and, for each task, the softmax of the mean log-density by dimension, times
    two: an ordinary input of one task counts about 1 there. Labels are not looked at.
    """

    looks: list[_Look]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Views:
        """Found on training inputs."""
        return cls([_Look.of(_rows(task.data("train").inputs)) for task in tasks])

    def contexts(self, inputs: torch.Tensor) -> Array:
        """[N, 1 + T] for inputs [N, …]."""
        rows = _rows(inputs)
        away = np.stack([look.away(rows) for look in self.looks], axis=1)
        near = np.exp(away.min(axis=1, keepdims=True) - away)
        return np.concatenate([np.ones((len(rows), 1)), near / near.sum(axis=1, keepdims=True)], axis=1)


@attrs.frozen(eq=False)
class _Look:
    mean: Array
    axes: Array
    variances: Array
    rest: float

    @classmethod
    def of(cls, rows: Array) -> _Look:
        mean = rows.mean(axis=0)
        _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
        variances = sizes**2 / max(1, len(rows) - 1)
        count = min(COMPONENTS, len(variances))
        least = 1e-3 * float(variances.sum()) / rows.shape[1] + 1e-12
        rest = float(variances[count:].sum()) / max(1, rows.shape[1] - count)
        return cls(mean, axes[:count], np.maximum(variances[:count], least), max(rest, least))

    def away(self, rows: Array) -> Array:
        """-2 log-density by dimension [N], less a constant."""
        centred = rows - self.mean
        along = centred @ self.axes.T
        off = np.maximum(0.0, (centred**2).sum(axis=1) - (along**2).sum(axis=1))
        left = rows.shape[1] - len(self.variances)
        logs = float(np.log(self.variances).sum()) + left * float(np.log(self.rest))
        found: Array = ((along**2 / self.variances).sum(axis=1) + off / self.rest + logs) / rows.shape[1]
        return found


def _rows(inputs: torch.Tensor) -> Array:
    rows: Array = inputs.detach().cpu().flatten(1).double().numpy()
    return rows


@attrs.frozen(eq=False)
class Requests:
    """The test samples of all tasks: which task each is of, its context [N, d], whether each tool is right [N, K], and
    what the tools cost [K].
    """

    tasks: tuple[str, ...]
    tools: tuple[str, ...]
    task: np.ndarray
    contexts: Array
    right: Array
    costs: Array

    @classmethod
    def of(cls, tasks: Sequence[Task], tools: Mapping[str, nn.Module]) -> Requests:
        """Every tool is asked about every sample, once. A tool costs its number of weights, as a part of the most."""
        views, which, contexts, right = Views.of(tasks), [], [], []
        for place, task in enumerate(tasks):
            data = task.data("test")
            which.append(np.full(len(data), place))
            contexts.append(views.contexts(data.inputs))
            targets = data.targets.cpu()
            answers = [predict(tool, data.inputs).cpu() for tool in tools.values()]
            right.append(np.stack([_labels(given).eq(targets).double().numpy() for given in answers], axis=1))
        sizes = np.array([sum(p.numel() for p in tool.parameters()) for tool in tools.values()], dtype=np.float64)
        return cls(
            tasks=tuple(task.task_id for task in tasks), tools=tuple(tools), task=np.concatenate(which),
            contexts=np.concatenate(contexts), right=np.concatenate(right), costs=sizes / max(1.0, sizes.max()),
        )  # fmt: skip

    def accuracy(self) -> Array:
        """Share of right answers [T, K]: of each tool on each task."""
        return np.stack([self.right[self.task == place].mean(axis=0) for place in range(len(self.tasks))])

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """So many requests, with tasks equally often, by place."""
        rng = np.random.default_rng(seed)
        of_task = [np.flatnonzero(self.task == place) for place in range(len(self.tasks))]
        return np.array([rng.choice(of_task[place]) for place in rng.integers(len(of_task), size=count)])


def _labels(logits: torch.Tensor) -> torch.Tensor:
    """Classes from logits [N, C], or [N] or [N, 1] of one output."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(len(logits)) > 0).long()
    return logits.argmax(dim=1)
