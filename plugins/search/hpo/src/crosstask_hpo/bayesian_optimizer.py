"""`BayesianOptimizer`: hyper-parameters with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import OptionError, nearest
from crosstask.parts import Choice
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.objective import measured
from crosstask_search.records import SearchResult, Trial
from crosstask_search.space import SearchSpace, space_of

ACQUISITIONS = {"ei": "ei", "log_ei": "ei", "pi": "pi", "ucb": "ucb"}
"""Acquisition function -> the option of `bayesian` (which computes the logarithm of the improvement in any case)."""


class BayesianOptimizer:
    """Finds the parameters for which an objective is highest, with a Gaussian process of the objective.

        optimizer = BayesianOptimizer({"learning_rate": (1e-5, 1e-2), "layers": (1, 4), "kind": ["a", "b"]})
        parameters, score = optimizer.optimize(objective, n_iterations=50)

    `parameter_space` says by name what a parameter can be (see `space_of`): a list of choices; a range (low, high), of
    whole numbers if both are, on a log scale if both are positive and the higher is a hundred times the lower one or
    more, or as a third element "log" or "linear" says; a `Parameter`, which may have conditions; or it is a whole
    `SearchSpace`. `acquisition_function`: `ei`, expected improvement; `pi`, its probability; `ucb`, upper confidence
    bound; `log_ei` is the same as `ei`. With `maximize=False` the lowest value is sought. `algorithm` names another
    search, or is a table with `use` and options: {"use": "optuna", "sampler": "tpe"}; the acquisition function is then
    its own. `seed` decides everything random; `context` is the run whose executor and store to use. After `optimize`,
    `result` is its `SearchResult` (of the negated objective, if minimised).
    """

    def __init__(
        self,
        parameter_space: SearchSpace | Mapping[str, Any],
        acquisition_function: str = "ei",
        *,
        maximize: bool = True,
        algorithm: str | Mapping[str, Any] | Choice | Search = "bayesian",
        seed: int = 0,
        parallel: int | None = None,
        context: Context | None = None,
    ) -> None:
        if acquisition_function not in ACQUISITIONS:
            raise OptionError(
                f"acquisition_function cannot be {acquisition_function!r}{nearest(acquisition_function, ACQUISITIONS)}"
            )
        if algorithm == "bayesian":
            algorithm = Choice(use="bayesian", options={"acquisition": ACQUISITIONS[acquisition_function]})
        elif acquisition_function != "ei":
            raise OptionError(f"acquisition_function {acquisition_function!r} is for 'bayesian', not for {algorithm!r}")
        self.space = space_of(parameter_space)
        self.maximize, self.parallel = maximize, parallel
        self.context = context or LocalContext(seed=seed)
        self.search = cast(Search, self.context.resolve("search", algorithm))
        self.result: SearchResult | None = None

    def optimize(
        self,
        objective_function: Callable[[dict[str, Any]], Any],
        n_iterations: int = 50,
        *,
        trials: Iterable[Trial] = (),
        key: str | None = None,
    ) -> tuple[dict[str, Any], float]:
        """The best parameters and the objective there.

        The objective gets a dict of parameters and returns one number (see `measured`); it may be a coroutine. One that
        raises or returns something else makes a failed trial with its reason, and the search goes on. `trials` of an
        earlier `result` count as the first of the `n_iterations`; with a `key`, which names the objective, the run's
        store keeps every trial, and a search that was stopped goes on. RunError, with the first reason, if every
        evaluation failed.
        """
        if not callable(objective_function):
            raise OptionError(f"objective_function must be a function of a dict, got {objective_function!r}")
        self.result = run_search(
            self.context,
            self.search,
            self.space,
            objective_function if self.maximize else _Negated(objective_function),
            n_iterations,
            key=key if key is None or self.maximize else f"minus {key}",
            parallel=self.parallel,
            trials=trials,
        )
        point, value = self.result.require_best()
        return point, value if self.maximize else -value


class _Negated:
    """An objective to minimise, as one to maximise: picklable, if it is."""

    def __init__(self, objective: Callable[[dict[str, Any]], Any]) -> None:
        self.objective = objective

    def __call__(self, point: dict[str, Any]) -> float:
        return -measured(self.objective, point)
