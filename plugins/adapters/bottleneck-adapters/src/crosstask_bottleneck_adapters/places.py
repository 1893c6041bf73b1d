"""Where adapters of activations go, and how they see a layer's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask_adapters import CONVOLUTIONS, LayerAdapter, called, is_floating, is_transposed, own_tensor

WHAT = "linear, convolution and attention layers"
LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def fits(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """Layers of this model that are called: attention only reads the weights of its output projection."""

    def test(name: str, module: nn.Module) -> bool:
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) or is_transposed(module):
            return own_tensor(module, "weight") is not None and is_floating(module) and called(model, name)
        return isinstance(module, nn.MultiheadAttention) and is_floating(module)

    return test


def sublayers(model: nn.Module) -> Callable[[list[str]], list[str]]:
    """Of all layers, those at the end of a transformer's sublayers; all, if there is no transformer."""

    def choose(names: list[str]) -> list[str]:
        ends = []
        for name in names:
            parent, _, child = name.rpartition(".")
            inside = isinstance(model.get_submodule(parent), LAYERS)
            if inside and child in ("self_attn", "multihead_attn", "linear2"):
                ends.append(name)
        return ends or names

    return choose


def width_of(layer: Any) -> int:
    """How many features or channels a layer gives."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.embed_dim
    if is_transposed(layer):
        return int(layer.nf)
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


class OutputAdapter(LayerAdapter):
    """y + f(y) on a layer's output y, whose last dimension f sees: features, or a convolution's channels."""

    def more(self, y: Tensor) -> Tensor:
        """f(y) for y [..., F]."""
        raise NotImplementedError

    @classmethod
    def more_mixed(cls, parts: Sequence[Any], choice: Tensor, y: Tensor) -> Tensor | None:
        """f(y) for y [N, ..., F], sample i by `parts[choice[i]]`, zero where choice is -1."""
        return None

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = inner(*args, **kwargs)
        if isinstance(answer, tuple):  # attention gives its weights, too
            return (answer[0] + self.more(answer[0]), *answer[1:])
        if isinstance(layer, CONVOLUTIONS):
            return answer + self.more(answer.movedim(1, -1)).movedim(-1, 1)
        return answer + self.more(answer)

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Any, x: Tensor) -> Tensor | None:
        y = inner(x)
        channels = isinstance(inner.__self__, CONVOLUTIONS)
        more = cls.more_mixed(parts, choice, y.movedim(1, -1) if channels else y)
        if more is None:
            return None
        return y + (more.movedim(-1, 1) if channels else more)


def chosen(tensors: Sequence[Tensor], choice: Tensor) -> Tensor:
    """One of the tensors for each sample: [N, ...], zeros where choice is -1."""
    return torch.stack([*tensors, torch.zeros_like(tensors[0])])[choice]
