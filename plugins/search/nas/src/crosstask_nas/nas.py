"""Architecture search with one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import OptionError, RunError
from crosstask.options import structure
from crosstask.parts import Choice
from crosstask.tasks import Task
from crosstask_nas.networks import ArchitectureSpace
from crosstask_nas.proxies import rank_by_proxy
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.models import ModelSpace
from crosstask_search.records import SearchResult, WarmStart
from crosstask_search.space import Point, SearchSpace


class NeuralArchitectureSearch:
    """Searches the best architecture by calling `evaluate` on some.

        search = NeuralArchitectureSearch(create_nas_search_space((1, 8, 8), 10), "bayesian")
        architecture, accuracy = search.search_architecture(evaluate, num_evaluations=50)
        model = search.build(architecture)

    `search_space` is an `ArchitectureSpace`, a `SearchSpace`, or a dict of parameters; `algorithm` the name of any
    installed search (`random`, `evolutionary`, `bayesian`, `darts`, …), with `options`, or a component. `seed` decides
    everything random. Further:

    - `proxy`: the first `proxy_starts` architectures are those with the highest zero-cost score of `proxy_pool` random
      ones (see `PROXIES`); needs an `ArchitectureSpace` and a `task`, as does `darts`.
    - `halving`: successive halving by this factor. `evaluate(architecture, share)` then gets the share of the full
      training to spend, in (0, 1]; many start with a small one, and the best go on to the next (`rungs` of them).
    - `warm_starts`: architectures to try first, such as `crosstask_search.warm_starts_for` finds on related
      tasks.
    - `context`: the run whose executor, store and seed to use.

    After a search `result` is its `SearchResult` (of the last rung, with halving).
    """

    def __init__(
        self,
        search_space: ArchitectureSpace | SearchSpace | Mapping[str, Any],
        algorithm: str | Search = "bayesian",
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
        self.architectures = search_space if isinstance(search_space, ArchitectureSpace) else None
        if isinstance(search_space, ArchitectureSpace):
            self.space = search_space.space
        elif isinstance(search_space, SearchSpace):
            self.space = search_space
        else:
            self.space = structure({"parameters": search_space}, SearchSpace, "search_space")
        if proxy is not None and (self.architectures is None or task is None):
            raise OptionError("a proxy needs an ArchitectureSpace, to build networks, and a task, for their inputs")
        if halving is not None and (halving < 2 or rungs < 2):
            raise OptionError(f"halving needs a factor and a number of rungs of at least 2, got {halving} and {rungs}")
        self.context = context or LocalContext(seed=seed)
        named = Choice(use=algorithm, options=dict(options or {})) if isinstance(algorithm, str) else algorithm
        if options and not isinstance(algorithm, str):
            raise OptionError("options are for an algorithm given by name; a component has its own")
        self.search = cast(Search, self.context.resolve("search", named))
        self.task, self.proxy, self.proxy_pool, self.proxy_starts = task, proxy, proxy_pool, proxy_starts
        self.halving, self.rungs, self.parallel = halving, rungs, parallel
        self.warm_starts = list(warm_starts)
        self.result: SearchResult | None = None

    def search_architecture(self, evaluate: Callable[..., float], num_evaluations: int) -> tuple[Point, float]:
        """The best architecture found and its score (higher is better).

        An `evaluate` that raises or returns NaN makes a failed trial. With `halving`, `num_evaluations` is the cost: as
        many full evaluations. RunError if all fail; OptionError for a space without valid architecture.
        """
        self.space.require_points()
        starts = [*self.warm_starts, *self._by_proxy()]
        if self.halving is None:
            self.result = self._run(evaluate, num_evaluations, starts, self.search)
        else:
            self.result = self._halved(evaluate, num_evaluations, starts, self.halving)
        best = self.result.best
        if best is None or best.value is None:
            first = self.result.trials[0].error
            raise RunError(f"all {len(self.result.trials)} evaluations failed; the first: {first}")
        return best.point, best.value

    def build(self, architecture: Mapping[str, Any], seed: int = 0) -> Any:
        """The network of an architecture. OptionError if the space is not of networks."""
        if self.architectures is None:
            raise OptionError("only an ArchitectureSpace says how networks are built (create_nas_search_space)")
        return self.architectures.build(architecture, seed)

    def _run(
        self, evaluate: Callable[..., float], count: int, starts: Sequence[WarmStart | Point], search: Search
    ) -> SearchResult:
        models: ModelSpace | None = self.architectures.models if self.architectures is not None else None
        return run_search(
            self.context,
            search,
            self.space,
            evaluate,
            count,
            parallel=self.parallel,
            warm_starts=starts,
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
        self, evaluate: Callable[..., float], cost: int, starts: Sequence[WarmStart | Point], factor: int
    ) -> SearchResult:
        """Rung k of K tries 1 / factor^k of the first one's architectures, with 1 / factor^(K - k - 1) of the training.

        Every rung costs the same (Jamieson & Talwalkar 2016), together `cost` full trainings.
        """
        last = self.rungs - 1
        count = max(1, math.floor(cost / self.rungs * factor**last))
        result = self._run(_Shared(evaluate, factor**-last), count, starts, self.search)
        for rung in range(1, self.rungs):
            done = sorted((t for t in result.trials if t.value is not None), key=lambda t: -(t.value or 0.0))
            if not done:
                return result
            kept = [trial.point for trial in done[: max(1, count // factor**rung)]]
            result = self._run(_Shared(evaluate, factor ** (rung - last)), len(kept), kept, self.search)
        return result


class _Shared:
    """`evaluate` with a share of the training: picklable, if `evaluate` is."""

    def __init__(self, evaluate: Callable[..., float], share: float) -> None:
        self.evaluate, self.share = evaluate, share

    def __call__(self, point: Point) -> float:
        return float(self.evaluate(point, self.share))
