"""Detectors: sequential tests that say when a model's score has dropped below what it was."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from crosstask.components import Component, hook
from crosstask.errors import DataError
from crosstask.options import record
from crosstask.records import Interval


@record
class Evidence:
    """What a detector makes of a stream: its statistic after each record, and the threshold that means an alarm."""

    statistic: tuple[float, ...]
    threshold: float

    @property
    def alarm(self) -> int | None:
        """The first record (from 0) whose statistic reaches the threshold; None: there is no alarm."""
        return next((at for at, value in enumerate(self.statistic) if value >= self.threshold), None)


class Detector(Component):
    """Reads scores one after another and says when they have dropped below the reference: for good, not by chance.

    Records are rows of a tensor [T, 2]: a score, and the number of samples that it is the mean of. The statistic after
    a record depends on this record and those before it alone.

    Capabilities: `anytime` (whatever is read, and however long, the chance of any false alarm is at most `alpha`, an
    option of it), `run_length` (without a drop an alarm comes after `run_length` records on average, or later; an
    option of it) and `unbounded` (it reads scores that have no least or no best value).
    """

    point: ClassVar[str] = "detector"

    @abstractmethod
    @hook(first=True, returns=Evidence)
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        """The evidence that scores of `stream` [T, 2] lie below those of `reference` [R, 2], measured while the model
        was healthy. `limits` are what a score can be. Every `read` begins with `check_scores`.
        """

    @final
    def check_scores(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> None:
        """DataError for what are no scores: another shape, no reference, outside the limits, or without limits for a
        detector that needs them.
        """
        low, high = limits
        if not low < high:
            raise DataError(f"{self.origin}: limits must go from low to high, got {low} to {high}")
        if "unbounded" not in self.capabilities and not (math.isfinite(low) and math.isfinite(high)):
            told = f"{self.origin} reads scores between two limits; this metric goes from {low} to {high}"
            raise DataError(f"{told}: take a detector that claims 'unbounded', such as cusum")
        for name, given in (("reference", reference), ("stream", stream)):
            if given.ndim != 2 or given.shape[1] != 2:
                raise DataError(f"{self.origin}: the {name} must be [T, 2] (score, samples), got {tuple(given.shape)}")
            if not bool(torch.isfinite(given).all()):
                raise DataError(f"{self.origin}: a score of the {name} is not finite")
            if bool((given[:, 1] < 1).any()):
                raise DataError(f"{self.origin}: a score of the {name} is the mean of less than one sample")
            values, room = given[:, 0], 1e-6 * (high - low if math.isfinite(high - low) else 1.0)
            if len(values) and (float(values.min()) < low - room or float(values.max()) > high + room):
                raise DataError(f"{self.origin}: a score of the {name} lies outside {low} to {high}")
        if not len(reference):
            raise DataError(f"{self.origin}: no reference: at least one score of the healthy model is needed")


def rows_of(scores: Sequence[float], samples: int | Sequence[int] = 1) -> Tensor:
    """Records [T, 2] of scores and the numbers of samples behind them."""
    counts = [samples] * len(scores) if isinstance(samples, int) else list(samples)
    if len(counts) != len(scores):
        raise DataError(f"{len(scores)} scores with {len(counts)} numbers of samples: one is needed for each")
    made = torch.tensor([list(map(float, scores)), list(map(float, counts))], dtype=torch.float64)
    return made.T.contiguous()


def scaled(rows: Tensor, limits: tuple[float, float]) -> Tensor:
    """Records whose scores are a share of the way from the least to the best, 0 to 1."""
    low, high = limits
    values = ((rows[:, 0].double() - low) / (high - low)).clamp(0, 1)
    return torch.stack([values, rows[:, 1].double()], dim=1)


def pooled(rows: Tensor) -> tuple[float, float]:
    """(mean over all samples, their number)."""
    count = float(rows[:, 1].sum())
    return float((rows[:, 0] * rows[:, 1]).sum()) / count, count


def lower_bound(mean: float, count: float, error: float) -> float:
    """What the expectation of `count` independent values in [0, 1] with this mean is not below, but with probability
    `error` (Hoeffding 1963, theorem 1): the q < mean with count * KL(mean, q) = log(1 / error).
    """
    if mean <= 0:
        return 0.0

    def divergence(q: float) -> float:
        rest = (1 - mean) * math.log((1 - mean) / (1 - q)) if mean < 1 else 0.0
        return mean * math.log(mean / q) + rest

    low, high = 0.0, mean
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle <= 0 or count * divergence(middle) > math.log(1 / error) else (low, middle)
    return low


def since(reference: Tensor, stream: Tensor) -> int:
    """Where a drop most likely began, in hindsight: the record from which on the mean's loss, by the number of samples
    behind it, is most unlikely (the generalised likelihood ratio of normal means, Siegmund, Venkatraman 1995).
    """
    level, _ = pooled(reference)
    lost = ((level - stream[:, 0]) * stream[:, 1]).flip(0).cumsum(0).flip(0).clamp_min(0)
    return int((lost.square() / stream[:, 1].flip(0).cumsum(0).flip(0)).argmax()) if len(lost) else 0


@attrs.frozen
class Level:
    """The mean of records over all their samples."""

    mean: float
    samples: int

    @classmethod
    def of(cls, rows: Tensor) -> Level:
        """From records [T, 2] of scores and numbers of samples."""
        mean, count = pooled(rows)
        return cls(mean, int(count))

    def interval(self, limits: tuple[float, float]) -> Interval:
        """With a 95 % interval by `lower_bound`, from both sides; the mean alone where scores have no limits."""
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high)):
            return Interval(mean=self.mean, low=self.mean, high=self.mean)
        share = min(1.0, max(0.0, (self.mean - low) / (high - low)))
        ends = lower_bound(share, self.samples, 0.025), 1 - lower_bound(1 - share, self.samples, 0.025)
        return Interval(mean=self.mean, low=low + ends[0] * (high - low), high=low + ends[1] * (high - low))
