"""What was best for about as many samples."""

from __future__ import annotations

import math
from typing import Any

from crosstask.learning.metrics import confidence_interval
from crosstask.options import component, option
from crosstask.points.strategist import Strategist
from crosstask.records import StrategyAdvice
from crosstask.tasks import Portfolio, Task


@component
class ExampleStrategist(Strategist):
    """The transfer method with the best mean score in earlier runs, among those that had about as many samples.

    Of other kinds of strategies it recommends what is usual.
    """

    factor: float = option(4.0, ge=1, help="how many times more or fewer samples still count as about as many")

    def suggest(self, task: Task, portfolio: Portfolio, usual: dict[str, str]) -> list[StrategyAdvice]:
        return [self._transfer(task, portfolio, name) if kind == "transfer" else _usual(kind, name)
                for kind, name in usual.items()]  # fmt: skip

    def _transfer(self, task: Task, portfolio: Portfolio, usual: str) -> StrategyAdvice:
        budget = self.context.budget
        samples = (budget.samples if budget else None) or task.descriptor.sample_count or 100
        scores: dict[str, list[float]] = {}
        for _, entry in self.context.past("transfers"):
            found = _read(entry)
            if found is not None and found[0] in portfolio and self._near(found[2], samples):
                scores.setdefault(found[1], []).append(found[3])
        if usual not in scores:
            return _usual("transfer", usual)
        means = {name: confidence_interval(values, (0.0, 1.0)) for name, values in scores.items()}
        best = max(means, key=lambda name: means[name].mean)
        gains = confidence_interval([a - means[usual].mean for a in scores[best]], (-1.0, 1.0))
        count = len(scores[best])
        text = f"Method: {best!r} was best in earlier runs ({count} of them, usual {usual!r})."
        return StrategyAdvice(
            kind="transfer", strategy=best, usual=usual, expected=means[best], gain=gains, evidence=count, text=text
        )

    def _near(self, found: int, wanted: int) -> bool:
        return abs(math.log(found / wanted)) <= math.log(self.factor)


def _usual(kind: str, name: str) -> StrategyAdvice:
    return StrategyAdvice(kind=kind, strategy=name, usual=name, text=f"No earlier run says more of a {kind}: {name!r}.")


def _read(entry: Any) -> tuple[str, str, int, float] | None:
    """(target, method, samples, score) of a stored transfer; None for anything else."""
    try:
        method, samples = entry["strategy"].split("'")[1], entry["budget"]["samples"]
        return str(entry["target"]), method, int(samples or 100), float(entry["score"]["mean"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None
