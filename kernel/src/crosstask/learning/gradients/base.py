"""What a balancer sees of the gradients of several losses, and gradients that are given as a matrix."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class TaskGradients(ABC):
    """Gradients g_t of T losses, as rows of a matrix [T, D] that may never be formed."""

    tasks: int
    """T."""
    _names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks, in the order of the rows; "0", "1", … where nobody has named them. What a balancer keeps for a
        task belongs to its name: other steps may have other tasks, or these in another order.
        """
        return self._names or tuple(map(str, range(self.tasks)))

    @property
    def named(self) -> bool:
        """Whether somebody has named them: the names are theirs in every step."""
        return bool(self._names)

    def name(self, names: Sequence[str]) -> None:
        """Give the tasks their names. ValueError unless they are as many, and no two are the same."""
        if len(set(names)) != self.tasks or len(names) != self.tasks:
            raise ValueError(f"{self.tasks} tasks need as many names that differ, got {list(names)}")
        self._names = tuple(names)

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """All gradients, [T, D]."""

    @property
    @abstractmethod
    def gramian(self) -> Tensor:
        """Inner products <g_s, g_t>, [T, T]."""

    @abstractmethod
    def dot(self, vector: Tensor) -> Tensor:
        """Inner products with a direction [D]: [T]."""

    @abstractmethod
    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        """`weights @ matrix + vector`, [D]; either part may be None."""


class MatrixGradients(TaskGradients):
    """Gradients given as a matrix [T, D]; `names` are those of the tasks, if they have any."""

    def __init__(self, matrix: Tensor, names: Sequence[str] = ()) -> None:
        if matrix.ndim != 2 or len(matrix) == 0:
            raise ValueError(f"task gradients must have shape [T, D] with T >= 1, got {tuple(matrix.shape)}")
        self._matrix, self.tasks = matrix, len(matrix)
        if names:
            self.name(names)

    @property
    def matrix(self) -> Tensor:
        return self._matrix

    @functools.cached_property
    def gramian(self) -> Tensor:
        found = inner_products(self._matrix)
        return inner_products(self._matrix.double()) if lost(found, lambda task: [self._matrix[task]]) else found

    def dot(self, vector: Tensor) -> Tensor:
        return self._matrix @ vector

    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        total = None if weights is None else weights.to(self._matrix) @ self._matrix
        if total is None:
            assert vector is not None
            return vector
        return total if vector is None else total.add_(vector)


def lost(gramian: Tensor, parts: Callable[[int], list[Tensor]]) -> bool:
    """Whether gradients are finite and not zero, but the squares of their lengths leave the range of single precision.

    `parts` gives tensors that are zero, or not finite, where a task's gradient is.
    """
    square = gramian.diagonal()
    odd = ~((square > _LEAST) & (square < torch.inf))
    if gramian.dtype is torch.float64 or not bool(odd.any()):
        return False
    found = (parts(task) for task in odd.nonzero().flatten().tolist())
    return any(all(bool(p.isfinite().all()) for p in of) and any(bool(p.any()) for p in of) for of in found)


_LEAST = 1e-30
"""Below this single precision has lost digits of a sum of squares."""


def inner_products(matrix: Tensor) -> Tensor:
    """`matrix @ matrix.T`; on a CPU in pieces that stay in its cache, where long rows would be read again and again."""
    if matrix.device.type != "cpu" or matrix.shape[1] <= _PIECE:
        return matrix @ matrix.T
    found = matrix.new_zeros(len(matrix), len(matrix))
    for piece in torch.split(matrix, _PIECE, dim=1):
        found.addmm_(piece, piece.T)
    return found


_PIECE = 65536
