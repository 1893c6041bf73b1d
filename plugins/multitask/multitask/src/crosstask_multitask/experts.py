"""Experts: copies of a trunk (or of a part of it) side by side, gates that weigh them, and what gates look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import evaluating, forward, seeded
from crosstask.tasks import Task
from crosstask_multitask.heads import features_of
from crosstask_multitask.stages import copies_of, stages_of

GateInput = Literal["inputs", "pooled", "features"]
"""What a gate looks at: every number that enters the experts; maps averaged over their places; or the mean of what the
(shared) experts make of it, averaged over places, which any kind of input has.
"""


# --- Parts of a trunk


class Chain(nn.Module):
    """Some stages of a trunk (perhaps none), one after another; the first takes whatever the trunk takes."""

    whole_inputs = True

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, batch: Tensor | MultiInput) -> Tensor | MultiInput:
        for stage in self.stages:
            batch = forward(stage, batch)
        return batch


def parts_of(trunk: nn.Module, sizes: Sequence[int]) -> list[Chain]:
    """The trunk's stages (`stages_of`) in consecutive parts of these sizes; they share its weights."""
    stages = iter(stages_of(trunk))
    return [Chain(list(itertools.islice(stages, size))) for size in sizes]


def divided(trunk: nn.Module, shared: int, levels: int, who: str) -> list[int]:
    """The numbers of stages of the `shared` first part and of each of `levels` parts, as equal as can be (the earlier
    ones take one more). DataError, in the name of `who`, if the trunk has too few.
    """
    count = len(stages_of(trunk))
    if count - shared < levels:
        many = f"{count} stage" + ("s" if count > 1 else "")
        needed = f"{levels} level" + ("s" if levels > 1 else "")
        told = "" if not shared else f" beside {shared} that all experts share"
        hint = "" if count > 1 else " (a trunk that is no nn.Sequential is one stage: use one level, and share none)"
        raise DataError(f"{who}: the trunk has {many}, {needed} need as many{told}{hint}")
    whole, rest = divmod(count - shared, levels)
    return [shared, *(whole + (number < rest) for number in range(levels))]


class _Seen(nn.Module):
    """Keeps what goes into a trunk."""

    whole_inputs = True

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.batch: Tensor | MultiInput

    def forward(self, batch: Tensor | MultiInput) -> Tensor:
        self.batch = batch
        return forward(self.trunk, batch)


def example_of(trunk: nn.Module, task: Task) -> Tensor | MultiInput:
    """Two of the task's inputs, as they go into the trunk. DataError if it gives no batch of features for them."""
    seen = _Seen(trunk)
    features_of(seen, task)
    return seen.batch


@torch.no_grad()
def passed(module: nn.Module, batch: Tensor | MultiInput) -> Tensor:
    """What a module gives for an example, in evaluation mode and without graph."""
    with evaluating(module):
        made: Tensor = module(batch)
    return made


# --- Experts


class Experts(nn.Module):
    """Copies of a part of a trunk: a batch in, the features [E, N, …] of all (or of those at the places `some`) out."""

    count: int
    """How many there are."""


class Apart(Experts):
    """Any modules, one after another."""

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts, self.count = nn.ModuleList(experts), len(experts)

    def forward(self, batch: Tensor | MultiInput, some: Sequence[int] | None = None) -> Tensor:
        return torch.stack([forward(self.experts[place], batch) for place in some or range(self.count)])


class Stacked(Experts):
    """Experts that are MLPs. The weights of a layer lie in one tensor, so that it is one product for all of them."""

    def __init__(self, experts: Sequence[Chain]) -> None:
        super().__init__()
        self.count = len(experts)
        self.layers = nn.ModuleList()
        for same in zip(*map(_layers, experts), strict=True):
            self.layers.append(_StackedLinear(same) if isinstance(same[0], nn.Linear) else same[0])

    def forward(self, batch: Tensor | MultiInput, some: Sequence[int] | None = None) -> Tensor:
        hidden = batch.flatten(1) if isinstance(batch, MultiInput) else batch
        if not hidden.is_floating_point():
            hidden = hidden.to(next(self.parameters()).dtype)
        for layer in self.layers:
            hidden = layer(hidden, some) if isinstance(layer, _StackedLinear) else layer(hidden)
        assert isinstance(hidden, Tensor)
        return hidden


