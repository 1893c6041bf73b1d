"""Losses and metrics by name. Every metric is higher-is-better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError, nearest
from crosstask.tasks import Task

Objective = Callable[[Tensor, Tensor], Tensor]
"""A loss or a metric: (outputs, targets) to a scalar."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of samples whose largest logit [N, C] is the label's [N]."""
    return (outputs.argmax(dim=-1) == targets).to(torch.get_default_dtype()).mean()


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Coefficient of determination over all targets [N, K], clipped at 0 (no better than the mean)."""
    targets = targets.reshape(outputs.shape)
    total = ((targets - targets.mean(dim=0)) ** 2).sum()
    return (1 - ((outputs - targets) ** 2).sum() / total.clamp_min(torch.finfo(outputs.dtype).tiny)).clamp_min(0.0)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error; targets [N] are taken as [N, 1]."""
    return functional.mse_loss(outputs, targets.reshape(outputs.shape))


LOSSES: dict[str, Objective] = {
    "cross_entropy": functional.cross_entropy,
    "mse": mse,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}
"""Losses that a task may name."""

METRICS: dict[str, Objective] = {"accuracy": accuracy, "r2": r2}
"""Metrics that a task may name; higher is better."""

_BY_TYPE = {"classification": ("cross_entropy", "accuracy"), "regression": ("mse", "r2")}


def loss_of(task: Task) -> Objective:
    """The task's loss function; by its type if it names none."""
    return _resolve(task, task.loss, LOSSES, 0, "loss")


def metric_of(task: Task) -> Objective:
    """The task's metric function; by its type if it names none."""
    return _resolve(task, task.metric, METRICS, 1, "metric")


def metric_name(task: Task) -> str:
    """The metric's name, for records and tables."""
    chosen = task.metric or _BY_TYPE.get(task.descriptor.task_type, ("", "metric"))[1]
    return chosen if isinstance(chosen, str) else getattr(chosen, "__name__", "metric")


def _resolve(
    task: Task, chosen: str | Objective | None, known: dict[str, Objective], place: int, what: str
) -> Objective:
    if chosen is None:
        kind = task.descriptor.task_type
        if kind not in _BY_TYPE:
            raise DataError(
                f"task {task.task_id!r} of type {kind!r} needs its own {what}: a function or one of {sorted(known)}"
            )
        chosen = _BY_TYPE[kind][place]
    if isinstance(chosen, str):
        if chosen not in known:
            raise DataError(f"task {task.task_id!r}: unknown {what} {chosen!r}{nearest(chosen, known)}")
        return known[chosen]
    return chosen
