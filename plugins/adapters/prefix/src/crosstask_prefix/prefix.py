"""The `prefix` adapter."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.points.adapter import Adapter
from crosstask_adapters import LayerAdapter, LayersHandle, draw, is_floating, match_targets

PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"))
PAST = ("past_key_values", "past_key_value", "layer_past", "past")


class PrefixLayer(LayerAdapter):
    """`keys` and `values` [length, width] that every query sees beside those of its sequence (Li and Liang 2021,
    section 4.2, without their reparametrisation).
    """

    joint = True  # several prefixes stand one before the other

    def __init__(self, length: int, width: int, scale: float, like: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        self.keys = draw((length, width), scale, like, generator)
        self.values = draw((length, width), scale, like, generator)

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.uniform_(self.keys, -self.scale, self.scale)
        nn.init.uniform_(self.values, -self.scale, self.scale)


class AttentionPrefix(PrefixLayer):
    """At torch's attention."""

    @classmethod
    def jointly(
        cls, parts: Sequence[Any], layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        given = inspect.signature(nn.MultiheadAttention.forward).bind(layer, *args, **kwargs)
        given.apply_defaults()
        query, key, value = (given.arguments[name] for name in ("query", "key", "value"))
        mask, padding = given.arguments["attn_mask"], given.arguments["key_padding_mask"]
        batched, first = query.dim() == 3, layer.batch_first
        if not batched:
            query, key, value = query[None], key[None], value[None]
            padding = None if padding is None else padding[None]
        elif not first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = _projected(layer, query, key, value)
        k, v = torch.cat([heads(parts, "keys", k), k], 2), torch.cat([heads(parts, "values", v), v], 2)
        bias = _bias(mask, padding, q, k)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        weights = functional.softmax(scores if bias is None else scores + bias, dim=-1)
        weights = functional.dropout(weights, layer.dropout, layer.training)
        out = functional.linear((weights @ v).transpose(1, 2).flatten(2), layer.out_proj.weight, layer.out_proj.bias)
        if not batched:
            out, weights = out[0], weights[0]
        elif not first:
            out = out.transpose(0, 1)
        if not given.arguments["need_weights"]:
            return out, None
        return out, weights.mean(-3) if given.arguments["average_attn_weights"] else weights


def heads(parts: Sequence[PrefixLayer], name: str, like: Tensor) -> Tensor:
    """The prefixes [N, heads, length, width of a head] for keys or values `like` [N, heads, S, width of a head]."""
    every = torch.cat([getattr(part, name) for part in parts])
    return every.view(len(every), -1, like.shape[-1]).transpose(0, 1).expand(len(like), -1, -1, -1)


def _projected(layer: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(queries, keys, values) [N, heads, L or S, width of a head]."""
    if layer.in_proj_weight is not None:
        weights = layer.in_proj_weight.chunk(3)
    else:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    rows = (functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    q, k, v = (t.view(len(t), -1, layer.num_heads, layer.head_dim).transpose(1, 2) for t in rows)
    return q, k, v


def _bias(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What the masks add to the scores [N, heads, L, length + S]; every query sees the prefix."""
    total = None
    if mask is not None:
        total = _additive(mask, q)
        total = total.view(*q.shape[:3], -1) if total.dim() == 3 else total
    if padding is not None:
        more = _additive(padding, q)[:, None, None]
        total = more if total is None else total + more
    return None if total is None else functional.pad(total, (k.shape[2] - total.shape[-1], 0))


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A boolean mask (True: not seen) as zeros and minus infinity; others are that already."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask


class PastPrefix(PrefixLayer):
    """At an attention module in the style of Hugging Face: the prefix is its past keys and values."""

    def __init__(self, layer: nn.Module, names: tuple[str, ...], length: int, scale: float, generator: Any) -> None:
        projection: Any = layer.get_submodule(names[1])
        super().__init__(length, projection.out_features, scale, next(projection.parameters()), generator)
        self.head = head_width(layer, projection.out_features)
        self.past = next(name for name in PAST if name in inspect.signature(type(layer).forward).parameters)

    @classmethod
    def jointly(cls, parts: Sequence[Any], layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        signature = inspect.signature(layer._plain_class.forward)
        given = signature.bind(layer, *args, **kwargs)
        arguments, length = given.arguments, sum(len(part.keys) for part in parts)
        hidden = next(value for name, value in list(arguments.items())[1:] if isinstance(value, Tensor))
        name = parts[0].past
        earlier = _earlier(layer, arguments.get(name))
        arguments[name] = Past.of(parts, arguments.get(name), len(hidden))
        mask = arguments.get("attention_mask")
        if mask is not None:
            # Additive masks see where they are 0, masks of ones and zeros (or booleans) where they are 1.
            seen = 0.0 if mask.is_floating_point() and mask.dim() > 2 else 1
            arguments["attention_mask"] = functional.pad(mask, (length, 0), value=seen)
        elif getattr(layer, "is_causal", False) and "attention_mask" in signature.parameters:
            # Without a mask such layers ask for a causal one by a flag, which would hide a part of the prefix.
            rows = hidden.shape[1]
            causal = hidden.new_full((rows, earlier + rows), -math.inf).triu(1 + earlier)
            arguments["attention_mask"] = functional.pad(causal, (length, 0))[None, None]
        return inner(*given.args[1:], **given.kwargs)


def _earlier(layer: Any, past: Any) -> int:
    """How many positions a module's past holds."""
    if past is None or isinstance(past, tuple):
        return past[0].shape[2] if past else 0
    return int(past.get_seq_length(layer.layer_idx))


class Past(tuple[Tensor, ...]):
    """The prefix as past keys and values [N, heads, length, width of a head]: a pair, and a cache with `update`."""

    cache: Any
    """The cache of earlier steps that it stands before, if any."""

    @classmethod
    def of(cls, parts: Sequence[PastPrefix], past: Any, count: int) -> Past:
        like = parts[0].keys.new_empty(count, 0, 0, parts[0].head)
        keys, values = heads(parts, "keys", like), heads(parts, "values", like)
        if isinstance(past, tuple):
            keys, values, past = torch.cat([keys, past[0]], 2), torch.cat([values, past[1]], 2), None
        made = cls((keys, values))
        made.cache = past
        return made

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values to attend to, given the new ones."""
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, *args, **kwargs)
        return torch.cat([self[0], keys], 2), torch.cat([self[1], values], 2)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a cache, the one behind answers."""
        return getattr(self.__dict__["cache"], name)


def projections_of(module: nn.Module) -> tuple[str, ...] | None:
    """Names of the projections to queries, keys and values of an attention module that also takes a past."""
    takes = inspect.signature(type(module).forward).parameters
    if not any(name in takes for name in PAST):
        return None
    return next(
        (names for names in PROJECTIONS if all(isinstance(getattr(module, n, None), nn.Linear) for n in names)), None
    )


def head_width(layer: Any, width: int) -> int:
    """Width of a head. DataError if the module does not say how many it has."""
    for name in ("head_dim", "attention_head_size"):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    for name in ("num_key_value_heads", "num_heads", "num_attention_heads", "n_heads", "n_head"):
        if isinstance(getattr(layer, name, None), int):
            return width // int(getattr(layer, name))
    raise DataError(f"{type(layer).__name__} says neither head_dim nor num_heads: its prefix cannot be shaped")


def fits(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return module.bias_k is None and not module.add_zero_attn and is_floating(module)
    return projections_of(module) is not None


@component
class Prefix(Adapter):
    """Learned keys and values in front of those of every attention layer (Li and Liang 2021, section 4).

    Works on `nn.MultiheadAttention` (without `bias_k` and `add_zero_attn`) and on modules in the style of Hugging Face:
    linear projections called q_proj, k_proj, v_proj (or query, key, value; or q, k, v) and an argument for past keys
    and values, given as a pair or as a cache. New prefixes change the answer a little. It cannot be merged.
    """

    length: int = option(8, ge=1, help="learned positions per layer")
    scale: float = option(0.02, gt=0, help="range of the first values: uniform in [-scale, scale]")

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        parts: dict[str, LayerAdapter] = {}
        for name in match_targets(model, targets, fits, "attention layers"):
            layer = model.get_submodule(name)
            if isinstance(layer, nn.MultiheadAttention):
                like = layer.out_proj.weight
                parts[name] = AttentionPrefix(self.length, layer.embed_dim, self.scale, like, generator)
            else:
                parts[name] = PastPrefix(layer, projections_of(layer) or (), self.length, self.scale, generator)
        return LayersHandle(model, parts)
