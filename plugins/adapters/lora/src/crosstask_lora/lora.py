"""The `lora` adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.points.adapter import Adapter
from crosstask_adapters import (
    CONVOLUTIONS,
    LayerAdapter,
    LayersHandle,
    draw,
    is_bare,
    is_floating,
    is_transposed,
    match_targets,
    own_tensor,
    own_weight,
)

WHAT = "linear, convolution, embedding and attention layers"


class LowRank(LayerAdapter):
    """W + alpha/r * up @ down (Hu et al. 2022, equation 3) for a weight seen as a matrix [out, in]; a convolution's as
    [out, in/groups * kernel].

    `up` [out, r] starts at zero, so that the layer starts as it was; `down` [r, in] is drawn. Dropout falls on the
    input of `down` only. Where nobody calls the layer (attention reads its weights), it falls on the columns of `down`:
    one mask for the whole batch.
    """

    weight_space = True
    additive = True

    def __init__(
        self, weight: Tensor, name: str, r: int, alpha: float, dropout: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        out, inner = len(weight), weight[0].numel()
        self.name, self.r, self.alpha, self.dropout = name, r, alpha, dropout
        self.scale = alpha / r
        self.up = nn.Parameter(weight.new_zeros(out, r))
        if generator is None:  # to be loaded
            self.down = nn.Parameter(weight.new_zeros(r, inner))
        else:
            self.down = draw((r, inner), 1 / math.sqrt(inner), weight, generator)

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.zeros_(self.up)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        if name != self.name:
            return value
        down: Tensor = self.down
        if self.dropout and self.training:
            down = down * functional.dropout(down.new_ones(down.shape[1]), self.dropout)
        return torch.addmm(value.reshape(len(value), -1), self.up, down, alpha=self.scale).view_as(value)

    def dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout and self.training else x


class LinearLowRank(LowRank):
    """At a linear layer: up (down x)."""

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        x, y = self.dropped(args[0]), inner(*args, **kwargs)
        own: Any = self._parameters  # quicker than self.up
        up, down = own["up"], own["down"]
        # Few rows times many columns is the quicker order on CPUs.
        low = torch.mm(down, (x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).t()).t()
        # In place where nobody else has this y; torch.func cannot batch that
        if is_bare(inner) and y.dtype == low.dtype == up.dtype and peek_interpreter_stack() is None:
            if y.dim() == 2:
                return y.addmm_(low, up.t(), alpha=self.scale)
            return y.view(-1, y.shape[-1]).addmm_(low, up.t(), alpha=self.scale).view(y.shape)
        return torch.add(y, functional.linear(low, up).view(y.shape), alpha=self.scale)

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Callable[..., Any], x: Tensor) -> Tensor | None:
        if any(part.r != parts[0].r for part in parts):
            return None
        ups, downs = torch.stack([part.up for part in parts]), torch.stack([part.down for part in parts])
        scales = ups.new_tensor([part.scale for part in parts])
        rows, y = parts[0].dropped(x).reshape(len(x), -1, x.shape[-1]), inner(x)
        if rows.shape[1] == 1:  # all adapters at once, of which each sample keeps its own: no factors are copied
            own = (choice[:, None] == torch.arange(len(parts), device=choice.device)) * scales
            low = functional.linear(rows[:, 0], downs.flatten(0, 1)).view(len(x), *downs.shape[:2]) * own[..., None]
            return y + (low.flatten(1) @ ups.transpose(1, 2).flatten(0, 1)).view(y.shape)
        which = choice.clamp_min(0)
        low = torch.bmm(downs[which], rows.transpose(1, 2)) * (scales[which] * (choice >= 0))[:, None, None]
        return y + torch.bmm(low.transpose(1, 2), ups[which].transpose(1, 2)).view(y.shape)


class TransposedLowRank(LinearLowRank):
    """At transformers' `Conv1D`, whose weight is [in, out]: the change of its transpose."""

    def __init__(self, weight: Tensor, *args: Any) -> None:
        super().__init__(weight.t(), *args)

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return super().change(layer, name, value.t()).t().contiguous() if name == self.name else value


class EmbeddingLowRank(LowRank):
    """At an embedding: the rows of `up` that are looked up, times `down`."""

    def around(self, layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        rows = functional.embedding(args[0], self.up, layer.padding_idx)
        return inner(*args, **kwargs) + self.scale * (rows @ self.down)


class ConvLowRank(LowRank):
    """At a convolution: one of r channels per group with the layer's stride, padding and so on, then a 1x1 one.

    The groups share `down`, so that the change is one of the grouped weight itself and can be merged.
    """

    def __init__(self, weight: Tensor, *args: Any) -> None:
        super().__init__(weight, *args)
        self.kernel = tuple(weight.shape[1:])

    def around(self, layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        (x,) = args
        down = self.down.view(self.r, *self.kernel)
        if layer.groups > 1:
            down = down.repeat(layer.groups, *(1 for _ in self.kernel))
        low = layer._conv_forward(self.dropped(x), down, None)
        up = self.up.view(*self.up.shape, *(1 for _ in self.kernel[1:]))
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.kernel) - 2]
        return torch.add(inner(x), convolve(low, up, groups=layer.groups), alpha=self.scale)


