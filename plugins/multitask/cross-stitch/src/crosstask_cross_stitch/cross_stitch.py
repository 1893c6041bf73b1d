"""Cross-stitch networks: a network for each task, which after every stage take something of each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import forward
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.heads import features_of
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix
from crosstask_multitask.stages import copies_of, stages_of


class Shares(nn.Module):
    """What one task takes of each task's activations at one place: α [T], or [T, d] by channel.

    α = `start` + `scale` · `moved`. Adam moves each number by about the learning rate, so α by `scale` times as much
    (plain gradient descent by scale² times); weight decay draws α back to where it started.
    """

    start: Tensor

    def __init__(self, start: Tensor, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("start", start)
        self.moved = nn.Parameter(torch.zeros_like(start))

    def forward(self) -> Tensor:
        return self.start + self.scale * self.moved

    def grow(self) -> None:
        """One more task, of which nothing is taken so far."""
        none = torch.zeros_like(self.start[:1])
        self.start = torch.cat([self.start, none])
        self.moved = nn.Parameter(torch.cat([self.moved.detach(), none]), requires_grad=self.moved.requires_grad)


class Stitch(nn.Module):
    """The shares of all tasks at one place (Misra et al. 2016, equation 1): for task i the activations Σ_j α_ij h_j."""

    like: Tensor

    def __init__(self, like: Tensor, channel: int, own: float, scale: float, *, per_channel: bool) -> None:
        super().__init__()
        self.own, self.scale, self.channel, self.per_channel = own, scale, channel % like.ndim, per_channel
        self.register_buffer("like", like.new_zeros(like.shape[self.channel] if per_channel else 0), persistent=False)
        self.shares = nn.ModuleDict()

    def add(self, task_id: str, place: int, count: int) -> None:
        """The shares of a task that is at this place among so many."""
        start = self.like.new_full((count,), (1 - self.own) / max(1, count - 1))
        start[place] = self.own if count > 1 else 1.0
        wide = start[:, None].expand(-1, len(self.like)).clone() if self.per_channel else start
        self.shares[key(task_id)] = Shares(wide, self.scale)

    def of(self, task_id: str) -> Shares:
        """The shares of a task."""
        found: Shares = self.shares[key(task_id)]  # type: ignore[assignment]
        return found

    def forward(self, task_id: str, activations: Sequence[Tensor], places: Tensor | slice | None = None) -> Tensor:
        """What this task goes on with, at some places of the batch."""
        taken: Tensor | None = None
        # One after another, because a task that is added at the end then changes no bit of the sum.
        for share, whole in zip(self.of(task_id)(), activations, strict=True):
            activation = whole if places is None else whole[places]
            if self.per_channel:
                shape = [1] * activation.ndim
                shape[self.channel] = len(share)
                share = share.view(shape)
            taken = share * activation if taken is None else taken + share * activation
        assert taken is not None
        return taken


class StitchedNetworks(HeadedModule):
    """A network for each task, cut in stages, and after each stage a `Stitch`."""

    def __init__(
        self,
        trunks: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        stitches: Sequence[Stitch],
        maker: HeadMaker,
        *,
        fresh: bool,
    ) -> None:
        super().__init__(heads)
        self.maker, self.fresh = maker, fresh
        self.trunks = nn.ModuleDict({key(task_id): trunk for task_id, trunk in trunks.items()})
        self.stitches = nn.ModuleList(stitches)
        for place, task_id in enumerate(trunks):
            for stitch in stitches:
                stitch.add(task_id, place, len(trunks))

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        tasks = self.tasks
        stages = zip(*(stages_of(self.trunks[key(task)]) for task in tasks), strict=True)
        going: list[Tensor | MultiInput] = [batch] * len(tasks)
        made: list[Tensor] = []
        for number, each in enumerate(stages):
            if number:
                going = [self.stitches[number - 1](task, made) for task in tasks]
            made = [forward(stage, taken) for stage, taken in zip(each, going, strict=True)]
        return {task: self.stitches[-1](task, made, places) for task, places in rows.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.trunks.parameters()
        for stitch in self._stitches()[:-1]:
            yield from stitch.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        yield from super().task_parameters(task_id)
        yield from self._stitches()[-1].of(task_id).parameters()

    def _stitches(self) -> list[Stitch]:
        return list(self.stitches)  # type: ignore[arg-type]

    def make_parts(self, task: Task) -> nn.Module:
        first = next(iter(self.trunks.values()))
        head = self.maker.make(task, first)
        self.trunks[key(task.task_id)] = _network(first, task, self.maker, self.fresh).train(self.training)
        count = len(self.trunks)
        for stitch in self._stitches():
            for other in self.tasks:
                stitch.of(other).grow()
            stitch.add(task.task_id, count - 1, count)
        return head

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        """α after each stage; the mean over channels, where it is by channel."""
        found = []
        for number, stitch in enumerate(self._stitches(), start=1):
            rows = [stitch.of(task)() for task in inputs]
            values = tuple(tuple((row.mean(dim=1) if row.ndim > 1 else row).tolist()) for row in rows)
            found.append(
                SharingMatrix(
                    name=f"What each task takes after stage {number}",
                    rows=tuple(inputs),
                    columns=tuple(self.tasks),
                    values=values,
                    told="the factor of each task's activations in what the task of the row goes on with",
                )
            )
        return found


@component
class CrossStitch(Sharing):
    """A network for each task; after every stage each goes on with a combination of all of them, with factors α that
    are learned: Misra et al., Cross-stitch networks (2016), section 3.

    The trunk is the first task's network, the others' are copies. A stage is a layer with weights and what follows it
    (see `crosstask_multitask.stages.stages_of`); a trunk whose order of layers is not known is a single one. A task's
    batch passes through all networks: T tasks of their own data cost T² passes, those of one table T.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")
    own: float = option(
        0.9, ge=0, le=1, help="what a task takes of its own network at first; the others share the rest"
    )
    per_channel: bool = option(False, help="a factor for each channel; otherwise one for all of a stage")
    scale: float = option(
        10.0, gt=0, help="how much faster α learns than the weights, under Adam (its square under SGD)"
    )
    fresh: bool = option(
        True, help="draw the copies' weights anew; if not, they start as the trunk (one that has learned)"
    )

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("cross-stitch: no tasks to build networks for")
        maker = HeadMaker(self.hidden, self.context.seed, "cross_stitch")
        heads = {task.task_id: maker.make(task, trunk) for task in tasks}
        first, *others = tasks
        trunks = {first.task_id: trunk}
        trunks |= {task.task_id: _network(trunk, task, maker, self.fresh) for task in others}
        return StitchedNetworks(trunks, heads, self._stitches(trunk, first), maker, fresh=self.fresh)

    def _stitches(self, trunk: nn.Module, task: Task) -> list[Stitch]:
        found, so_far = [], list[nn.Module]()
        for stage in stages_of(trunk):
            so_far.append(stage)
            features = features_of(_Chain(so_far), task)
            convolves = any(isinstance(module, nn.Conv1d) for module in stage.modules())
            channel = -1 if features.ndim == 3 and not convolves else 1
            found.append(Stitch(features, channel, self.own, self.scale, per_channel=self.per_channel))
        return found


class _Chain(nn.Module):
    """Stages one after another."""

    whole_inputs = True

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        features = forward(self.stages[0], inputs)
        for stage in itertools.islice(self.stages, 1, None):
            features = forward(stage, features)
        return features


def _network(trunk: nn.Module, task: Task, maker: HeadMaker, fresh: bool) -> nn.Module:
    """A copy of the trunk for a task, which depends on the task and the seed alone."""
    return copies_of(trunk, 2, maker.seed_for("network", task), fresh=fresh)[1]
