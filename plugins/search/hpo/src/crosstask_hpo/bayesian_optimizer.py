"""`BayesianOptimizer`: hyper-parameters with one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import OptionError, RunError, nearest
from crosstask.options import structure
from crosstask_hpo.optuna_search import OptunaSearch
from crosstask_search.driver import run_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult
from crosstask_search.space import SearchSpace

ACQUISITIONS = {"ei": "tpe", "log_ei": "gp"}
"""Acquisition function -> Optuna's sampler that maximises it."""


class BayesianOptimizer:
    """Finds the parameters for which an objective is highest, with Optuna.

        optimizer = BayesianOptimizer({"rate": (1e-5, 1e-1, "log"), "layers": (1, 4), "kind": ["a", "b"]})
        parameters, score = optimizer.optimize(objective, n_iterations=50)

    `parameter_space`: by name a list of choices, a range (low, high) or (low, high, "log") (whole numbers if both ends
    are integers), a `Parameter`, or a whole `SearchSpace` with conditions and constraints. `acquisition_function`: `ei`
    (expected improvement, by TPE's density ratio) or `log_ei` (its logarithm, of a Gaussian process). With
    `maximize=False` the lowest value is sought. `seed` decides everything random; `context` is the run whose executor
    and store to use. After `optimize`, `result` is its `SearchResult` (of the negated objective, if minimised).
    """

    def __init__(
        self,
        parameter_space: SearchSpace | Mapping[str, Any],
        acquisition_function: str = "ei",
        *,
        maximize: bool = True,
        seed: int = 0,
        parallel: int | None = None,
        context: Context | None = None,
    ) -> None:
        if acquisition_function not in ACQUISITIONS:
            raise OptionError(
                f"acquisition_function cannot be {acquisition_function!r}{nearest(acquisition_function, ACQUISITIONS)}"
            )
        self.search = OptunaSearch(sampler=ACQUISITIONS[acquisition_function])
        self.space = space_of(parameter_space)
        self.maximize, self.parallel = maximize, parallel
        self.context = context or LocalContext(seed=seed)
        self.result: SearchResult | None = None

    def optimize(self, objective: Callable[[dict[str, Any]], float], n_iterations: int) -> tuple[dict[str, Any], float]:
        """The best parameters and the objective there. An objective that raises or returns NaN is recorded as failed.

        RunError if every evaluation failed.
        """
        signed = objective if self.maximize else _Negated(objective)
        self.result = run_search(self.context, self.search, self.space, signed, n_iterations, parallel=self.parallel)
        best = self.result.best
        if best is None or best.value is None:
            first = self.result.trials[0].error
            raise RunError(f"all {len(self.result.trials)} evaluations failed; the first: {first}")
        return best.point, best.value if self.maximize else -best.value


def space_of(given: SearchSpace | Mapping[str, Any]) -> SearchSpace:
    """A search space from the short forms that `BayesianOptimizer` takes. OptionError says which parameter is wrong."""
    if isinstance(given, SearchSpace):
        return given
    return SearchSpace(parameters={name: _parameter(name, value) for name, value in given.items()})


def _parameter(name: str, value: Any) -> Parameter:
    ends = value[:2] if isinstance(value, tuple) else ()
    if len(ends) == 2 and all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        if len(value) > 3 or (len(value) == 3 and value[2] != "log"):
            raise OptionError(f"parameter {name!r}: a range is (low, high) or (low, high, 'log'), got {value!r}")
        whole = all(isinstance(end, int) for end in ends)
        return Parameter(low=float(ends[0]), high=float(ends[1]), log=len(value) == 3, integer=whole)
    made: Parameter = structure(value, Parameter, f"parameter {name!r}")
    return made


class _Negated:
    """An objective to minimise, as one to maximise: picklable, if it is."""

    def __init__(self, objective: Callable[[dict[str, Any]], float]) -> None:
        self.objective = objective

    def __call__(self, point: dict[str, Any]) -> float:
        return -float(self.objective(point))
