"""How much tasks' gradients conflict, with or without a balancer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.learning.gradients.engine import Mode, gradients_of
from crosstask.learning.gradients.graph import shared_leaves


def conflict_metrics(gramian: Tensor) -> dict[str, float]:
    """Conflict among T task gradients from their Gram matrix [T, T].

    `mean_cosine` over pairs, `conflict_share` of pairs with a negative inner product, and `magnitude_similarity`, the
    mean over pairs of 2|g_s||g_t| / (|g_s|² + |g_t|²) (Yu et al. 2020, definition 3). A zero gradient conflicts with
    nothing.
    """
    count = len(gramian)
    if count < 2:
        return {"mean_cosine": 1.0, "conflict_share": 0.0, "magnitude_similarity": 1.0}
    gramian = gramian.detach().to("cpu", torch.float64)  # single precision has no room for products of squared lengths
    square = gramian.diagonal().clamp_min(0)
    norms = square.sqrt()
    tiny = torch.finfo(gramian.dtype).tiny
    above = torch.ones_like(gramian, dtype=torch.bool).triu(1)
    products = norms[:, None] * norms
    cosine = (gramian / products.clamp_min(tiny))[above]
    similarity = (2 * products / (square[:, None] + square).clamp_min(tiny))[above]
    figures = torch.stack([cosine.mean(), (cosine < 0).to(cosine.dtype).mean(), similarity.mean()])
    return dict(zip(("mean_cosine", "conflict_share", "magnitude_similarity"), figures.tolist(), strict=True))


class ConflictMonitor:
    """Measures gradient conflicts in any training loop, and remembers them.

        monitor = ConflictMonitor(every=10)
        ...
        monitor.measure(losses, trunk.parameters())  # before backward(); None on steps that are left out
        sum(losses).backward()

    `pairs` holds the mean cosine of each pair of tasks over the measured steps, [T, T].
    """

    def __init__(self, every: int = 1, mode: Mode = "auto") -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every, self.mode, self.step = every, mode, 0
        self.steps: list[int] = []
        self.history: dict[str, list[float]] = {}
        self._cosines: Tensor | None = None
        self._count = 0

    def measure(
        self, losses: Sequence[Tensor] | Mapping[str, Tensor], shared: Iterable[nn.Parameter] | None = None
    ) -> dict[str, float] | None:
        """The conflicts of these losses, whose graph stays usable; None if this step is not one to measure."""
        self.step += 1
        if (self.step - 1) % self.every:
            return None
        if shared is None:
            shared, _ = shared_leaves(list(losses.values()) if isinstance(losses, Mapping) else list(losses))
        gramian = gradients_of(losses, shared, mode=self.mode, retain_graph=True).gramian
        return self.record(gramian, self.step)

    def record(self, gramian: Tensor, step: int) -> dict[str, float]:
        """Remember the conflicts of a Gram matrix that is known already."""
        metrics = conflict_metrics(gramian)
        self.steps.append(step)
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        norms = gramian.diagonal().clamp_min(torch.finfo(gramian.dtype).tiny).sqrt()
        cosines = gramian / norms[:, None] / norms
        if self._cosines is None or len(self._cosines) != len(cosines):
            self._cosines, self._count = torch.zeros_like(cosines), 0
        self._cosines += cosines
        self._count += 1
        return metrics

    @property
    def pairs(self) -> Tensor:
        """Mean cosine of each pair of tasks, [T, T]."""
        if self._cosines is None:
            raise ValueError("nothing was measured yet")
        return self._cosines / self._count
