"""What the accuracies of tasks learned one after another say; what a model that has learned nothing would score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from crosstask.learning.metrics import confidence_interval
from crosstask.records import Interval
from crosstask.tasks import Task
from crosstask_continual.model import ContinualModel
from crosstask_continual.records import ContinualScores

Row = Sequence[float | None]


def continual_scores(
    matrices: Sequence[Sequence[Row]], before: Sequence[Row] = (), initial: Sequence[Row] = ()
) -> ContinualScores:
    """Metrics of runs (one for each seed), whose matrices have the accuracy on task j after learning task i in [i][j].

    With R the matrix of T tasks (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018): accuracy: mean of R[T-1][j];
    backward transfer: mean over j < T-1 of R[T-1][j] - R[j][j]; forgetting: mean over j < T-1 of the best earlier
    R[i][j] less R[T-1][j]; forward transfer: mean over j > 0 of `before`[j] - `initial`[j], the accuracy on a task just
    before it is learned less that of the untrained model. None where there is nothing to take a mean of.
    """
    return ContinualScores(
        matrix=tuple(tuple(means(rows)) for rows in zip(*matrices, strict=True)),
        accuracy=interval([mean(m[-1]) if m else None for m in matrices], (0, 1)),
        backward_transfer=interval([mean(_less(m[-1][j], m[j][j]) for j in range(len(m) - 1)) for m in matrices]),
        forward_transfer=interval(
            [mean(map(_less, b[1:], i[1:])) for b, i in zip(before, initial, strict=True)]  # the first has no past
        ),
        forgetting=interval([mean(_forgotten(m, j) for j in range(len(m) - 1)) for m in matrices]),
    )


def _forgotten(matrix: Sequence[Row], task: int) -> float | None:
    known = [row[task] for row in matrix[task:-1]]
    best = max((v for v in known if v is not None), default=None)
    return _less(best, matrix[-1][task])


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def means(rows: Iterable[Row]) -> list[float | None]:
    """The mean of each column."""
    return [mean(column) for column in zip(*rows, strict=True)]


def interval(values: Sequence[float | None], limits: tuple[float, float] = (-1, 1)) -> Interval | None:
    """The confidence interval of those that are known; None if none is."""
    known = [v for v in values if v is not None]
    return confidence_interval(known, limits) if known else None


def majority_scores(model: ContinualModel, tasks: Sequence[Task], split: str = "test") -> list[float | None]:
    """The accuracy on each task of a model that always gives the same answer: what one must beat to have learned.

    Where the task is known (scenario `task`) that is the most frequent class of each; else one class for all of them,
    the one that is right most often. `model` has the layout of these tasks. None for a task without the split.
    """
    shares: dict[str, torch.Tensor] = {}
    for task in tasks:
        if task.has_data(split):
            targets = torch.tensor(model.columns[model.number(task)])[task.data(split).targets.cpu()]
            shares[task.task_id] = torch.bincount(targets, minlength=model.outputs).double() / len(targets)
    if not shares:
        return [None] * len(tasks)
    if model.scenario == "task":
        best = {name: float(share.max()) for name, share in shares.items()}
    else:
        answer = int(torch.stack(list(shares.values())).mean(0).argmax())
        best = {name: float(share[answer]) for name, share in shares.items()}
    return [best.get(task.task_id) for task in tasks]
