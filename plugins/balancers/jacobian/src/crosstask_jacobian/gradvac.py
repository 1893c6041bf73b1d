"""Gradient vaccine in the Gram matrix."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import Array, gram_array, norms_of, to_tensor
from crosstask.points.balancer import Balancer


@component
class GradVac(Balancer):
    """Turns each task's gradient until its cosine with every other one is at least what it used to be.

    For each task i the others are visited in random order. Where the cosine φ of the gradient so far, v, with g_j is
    below its running mean φ̂, v gains |v| (φ̂ √(1-φ²) - φ √(1-φ̂²)) / (|g_j| √(1-φ̂²)) g_j, which makes it φ̂. Then
    φ̂ ← (1 - beta) φ̂ + beta φ. The update is the sum; with φ̂ = 0 (the start) it is PCGrad's.

    All of it happens on [T, T] coefficients, for all tasks at once. State: φ̂, by pairs of tasks, and the number of
    updates, which gives the order of the next one together with the run's seed.

    Source: Wang, Tsvetkov, Firat, Cao 2021, *Gradient Vaccine*, arXiv:2010.05874, equations 3 to 5, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant", "stochastic"})
    results_version: ClassVar[int] = 2

    beta: float = option(0.01, help="how fast the running mean of the cosines moves", ge=0, le=1)

    similarity: dict[str, Kept] = state(factory=dict)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        count = len(gramian)
        names = names_of(self.origin, gradients, self.similarity)
        target = np.stack([kept_of(self.similarity.get(name, {}), names) for name in names])
        generator = self.context.generator("gradvac", self.updates)
        self.updates += 1
        order = torch.rand(count, count, generator=generator, dtype=torch.float64).numpy().argsort(axis=1)
        made, target = vaccinate(gramian, order, target, self.beta)
        kept = {n: with_kept(self.similarity.get(n, {}), names, row) for n, row in zip(names, target, strict=True)}
        self.similarity = {**self.similarity, **kept}
        return to_tensor(made.sum(axis=0), losses)


def vaccinate(gramian: Array, order: NDArray[np.intp], target: Array, beta: float) -> tuple[Array, Array]:
    """Coefficients [T, T] of the turned gradients in the original ones, and the new running cosines [T, T].

    Row i of `order` [T, T] is a permutation of all tasks; its own place in it is skipped.
    """
    count = len(gramian)
    tasks = np.arange(count)
    norms = norms_of(gramian)
    made, products, squares = np.eye(count), gramian.copy(), gramian.diagonal().copy()
    target = target.copy()
    for others in order.T:
        product, own, other = products[tasks, others], np.sqrt(np.maximum(squares, 0)), norms[others]
        defined = (own * other > 0) & (others != tasks)
        cosine = np.clip(np.divide(product, own * other, out=np.zeros(count), where=defined), -1, 1)
        wanted = target[tasks, others]
        rise = wanted * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - wanted**2)
        turn = defined & (cosine < wanted) & (wanted < 1)
        amount = np.divide(own * rise, other * np.sqrt(1 - wanted**2), out=np.zeros(count), where=turn)
        made[tasks, others] += amount
        squares += 2 * amount * product + amount**2 * other**2
        products += amount[:, None] * gramian[others]
        target[tasks, others] = np.where(defined, (1 - beta) * wanted + beta * cosine, wanted)
    return made, target
