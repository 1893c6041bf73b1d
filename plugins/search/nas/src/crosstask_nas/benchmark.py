"""Search algorithms beside one another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from crosstask.context import LocalContext
from crosstask.errors import OptionError
from crosstask.options import option, record, structure
from crosstask.parts import Choice
from crosstask.records import LearningCurve
from crosstask.tasks import Task
from crosstask_nas.networks import ArchitectureSpace
from crosstask_search.driver import run_search
from crosstask_search.space import SearchSpace, space_of


@record
class AlgorithmScore:
    """One algorithm over all seeds. `regret`: best value of all minus best found, mean per number of evaluations;
    infinite while some seed has found nothing.
    """

    algorithm: str
    regret: dict[int, float]
    medians: dict[int, float]
    evaluated: float = option(help="mean number of different architectures evaluated")
    proposal_ms: float = option(help="mean time of a proposal, in milliseconds")
    bests: tuple[float, ...] = option(help="best value of each seed that found one")
    failed: float = option(0.0, help="mean number of evaluations that failed")


def benchmark_nas_algorithms(
    search_space: ArchitectureSpace | SearchSpace | Mapping[str, Any],
    evaluate: Callable[..., Any],
    num_evaluations: int = 100,
    algorithms: Sequence[str | Mapping[str, Any]] = ("random", "evolutionary", "bayesian"),
    *,
    seeds: int = 20,
    checkpoints: Sequence[int] = (25, 50, 100),
    optimum: float | None = None,
    task: Task | None = None,
) -> list[AlgorithmScore]:
    """Each algorithm (a name, or a table with `use` and options) searches once per seed; best mean regret first.

    Regret is told after as many evaluations as `checkpoints` say, and at the end. `optimum` is the best value there is;
    without it, the best that any algorithm found. `task` is what `darts` trains on; that of the space by default.
    Points that repeat cost a trial (and no evaluation), as they would cost time elsewhere; so do evaluations that fail.
    RunError if all of them did.
    """
    if isinstance(algorithms, str) or not algorithms:
        raise OptionError(f"algorithms must be a list of names or tables, got {algorithms!r}")
    for name, value in (("num_evaluations", num_evaluations), ("seeds", seeds)):
        if structure(value, int, name) < 1:
            raise OptionError(f"{name} must be at least 1, got {value}")
    networks = search_space if isinstance(search_space, ArchitectureSpace) else None
    space = networks.space if networks is not None else space_of(cast(Any, search_space))
    models = networks.models if networks is not None else None
    task = task if task is not None or networks is None else networks.task
    counts = [*(count for count in sorted(checkpoints) if count < num_evaluations), num_evaluations]
    found: dict[str, list[Any]] = {}
    for algorithm in algorithms:
        choice = Choice.__structure__(algorithm, "algorithms")
        name = choice.use + "".join(f" {key}={value}" for key, value in choice.options.items())
        for seed in range(seeds):
            result = run_search(
                LocalContext(seed=seed), choice, space, evaluate, num_evaluations, task=task, models=models
            )
            found.setdefault(name, []).append(result)
    every = [result for results in found.values() for result in results]
    values = [result.best.value for result in every if result.best is not None]
    if not values:
        every[0].require_best()
    best = max(values) if optimum is None else optimum
    scores = []
    for name, results in found.items():
        reached = {count: [best - _best_after(r.curve, count) for r in results] for count in counts}
        proposals = sum(len(r.trials) for r in results)
        scores.append(
            AlgorithmScore(
                algorithm=name,
                regret={count: statistics.fmean(regrets) for count, regrets in reached.items()},
                medians={count: statistics.median(regrets) for count, regrets in reached.items()},
                failed=statistics.fmean(r.failed for r in results),
                evaluated=statistics.fmean(r.evaluated for r in results),
                proposal_ms=1000 * sum(r.proposal_seconds for r in results) / proposals,
                bests=tuple(r.best.value for r in results if r.best),
            )
        )
    return sorted(scores, key=lambda score: score.regret[counts[-1]])


def _best_after(curve: LearningCurve, count: int) -> float:
    """Best value after so many trials; minus infinity if all had failed."""
    reached = [value for step, value in zip(curve.steps, curve.values, strict=True) if step <= count]
    return float(reached[-1]) if reached else -math.inf
