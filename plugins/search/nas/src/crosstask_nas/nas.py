"""Architecture search with one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError
from crosstask.options import structure
from crosstask.parts import Choice
from crosstask.tasks import Task
from crosstask_nas.networks import ArchitectureSpace
from crosstask_nas.proxies import rank_by_proxy, require_proxy
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.models import ModelSpace
from crosstask_search.objective import measured
from crosstask_search.records import SearchResult, Trial, WarmStart
from crosstask_search.space import Point, SearchSpace, space_of


class NeuralArchitectureSearch:
    """Searches the best architecture by calling an evaluation function on some.

        search = NeuralArchitectureSearch(create_nas_search_space((1, 8, 8), 10), "bayesian")
        architecture, accuracy = search.search_architecture(evaluate, num_evaluations=50)
        model = search.build(architecture)

    `search_space_config` is an `ArchitectureSpace`, a `SearchSpace`, or a dict of parameters (see `space_of`: a list is
    choices, a tuple (low, high) a range); `algorithm` the name of any installed search (`random`, `evolutionary`,
    `bayesian`, `darts`, …), with `options`, or a component. `seed` decides everything random. Further:

    - `population_size`: of a search that has a population and is given by name without one in `options`; but no more
      than a quarter of the evaluations, so that there are generations.
    - `task`: what `darts` trains its supernet on, before the evaluation function judges what that prefers; that of the
      space (`create_nas_search_space(task=…)`) by default.
    - `proxy`: the first `proxy_starts` architectures are those with the highest zero-cost score of `proxy_pool` random
      ones (see `PROXIES`); needs an `ArchitectureSpace` and a task.
    - `halving`: successive halving by this factor. The evaluation function, called with (architecture, share), then
      gets the share of the full training to spend, in (0, 1]; many start with a small one, and the best go on to the
      next (`rungs` of them). Where all of a rung fail, the next best take their place.
    - `warm_starts`: architectures to try first, such as `crosstask_search.warm_starts_for` finds on related
      tasks.
    - `context`: the run whose executor, store and seed to use.

    After a search `result` is its `SearchResult`; with halving that of the last rung in which one succeeded, and
    `rungs_done` has those of all.
    """

    def __init__(
        self,
        search_space_config: ArchitectureSpace | SearchSpace | Mapping[str, Any],
        algorithm: str | Search = "bayesian",
        population_size: int = 50,
        *,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        task: Task | None = None,
        proxy: str | None = None,
        proxy_pool: int = 64,
        proxy_starts: int = 5,
        halving: int | None = None,
        rungs: int = 3,
        warm_starts: Sequence[WarmStart | Point] = (),
        parallel: int | None = None,
        context: Context | None = None,
    ) -> None:
        networks = search_space_config if isinstance(search_space_config, ArchitectureSpace) else None
        self.architectures = networks
        self.space = networks.space if networks is not None else space_of(cast(Any, search_space_config))
        self.task = task if task is not None or networks is None else networks.task
        if proxy is not None:
            require_proxy(proxy)
            if self.architectures is None or self.task is None:
                raise OptionError("a proxy needs an ArchitectureSpace, to build networks, and a task, for their inputs")
        if halving is not None and (halving < 2 or rungs < 2):
            raise OptionError(f"halving needs a factor and a number of rungs of at least 2, got {halving} and {rungs}")
        if structure(population_size, int, "population_size") < 2:
            raise OptionError(f"population_size must be at least 2, got {population_size}")
        if options and not isinstance(algorithm, str):
            raise OptionError("options are for an algorithm given by name; a component has its own")
        self.context = context or LocalContext(seed=seed)
        self.algorithm, self.options, self.population_size = algorithm, dict(options or {}), population_size
        self.search = self._made(population_size)
        self.proxy, self.proxy_pool, self.proxy_starts = proxy, proxy_pool, proxy_starts
        self.halving, self.rungs, self.parallel = halving, rungs, parallel
        self.warm_starts = list(warm_starts)
        self.result: SearchResult | None = None
        self.rungs_done: list[SearchResult] = []

    def search_architecture(
        self,
        evaluation_function: Callable[..., Any],
        num_evaluations: int = 50,
        *,
        task: Task | None = None,
        trials: Iterable[Trial] = (),
        key: str | None = None,
    ) -> tuple[Point, float]:
        """The best architecture found and its score (higher is better).

        The function gets an architecture, a dict, and returns one number (see `measured`); it may be a coroutine. One
        that raises or returns something else makes a failed trial with its reason, and the search goes on. `task` as
        for the constructor. `trials` of an earlier `result` count as the first of the `num_evaluations`; with a `key`,
        which names what is measured, the run's store keeps every trial, and a search that was stopped goes on.

        With `halving`, `num_evaluations` is the cost: as many full evaluations. RunError, with the first reason, if all
        fail; OptionError for a space without valid architecture; DataError where `darts` has no task to train on.
        """
        if structure(num_evaluations, int, "num_evaluations") < 1:
            raise OptionError(f"num_evaluations must be at least 1, got {num_evaluations}")
        if not callable(evaluation_function):
            raise OptionError(f"evaluation_function must be a function, got {evaluation_function!r}")
        if self.halving is not None and (key is not None or tuple(trials)):
            raise OptionError("halving evaluates with several shares of the training: it takes neither trials nor key")
        if task is not None:
            self.task = task
        self.space.require_points()
        self._require_task()
        if isinstance(self.algorithm, str):
            self.search = self._made(min(self.population_size, max(2, num_evaluations // 4)))
        starts = [*self.warm_starts, *self._by_proxy()]
        if self.halving is None:
            self.result = self._run(evaluation_function, num_evaluations, starts, trials, key)
        else:
            self.result = self._halved(evaluation_function, num_evaluations, starts, self.halving)
        return self.result.require_best()

    def _made(self, population: int) -> Search:
        """The search, with a population of this size if it has one that `options` leave open."""
        if not isinstance(self.algorithm, str):
            return cast(Search, self.context.resolve("search", self.algorithm))
        made = self.context.resolve("search", Choice(use=self.algorithm, options=self.options))
        if "population" in made.options() and "population" not in self.options:
            options = {**self.options, "population": population}
            made = self.context.resolve("search", Choice(use=self.algorithm, options=options))
        return cast(Search, made)

    def _require_task(self) -> None:
        """That a search which trains on the task itself has one that fits the space."""
        if "networks" not in self.search.capabilities:
            return
        if self.architectures is None:
            raise DataError(
                f"{self.search.origin} trains a supernet of networks, and a space of parameters alone does not say how "
                "they are built: give it an ArchitectureSpace (create_nas_search_space)"
            )
        if self.task is None:
            raise DataError(
                f"{self.search.origin} trains a supernet on a task and was given none: name it with task=…, here, in "
                "search_architecture or in create_nas_search_space; the other algorithms need none"
            )
        told, space = self.task.descriptor, self.architectures
        given = (tuple(told.input_shape), told.output_dim)
        if told.input_shape and given != (space.input_shape, space.num_classes):
            raise DataError(
                f"task {self.task.task_id!r} has inputs {given[0]} and {given[1]} outputs, the space is of networks "
                f"with inputs {space.input_shape} and {space.num_classes} outputs"
            )

    def build(self, architecture: Mapping[str, Any], seed: int = 0) -> Any:
        """The network of an architecture. OptionError if the space is not of networks."""
        if self.architectures is None:
            raise OptionError("only an ArchitectureSpace says how networks are built (create_nas_search_space)")
        return self.architectures.build(architecture, seed)

    def _run(
        self,
        evaluate: Callable[..., Any],
        count: int,
        starts: Sequence[WarmStart | Point],
        trials: Iterable[Trial] = (),
        key: str | None = None,
    ) -> SearchResult:
        models: ModelSpace | None = self.architectures.models if self.architectures is not None else None
        return run_search(
            self.context,
            self.search,
            self.space,
            evaluate,
            count,
            key=key,
            parallel=self.parallel,
            warm_starts=starts,
            trials=trials,
            task=self.task,
            models=models,
        )

    def _by_proxy(self) -> list[WarmStart]:
        if self.proxy is None:
            return []
        assert self.architectures is not None
        assert self.task is not None
        seed = self.context.seed_for("proxy") % 2**31
        ranked = rank_by_proxy(self.architectures, self.task, self.proxy, self.proxy_pool, seed)
        return [WarmStart(point=point, source=f"proxy {self.proxy}") for point, _ in ranked[: self.proxy_starts]]

    def _halved(
        self, evaluate: Callable[..., Any], cost: int, starts: Sequence[WarmStart | Point], factor: int
    ) -> SearchResult:
        """Rung k of K tries 1 / factor^k of the first one's architectures, with 1 / factor^(K - k - 1) of the training.

        Every rung costs the same (Jamieson & Talwalkar 2016), together `cost` full trainings.
        """
        last = self.rungs - 1
        count = max(1, math.floor(cost / self.rungs * factor**last))
        result = self._run(_Shared(evaluate, factor**-last), count, starts)
        self.rungs_done = [result]
        for rung in range(1, self.rungs):
            done = sorted((t for t in result.trials if t.value is not None), key=lambda t: -(t.value or 0.0))
            size = max(1, count // factor**rung)
            # where all that go on fail, the next best do; where none is left, what the last rung found stands
            for first in range(0, len(done), size):
                kept = [trial.point for trial in done[first : first + size]]
                promoted = self._run(_Shared(evaluate, factor ** (rung - last)), len(kept), kept)
                self.rungs_done.append(promoted)
                if promoted.best is not None:
                    break
            if not done or promoted.best is None:
                return result
            result = promoted
        return result


class _Shared:
    """`evaluate` with a share of the training: picklable, if `evaluate` is."""

    def __init__(self, evaluate: Callable[..., Any], share: float) -> None:
        self.evaluate, self.share = evaluate, share

    def __call__(self, point: Point) -> float:
        return measured(self.evaluate, point, self.share)
