"""Whether a new model is better than an old one: paired tests on the same labelled samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.learning.objectives import Metric, metric_of
from crosstask.records import Interval
from crosstask.tasks import Task
from crosstask_monitoring.records import Comparison

DRAWS = 1000
"""Bootstrap samples."""


def compare(
    task: Task, old: Tensor, new: Tensor, targets: Tensor, generator: torch.Generator, *, alpha: float = 0.05,
    least: float = 0.0,
) -> Comparison:  # fmt: skip
    """Outputs [N, …] of two models for the same samples, by the task's metric.

    Of accuracies, where each sample is right or wrong, the exact one-sided test of McNemar (1947): of the samples on
    which they differ, each model has as many right. Of any other metric the paired bootstrap (Efron, Tibshirani 1993,
    chapter 16): the share of draws of the samples in which the new model is no better, of those that have a score (of
    one class alone some metrics have none). The interval of the difference is that of the draws.

    DataError for outputs of which the metric is no finite number, or of too few draws.
    """
    if not len(old) == len(new) == len(targets):
        raise DataError(f"{len(old)} and {len(new)} outputs for {len(targets)} targets: models are compared in pairs")
    if not len(targets):
        raise DataError(f"task {task.task_id!r}: no sample to compare models on")
    metric = metric_of(task)
    scores = float(metric(old, targets)), float(metric(new, targets))
    for whose, score in zip(("old", "new"), scores, strict=True):
        if not math.isfinite(score):
            raise DataError(f"task {task.task_id!r}: {metric.told} of the {whose} model is {score}: nothing to compare")
    rows = [_each(metric, outputs, targets) for outputs in (old, new)] if metric.told == "accuracy" else []
    if rows and all(_right_or_wrong(row, score) for row, score in zip(rows, scores, strict=True)):
        wins, losses = (int((a > b).sum()) for a, b in ((rows[1], rows[0]), (rows[0], rows[1])))
        chosen = torch.randint(len(targets), (DRAWS, len(targets)), generator=generator)
        drawn = (rows[1] - rows[0])[chosen].mean(1)
        p_value, test = mcnemar(wins, losses), f"McNemar's exact test: {wins} gained, {losses} lost"
    else:
        draws = []
        for _ in range(DRAWS):
            index = torch.randint(len(targets), (len(targets),), generator=generator)
            draws.append(float(metric(new[index], targets[index])) - float(metric(old[index], targets[index])))
        drawn = torch.tensor(draws, dtype=torch.float64)
        drawn = drawn[drawn.isfinite()]
        if len(drawn) < DRAWS // 10:
            told = f"only {len(drawn)} of {DRAWS} draws of {len(targets)} samples have a finite {metric.told}"
            raise DataError(f"task {task.task_id!r}: {told}: more samples are needed, such as of every class")
        p_value, test = (1 + int((drawn <= 0).sum())) / (len(drawn) + 1), f"paired bootstrap of {len(drawn)} draws"
    low, high = (float(end) for end in drawn.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)))
    mean = scores[1] - scores[0]
    return Comparison(
        old=scores[0], new=scores[1], difference=Interval(mean=mean, low=min(low, mean), high=max(high, mean)),
        p_value=p_value, test=test, samples=len(targets), alpha=alpha, least=least,
    )  # fmt: skip


def mcnemar(wins: int, losses: int) -> float:
    """The probability of so many wins or more among the samples on which two equally good models differ."""
    count = wins + losses
    return float(sum(math.comb(count, k) for k in range(wins, count + 1)) / 2**count)


def _each(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """The metric of each sample [N]."""
    found = [float(metric(outputs[n : n + 1], targets[n : n + 1])) for n in range(len(targets))]
    return torch.tensor(found, dtype=torch.float64)


def _right_or_wrong(row: Tensor, score: float) -> bool:
    """Whether a metric is the share of samples that are right; of sequences it is not, nor where some do not count."""
    return bool(((row == 0) | (row == 1)).all()) and abs(float(row.mean()) - score) < 1e-5
