"""Gradients of one linear layer for T losses, kept as what they are made of: output gradients and inputs.

The gradient of loss t on a weight is δ_tᵀ X, with δ_t [N, out] and X [N, in], and that on the bias is δ_tᵀ 1. So
<g_s, g_t> = <δ_s, (X Xᵀ + 1) δ_t>, and neither inner products nor weighted sums need the T gradients themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crosstask.learning.gradients.graph import LinearLayer

FLOAT_MOVED = 10.0
"""What writing or reading a number in memory costs, in multiplications: 7 on the CPU measured, more on GPUs."""

CHUNK = 8
"""Tasks whose products with X Xᵀ are held at a time."""


class LayerGradients:
    """Output gradients of a layer: rows [R, out], those of loss 0 first, each loss's uses of the layer in order.

    Where every loss reaches every use, the rows are [T, N] and share the N inputs.
    """

    def __init__(self, layer: LinearLayer, tasks: int, dtype: torch.dtype) -> None:
        self.layer, self.tasks = layer, tasks
        self.dense = all(use.reach == (1 << tasks) - 1 for use in layer.uses)
        self.outputs, self.width = layer.weight.shape
        self._inputs = [use.inputs.to(dtype) for use in layer.uses]
        lengths = [len(inputs) for inputs in self._inputs]
        self.places: list[list[tuple[int, int, int]]] = []  # for each loss: (use, first row, row after the last)
        self.starts, rows = [0], 0
        for task in range(tasks):
            self.places.append([])
            for number, use in enumerate(layer.uses):
                if use.reach >> task & 1:
                    self.places[-1].append((number, rows, rows + lengths[number]))
                    rows += lengths[number]
            self.starts.append(rows)
        self.rows = torch.empty(0)
        self._size, self._dtype = rows, dtype

    # What it would cost, in multiplications, to go this way and to form the gradients

    def cost(self) -> float:
        """Of the Gram matrix, an inner product with a direction (every other time) and a weighted sum."""
        rows, inputs, outputs = self._size, self.width, self.outputs
        if self.dense:
            n = rows // self.tasks
            products = n * n * inputs + rows * n * outputs + self.tasks * rows * outputs / 2
            return products + 1.5 * n * inputs * outputs + 4 * FLOAT_MOVED * rows * outputs
        return rows * rows * (inputs + outputs) + 1.5 * rows * inputs * outputs + 4 * FLOAT_MOVED * rows * outputs

    def cost_of_forming(self) -> float:
        """Of the same from gradients in a buffer: made, copied, read for the Gram matrix and for the sum."""
        size = self.width * self.outputs
        return self._size * size + self.tasks**2 * size / 2 + 4 * FLOAT_MOVED * self.tasks * size

    # Filling

    def allocate(self) -> None:
        self.rows = torch.zeros(self._size, self.outputs, dtype=self._dtype, device=self.layer.weight.device)

    def put(self, task: int, found: Sequence[Tensor | None]) -> None:
        """The gradients of one loss on the output of each use."""
        for use, first, last in self.places[task]:
            gradient = found[use]
            if gradient is not None:
                self.rows[first:last].copy_(gradient)

    # Asking

    @property
    def inputs(self) -> Tensor:
        """Inputs of the rows: [N, in] for all losses where they share them, else [R, in]."""
        if self.dense:
            return self._inputs[0] if len(self._inputs) == 1 else torch.cat(self._inputs)
        return torch.cat([self._inputs[use] for places in self.places for use, _, _ in places])

    def gramian(self) -> Tensor:
        inputs, tasks = self.inputs, self.tasks
        kernel = inputs @ inputs.T
        if self.layer.bias is not None:
            kernel += 1
        if not self.dense:
            kernel *= self.rows @ self.rows.T
            return self._per_task(self._per_task(kernel).T)
        flat = self.rows.view(tasks, -1)
        rows = self.rows.view(tasks, -1, self.outputs)
        gramian = flat.new_empty(tasks, tasks)
        for first in range(0, tasks, CHUNK):  # symmetric: what is above the diagonal block is known already
            part = slice(first, first + CHUNK)
            block = flat[first:] @ torch.matmul(kernel, rows[part]).flatten(1).T
            gramian[first:, part] = block
            gramian[part, first:] = block.T
        return gramian

    def dot(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Inner products of the T gradients with a direction."""
        product = self.inputs @ weight.T
        if bias is not None:
            product += bias
        if self.dense:
            return self.rows.view(self.tasks, -1) @ product.flatten()
        return self._per_task((self.rows * product).sum(1))

    def assemble(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the gradients on the weight and on the bias: one weight product."""
        if self.dense:
            combined = (weights @ self.rows.view(self.tasks, -1)).view(-1, self.outputs)
        else:
            lengths = torch.tensor([b - a for a, b in zip(self.starts, self.starts[1:], strict=False)])
            combined = self.rows * weights.repeat_interleave(lengths.to(weights.device))[:, None]
        return combined.T @ self.inputs, combined.sum(0)

    def form(self, task: int) -> tuple[Tensor, Tensor]:
        """The gradient of one loss on the weight and on the bias."""
        weight = self.rows.new_zeros(self.outputs, self.width)
        for use, first, last in self.places[task]:
            weight.addmm_(self.rows[first:last].T, self._inputs[use])
        return weight, self.rows[self.starts[task] : self.starts[task + 1]].sum(0)

    def _per_task(self, values: Tensor) -> Tensor:
        """Sums over each loss's rows."""
        pairs = zip(self.starts, self.starts[1:], strict=False)
        return torch.stack([values[first:last].sum(0) for first, last in pairs])
