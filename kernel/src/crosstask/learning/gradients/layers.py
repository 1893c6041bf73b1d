"""Gradients of one linear layer for T losses, kept as what they are made of: output gradients and inputs.

The gradient of loss t on a weight is δ_tᵀ X, with δ_t [N, out] and X [N, in], and that on the bias is δ_tᵀ 1. So
<g_s, g_t> = <δ_s, (X Xᵀ + 1) δ_t>, and neither inner products nor weighted sums need the T gradients themselves.

On several ranks X and δ are the rows of all of them. For inner products the ranks exchange theirs, and each multiplies
its own with everybody's; weighted sums and products with a direction are of each rank's own rows, to be added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.learning.gradients.collective import Group
from crosstask.learning.gradients.graph import LinearLayer

FLOAT_MOVED = 10.0
"""What writing or reading a number in memory costs, in multiplications: 7 on the CPU measured, more on GPUs."""

FLOAT_SENT = 30.0
"""What a number costs that is sent to another rank, in the same: by gloo within a machine; more between machines."""

CHUNK = 8
"""Tasks whose products with X Xᵀ are held at a time."""


class LayerGradients:
    """Output gradients of a layer: rows [R, out], those of loss 0 first, each loss's uses of the layer in order.

    Where every loss reaches every use, the rows are [T, N] and share the N inputs.
    """

    def __init__(self, layer: LinearLayer, tasks: int, dtype: torch.dtype, group: Group) -> None:
        self.layer, self.tasks, self.group = layer, tasks, group
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

    @property
    def shape(self) -> list[int]:
        """What the ranks must have in common to go this way together."""
        return [self.outputs, self.width, self._size, *(row for at in self.places for use in at for row in use)]

    # What it would cost, in multiplications, to go this way and to form the gradients

    def cost(self) -> float:
        """Of the Gram matrix, an inner product with a direction (every other time) and a weighted sum."""
        rows, inputs, outputs, ranks = self._size, self.width, self.outputs, self.group.size
        moved = 4 * FLOAT_MOVED * rows * outputs
        shared = rows // self.tasks if self.dense else rows  # rows of inputs
        if ranks > 1:  # every rank's rows come here, and the sum goes around
            sent = (ranks - 1) * (rows * outputs + shared * inputs)
            moved += FLOAT_SENT * (sent + 2 * (ranks - 1) / ranks * inputs * outputs)
        if self.dense:
            pairs = self.tasks / 2 if ranks == 1 else self.tasks  # one rank's part is not symmetric
            products = ranks * (shared * shared * inputs + rows * shared * outputs) + pairs * rows * outputs
            return products + 1.5 * shared * inputs * outputs + moved
        return ranks * rows * rows * (inputs + outputs) + 1.5 * rows * inputs * outputs + moved

    def cost_of_forming(self) -> float:
        """Of the same from gradients in a buffer: made, copied, read for the Gram matrix and for the sum."""
        size, ranks = self.width * self.outputs, self.group.size
        sent = FLOAT_SENT * 2 * (ranks - 1) / ranks * self.tasks * size  # for the means of the matrix
        return self._size * size + self.tasks**2 * size / 2 + 4 * FLOAT_MOVED * self.tasks * size + sent

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
        """[T, T]; on several ranks this one's part of the sum, of its own rows with everybody's."""
        inputs, tasks, ranks = self.inputs, self.tasks, self.group.size
        kernel = inputs @ self.group.gather(inputs).T
        if self.layer.bias is not None:
            kernel += 1
        everybody = self.group.gather(self.rows)
        if not self.dense:
            kernel *= self.rows @ everybody.T
            return self._per_task(self._per_task(kernel).view(tasks, ranks, -1).sum(1).T)
        flat = self.rows.view(tasks, -1)
        rows = everybody.view(ranks, tasks, -1, self.outputs).transpose(0, 1).reshape(tasks, -1, self.outputs)
        gramian = flat.new_empty(tasks, tasks)
        for first in range(0, tasks, CHUNK):
            part = slice(first, first + CHUNK)
            begin = first if ranks == 1 else 0  # one rank's is symmetric: what is above the diagonal block is known
            block = flat[begin:] @ torch.matmul(kernel, rows[part]).flatten(1).T
            gramian[begin:, part] = block
            if ranks == 1:
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

    def of_parameters(self, on_weight: Tensor, on_bias: Tensor) -> dict[nn.Parameter, Tensor]:
        """What belongs to the weight, and to the bias if there is one."""
        bias = self.layer.bias
        return {self.layer.weight: on_weight} if bias is None else {self.layer.weight: on_weight, bias: on_bias}

    def _per_task(self, values: Tensor) -> Tensor:
        """Sums over each loss's rows."""
        pairs = zip(self.starts, self.starts[1:], strict=False)
        return torch.stack([values[first:last].sum(0) for first, last in pairs])
