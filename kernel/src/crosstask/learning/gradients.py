"""Gradients of several losses with respect to shared parameters, computed no sooner and no further than asked.

All of it is exact; a balancer that only looks at losses costs one backward pass.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import RunError


class TaskGradients(ABC):
    """Gradients g_t of T losses, as rows of a matrix [T, D] that may never be formed."""

    tasks: int

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
    """Gradients given as a matrix [T, D]."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or len(matrix) == 0:
            raise ValueError(f"task gradients must have shape [T, D] with T >= 1, got {tuple(matrix.shape)}")
        self._matrix, self.tasks = matrix, len(matrix)

    @property
    def matrix(self) -> Tensor:
        return self._matrix

    @functools.cached_property
    def gramian(self) -> Tensor:
        return self._matrix @ self._matrix.T

    def dot(self, vector: Tensor) -> Tensor:
        return self._matrix @ vector

    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        total = None if weights is None else weights.to(self._matrix) @ self._matrix
        if total is None:
            assert vector is not None
            return vector
        return total if vector is None else total + vector


class LossGradients(TaskGradients):
    """Gradients of scalar losses by autograd: nothing is computed until something is asked for."""

    def __init__(self, losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> None:
        self.losses, self.shared, self.tasks = list(losses), list(shared), len(losses)
        self._formed: MatrixGradients | None = None

    @property
    def formed(self) -> bool:
        """Whether the matrix was computed."""
        return self._formed is not None

    def _form(self) -> MatrixGradients:
        if self._formed is None:
            size = sum(p.numel() for p in self.shared)
            buffer = torch.zeros(self.tasks, size, dtype=self.shared[0].dtype, device=self.shared[0].device)
            for row, loss in zip(buffer, self.losses, strict=True):
                found = torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)
                offset = 0
                for parameter, gradient in zip(self.shared, found, strict=True):
                    if gradient is not None:  # a task need not reach every shared parameter
                        row[offset : offset + parameter.numel()] = gradient.reshape(-1)
                    offset += parameter.numel()
            self._formed = MatrixGradients(buffer)
        return self._formed

    @property
    def matrix(self) -> Tensor:
        return self._form().matrix

    @property
    def gramian(self) -> Tensor:
        return self._form().gramian

    def dot(self, vector: Tensor) -> Tensor:
        return self._form().dot(vector)

    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        return self._form().assemble(weights, vector)


def gradients_of(losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> LossGradients:
    """Lazy gradients of `losses` (scalars with a graph) on `shared`. RunError if a loss is not finite or has no graph."""
    if not losses:
        raise ValueError("no losses to balance")
    parameters = [p for p in shared if p.requires_grad]
    if not parameters:
        raise ValueError("no shared parameters that need a gradient")
    for number, loss in enumerate(losses):
        if loss.ndim != 0:
            raise ValueError(f"loss {number} must be a scalar, got shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise RunError(f"loss {number} has no graph: nothing to differentiate")
    values = torch.stack([loss.detach() for loss in losses])
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise RunError(f"loss {bad} is {float(values[bad])}; gradients cannot be balanced")
    return LossGradients(losses, parameters)


def write_gradients(
    gradients: LossGradients,
    weights: Tensor | None,
    vector: Tensor | None,
    task_specific: list[nn.Parameter] | None,
    weighs_losses: bool,
) -> Tensor:
    """Add the update to `.grad` of the shared parameters, and each task-specific parameter's own gradient to its.

    Returns the weights [T] (ones where the update is not a weighted sum).
    """
    losses = gradients.losses
    ones = torch.ones(len(losses), dtype=losses[0].dtype, device=losses[0].device)
    specific = [p for p in task_specific or () if p.requires_grad]
    if weights is not None and vector is None and not gradients.formed:
        # One backward pass does everything: the cheap path of loss weighting.
        _accumulate_sum(losses, weights.to(ones), gradients.shared, specific, ones if not weighs_losses else None)
        return weights.detach()
    update = gradients.assemble(weights, vector)
    offset = 0
    for parameter in gradients.shared:
        part = update[offset : offset + parameter.numel()].view_as(parameter)
        parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part
        offset += parameter.numel()
    if specific:
        scale = weights.to(ones) if weighs_losses and weights is not None else ones
        _accumulate(torch.autograd.grad((torch.stack(losses) * scale).sum(), specific, allow_unused=True), specific)
    return ones if weights is None else weights.detach()


def _accumulate_sum(
    losses: list[Tensor],
    weights: Tensor,
    shared: list[nn.Parameter],
    specific: list[nn.Parameter],
    own: Tensor | None,
) -> None:
    stacked = torch.stack(losses)
    if own is None or not specific:
        everything = [*shared, *specific]
        _accumulate(torch.autograd.grad((stacked * weights).sum(), everything, allow_unused=True), everything)
        return
    _accumulate(torch.autograd.grad((stacked * weights).sum(), shared, allow_unused=True, retain_graph=True), shared)
    _accumulate(torch.autograd.grad((stacked * own).sum(), specific, allow_unused=True), specific)


def _accumulate(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def shared_leaves(losses: Sequence[Tensor]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters that two or more losses reach, parameters that exactly one reaches), found by walking the graphs.

    With a single loss everything counts as shared.
    """
    order: dict[int, nn.Parameter] = {}
    reach: dict[int, int] = {}
    for loss in losses:
        for leaf in _leaves(loss):
            order[id(leaf)] = leaf
            reach[id(leaf)] = reach.get(id(leaf), 0) + 1
    least = min(2, len(losses))
    shared = [p for key, p in order.items() if reach[key] >= least]
    return shared, [p for key, p in order.items() if reach[key] < least]


def _leaves(loss: Tensor) -> list[nn.Parameter]:
    found: dict[int, Any] = {}
    stack, seen = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad: a leaf
            found[id(node.variable)] = node.variable
        stack += [next_node for next_node, _ in node.next_functions]
    return list(found.values())


def conflict_metrics(gramian: Tensor) -> dict[str, float]:
    """Conflict among T task gradients from their Gram matrix [T, T].

    `mean_cosine` over pairs, `conflict_share` of pairs with a negative inner product, and `magnitude_similarity`, the mean
    over pairs of 2|g_s||g_t| / (|g_s|² + |g_t|²) (Yu et al. 2020, definition 3). A zero gradient conflicts with nothing.
    """
    count = len(gramian)
    if count < 2:
        return {"mean_cosine": 1.0, "conflict_share": 0.0, "magnitude_similarity": 1.0}
    square = gramian.diagonal().clamp_min(0)
    norms = square.sqrt()
    rows, columns = torch.triu_indices(count, count, 1, device=gramian.device)
    tiny = torch.finfo(gramian.dtype).tiny
    products = norms[rows] * norms[columns]
    cosine = gramian[rows, columns] / products.clamp_min(tiny)
    similarity = 2 * products / (square[rows] + square[columns]).clamp_min(tiny)
    return {
        "mean_cosine": float(cosine.mean()),
        "conflict_share": float((cosine < 0).to(cosine.dtype).mean()),
        "magnitude_similarity": float(similarity.mean()),
    }
