"""Rotation-based gradient balancing in the (T+1) x (T+1) Gram matrix of the gradients and their consensus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, with_kept
from crosstask.learning.gradients.solvers import (
    Array,
    check_lasting,
    gram_array,
    inverse,
    norms_of,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer, Direction

PARALLEL = 0.999
"""A task whose cosine with the consensus exceeds this in magnitude is not rotated: its plane is undefined."""
VANISHED = 1e-12
"""Squared length, relative to unit vectors, below which a sum of gradients has no direction."""


@component
class RGB(Balancer):
    """Rotates each unit task gradient toward a consensus by an angle of its own, and takes the mean.

    With unit gradients g_i and y the unit mean of them, the consensus is d ← unit(mu d + (1 - mu) y) (d = y
    at first). Task i turns in the plane of g_i and d: r_i = cos a_i g_i + sin a_i w_i with w_i = unit(d -
    (g_i·d) g_i). The angles minimise

        1/(T(T-1)) Σ_{i<j} (1 - r_i·r_j)  +  lambd/(4T) Σ_i |r_i - g_i|²

    by `alpha_steps` gradient steps of size `lr_inner`, starting from those of the step before. An angle stays
    between 0 and the angle from g_i to d, and below pi/2. The update is the mean of the r_i: its length does
    not depend on the length of the task gradients.

    Each r_i is A_i g_i + B_i d, so objective, angle gradients (closed form) and answer need only the inner
    products of g_1 … g_T and d: one Gram matrix, one product with the d of the step before, one weighted sum
    for the new d. No array of size [T, D] is formed. State: d [D], which all tasks share, and the angles by task.

    A zero gradient stays zero and is not rotated; a task with |g_i·d| > 0.999 is not rotated; one task alone gives its
    unit gradient. A new task's angle starts at zero, and so do all where tasks without names are not as many as before;
    d starts anew where what the tasks share is of another size than before. RunError for gradients on features, in
    which d would mean nothing one batch later. In steps between two `update_interval`s the mean of the g_i is used, and
    d and the angles stay as they are.

    Source: Rotation-Based Gradient Balancing (RGB), openreview.net/forum?id=l0QAezg8HX; the closed form is
    ours.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})
    results_version: ClassVar[int] = 2

    mu: float = option(0.9, help="how much of the old consensus is kept", ge=0, lt=1)
    lambd: float = option(1.0, help="weight of staying near the original gradients", ge=0)
    alpha_steps: int = option(3, help="gradient steps on the angles in each update", ge=1)
    lr_inner: float = option(0.2, help="step size for the angles", gt=0)
    update_interval: int = option(1, help="solve for the angles every so many updates", ge=1)
    adaptive: bool = option(False, help="1 to 10 angle steps, from how unevenly losses change, in place of alpha_steps")

    consensus: Tensor | None = state(None)
    angles: Kept = state(factory=dict)
    last_losses: Kept = state(factory=dict)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        check_lasting(self.origin, gradients)
        gramian = gram_array(gradients)
        lengths = inverse(norms_of(gramian))  # turns raw gradients into unit ones
        steps = self._steps(losses, gradients.names)
        solve = self.updates % self.update_interval == 0
        self.updates += 1
        cosines = gramian * np.outer(lengths, lengths)
        several = len(lengths) > 1
        known = self._turn_consensus(gradients, cosines, lengths, losses) if solve and several else None
        if known is None:
            return to_tensor(lengths / len(lengths), losses)
        consensus, along = known
        if not gradients.named and set(self.angles) != set(gradients.names):
            self.angles = {}  # others than before, and nobody knows which
        start = kept_of(self.angles, gradients.names)
        angles = solve_angles(cosines, along, start, steps, self.lr_inner, self.lambd)
        self.angles = with_kept(self.angles, gradients.names, angles)
        kept, turned = rotation(angles, along)
        return Direction(
            vector=consensus * float(turned.mean()), weights=to_tensor(kept * lengths / len(lengths), losses)
        )

    def _turn_consensus(
        self, gradients: TaskGradients, cosines: Array, lengths: Array, like: Tensor
    ) -> tuple[Tensor, Array] | None:
        """The new d [D] and its cosines with the tasks [T]; None while the gradients have no consensus."""
        square = cosines.sum()  # |Σ g_i|²
        scale = 1 / math.sqrt(square) if square > VANISHED * len(lengths) ** 2 else 0.0  # y = scale Σ g_i
        along = scale * cosines.sum(axis=1)  # y·g_i
        old = self.consensus
        if old is None or len(old) != _size(gradients):  # what is shared has changed
            if not scale:
                return None
            turned = gradients.assemble(to_tensor(lengths * scale, like), None)
        else:
            add = (1 - self.mu) * scale
            along = self.mu * to_array(gradients.dot(old)) * lengths + (1 - self.mu) * along
            turned = gradients.assemble(to_tensor(lengths * add, like), old * self.mu)
        length = float(turned.norm())
        if length**2 <= VANISHED:  # y points exactly against d, and mu is a half
            return None
        self.consensus = turned / length
        return self.consensus, along / length

    def _steps(self, losses: Tensor, names: Sequence[str]) -> int:
        """`alpha_steps`; if `adaptive` 1 + 9 s/(s + 1), s the standard deviation of the relative loss changes since the
        tasks' last steps.
        """
        if not self.adaptive:
            return self.alpha_steps
        known = np.array([name in self.last_losses for name in names])
        before, now = kept_of(self.last_losses, names), to_array(losses)
        self.last_losses = with_kept(self.last_losses, names, now)
        if not known.any():
            return 1
        spread = float(np.std(((now - before) / np.maximum(np.abs(before), 1e-12))[known]))
        return round(1 + 9 * spread / (spread + 1))


