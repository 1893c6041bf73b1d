"""Heads that a hyper-network makes from an embedding of each task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import forward, seeded
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.freezing import Freezable
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.heads import features_of
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Generator(nn.Module):
    """From the embedding of an output [O, meta_dim] to its weights [O, width] and its bias [O].

    ReLU layers of `dims`, drawn by He et al. (2015), so that the last of them keeps the embedding's mean square; from
    there one layer makes weights and another biases, both scaled by 1/√width, so that features of mean square 1 give
    logits of mean square 1. There is no dropout: it would draw other weights each time.
    """

    def __init__(self, meta_dim: int, dims: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((meta_dim, *dims)):
            linear = nn.Linear(before, after)
            nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        self.layers, self.scale = nn.Sequential(*layers), 1 / math.sqrt(width)
        last = dims[-1] if dims else meta_dim
        self.weight, self.bias = nn.Linear(last, width), nn.Linear(last, 1)
        for made in (self.weight, self.bias):
            nn.init.normal_(made.weight, std=1 / math.sqrt(last))
            nn.init.zeros_(made.bias)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(embedding)
        return self.weight(hidden) * self.scale, self.bias(hidden)[:, 0] * self.scale


class GeneratedLayer(nn.Module):
    """A linear layer, or a 1x1 convolution, whose weights are made from `embedding` [outputs, meta_dim]."""

    def __init__(self, outputs: int, meta_dim: int, generator: Generator, *, convolves: bool) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(outputs, meta_dim))
        self.convolves, self._made_by = convolves, (generator,)  # in a tuple: its weights are not this layer's own

    def made(self) -> tuple[Tensor, Tensor]:
        """Weights [outputs, F] and biases [outputs]."""
        found: tuple[Tensor, Tensor] = self._made_by[0](self.embedding)
        return found

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self.made()
        if self.convolves:
            return functional.linear(features.movedim(1, -1), weight, bias).movedim(-1, 1)
        return functional.linear(features, weight, bias)


class GeneratedHeads(Freezable, HeadedModule):
    """A trunk, and the hyper-network that makes all heads on its features."""

    def __init__(self, trunk: nn.Module, generator: Generator, maker: HeadMaker, meta_dim: int) -> None:
        super().__init__({})
        self.trunk, self.generator, self.maker, self.meta_dim = trunk, generator, maker, meta_dim

    def make_parts(self, task: Task) -> nn.Module:
        features = features_of(self.trunk, task)
        width, made = _width(features), self.generator.weight.out_features
        if width != made:
            raise DataError(f"task {task.task_id!r}: the trunk gives {width} features, the heads are made for {made}")
        plain = self.maker.fitting(task, features)
        with seeded(self.maker.seed_for("embedding", task)):
            return self._generated(plain).to(features)

    def _generated(self, head: nn.Module) -> nn.Module:
        """The same head with a generated layer in place of the one that has weights."""
        if isinstance(head, nn.Sequential):
            return nn.Sequential(*map(self._generated, head))
        if isinstance(head, nn.Linear):
            return GeneratedLayer(head.out_features, self.meta_dim, self.generator, convolves=False)
        if isinstance(head, _CONVOLUTIONS):
            return GeneratedLayer(head.out_channels, self.meta_dim, self.generator, convolves=True)
        return head

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        features = forward(self.trunk, batch)
        return {task: features[places] for task, places in rows.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return itertools.chain(self.trunk.parameters(), self.generator.parameters())

    def generated(self, task_id: str) -> tuple[Tensor, Tensor]:
        """The weights [outputs, F] and biases [outputs] of a task's head, with graph."""
        layer = next(each for each in self.heads[key(task_id)].modules() if isinstance(each, GeneratedLayer))
        return layer.made()

    def add_task(self, task: Task) -> None:
        """Give it another task: rows of an embedding, which alone are learned from then on (`thaw` ends that)."""
        super().add_task(task)
        self.thaw()
        others = (self.heads[key(other)] for other in self.tasks if other != task.task_id)
        self.freeze(self.trunk, self.generator, *others)

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        """How much of what one task's head looks at another's looks at, too: with orthonormal bases A and B of the rows
        of their weights ‖A·Bᵀ‖² / rank A, which is 1 where A's lie within B's and 0 where they have nothing in common.
        """
        bases = {task: _basis(self.generated(task)[0]) for task in self.tasks}
        values = tuple(
            tuple(float((bases[row] @ bases[other].mT).square().sum()) / max(1, len(bases[row])) for other in bases)
            for row in inputs
        )
        return [
            SharingMatrix(
                name="What each task's head looks at",
                rows=tuple(inputs),
                columns=tuple(bases),
                values=values,
                told="the part of the features that the row's head looks at which the column's looks at as well",
            )
        ]


@component
class HyperHeads(Sharing):
    """All tasks share the trunk and a hyper-network, which makes the weights of each task's head from an embedding: Ha
    et al., HyperNetworks (2017), section 3.1.

    A task has `meta_dim` numbers for each of its outputs, and nothing else of its own. A task that is added is new rows
    of the embedding, found by training with all else frozen, so that no other answer moves by a bit.
    """

    meta_dim: int = option(16, ge=1, help="numbers in the embedding of one output")
    meta_network_dims: tuple[int, ...] = option((64, 32), ge=1, help="widths of the hyper-network's layers")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("hyper-heads: no tasks to make heads for")
        maker = HeadMaker(0, self.context.seed, "hyper_heads")
        features = features_of(trunk, tasks[0])
        with seeded(maker.seed_for("generator")):
            generator = Generator(self.meta_dim, self.meta_network_dims, _width(features)).to(features)
        module = GeneratedHeads(trunk, generator, maker, self.meta_dim)
        for task in tasks:
            HeadedModule.add_task(module, task)
        return module


def _width(features: Tensor) -> int:
    return features.shape[1 if features.ndim > 3 else -1]


def _basis(weight: Tensor) -> Tensor:
    """An orthonormal basis of the rows of weights [O, F]: [rank, F]."""
    _, sizes, rows = torch.linalg.svd(weight.double(), full_matrices=False)
    least = float(sizes.max()) * max(weight.shape) * torch.finfo(weight.dtype).eps
    return rows[sizes > least]
