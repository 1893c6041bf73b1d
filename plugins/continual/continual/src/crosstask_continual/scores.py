"""What the accuracies of tasks learned one after another say; what a model that has learned nothing would score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from crosstask.errors import DataError
from crosstask.learning.metrics import confidence_interval
from crosstask.records import Interval
from crosstask.tasks import Task
from crosstask_continual.model import ContinualModel
from crosstask_continual.records import ContinualScores

Row = Sequence[float | None]


def continual_scores(
    matrices: Sequence[Sequence[Row]], before: Sequence[Row] = (), initial: Sequence[Row] = ()
) -> ContinualScores:
    """Metrics of runs (one for each seed): `average_accuracy`, `backward_transfer`, `forward_transfer`, `forgetting`
    and `knowledge_retention` of their matrices, with the accuracies on each task just `before` it was learned and those
    of the untrained (`initial`) model. None where there is nothing to take a mean of.
    """
    return ContinualScores(
        matrix=tuple(tuple(means(rows)) for rows in zip(*matrices, strict=True)),
        accuracy=interval([average_accuracy(m) for m in matrices], (0, 1)),
        backward_transfer=interval([backward_transfer(m) for m in matrices]),
        forward_transfer=interval([_gained(b, i) for b, i in zip(before, initial, strict=True)]),
        forgetting=interval([forgetting(m) for m in matrices]),
        retention=interval([knowledge_retention(m) for m in matrices], (0, math.inf)),
    )


def average_accuracy(matrix: Any) -> float | None:
    """Mean over the tasks of R[T-1][j], the accuracies after the last one (ACC; Lopez-Paz and Ranzato 2017).

    `matrix`, here and below: R[i][j] is the accuracy on task j after learning task i (nested sequences, an array or a
    tensor); rows may end with the task that came last, and None or NaN is what was not measured. DataError for
    another shape. None where there is nothing to take a mean of.
    """
    rows = _rows(matrix)
    return mean(rows[-1][: len(rows)]) if rows else None


def backward_transfer(matrix: Any) -> float | None:
    """Mean over j < T-1 of R[T-1][j] - R[j][j]: what later tasks changed (BWT; Lopez-Paz and Ranzato 2017)."""
    rows = _rows(matrix)
    return mean(_less(rows[-1][j], rows[j][j]) for j in range(len(rows) - 1))


def forward_transfer(matrix: Any, initial: Sequence[float | None]) -> float | None:
    """Mean over j > 0 of R[j-1][j] - initial[j]: what earlier tasks brought to one that had not come yet, over the
    `initial` accuracy, that of the untrained model (FWT; Lopez-Paz and Ranzato 2017). The matrix has all columns.
    """
    rows = _rows(matrix)
    short = next((i for i, row in enumerate(rows[:-1]) if len(row) < i + 2), None)
    if short is not None:
        raise DataError(f"row {short} of the accuracy matrix ends before task {short + 1}: forward transfer needs it")
    if len(initial) != len(rows):
        raise DataError(f"{len(initial)} initial accuracies for {len(rows)} tasks")
    return _gained([None, *(row[i + 1] for i, row in enumerate(rows[:-1]))], [_known(v) for v in initial])


def forgetting(matrix: Any) -> float | None:
    """Mean over j < T-1 of max_i<T-1 R[i][j] - R[T-1][j], i >= j: what was lost since a task was known best
    (Chaudhry et al. 2018, Riemannian walk).
    """
    rows = _rows(matrix)
    return mean(_less(_best(rows, j), rows[-1][j]) for j in range(len(rows) - 1))


def knowledge_retention(matrix: Any) -> float | None:
    """Mean over j < T-1 of R[T-1][j] / R[j][j]: the share of what was known of a task when it was learned that is left
    (1: all of it; more: later tasks have added to it). Tasks of which nothing was known are left out.
    """
    rows = _rows(matrix)
    pairs = [(rows[-1][j], rows[j][j]) for j in range(len(rows) - 1)]
    return mean(now / then for now, then in pairs if now is not None and then)


def _rows(matrix: Any) -> list[list[float | None]]:
    """The matrix as plain rows; row i has the tasks up to i at least."""
    given = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    rows = [[_known(value) for value in row] for row in given]
    for number, row in enumerate(rows):
        if not number < len(row) <= len(rows):
            raise DataError(
                f"row {number} of the accuracy matrix has {len(row)} entries, expected {number + 1} to {len(rows)}: "
                "the accuracy on every task up to the one just learned"
            )
    return rows


def _known(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _gained(before: Row, initial: Row) -> float | None:
    return mean(map(_less, before[1:], initial[1:]))  # the first has no past


def _best(matrix: Sequence[Row], task: int) -> float | None:
    return max((v for row in matrix[task:-1] if (v := row[task]) is not None), default=None)


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


def chance_scores(model: ContinualModel, tasks: Sequence[Task], split: str = "test") -> list[float | None]:
    """The accuracy on each task of answering at random, all outputs that may be the answer being as likely."""
    rows = [model.allowed[model.number(task)] if task.has_data(split) else None for task in tasks]
    return [None if row is None else 1 / int(row.sum()) for row in rows]


def lower_bound(scores: Sequence[float | None], samples: Sequence[int | None]) -> float | None:
    """The lower end of the 95 % interval of a mean accuracy, from how many samples each was measured on.

    Each accuracy is a share of so many right answers; its variance is that of Agresti and Coull (1998), which is not
    zero where all are right or wrong. None where nothing was measured.
    """
    known = [(score, count) for score, count in zip(scores, samples, strict=True) if score is not None and count]
    if not known:
        return None
    shares = [((score * count + 2) / (count + 4), count + 4) for score, count in known]
    spread = math.sqrt(sum(p * (1 - p) / n for p, n in shares)) / len(known)
    return sum(score for score, _ in known) / len(known) - 1.96 * spread
