"""Small dense problems in the space of tasks, solved at every step by gradient balancers: float64, on the CPU.
 All of them work on a Gram matrix [T, T] of task gradients, never on the gradients themselves, so their cost
does not depend on the number of parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask.errors import RunError

if TYPE_CHECKING:
    from crosstask.learning.gradients import TaskGradients

Array = NDArray[np.float64]
"""The solvers work in double precision, whatever the gradients have."""


def gram_array(gradients: TaskGradients) -> Array:
    """The Gram matrix as a symmetric float64 array [T, T]. RunError names a task whose gradient is not finite."""
    gramian = to_array(gradients.gramian)
    if not np.isfinite(gramian).all():
        diagonal = ~np.isfinite(gramian.diagonal())
        task = int(diagonal.argmax()) if diagonal.any() else int((~np.isfinite(gramian)).any(axis=1).argmax())
        raise RunError(f"the gradient of task {gradients.names[task]} is not finite; gradients cannot be balanced")
    return (gramian + gramian.T) / 2


def rounding_of(gradients: TaskGradients) -> float:
    """The machine precision that the Gram matrix was computed with."""
    return float(torch.finfo(gradients.gramian.dtype).eps)


def check_lasting(origin: str, gradients: TaskGradients) -> None:
    """RunError if the gradients are those of features: what is remembered of them means nothing in the next batch."""
    if getattr(gradients, "features", None):
        raise RunError(f"{origin}: remembers gradients from step to step; balance parameters, not features")


def to_array(values: Tensor) -> Array:
    """A float64 copy on the CPU."""
    return values.detach().to("cpu", torch.float64, copy=True).numpy()


def to_tensor(values: Array, like: Tensor) -> Tensor:
    """`values` with the dtype and on the device of `like`. What is beyond that type is its largest number: 1/|g| of a
    gradient whose length is subnormal is, and infinity times the zeros in it would be no number.
    """
    most = torch.finfo(like.dtype).max
    return torch.as_tensor(np.clip(values, -most, most)).to(like)


def norms_of(gramian: Array) -> Array:
    """Norms of the gradients, [T]; rounding below zero counts as zero."""
    return np.sqrt(np.maximum(gramian.diagonal(), 0.0))


def inverse(values: Array) -> Array:
    """1 / values, and 0 where a value is 0: a zero gradient has no direction."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def adam_step(
    values: Array, gradient: Array, moments: Array, step: int | Array, learning_rate: float, weight_decay: float = 0.0
) -> tuple[Array, Array]:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) on a vector [T]: new values, new moments [2, T].

    `moments` are zeros before `step` 1 (or each entry is at a step [T] of its own). `weight_decay` is added to
    the gradient, as in torch.optim.Adam.
    """
    gradient = gradient + weight_decay * values
    moments = np.stack([0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2])
    first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
    return values - learning_rate * first / (np.sqrt(second) + 1e-8), moments


@attrs.frozen
class UnitGramian:
    """Cosines between the task gradients that are not zero, made safely positive definite, and what leads back.

    Working on unit gradients keeps a small task's numbers apart from the rounding of a large one's. The ridge on the
    diagonal of `cosines` is above the rounding of the Gram matrix in its own dtype.
    """

    cosines: Array
    norms: Array
    live: NDArray[np.bool_]
    """Which of the T tasks have a gradient; `cosines` [K, K] and `norms` [K] are those of them."""

    ridge: float

    @classmethod
    def of(cls, gradients: TaskGradients, scale: Array | None = None) -> UnitGramian:
        """From lazy gradients, each multiplied by `scale` [T] if given; asks for the Gram matrix only."""
        gramian = gram_array(gradients)
        return cls.from_array(gramian if scale is None else gramian * np.outer(scale, scale), rounding_of(gradients))

    @classmethod
    def from_array(cls, gramian: Array, rounding: float = 2.3e-16) -> UnitGramian:
        """From a Gram matrix [T, T]; `rounding` is the machine precision that it was computed with."""
        norms = norms_of(gramian)
        live = norms > 0
        norms = norms[live]
        cosines = gramian[np.ix_(live, live)] / np.outer(norms, norms)
        ridge = max(1e-10, 4 * rounding * len(gramian))
        np.fill_diagonal(cosines, 1 + ridge)
        return cls(cosines, norms, live, ridge)

    def weights(self, units: Array) -> Array:
        """Weights [T] of the gradients from weights [K] of the unit gradients; a zero gradient gets 0."""
        found = np.zeros(len(self.live))
        found[self.live] = units / self.norms
        return found


def nonnegative_qp(matrix: Array, linear: Array, free: NDArray[np.bool_] | None = None) -> Array:
    """For each column q of `linear` [T, K] the x >= 0 that minimises x·Hx/2 + q·x, H = `matrix` positive definite.

    Block principal pivoting (Kim & Park 2011, algorithm 2) for all columns at once: exact up to rounding. A column that
    makes no progress (gradients of nearly full dependence) is finished by the active-set method of Lawson & Hanson.
    `free` [T, K] guesses which x are positive.
    """
    q = linear.T
    columns, count = q.shape
    free = q < 0 if free is None else free.T.copy()
    found = np.zeros_like(q)
    todo = np.flatnonzero((q < 0).any(axis=1))
    fewest = np.full(columns, count + 1)  # infeasible signs at best
    chances = np.full(columns, 3)
    tolerance = 1e-11 * np.abs(q).max(axis=1, initial=1e-300)
    while len(todo):
        mask = free[todo]
        # Each column's system on its positive entries, all padded to the largest with rows of the identity
        size = int(mask.sum(axis=1).max())
        index = np.argsort(~mask, axis=1, kind="stable")[:, :size]
        used = np.take_along_axis(mask, index, axis=1)
        both = used[:, :, None] & used[:, None, :]
        system = np.where(both, matrix[index[:, :, None], index[:, None, :]], np.eye(size))
        right = np.where(used, -np.take_along_axis(q[todo], index, axis=1), 0.0)
        x = np.zeros_like(mask, dtype=np.float64)
        np.put_along_axis(x, index, np.linalg.solve(system, right[:, :, None])[:, :, 0], axis=1)
        slack = x @ matrix + q[todo]
        bound = tolerance[todo, None]
        wrong = np.where(mask, x < -bound, slack < -bound)
        amount = wrong.sum(axis=1)
        found[todo] = np.maximum(np.where(mask, x, 0.0), 0.0)
        better = amount < fewest[todo]
        fewest[todo] = np.where(better, amount, fewest[todo])
        chances[todo] = np.where(better, 3, chances[todo] - 1)
        free[todo] ^= wrong
        for column in todo[chances[todo] < 0]:
            found[column] = _active_set(matrix, q[column], found[column], tolerance[column])
        todo = todo[(amount > 0) & (chances[todo] >= 0)]
    return found.T


def _active_set(matrix: Array, q: Array, x: Array, tolerance: float) -> Array:
    """`nonnegative_qp` for one column, from a feasible x: enters one entry at a time, leaves at the boundary."""
    free = x > 0
    for _ in range(10 * len(q) + 10):
        while free.any():
            wanted = np.zeros_like(x)
            wanted[free] = np.linalg.solve(matrix[np.ix_(free, free)], -q[free])
            leaving = free & (wanted <= 0)
            if not leaving.any():
                x = wanted
                break
            ratio = x[leaving] / (x[leaving] - wanted[leaving])
            x = np.maximum(x + ratio.min() * (wanted - x), 0)
            free &= ~leaving | (x > 0)
            free[np.flatnonzero(leaving)[ratio.argmin()]] = False
            x[~free] = 0
        slack = matrix @ x + q
        entering = int(np.where(free, np.inf, slack).argmin())
        if free[entering] or slack[entering] >= -tolerance:
            break
        free[entering] = True
    return x


def min_norm_weights(gramian: UnitGramian) -> Array:
    """Convex weights [T] of the shortest vector in the hull of the gradients; all on the zero ones if there are any."""
    if not gramian.live.all():
        dead = (~gramian.live).astype(np.float64)
        return np.asarray(dead / dead.sum())
    # x minimising x·Gx/2 - Σx has Gx >= 1, with equality where x > 0: x / Σx meets the conditions of the shortest one.
    raw = gramian.weights(nonnegative_qp(gramian.cosines, -1 / gramian.norms[:, None])[:, 0])
    return np.asarray(raw / raw.sum())


def proportional_weights(matrix: Array, rates: Array, power: float, start: Array | None = None) -> Array:
    """The x > 0 [T] with H x = rates · x^-power, H positive definite and rates positive, by Newton's method.

    It is the minimum of the strictly convex x·Hx/2 - Σ rates ψ(x), ψ' = x^-power, so steps are cut back until that
    falls.
    """

    def value(x: Array) -> float:
        barrier = np.log(x) if power == 1 else x ** (1 - power) / (1 - power)
        return float(x @ matrix @ x / 2 - rates @ barrier)

    if not len(rates):
        return rates
    x = rates ** (1 / (1 + power)) if start is None else start
    x = x * ((rates @ x ** (1 - power)) / (x @ matrix @ x)) ** (1 / (1 + power))  # the best multiple of the start
    height, last = value(x), np.inf
    for _ in range(200):
        pull = rates * x**-power
        slope = matrix @ x - pull
        error = float(np.abs(slope / pull).max())  # in each equation's own scale
        near = np.abs(slope * x).max() <= 1e-12 * (pull * x).max()
        if error <= 1e-12 or (near and error >= last):  # what rounding leaves
            break
        last = error
        step = np.linalg.solve(matrix + np.diag(power * pull / x), -slope)
        falling = step < 0
        length = min(1.0, 0.99 * float((-x[falling] / step[falling]).min(initial=np.inf)))
        descent = float(slope @ step)
        for _ in range(60):
            trial = value(x + length * step)
            if trial <= height + 1e-4 * length * descent + 1e-15 * abs(height):
                break
            length /= 2
        moved = x + length * step
        if np.array_equal(moved, x):
            break
        x, height = moved, trial
    return x


def project_to_simplex(values: Array) -> Array:
    """The nearest point [T] with non-negative entries that sum to one (Duchi et al. 2008, figure 1).

    RunError if it is not known: for a NaN, or an infinite value.
    """
    if not np.isfinite(values).all():
        raise RunError("weights of tasks are not finite; they cannot be projected to the simplex")
    # The same for all plus a constant: below the largest, the one that 1 is taken off keeps its digits
    with np.errstate(over="ignore"):
        values = np.maximum(values - values.max(), -2.0)  # further below than 1 counts nothing
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(ordered > excess)[-1])
    return np.asarray(np.maximum(values - excess[last], 0))


def pseudo_solve(matrix: Array, right: Array, ridge: float) -> Array:
    """The shortest least-squares solution of H x = `right`, where `matrix` is the symmetric H plus a ridge."""
    values, vectors = np.linalg.eigh(matrix)
    values = values - ridge
    kept = values > ridge
    return np.asarray((vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ right))
