"""What to expect of a tool for a task: success, cost and latency, with intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crosstask.errors import PluginError
from crosstask.learning.metrics import student_quantile
from crosstask.records import Interval
from crosstask_routing.contract import Array

KINDS = ("success", "cost", "latency")
RANGES = {"success": (0.0, 1.0), "cost": (0.0, math.inf), "latency": (0.0, math.inf)}
BEFORE = 2.0
"""Observations that a profile is worth, for the spread."""


class Forecast:
    """One quantity of one tool: Bayesian linear regression of its distance from the profile's value on the context.

    With the normal-inverse-gamma prior N(0, σ²/ridge), σ² about `spread`²: A = ridge I + Σ γ^age x x', w = A⁻¹ Σ γ^age
    x (y - prior), the expectation is prior + x·w, and its 95 % interval Student's with s² x'A⁻¹x (Bishop 2006, section
    3.3; Gelman et al. 2013, section 14.8). Where nothing was seen it is the profile with a wide interval. `discount` γ
    forgets what is old.
    """

    def __init__(self, kind: str, prior: float, ridge: float = 1.0, discount: float = 1.0) -> None:
        self.kind, self.prior, self.ridge, self.discount = kind, prior, ridge, discount
        self.gram, self.vector = np.zeros((0, 0)), np.zeros(0)
        self.squares = self.weight = 0.0
        self.uses = 0
        self._inverse: Array | None = None

    @property
    def spread(self) -> float:
        """The standard deviation of one result, before any is seen."""
        if self.kind == "success":
            return math.sqrt(max(0.09, self.prior * (1 - self.prior)))  # a profile of 1 may be wrong
        return 0.5 * self.prior or 0.5

    def learn(self, x: Array, value: float) -> None:
        """One result."""
        self._grow(len(x))
        distance = value - self.prior
        if self.discount < 1:
            self.gram *= self.discount
            self.vector *= self.discount
        self.squares = self.discount * self.squares + distance * distance
        self.weight = self.discount * self.weight + 1
        self.gram += x[:, None] * x
        self.vector += distance * x
        self.uses += 1
        self._inverse = None

    def expected(self, x: Array) -> tuple[float, float]:
        """(the expectation, half of its 95 % interval), neither cut to what is possible."""
        self._grow(len(x))
        inverse = self._inverse
        if inverse is None:
            found: Array = np.asarray(np.linalg.inv(self.gram + self.ridge * np.eye(len(x))), np.float64)
            inverse = self._inverse = found
        weights = inverse @ self.vector
        left = max(0.0, self.squares - float(weights @ self.vector))
        variance = (BEFORE * self.spread**2 + left) / (BEFORE + self.weight)
        freedom = max(1, round(BEFORE + self.weight))
        half = student_quantile(freedom) * math.sqrt(variance * float(x @ inverse @ x))
        return self.prior + float(weights @ x), half

    def interval(self, x: Array) -> Interval:
        """The expectation with its interval, cut to what is possible."""
        return bounded(*self.expected(x), self.kind)

    def _grow(self, width: int) -> None:
        more = width - len(self.vector)
        if more > 0:
            self.gram = np.pad(self.gram, ((0, more), (0, more)))
            self.vector, self._inverse = np.pad(self.vector, (0, more)), None

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {"prior": self.prior, "gram": self.gram.tolist(), "vector": self.vector.tolist(),
                "squares": self.squares, "weight": self.weight, "uses": self.uses}  # fmt: skip

    @classmethod
    def of(cls, kind: str, state: Any, ridge: float, discount: float) -> Forecast:
        """What `state` said. PluginError for anything else."""
        try:
            made = cls(kind, float(state["prior"]), ridge, discount)
            made.vector = np.array(state["vector"], dtype=np.float64).reshape(-1)
            made.gram = np.array(state["gram"], dtype=np.float64).reshape(len(made.vector), len(made.vector))
            made.squares, made.weight = float(state["squares"]), float(state["weight"])
            made.uses = int(state["uses"])
            if not (np.isfinite(made.gram).all() and np.isfinite(made.vector).all() and math.isfinite(made.squares)):
                raise ValueError("it holds numbers that are not finite")
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(f"this is not the state of a forecast of {kind}: {error}") from None
        return made


def bounded(mean: float, half: float, kind: str) -> Interval:
    """An interval cut to what a quantity can be."""
    low, high = RANGES[kind]
    return Interval(mean=min(max(mean, low), high), low=min(max(mean - half, low), high),
                    high=max(min(mean + half, high), low))  # fmt: skip
