"""Balancing, shown on gradients that are made up, so that what is right is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.errors import OptionError, UnknownComponentError
from crosstask.points.balancer import Balancer
from crosstask.registry import Registry

SHOWN = ("equal", "rgb", "pcgrad", "mgda", "cagrad", "upgrad", "aligned_mtl")


def balancing_demo(
    balancers: Sequence[str] = SHOWN,
    *,
    tasks: int = 4,
    conflict: float = 0.9,
    spread: float = 30.0,
    trials: int = 50,
    seed: int = 0,
    echo: Callable[[str], None] | None = print,
) -> dict[str, dict[str, float]]:
    """What balancers make of `trials` sets of conflicting gradients, by balancer: also printed.

    A task's gradient in 64 dimensions is a direction that all share, weighed 1 - `conflict`, and one of its own,
    weighed `conflict`; the own ones sum to zero, and so they conflict. The largest is `spread` times as long as the
    smallest. Figures, means over the trials: `worst`, the cosine between the update and the task that it serves worst
    (below zero: its loss rises); `against`, the share of the tasks whose loss rises; `common`, the cosine with the
    direction that all share; `largest`, that with the longest gradient. `gradients` has the gradients' own: the mean
    cosine between two, and the share of pairs that conflict. A balancer that is not installed is left out.
    """
    if tasks < 2 or trials < 1 or not 0 < conflict < 1 or spread < 1:
        raise OptionError(
            "balancing_demo: tasks must be at least 2, trials at least 1, conflict between 0 and 1, spread at least 1; "
            f"got {tasks}, {trials}, {conflict} and {spread}"
        )
    tell, registry = echo or (lambda line: None), Registry.installed()
    drawn = [made_up(tasks, conflict, spread, torch.Generator().manual_seed(seed + n)) for n in range(trials)]
    of_pairs = torch.cat([_pairs(matrix) for matrix, _ in drawn])
    found = {"gradients": {"mean_cosine": float(of_pairs.mean()), "conflicting": float((of_pairs < 0).double().mean())}}
    tell(
        f"{trials} sets of {tasks} gradients: mean cosine {of_pairs.mean():+.2f}, "
        f"{found['gradients']['conflicting']:.0%} of the pairs conflict, the longest {spread:g} times the shortest"
    )
    tell(f"{'balancer':14}{'worst task':>12}{'tasks hurt':>12}{'common':>9}{'longest':>9}")
    for name in balancers:
        try:
            figures = [_judged(registry, name, seed, matrix, common) for matrix, common in drawn]
        except UnknownComponentError:
            tell(f"{name:14}is not installed")
            continue
        mean = {key: sum(each[key] for each in figures) / trials for key in figures[0]}
        found[name] = mean
        tell(f"{name:14}{mean['worst']:>+12.2f}{mean['against']:>12.0%}{mean['common']:>+9.2f}{mean['largest']:>+9.2f}")
    return found


def made_up(tasks: int, conflict: float, spread: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gradients [T, 64], the last the longest, and the unit direction that they share."""
    own = torch.linalg.qr(torch.randn(64, tasks + 1, generator=rng, dtype=torch.float64)).Q.T
    common, own = own[0], own[1:] - own[1:].mean(0)
    own = functional.normalize(own, dim=1)
    lengths = torch.logspace(0, float(torch.tensor(spread).log10()), tasks, dtype=torch.float64)
    directions = functional.normalize((1 - conflict) * common + conflict * own, dim=1)
    return lengths[:, None] * directions, common


def _judged(registry: Registry, name: str, seed: int, matrix: Tensor, common: Tensor) -> dict[str, float]:
    made: Any = LocalContext(seed=seed, registry=registry).component("balancer", name)
    assert isinstance(made, Balancer)
    update = made.combine(matrix)
    update = update / update.norm().clamp_min(torch.finfo(update.dtype).tiny)
    cosines = matrix @ update / matrix.norm(dim=1)
    return {
        "worst": float(cosines.min()),
        "against": float((cosines < -1e-9).double().mean()),
        "common": float(common @ update),
        "largest": float(cosines[-1]),
    }


def _pairs(matrix: Tensor) -> Tensor:
    unit = functional.normalize(matrix, dim=1)
    cosines: Tensor = unit @ unit.mT
    return cosines[torch.ones_like(cosines, dtype=torch.bool).triu(1)]
