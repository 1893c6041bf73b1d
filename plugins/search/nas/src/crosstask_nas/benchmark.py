"""Search algorithms beside one another."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crosstask.context import LocalContext
from crosstask.options import option, record
from crosstask.parts import Choice
from crosstask_nas.networks import ArchitectureSpace
from crosstask_search.driver import run_search
from crosstask_search.space import Point, SearchSpace


@record
class AlgorithmScore:
    """One algorithm over all seeds. `regret`: best value of all minus best found, mean per number of evaluations."""

    algorithm: str
    regret: dict[int, float]
    medians: dict[int, float]
    evaluated: float = option(help="mean number of different architectures evaluated")
    proposal_ms: float = option(help="mean time of a proposal, in milliseconds")
    bests: tuple[float, ...] = option(help="best value of each seed")


def benchmark_nas_algorithms(
    search_space: ArchitectureSpace | SearchSpace,
    evaluate: Callable[[Point], float],
    algorithms: Sequence[str | Mapping[str, Any]] = ("random", "evolutionary", "bayesian"),
    num_evaluations: int = 100,
    seeds: int = 20,
    checkpoints: Sequence[int] = (25, 50, 100),
    optimum: float | None = None,
) -> list[AlgorithmScore]:
    """Each algorithm (a name, or a table with `use` and options) searches once per seed; best mean regret first.

    `optimum` is the best value there is; without it, the best that any algorithm found. Points that repeat cost a trial
    (and no evaluation), as they would cost time elsewhere.
    """
    space = search_space.space if isinstance(search_space, ArchitectureSpace) else search_space
    models = search_space.models if isinstance(search_space, ArchitectureSpace) else None
    counts = [count for count in checkpoints if count <= num_evaluations] or [num_evaluations]
    found: dict[str, list[Any]] = {}
    for algorithm in algorithms:
        choice = Choice.__structure__(algorithm, "algorithms")
        name = choice.use + "".join(f" {key}={value}" for key, value in choice.options.items())
        for seed in range(seeds):
            result = run_search(
                LocalContext(seed=seed), choice, space, evaluate, num_evaluations, models=models, parallel=1
            )
            found.setdefault(name, []).append(result)
    top = max((r.best.value for results in found.values() for r in results if r.best), default=0.0)
    best = top if optimum is None else optimum
    scores = []
    for name, results in found.items():
        reached = {count: [best - _best_after(r.curve, count) for r in results] for count in counts}
        proposals = sum(len(r.trials) for r in results)
        scores.append(
            AlgorithmScore(
                algorithm=name,
                regret={count: statistics.fmean(values) for count, values in reached.items()},
                medians={count: statistics.median(values) for count, values in reached.items()},
                evaluated=statistics.fmean(r.evaluated for r in results),
                proposal_ms=1000 * sum(r.proposal_seconds for r in results) / proposals,
                bests=tuple(r.best.value for r in results if r.best),
            )
        )
    return sorted(scores, key=lambda score: score.regret[counts[-1]])


def _best_after(curve: Any, count: int) -> float:
    """Best value after so many trials; the first value where all before failed."""
    reached = [value for step, value in zip(curve.steps, curve.values, strict=True) if step <= count]
    return float(reached[-1] if reached else curve.values[0])