def kind_of(layer: nn.Module) -> type[LowRank]:
    """The adapter for a layer's main weight."""
    if isinstance(layer, nn.Embedding):
        return EmbeddingLowRank
    if isinstance(layer, CONVOLUTIONS):
        return ConvLowRank
    if is_transposed(layer):
        return TransposedLowRank
    return LinearLowRank if isinstance(layer, nn.Linear) else LowRank


def weights_of(layer: nn.Module) -> list[str]:
    """Which of a layer's parameters are adapted: attention with unequal widths has three."""
    if isinstance(layer, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [name for name in names if own_tensor(layer, name) is not None]
    return ["weight"]


class AttentionLowRank(LowRank):
    """At attention: a change of each input projection. With equal widths there is one for the three, as PEFT has it."""

    def __init__(self, layer: nn.MultiheadAttention, r: int, alpha: float, dropout: float, generator: Any) -> None:
        nn.Module.__init__(self)
        self.r, self.alpha, self.dropout, self.scale = r, alpha, dropout, alpha / r
        self.projections = nn.ModuleDict(
            {name: LowRank(own_weight(layer, name), name, r, alpha, dropout, generator) for name in weights_of(layer)}
        )

    def reset_parameters(self) -> None:
        for projection in self.projections.values():
            projection.reset_parameters()  # type: ignore[operator]

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        if name not in self.projections:
            return value
        return self.projections[name].change(layer, name, value)  # type: ignore[operator]


def low_rank(layer: Any, r: int, alpha: float, dropout: float, generator: torch.Generator | None) -> LowRank:
    """A new adapter for a layer. DataError if the layer changes its weight itself."""
    if isinstance(layer, nn.MultiheadAttention):
        return AttentionLowRank(layer, r, alpha, dropout, generator)
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        raise DataError("an embedding with max_norm rescales its weight whenever it is used: it cannot stay frozen")
    return kind_of(layer)(own_weight(layer, "weight"), "weight", r, alpha, dropout, generator)


def fits(name: str, module: nn.Module) -> bool:
    kinds = (nn.Linear, nn.Embedding, *CONVOLUTIONS)
    if isinstance(module, kinds) or is_transposed(module):
        return own_tensor(module, "weight") is not None and is_floating(module)
    return isinstance(module, nn.MultiheadAttention) and is_floating(module)


def side_of(layer: Any) -> int:
    """The largest rank that a change of the layer's weights can have."""
    return min(min(len(w := own_weight(layer, n)), w[0].numel()) for n in weights_of(layer))


def tied_parts(model: nn.Module, parts: dict[str, LowRank]) -> dict[str, LowRank]:
    """A weight that several of the layers share is adapted once: they share its adapter, too."""
    first: dict[nn.Parameter, LowRank] = {}
    found: dict[str, LowRank] = {}
    for name, part in parts.items():
        layer = model.get_submodule(name)
        weight = layer._parameters.get("weight")
        if weight is None:
            found[name] = part
        elif weight not in first:
            found[name] = first[weight] = part
        elif type(first[weight]) is type(part):
            found[name] = first[weight]
        else:  # an embedding and the linear layer that shares its weight
            found[name] = Shared(first[weight], type(part))
    return found


class Shared(LowRank):
    """The adapter of a tied weight at another kind of layer."""

    def __init__(self, first: LowRank, kind: type[LowRank]) -> None:
        nn.Module.__init__(self)
        self.name, self.r, self.alpha, self.dropout, self.scale = (
            first.name, first.r, first.alpha, first.dropout, first.scale,
        )  # fmt: skip
        self.up, self.down, self.kind = first.up, first.down, kind

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.kind.around(self, layer, inner, *args, **kwargs)


@component
class LoRA(Adapter):
    """Low-rank adaptation: W + alpha/r * B A, where only A and B are trained (Hu et al. 2022, equation 3).

    By its own choice it adapts each linear, convolution and attention layer that is large enough for r; embeddings, and
    linear layers that share the weight of one, only where targets name them. A tied weight is adapted once, grouped
    convolutions can be merged, and attention and the fused path of torch's transformer encoder read the adapted
    weights. OptionError and DataError say what does not fit: r above the smaller side of a named layer, an embedding
    with `max_norm`.
    """

    capabilities = frozenset({"mergeable"})
    results_version = 2

    r: int = option(8, ge=1, help="rank of the change")
    alpha: float = option(16.0, gt=0, help="strength: the change is scaled by alpha / r")
    dropout: float = option(0.0, ge=0, lt=1, help="dropout on the input of A, in training")
    any_rank: bool = option(False, help="r may be above the smaller side of a named layer, as in sums of adapters")

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        def choose(names: list[str]) -> list[str]:
            layers = {name: model.get_submodule(name) for name in names}
            looked_up = {m._parameters.get("weight") for m in model.modules() if isinstance(m, nn.Embedding)} - {None}
            return [
                n for n, m in layers.items()
                if not isinstance(m, nn.Embedding) and m._parameters.get("weight") not in looked_up
                and side_of(m) >= self.r
            ]  # fmt: skip

        parts: dict[str, LowRank] = {}
        for name in match_targets(model, targets, fits, WHAT, choose):
            layer = model.get_submodule(name)
            if side_of(layer) < self.r and not self.any_rank:
                raise DataError(f"r={self.r} is more than the {side_of(layer)} that a change of {name!r} can have")
            parts[name] = low_rank(layer, self.r, self.alpha, self.dropout, generator)
        return LayersHandle(model, tied_parts(model, parts))
