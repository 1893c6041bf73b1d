"""Multi-task attention network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import evaluating, seeded
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_mtan.blocks import Attention, Block, Kind, Onward, Pointwise, joined, norm_for, resized
from crosstask_multitask.experts import example_of, parameters_of, parts_of, taken
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix
from crosstask_multitask.stages import stages_of


class Attended(HeadedModule):
    """A trunk in blocks that all tasks share, and for each task attention to what they give, and a head."""

    def __init__(self, blocks: Sequence[Block], example: Tensor | MultiInput, maker: HeadMaker) -> None:
        super().__init__({})
        self.blocks, self.maker = nn.ModuleList(blocks), maker
        self.attentions, self.norms, self.onward = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleList()
        self._plans: list[tuple[Kind, int, int, int]] = []  # of the attentions: kind, dimensions, channels in and out
        with torch.no_grad(), evaluating(self):
            shared, before, like = example, None, None
            for number, block in enumerate(blocks):
                looked_at, attended = block(shared)
                kind, channel = block.kind(looked_at), Pointwise.channels[block.kind(looked_at)]
                if block.kind(attended) != kind or attended.ndim != looked_at.ndim:
                    shapes = f"{tuple(looked_at.shape)} and {tuple(attended.shape)}"
                    raise DataError(f"MTAN: block {number + 1} of the trunk begins and ends with features of unlike "
                                    f"kinds, {shapes}: take smaller blocks")  # fmt: skip
                if before is not None:
                    with seeded(maker.seed_for(f"onward {number}")):
                        self.onward.append(Onward(*before, kind, looked_at))
                width = looked_at.shape[channel] * (1 if before is None else 2)
                self._plans.append((kind, attended.ndim, width, attended.shape[channel]))
                before = (kind, attended, block.tail)
                shared, like = block.tail(attended), attended
        self.onward.to(like)

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        return self._attended(batch, rows)[0]

    def _attended(self, batch: Tensor | MultiInput, rows: Rows) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """For each task the features, and the masks of its blocks."""
        blocks = [cast(Block, block) for block in self.blocks]
        shared, given = batch, []
        for block in blocks:
            looked_at, attended = block(shared)
            given.append((looked_at, attended))
            if block is not blocks[-1]:
                shared = block.tail(attended)
        features: dict[str, Tensor] = {}
        masks: dict[str, list[Tensor]] = {}
        for task, places in rows.items():
            own, masks[task] = Tensor(), []
            for number, (block, (looked_at, attended)) in enumerate(zip(blocks, given, strict=True)):
                seen, target = taken(looked_at, places), taken(attended, places)
                if number:
                    norm = cast(nn.ModuleList, self.norms[key(task)])[number - 1]
                    onward = self.onward[number - 1](own, blocks[number - 1].tail, seen, norm)
                    seen = joined([seen, onward], block.kind(seen))
                mask = cast(nn.ModuleList, self.attentions[key(task)])[number](seen)
                mask = mask if mask.shape == target.shape else resized(mask, target)
                masks[task].append(mask)
                own = mask * target
            features[task] = blocks[-1].tail(own)
        return features, masks

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        rows = []
        for task, batch in inputs.items():
            masks = self._attended(batch, {task: slice(None)})[1][task]
            rows.append(tuple(float(mask.mean()) for mask in masks))
        names = tuple(f"block {number + 1}" for number in range(len(self.blocks)))
        told = "the mean of the mask that each task lays on the features of each block"
        return [
            SharingMatrix(
                name="Attention of each task", rows=tuple(inputs), columns=names, values=tuple(rows), told=told
            )
        ]

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return parameters_of([self.blocks, self.onward])

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return parameters_of([each[key(task_id)] for each in (self.attentions, self.norms, self.heads)])

    def make_parts(self, task: Task) -> nn.Module:
        head = self.maker.make(task, _Shared(self.blocks))
        with seeded(self.maker.seed_for(task, "attention")):
            made = nn.ModuleList(Attention(*plan) for plan in self._plans)
        onward = [cast(Onward, each).layer for each in self.onward]
        norms = nn.ModuleList(norm_for(each.kind, each.outputs) for each in onward)
        like, name = next(head.parameters()), key(task.task_id)
        self.attentions[name], self.norms[name] = (each.to(like).train(self.training) for each in (made, norms))
        return head


class _Shared(nn.Module):
    """The blocks as a trunk."""

    whole_inputs = True

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, batch: Tensor | MultiInput) -> Tensor:
        for block in self.blocks:
            batch = cast(Block, block).tail(block(batch)[1])
        assert isinstance(batch, Tensor)
        return batch


@component
class MTAN(Sharing):
    """One trunk, of whose features in every block each task has a mask of its own (Liu et al. 2019, equations 1 and 2).

    Of block j with first features u and last features p, task i takes â_i = a_i ⊙ p, where the mask is
    a_i = h_i(g_i([u; f(â_i of block j - 1)])), of the first block h_i(g_i(u)). g and h are the task's: 1x1 convolutions
    with batch normalisation (of vectors linear layers with layer normalisation), ReLU after g and sigmoid after h. f is
    shared: a 3x3 convolution with normalisation and ReLU, pooled to the next block's size (a linear layer between
    vectors); its normalisation alone is the task's own, as tasks attend to unlike features. A block is `block` stages
    of the trunk (a layer with weights and what follows it); a mask lies on its maps before they are pooled, and what it
    lets through is pooled as the trunk does. A trunk that is no nn.Sequential is one block. DataError for a task
    without output_dim, or a block that begins with maps and ends with vectors.
    """

    block: int = option(1, ge=1, help="how many of the trunk's layers with weights each mask belongs to")
    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("MTAN: no tasks to build attention and heads for")
        example, count = example_of(trunk, tasks[0]), len(stages_of(trunk))
        sizes = [min(self.block, count - start) for start in range(0, count, self.block)]
        blocks = [Block(part) for part in parts_of(trunk, sizes)]
        module = Attended(blocks, example, HeadMaker(self.hidden, self.context.seed, "mtan"))
        for task in tasks:
            module.add_task(task)
        return module