class _StackedLinear(nn.Module):
    """Linear layers side by side: [N, F] (the same for all) or [E, N, F] in, [E, N, G] out. Weights [E, G, F]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        with torch.no_grad():
            self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
            biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
            self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def forward(self, inputs: Tensor, some: Sequence[int] | None = None) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if some is not None:
            weight, bias = weight[list(some)], None if bias is None else bias[list(some)]
        if inputs.ndim == 2:  # one product, and not one for each
            flat = F.linear(inputs, weight.flatten(0, 1), None if bias is None else bias.flatten())
            return flat.view(len(inputs), *weight.shape[:2]).transpose(0, 1)
        if bias is None:
            return torch.bmm(inputs, weight.transpose(1, 2))
        return torch.baddbmm(bias[:, None], inputs, weight.transpose(1, 2))


def experts_of(part: Chain, count: int, seed: int, example: Tensor | MultiInput, *, given: bool = True) -> Experts:
    """`count` experts: copies of a part of a trunk, drawn anew from `seed`; with `given` the first is the part itself.

    Those of an MLP are stacked (which copies its weights), unless some weights are frozen: these stay where they are.
    `example` is what enters the part.
    """
    copies = copies_of(part, count if given else count + 1, seed)
    experts: list[Chain] = copies if given else copies[1:]  # type: ignore[assignment]
    return Stacked(experts) if _is_mlp(part, example) else Apart(experts)


_ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.Softsign, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip


def _layers(chain: nn.Module) -> list[nn.Module]:
    """The layers of the stages of a chain."""
    return [module for module in chain.modules() if not isinstance(module, Chain | nn.ModuleList | nn.Sequential)]


def _is_mlp(chain: Chain, example: Tensor | MultiInput) -> bool:
    """Whether it is made of linear and elementwise layers alone, all trainable, on flat inputs."""
    if any(not isinstance(stage, nn.Sequential | nn.Linear) for stage in chain.stages):
        return False
    layers = _layers(chain)
    if not layers or not all(type(layer) in (nn.Linear, nn.Flatten, *_ELEMENTWISE) for layer in layers):
        return False
    if any(_hooked(module) for module in chain.modules()) or not all(p.requires_grad for p in chain.parameters()):
        return False
    kinds = [type(layer) for layer in layers]
    flat = nn.Flatten in kinds or isinstance(example, MultiInput) or example.ndim == 2
    late = nn.Linear not in kinds or nn.Flatten in kinds[kinds.index(nn.Linear) :]
    return flat and not late and all(layer.start_dim == 1 for layer in layers if isinstance(layer, nn.Flatten))


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


# --- Gates


@overload
def taken(batch: Tensor, places: Tensor | slice, dim: int = 0) -> Tensor: ...
@overload
def taken(batch: Tensor | MultiInput, places: Tensor | slice) -> Tensor | MultiInput: ...
def taken(batch: Tensor | MultiInput, places: Tensor | slice, dim: int = 0) -> Tensor | MultiInput:
    """Some rows of a batch (of experts, along `dim` 1); itself, which costs a backward pass nothing, if all."""
    if isinstance(places, slice) and places.indices(batch.shape[dim]) == (0, batch.shape[dim], 1):
        return batch
    if isinstance(batch, MultiInput) or not dim:
        return batch[places]
    return batch[:, places]


def mixed(weights: Tensor, experts: Tensor) -> Tensor:
    """The experts' features [E, N, …] in these proportions [N, E]: [N, …]."""
    shape = (*weights.shape[::-1], *(1,) * (experts.ndim - 2))
    return (experts * weights.t().reshape(shape)).sum(0)


def looked_at(kind: GateInput, batch: Tensor | MultiInput, experts: Tensor | None) -> Tensor:
    """What a gate sees [N, F] of what enters the experts (or, as features, of what they give, [E, N, …])."""
    if kind == "features":
        assert experts is not None
        return _pooled(experts.mean(0))
    if isinstance(batch, MultiInput):
        return batch.flatten(1)
    return _pooled(batch) if kind == "pooled" else batch.flatten(1)


def _pooled(maps: Tensor) -> Tensor:
    """Maps [N, C, …] or places [N, L, F], averaged over their places."""
    if maps.ndim == 3:
        return maps.mean(1)
    return maps.flatten(2).mean(2) if maps.ndim > 3 else maps


def check_gate_input(kind: GateInput, part: nn.Module, example: Tensor | MultiInput, who: str) -> None:
    """DataError if gates would take the ids that an embedding looks up for numbers."""
    looks_up = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in part.modules())
    parts = example.parts.values() if isinstance(example, MultiInput) else [example]
    if kind != "features" and looks_up and not all(each.is_floating_point() for each in parts):
        raise DataError(
            f"{who}: gates would take the ids of the inputs for numbers; shared_stages = 1 shares the embedding where "
            "the trunk begins with it, and gate_sees = 'features' looks at what the experts make of them"
        )


class Gate(nn.Module):
    """A linear layer and a softmax: inputs [N, F] in, weights of the experts [N, E] out."""

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, experts)

    def forward(self, seen: Tensor) -> Tensor:
        weights: Tensor = self.linear(seen.to(self.linear.weight.dtype)).softmax(1)
        return weights


def gate_for(seen: Tensor, experts: int, seed: int) -> Gate:
    """A gate that looks at inputs as these, drawn from `seed`."""
    with seeded(seed):
        return Gate(seen.shape[1], experts).to(seen if seen.is_floating_point() else seen.device)


def parameters_of(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    """The parameters of several modules."""
    for module in modules:
        yield from module.parameters()
