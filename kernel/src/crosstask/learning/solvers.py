"""Small dense problems in the space of tasks, solved at every step by gradient balancers: float64, on the CPU.
 All of them work on a Gram matrix [T, T] of task gradients, never on the gradients themselves, so their cost
does not depend on the number of parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask.errors import RunError

if TYPE_CHECKING:
    from crosstask.learning.gradients import TaskGradients

Array = NDArray[np.float64]


def gram_array(gradients: TaskGradients) -> Array:
    """The Gram matrix as a symmetric float64 array [T, T]. RunError names a task whose gradient is not finite."""
    gramian = to_array(gradients.gramian)
    if not np.isfinite(gramian).all():
        diagonal = ~np.isfinite(gramian.diagonal())
        task = int(diagonal.argmax()) if diagonal.any() else int((~np.isfinite(gramian)).any(axis=1).argmax())
        raise RunError(f"the gradient of task {task} is not finite; gradients cannot be balanced")
    return (gramian + gramian.T) / 2


def to_array(values: Tensor) -> Array:
    """A float64 copy on the CPU."""
    return values.detach().to("cpu", torch.float64, copy=True).numpy()


def to_tensor(values: Array, like: Tensor) -> Tensor:
    """`values` with the dtype and on the device of `like`."""
    return torch.as_tensor(values).to(like)


def norms_of(gramian: Array) -> Array:
    """Norms of the gradients, [T]; rounding below zero counts as zero."""
    return np.sqrt(np.maximum(gramian.diagonal(), 0.0))


def inverse(values: Array) -> Array:
    """1 / values, and 0 where a value is 0: a zero gradient has no direction."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def adam_step(
    values: Array, gradient: Array, moments: Array, step: int, learning_rate: float, weight_decay: float = 0.0
) -> tuple[Array, Array]:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) on a vector [T]: new values, new moments [2, T].

    `moments` are zeros before `step` 1. `weight_decay` is added to the gradient, as in torch.optim.Adam.
    """
    gradient = gradient + weight_decay * values
    moments = np.stack([0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2])
    first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
    return values - learning_rate * first / (np.sqrt(second) + 1e-8), moments
