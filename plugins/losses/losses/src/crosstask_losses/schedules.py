"""Weights that change as training goes on: annealing of a KL term, warm-ups, cycles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from crosstask.errors import OptionError
from crosstask.options import build, option, record, structure

KINDS = ("constant", "linear", "cosine", "sigmoid", "cyclical")


@record
class WeightSchedule:
    """A weight as a function of the updates made so far: `schedule(0)` is that of the first one.

    It is `start` up to `delay`, and `end` from `delay + steps` on. Between them p goes from 0 to 1:

        linear     start + (end - start) p
        cosine     start + (end - start) (1 - cos πp) / 2
        sigmoid    a logistic function of `steepness` (p - 1/2), stretched to reach both ends (Bowman et al. 2016)
        cyclical   `cycles` times: linear in the first `ratio` of the cycle, then `end` (Fu et al. 2019, equation 6)
        constant   `end`, always

    In a recipe: `weights = { beta = { kind = "linear", steps = 1000 }, lambda_gram = 0.1 }`.
    """

    kind: str = option("linear", choices=KINDS, help="the way from start to end")
    start: float = option(0.0, ge=0, help="at first")
    end: float = option(1.0, ge=0, help="at the end")
    steps: int = option(1, ge=1, help="updates from the one to the other")
    delay: int = option(0, ge=0, help="updates before that")
    cycles: int = option(4, ge=1, help="cyclical: how often it starts again")
    ratio: float = option(0.5, gt=0, le=1, help="cyclical: the part of a cycle in which it rises")
    steepness: float = option(10.0, gt=0, help="sigmoid: how steep")

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise OptionError(f"WeightSchedule: start and end must be finite, got {self.start} and {self.end}")
        if self.cycles > self.steps and self.kind == "cyclical":
            raise OptionError(f"WeightSchedule: {self.steps} steps are too few for {self.cycles} cycles")

    @classmethod
    def __structure__(cls, value: Any, where: str) -> WeightSchedule:
        if isinstance(value, Mapping):
            return build(cls, value, where)
        return constant(weight_of(where, value, None))

    def __call__(self, step: int) -> float:
        """The weight after `step` updates."""
        done = step - self.delay
        if self.kind == "constant":
            return self.end
        if done <= 0:
            return self.start
        if done >= self.steps:
            return self.end
        part = done / self.steps
        if self.kind == "cyclical":
            # Whole numbers: a cycle must not begin a step too late because of rounding.
            part = min(1.0, done * self.cycles % self.steps / self.steps / self.ratio)
        elif self.kind == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        elif self.kind == "sigmoid":
            half = self.steepness / 2  # a logistic function is (1 + tanh of half of it) / 2
            part = (1 + math.tanh(half * (part - 0.5)) / math.tanh(half / 2)) / 2
        return self.start + (self.end - self.start) * part


def constant(value: float) -> WeightSchedule:
    """Always the same."""
    return WeightSchedule(kind="constant", start=value, end=value)


def linear(start: float, end: float, steps: int, *, delay: int = 0) -> WeightSchedule:
    """On a line."""
    return WeightSchedule(kind="linear", start=start, end=end, steps=steps, delay=delay)


def cosine(start: float, end: float, steps: int, *, delay: int = 0) -> WeightSchedule:
    """On half a cosine: slowly at both ends."""
    return WeightSchedule(kind="cosine", start=start, end=end, steps=steps, delay=delay)


def sigmoid(start: float, end: float, steps: int, *, delay: int = 0, steepness: float = 10.0) -> WeightSchedule:
    """On a logistic curve."""
    return WeightSchedule(kind="sigmoid", start=start, end=end, steps=steps, delay=delay, steepness=steepness)


def cyclical(
    start: float, end: float, steps: int, *, cycles: int = 4, ratio: float = 0.5, delay: int = 0
) -> WeightSchedule:
    """Up again and again, `cycles` times in `steps`."""
    return WeightSchedule(kind="cyclical", start=start, end=end, steps=steps, cycles=cycles, ratio=ratio, delay=delay)


def weight_of(name: str, given: Any, step: int | None) -> float:
    """The value of a weight that is a number, or a function of the updates made. OptionError names it if it is neither,
    negative, not finite, or depends on a step that nobody has said.
    """
    value = given
    if callable(given):
        if step is None:
            raise OptionError(f"weight {name!r} follows a schedule: say which step this is, compute_losses(step=…)")
        value = given(step)
    number: float = structure(value, float, f"weight {name!r}")
    if not (math.isfinite(number) and number >= 0):
        at = f" at step {step}" if callable(given) else ""
        raise OptionError(f"weight {name!r} must be a finite number from zero, got {number}{at}")
    return number
