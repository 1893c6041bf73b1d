"""The strategist that learns from the runs of a store."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from crosstask.learning.metrics import student_quantile
from crosstask.learning.objectives import metric_of
from crosstask.options import component, option
from crosstask.points.strategist import Strategist
from crosstask.records import Interval, StrategyAdvice
from crosstask.tasks import Portfolio, Task
from crosstask_strategist.history import Features, Trial, described, stages, told, transfers
from crosstask_strategist.regression import Contrasts, expected_score

CALLED = {"transfer": "transfer method", "balancer": "balancer", "synthesis": "way to synthesise"}


@component
class LearnedStrategist(Strategist):
    """The strategy that the runs of a store, this one too, speak for on tasks like this one.

    It reads what the store keeps: finished transfers, joint trainings and syntheses, judged by this task's metric.
    Differences between strategies that were tried in the same setting (the same source, target, samples, steps) are
    regressed on what the target is like: samples, classes, inputs, complexity. A task's name is in none of it, and all
    settings of one task together count once. Another strategy than the usual is recommended where it is expected to
    score more by at least `least` (expectations are drawn towards no difference), and by `caution` standard deviations
    of that expectation. The interval of the gain is for one such task: how far those left out, each in turn, were from
    what the others said of them.

    The score to expect is from a regression of this strategy's scores alone; its cost are the optimiser steps until its
    learning curves were near their best (99 % of the way), in the middle and from the 5th to the 95th percentile.
    """

    caution: float = option(0.0, ge=0, help="standard deviations by which it must be expected to be better")
    least: float = option(0.002, ge=0, help="gain below which the usual is kept, in the units of the metric")
    tasks: int = option(4, ge=3, help="tasks on which it must have been tried beside the usual")

    def suggest(self, task: Task, portfolio: Portfolio, usual: dict[str, str]) -> list[StrategyAdvice]:
        held = [each.descriptor for each in (*portfolio, *portfolio.unseen)]
        tasks = told(self.context.past("tasks"), held)
        joint, made = stages(self.context.past("stages"), tasks)
        trials = {"transfer": transfers(self.context.past("transfers"), tasks), "balancer": joint, "synthesis": made}
        budget = self.context.budget
        known = task.descriptor
        if known.sample_count is None and task.has_data("train"):
            known = attrs.evolve(known, sample_count=len(task.data("train")))
        features = described(known, budget.samples if budget else None)
        alone = described(known, None)
        metric = metric_of(task)
        return [
            self._advice(
                kind, name, features if kind == "transfer" else alone, metric.told, metric.range,
                [trial for trial in trials.get(kind, []) if trial.metric == metric.told],
            )
            for kind, name in usual.items()
        ]  # fmt: skip

    def _advice(
        self,
        kind: str,
        usual: str,
        features: Features | None,
        metric: str,
        limits: tuple[float, float],
        trials: Sequence[Trial],
    ) -> StrategyAdvice:
        called = CALLED.get(kind, kind)
        if features is None:
            why = "the descriptor does not say its samples, inputs and outputs"
            return StrategyAdvice(kind=kind, strategy=usual, usual=usual, text=f"No {called} is recommended: {why}.")
        if not trials:
            text = f"No run of this store says which {called} suits by {metric}: the usual {usual!r}."
            return StrategyAdvice(kind=kind, strategy=usual, usual=usual, text=text)
        contrasts, counts = Contrasts.fitted(trials), _counts(trials)
        best, gain = usual, None
        if contrasts is not None and usual in contrasts.strategies:
            best, gain = self._best(contrasts, usual, features)
        own = [trial for trial in trials if trial.strategy == best]
        if not own:
            text = f"Runs of this store tried no {usual!r}, the usual {called}, but {_listed(counts)}: it stays."
            return StrategyAdvice(kind=kind, strategy=usual, usual=usual, text=text)
        advice = StrategyAdvice(
            kind=kind, strategy=best, usual=usual, expected=expected_score(own, features, limits), gain=gain,
            cost=_cost(own), evidence=counts[best], text="",
        )  # fmt: skip
        return _with_text(advice, called, metric)

    def _best(self, contrasts: Contrasts, usual: str, features: Features) -> tuple[str, Interval | None]:
        """(the strategy of the largest gain that is sure enough, the gain over the usual on such a task)."""
        gains = {name: contrasts.difference(name, usual, features) for name in contrasts.strategies if name != usual}
        spreads = {name: contrasts.spread(name, usual) for name in gains}
        sure = {
            name: mean
            for name, (mean, deviation) in gains.items()
            if (spread := spreads[name]) is not None and spread[1] >= self.tasks
            and mean >= max(self.least, self.caution * deviation)
        }  # fmt: skip
        if not sure:
            return usual, None
        best = max(sure, key=lambda name: sure[name])
        spread = spreads[best]
        assert spread is not None
        half = student_quantile(spread[1] - 1) * math.hypot(spread[0], gains[best][1])
        return best, Interval(mean=sure[best], low=sure[best] - half, high=sure[best] + half)


def _with_text(advice: StrategyAdvice, called: str, metric: str) -> StrategyAdvice:
    expected, count = advice.expected, advice.evidence
    assert expected is not None
    rests = f"{count} setting{'s' if count != 1 else ''} that runs of this store tried"
    figures = f"{metric} {expected.mean:.3f} ({expected.low:.3f} to {expected.high:.3f})"
    if advice.strategy == advice.usual:
        text = f"As {called} the usual {advice.usual!r}, {figures}: nothing in {rests} speaks clearly for another."
    else:
        assert advice.gain is not None
        gain = f"{advice.gain.mean:+.3f} ({advice.gain.low:+.3f} to {advice.gain.high:+.3f})"
        sure = "speak" if advice.gain.low > 0 else "speak, without being sure,"
        text = f"As {called} {rests} {sure} for {advice.strategy!r}: {gain} over the usual {advice.usual!r}, {figures}."
    return attrs.evolve(advice, text=text)


def _counts(trials: Sequence[Trial]) -> dict[str, int]:
    """In how many places each strategy was tried."""
    places: dict[str, set[object]] = {}
    for trial in trials:
        places.setdefault(trial.strategy, set()).add(trial.place)
    return {name: len(found) for name, found in places.items()}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name!r} {count} times" for name, count in sorted(counts.items())[:4])


def _cost(trials: Sequence[Trial]) -> Interval | None:
    steps = sorted(trial.steps for trial in trials if trial.steps is not None)
    if not steps:
        return None
    last = len(steps) - 1
    return Interval(mean=sum(steps) / len(steps), low=steps[round(0.05 * last)], high=steps[round(0.95 * last)])
