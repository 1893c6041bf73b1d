"""The optimiser of a fleet (`crosstask.learning.fleets`): one step over the weights of many networks."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from crosstask.learning.models import optimizer_for
from crosstask.learning.training import factor_of
from crosstask.records import Budget

LANE = 64
"""Each tensor begins at a multiple of it: what is left of the last lane is rounded by other instructions."""

State = dict[str, Tensor]
"""Tensors of members by name, one above the other."""
Learner = tuple[int, int, State]
"""The first of some members, the one after the last, and what they learn."""


@attrs.frozen(eq=False)
class _Block:
    """Rows of a vector: what members from `start` to `stop` learn of one state. It begins at `at`, each row is `width`
    long. `layout`: where each name begins in a row, its shape, and the order of its dimensions in memory.
    """

    state: State
    layout: dict[str, tuple[int, tuple[int, ...], list[int]]]
    start: int
    stop: int
    at: int
    width: int

    @property
    def members(self) -> range:
        """Whose rows these are."""
        return range(self.start, self.stop)

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + (self.stop - self.start) * self.width

    def rows(self, vector: Tensor) -> Tensor:
        """As a matrix."""
        return vector[self.at : self.end].view(self.stop - self.start, self.width)

    def view(self, vector: Tensor, name: str) -> Tensor:
        """The part of a name, in its shape."""
        begin, shape, order = self.layout[name]
        part = self.rows(vector)[:, begin : begin + math.prod(shape)]
        back = [order.index(dim) + 1 for dim in range(1, len(shape) + 1)]
        return part.view(len(part), *(shape[dim - 1] for dim in order)).permute(0, *back)

    def spans(self, rates: Sequence[float]) -> Iterator[tuple[float, slice]]:
        """The stretches of one rate."""
        for rate, rows in itertools.groupby(self.members, rates.__getitem__):
            own = list(rows)
            begin = self.at + (own[0] - self.start) * self.width
            if self.width:
                yield rate, slice(begin, begin + len(own) * self.width)


class FleetOptimizer:
    """An optimiser of all members: what learns is laid end to end, a row for each member, so that one step goes over a
    vector, not over each tensor, or a step with each learning rate over the rows that have it.

    `learners` say whose states they are, `rates` the learning rate of each member, `steps` how many there will be.
    Only what the loss depends on learns: the others have no gradient, and stay. A member moves as it would alone.
    """

    def __init__(
        self, learners: Sequence[Learner], rates: Sequence[float], budget: Budget, steps: int, device: torch.device
    ) -> None:
        self.learners, self.rates, self.budget, self.device = list(learners), list(rates), budget, device
        self.factor = factor_of(budget, steps)
        self.optimizer: torch.optim.Optimizer | None = None

    def step(self, loss: Tensor, step: int) -> None:
        """One step, the number `step`, down a loss."""
        if self.optimizer is None:
            held = [(state, name) for *_, state in self.learners for name in state]
            places = [(state, name) for state, name in held if state[name].requires_grad]
            first = torch.autograd.grad(loss, [state[name] for state, name in places], allow_unused=True)
            known = {(id(state), name): g for (state, name), g in zip(places, first, strict=True) if g is not None}
            self._lay(known)
            self._begin()
            found = [known[id(block.state), name] for block, name in self.places]
        else:
            found = list(torch.autograd.grad(loss, [block.state[name] for block, name in self.places]))
        torch._foreach_copy_(self.grads, found)
        if self.budget.clip is not None:
            self._clip(self.budget.clip)
        assert self.optimizer is not None
        if self.factor is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = group["rate"] * self.factor(step - 1)
        self.optimizer.step()

    def _lay(self, known: Mapping[tuple[int, str], Tensor]) -> None:
        """Give what has a gradient its place, each in the order in which its gradient lies in memory."""
        self.blocks: dict[torch.dtype, list[_Block]] = {}
        for kind in {grad.dtype for grad in known.values()}:
            at, blocks = 0, []
            for start, stop, state in self.learners:
                width = 0
                layout: dict[str, tuple[int, tuple[int, ...], list[int]]] = {}
                for name in state:
                    grad = known.get((id(state), name))
                    if grad is not None and grad.dtype is kind:
                        order = sorted(range(1, grad.ndim), key=grad.stride().__getitem__, reverse=True)
                        layout[name] = width, tuple(grad.shape[1:]), order
                        width += -(-grad[0].numel() // LANE) * LANE
                blocks.append(_Block(state, layout, start, stop, at, width))
                at += (stop - start) * width
            self.blocks[kind] = blocks
        self._take()

    @torch.no_grad()
    def _take(self) -> None:
        """Lay the tensors into vectors, of which they are views from now on; gradients likewise."""
        self.vectors, self.slopes = {}, {}
        self.places: list[tuple[_Block, str]] = []
        self.grads: list[Tensor] = []
        for kind, blocks in self.blocks.items():
            vector = self.vectors[kind] = torch.zeros(blocks[-1].end, dtype=kind, device=self.device)
            slope = self.slopes[kind] = torch.zeros_like(vector)
            for block in blocks:
                for name in block.layout:
                    placed = block.view(vector, name)
                    placed.copy_(block.state[name])
                    block.state[name] = placed.requires_grad_()
                    self.places.append((block, name))
                    self.grads.append(block.view(slope, name))

    def _begin(self) -> None:
        """An optimiser that takes its first step, with as many groups as there are rates."""
        groups: dict[float, list[Tensor]] = {}
        self.spans: list[tuple[Tensor, torch.dtype, slice]] = []
        for kind, vector in self.vectors.items():
            spans = [(self.rates[0], slice(0, len(vector)))]
            if len(set(self.rates)) > 1:
                spans = [span for block in self.blocks[kind] for span in block.spans(self.rates)]
            for rate, span in spans:
                part = vector[span]
                part.grad = self.slopes[kind][span]
                groups.setdefault(rate, []).append(part)
                self.spans.append((part, kind, span))
        named: Any = [{"params": parts, "lr": rate, "rate": rate} for rate, parts in groups.items()]
        budget, real = self.budget, all(kind.is_floating_point for kind in self.vectors)
        fused = real and self.device.type in ("cpu", "cuda")
        self.optimizer = optimizer_for(budget.optimizer, named, budget.learning_rate, budget.weight_decay, fused=fused)

    def only(self, rows: list[int], learners: Sequence[Learner], rates: Sequence[float]) -> FleetOptimizer:
        """The same for some of the members, who have states of their own now, with what the optimiser keeps of them."""
        made = copy.copy(self)
        made.learners, made.rates = list(learners), list(rates)
        made.blocks, kept = {}, self._kept()
        for kind, blocks in self.blocks.items():
            pairs = [(block, [row - block.start for row in rows if row in block.members]) for block in blocks]
            chosen = [(block, own) for block, own in pairs if own]
            for name, vector in kept[kind].items():
                kept[kind][name] = torch.cat([block.rows(vector)[own].flatten() for block, own in chosen])
            at, made.blocks[kind] = 0, []
            for (block, _), (start, stop, state) in zip(chosen, made.learners, strict=True):
                made.blocks[kind].append(_Block(state, block.layout, start, stop, at, block.width))
                at = made.blocks[kind][-1].end
        made._take()
        made._begin()
        assert self.optimizer is not None
        assert made.optimizer is not None
        first = self.optimizer.state[self.spans[0][0]]
        for part, kind, span in made.spans:
            made.optimizer.state[part] = {
                name: kept[kind][name][span] if name in kept[kind] else value.clone() for name, value in first.items()
            }
        return made

    def _kept(self) -> dict[torch.dtype, State]:
        """What the optimiser keeps of each number, as vectors like those that it moves."""
        assert self.optimizer is not None
        found: dict[torch.dtype, State] = {kind: {} for kind in self.vectors}
        for part, kind, span in self.spans:
            for name, value in self.optimizer.state[part].items():
                if value.shape == part.shape:
                    found[kind].setdefault(name, torch.zeros_like(self.vectors[kind]))[span] = value
        return found

    def _clip(self, most: float) -> None:
        """Shorten each member's gradient as `torch.nn.utils.clip_grad_norm_` would."""
        every = [(block, block.rows(self.slopes[kind])) for kind, blocks in self.blocks.items() for block in blocks]
        squares = every[0][1].real.new_zeros(len(self.rates))
        for block, rows in every:
            squares[block.start : block.stop] += (rows.abs() if rows.is_complex() else rows).square().sum(1)
        factor = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for block, rows in every:
            rows *= factor[block.start : block.stop, None]
