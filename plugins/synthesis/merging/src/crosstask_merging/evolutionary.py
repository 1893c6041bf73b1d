"""The `evolutionary` synthesizer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from crosstask.options import component, option
from crosstask_merging.merger import Ingredients, Merger, linear

with warnings.catch_warnings():  # cma tells everyone who has no matplotlib that it cannot plot
    warnings.filterwarnings("ignore", message="Could not import matplotlib", category=UserWarning)
    import cma  # type: ignore[import-untyped]  # ships no types


@component
class Evolutionary(Merger):
    """base + Σ c (model - base) with one coefficient per model, searched with CMA-ES (Hansen) for the highest score
    (in the manner of Akiba et al. 2024, whose parameter space this is).

    The score is minus the mean loss on the members' validation data, or for files the function given. The search
    starts at the uniform mean and returns the best that it saw, so that by this score it is never worse. One merged
    model is in memory.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    evaluations: int = option(150, ge=4, help="merged models that are judged")
    spread: float = option(0.3, gt=0, help="standard deviation of the first coefficients, as a share of 1/number")

    def prepare(self, given: Ingredients) -> list[float]:
        assert given.score is not None
        score = given.score

        def cost(coefficients: Sequence[float]) -> float:
            value = score({name: self._made(name, given, coefficients) for name in given.models[0].index})
            return -value if math.isfinite(value) else math.inf

        start = list(given.weights)
        best, lowest = start, cost(start)
        rng = np.random.default_rng(self.context.seed_for("evolutionary"))
        search = cma.CMAEvolutionStrategy(
            start,
            self.spread / len(start),
            {
                # numbers of its own: cma would otherwise seed numpy's global generator
                "seed": np.nan, "randn": lambda *shape: rng.standard_normal(shape),
                "maxfevals": self.evaluations, "verbose": -9, "verb_log": 0,
            },
        )  # fmt: skip
        while not search.stop() and search.countevals < self.evaluations:
            points = search.ask()
            costs = [cost(point) for point in points]
            search.tell(points, costs)
            if min(costs) < lowest:
                lowest, best = min(costs), [float(c) for c in points[int(np.argmin(costs))]]
        given.weights = best
        return best

    def _made(self, name: str, given: Ingredients, coefficients: Sequence[float]) -> Tensor:
        if name in given.learned():
            return given.typed(name, self.tensor(name, given, coefficients))
        if given.continuous(name):
            return given.typed(name, linear(given.tensors(name), [1 / len(given.models)] * len(given.models)))
        return given.models[0].get(name)

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        if given.base is None:  # the mean plus Σ c (model - mean)
            equal = 1 / len(given.models)
            rest = 1 - sum(prepared)
            return linear(given.tensors(name), [c + rest * equal for c in prepared])
        return given.start(name).add_(linear(given.vectors(name), prepared))