def _size(gradients: TaskGradients) -> int:
    """D."""
    found: int | None = getattr(gradients, "size", None)
    return gradients.matrix.shape[1] if found is None else found


def solve_angles(cosines: Array, along: Array, start: Array, steps: int, rate: float, proximity: float) -> Array:
    """Angles [T] after `steps` projected gradient steps from `start`.

    `cosines` [T, T] are those between tasks (0 for a zero gradient), `along` [T] those with the consensus.
    """
    count = len(along)
    turnable = (np.abs(along) <= PARALLEL) & (cosines.diagonal() > 0)
    # Up to the consensus and no further, and never a full quarter turn.
    limit = np.minimum(np.arccos(np.clip(along, -1, 1)), np.nextafter(math.pi / 2, 0)) * turnable
    angles = np.clip(start, 0, limit)
    sine = _sines(along)
    for _ in range(steps):
        kept, turned = rotation(angles, along)
        # R = Σ r_i, and (1/(T(T-1))) Σ_{i<j} (1 - r_i·r_j) = const - |R|² / (2T(T-1)); r_i'·r_i = 0 since
        # |r_i| = 1
        with_tasks = cosines @ kept + along * turned.sum()
        with_consensus = along @ kept + turned.sum()
        kept_slope = -np.sin(angles) - np.cos(angles) * along / sine
        turned_slope = np.cos(angles) / sine
        conflict = -(kept_slope * with_tasks + turned_slope * with_consensus) / (count * (count - 1))
        angles = np.clip(angles - rate * (conflict + proximity / (2 * count) * np.sin(angles)), 0, limit)
    return angles


def rotation(angles: Array, along: Array) -> tuple[Array, Array]:
    """A and B [T] of r_i = A_i g_i + B_i d."""
    sine = _sines(along)
    return np.cos(angles) - np.sin(angles) * along / sine, np.sin(angles) / sine


def _sines(along: Array) -> Array:
    # For tasks that do not turn the angle is 0, and what is returned here does not matter.
    return np.sqrt(np.maximum(1 - along**2, 1 - PARALLEL**2))
