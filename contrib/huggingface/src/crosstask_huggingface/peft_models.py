"""LoRA adapters of a live PEFT model as crosstask's and back, in place: the base is never copied, and factors are the
very same parameters.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError, of_kind
from crosstask_adapters import AdapterConfig, AdapterModel, LayersHandle
from crosstask_huggingface.libraries import library

NEEDS_FILES = "exchange it by files (`save_pretrained`, crosstask_lora's load_peft)"


@attrs.frozen
class Found:
    """A LoRA of PEFT's: its layers by path, its copies of whole modules, its settings."""

    layers: dict[str, Any]
    saved: dict[str, nn.Module]
    r: int
    alpha: float
    dropout: float


def from_peft(model: Any) -> AdapterModel:
    """The base of a `PeftModel` with its LoRA adapters as crosstask's, under their names, enabled as they were.

    Nothing is copied: the base's modules are those of the model, without PEFT's wrappers, and the factors are PEFT's
    own parameters (of embeddings and convolutions other views of the same memory). The `PeftModel` is used up by this;
    `to_peft` makes one again. DataError, with the model as it was, for what crosstask's LoRA is not: DoRA, trained
    biases, ranks by layer, attention modules, quantised layers, merged adapters, other tuners.
    """
    peft = library("peft")
    of_kind(model, peft.PeftModel, "from_peft: the model")
    configs = dict(model.peft_config)
    for name, config in configs.items():
        if config.peft_type != "LORA":
            raise DataError(f"adapter {name!r} is {str(config.peft_type.value)!r}: only LoRA has a form here")
        if config.target_parameters:
            raise DataError(f"adapter {name!r} is on parameters that are no layers' weights (target_parameters)")
        if config.bias != "none":
            raise DataError(f"adapter {name!r} trains biases of the base (bias={config.bias!r}): {NEEDS_FILES}")
    base: nn.Module = model.base_model.model
    found = {name: _found(base, name) for name in configs}
    active, off = list(model.active_adapters), _is_off(base)
    places = list(_wrappers(base))
    for parent, child, _, inner in places:
        setattr(parent, child, inner)
    noted = base.__dict__.pop("peft_config", None)
    made = AdapterModel(base)
    try:
        for name, each in found.items():
            _attach(made, name, each, trained=not configs[name].inference_mode)
    except Exception:
        for name in made.adapters:
            made.remove_adapter(name)
        for parent, child, wrapper, _ in places:
            setattr(parent, child, wrapper)
        if noted is not None:
            base.__dict__["peft_config"] = noted
        raise
    made.use(*(() if off else active))
    made.__dict__["_peft_configs"] = configs
    return made.train(model.training)


def to_peft(model: AdapterModel) -> Any:
    """A `PeftModel` of the base of `model`, with its LoRA adapters under their names; the adapters' parameters are its
    factors. `model` is used up by this. DataError, with the model as it was, for other adapters, merged ones, and
    layers for which PEFT has another LoRA.
    """
    peft = library("peft")
    of_kind(model, AdapterModel, "to_peft: the model")
    if not model.adapters:
        raise DataError("there is no adapter to give to PEFT")
    held = {name: _held(model, name) for name in model.adapters}
    told = {name: _config(peft, model, name) for name in model.adapters}
    enabled = [name for name in model.adapters if model._entry(name).enabled]
    saved = {name: model.saved(name) for name in model.adapters}
    training, base = model.training, model.base
    for name in list(model.adapters):
        model.remove_adapter(name)
    first, *others = told
    made = peft.get_peft_model(base, told[first], adapter_name=first)
    for name in others:
        made.add_adapter(name, told[name])
    for name, parts in held.items():
        for path, part in parts.items():
            _give(base.get_submodule(path), name, part)
        handle = saved[name]
        for path, own in (handle.parts if handle is not None else {}).items():
            _set(_saved_module(base, path, name), own.get_submodule("own"))
    if enabled:
        made.base_model.set_adapter(enabled)
    else:
        made.base_model.disable_adapter_layers()
    return made.train(training)


@torch.no_grad()
def combine_adapters(model: AdapterModel, weights: Mapping[str, float], name: str = "combined") -> None:
    """Put one more LoRA on `model`, whose change of each weight is Σ weight * alpha/r * B A over the adapters named in
    `weights`, exactly: their factors side by side. It is enabled alone; the others stay, disabled, and no base is
    copied. DataError for other adapters, and for heads of their own (`crosstask_lora.combine_lora` averages them).
    """
    if not weights:
        raise DataError("there is no adapter to combine")
    held = {each: _held(model, each) for each in weights}
    if own := next((each for each in weights if model.saved(each) is not None), None):
        raise DataError(f"adapter {own!r} has heads of its own: `crosstask_lora.combine_lora` averages them")
    rank = sum(next(iter(parts.values())).r for parts in held.values())
    paths = dict.fromkeys(path for parts in held.values() for path in parts)
    settings = AdapterConfig(
        adapter_type="lora",
        lora_r=rank,
        lora_alpha=float(rank),
        target_modules=tuple(paths),
        options={"any_rank": True},
    )
    model.add_adapter(name, settings)
    for path, part in _held(model, name).items():
        part.up.zero_()
        part.down.zero_()
        begin = 0
        for each, parts in held.items():
            own = parts.get(path)
            width = next(iter(parts.values())).r
            if own is not None:
                part.up[:, begin : begin + width] = own.up * (weights[each] * own.scale)
                part.down[begin : begin + width] = own.down
            begin += width
    model.use(name)


# PEFT's side ----------------------------------------------------------------------------------------------------------


def _lora_layers(base: nn.Module) -> Iterator[tuple[str, Any]]:
    kind = library("peft.tuners.lora").LoraLayer
    return ((path, module) for path, module in base.named_modules() if isinstance(module, kind))


def _kept_modules(base: nn.Module) -> Iterator[tuple[str, Any]]:
    kind = library("peft.utils.other").AuxiliaryTrainingWrapper
    return ((path, module) for path, module in base.named_modules() if isinstance(module, kind))


def _found(base: nn.Module, name: str) -> Found:
    """An adapter's layers, if all of them are LoRA as it is here."""
    layers = {path: layer for path, layer in _lora_layers(base) if name in layer.r}
    for path, layer in layers.items():
        if reason := _another(layer, name):
            raise DataError(f"adapter {name!r} at {path!r}: {reason}")
    ranks, scales = {m.r[name] for m in layers.values()}, {m.scaling[name] for m in layers.values()}
    if len(ranks) != 1 or len(scales) != 1:
        raise DataError(f"adapter {name!r} has ranks or strengths that differ by layer, here it has one: {NEEDS_FILES}")
    saved = {}
    for path, wrapper in _kept_modules(base):
        if name in getattr(wrapper, "modules_to_save", {}):
            saved[path] = wrapper.modules_to_save[name]
        elif not hasattr(wrapper, "modules_to_save"):
            raise DataError(f"{path!r} has trained tokens, for which there is no form here")
    (rank,), (scale,) = ranks, scales
    dropout = getattr(next(iter(layers.values())).lora_dropout[name], "p", 0.0)
    return Found(layers, saved, int(rank), float(scale) * int(rank), float(dropout))


def _another(layer: Any, name: str) -> str | None:
    """Why a layer's adapter is another than crosstask's LoRA; None if it is the same."""
    inner = layer.base_layer
    if layer.merged:
        return "it is merged into the weights: call unmerge_adapter() first"
    if name in layer.lora_variant or name in layer.lora_magnitude_vector:
        return "it is a variant of LoRA (DoRA, …), which has no form here"
    if layer.lora_bias.get(name):
        return "it has a bias of its own (lora_bias)"
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = library("transformers.pytorch_utils").Conv1D
    if not isinstance(inner, (nn.Linear, nn.Embedding, transposed, *convolutions)) or isinstance(inner, _quantised()):
        return f"there is no exchange in place for a {type(inner).__name__}; {NEEDS_FILES}"
    if isinstance(inner, convolutions) and inner.groups > 1:
        return "for a grouped convolution PEFT has another LoRA, which is no change of its weight"
    return None


def _quantised() -> tuple[type, ...]:
    """Subclasses of torch's layers whose weights are no plain numbers."""
    found = sys.modules.get("bitsandbytes")
    return () if found is None else (found.nn.Linear8bitLt, found.nn.Linear4bit)


def _wrappers(base: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module, nn.Module]]:
    """(parent, name of the child, PEFT's wrapper, what it wraps)."""
    for path, layer in [*_lora_layers(base), *_kept_modules(base)]:
        parent, _, child = path.rpartition(".")
        inner = layer.base_layer if hasattr(layer, "base_layer") else layer.original_module
        yield base.get_submodule(parent), child, layer, inner


def _is_off(base: nn.Module) -> bool:
    return all(layer.disable_adapters for _, layer in _lora_layers(base))


def _attach(made: AdapterModel, name: str, found: Found, trained: bool) -> None:
    """Put an adapter on whose parameters are those of PEFT's."""
    options: dict[str, Any] = {"dropout": found.dropout, "any_rank": True}
    settings = AdapterConfig(
        adapter_type="lora", lora_r=found.r, lora_alpha=found.alpha, target_modules=tuple(found.layers),
        modules_to_save=tuple(found.saved), options=options,
    )  # fmt: skip
    made.add_adapter(name, settings)
    parts = _held(made, name)
    for path, layer in found.layers.items():
        part = parts[path]
        if name in layer.lora_embedding_A:
            up, down = layer.lora_embedding_A[name].data.t(), layer.lora_embedding_B[name].data.t()
        else:
            up, down = layer.lora_B[name].weight, layer.lora_A[name].weight
            if up.ndim > 2:
                up, down = up.data.flatten(1), down.data.flatten(1)
        part.up, part.down = (x if isinstance(x, nn.Parameter) else nn.Parameter(x) for x in (up, down))
        for parameter in (part.up, part.down):
            parameter.requires_grad_(trained)
    handle = made.saved(name)
    for path, own in (handle.parts if handle is not None else {}).items():
        prefix = next(each for each in found.saved if path == each or path.startswith(f"{each}."))
        theirs = found.saved[prefix].get_submodule(path[len(prefix) + 1 :])
        copies: Any = own.get_submodule("own")
        for key in list(copies):
            copies[key] = theirs.get_parameter(key).requires_grad_(trained)


# Our side -------------------------------------------------------------------------------------------------------------


def _held(model: AdapterModel, name: str) -> dict[str, Any]:
    """The parts of a LoRA by path. DataError for another adapter, a merged one, and weights that are tied."""
    handle, config = model.handle(name), model.adapters[name]
    if config.adapter_type != "lora" or not isinstance(handle, LayersHandle):
        raise DataError(f"adapter {name!r} is a {config.adapter_type!r}: only LoRA has a form in PEFT here")
    if model._entry(name).merged:
        raise DataError(f"adapter {name!r} is merged into the weights: call unmerge({name!r}) first")
    parts: dict[str, Any] = dict(handle.parts)
    seen: dict[int, str] = {}
    for path, part in parts.items():
        if not isinstance(getattr(part, "up", None), Tensor):
            raise DataError(
                f"adapter {name!r} at {path!r} is one of attention, which PEFT has another way: {NEEDS_FILES}"
            )
        if (other := seen.setdefault(id(part.up), path)) != path:
            raise DataError(f"adapter {name!r}: {path!r} and {other!r} share a weight and its change: {NEEDS_FILES}")
    return parts


def _config(peft: Any, model: AdapterModel, name: str) -> Any:
    """PEFT's settings for an adapter: those that it came with, or what it is."""
    parts = _held(model, name)
    layers = [model.base.get_submodule(path) for path in parts]
    if grouped := next(
        (path for path, layer in zip(parts, layers, strict=True) if getattr(layer, "groups", 1) > 1), None
    ):
        raise DataError(f"{grouped!r} is a grouped convolution: PEFT's LoRA for these is another one")
    known: dict[str, Any] = model.__dict__.get("_peft_configs", {})
    if name in known:
        return copy.deepcopy(known[name])
    first, handle = next(iter(parts.values())), model.saved(name)
    transposed = library("transformers.pytorch_utils").Conv1D
    return peft.LoraConfig(
        r=first.r,
        lora_alpha=first.alpha,
        lora_dropout=first.dropout,
        target_modules="|".join(re.escape(path) for path in parts),  # a list would mean ends of names
        modules_to_save=list(handle.parts) if handle is not None else None,
        fan_in_fan_out=all(isinstance(layer, transposed) for layer in layers),
        init_lora_weights=False,
    )


def _give(layer: Any, name: str, part: Any) -> None:
    """Make our factors those of PEFT's layer."""
    layer.scaling[name] = part.scale
    if name in layer.lora_embedding_A:
        _swap(layer.lora_embedding_A, name, part.up.data.t())
        _swap(layer.lora_embedding_B, name, part.down.data.t())
        return
    for holder, own in ((layer.lora_B[name], part.up), (layer.lora_A[name], part.down)):
        shape = holder.weight.shape
        holder.weight = own if own.shape == shape else nn.Parameter(own.data.view(shape))


def _swap(holder: Any, name: str, data: Tensor) -> None:
    holder[name] = nn.Parameter(data)


def _saved_module(base: nn.Module, path: str, name: str) -> nn.Module:
    """PEFT's copy, for an adapter, of the module that crosstask calls by this path."""
    every = _kept_modules(base)
    outer, wrapper = next((o, w) for o, w in every if path == o or path.startswith(f"{o}."))
    found: nn.Module = wrapper.modules_to_save[name].get_submodule(path[len(outer) + 1 :])
    return found


def _set(module: nn.Module, own: nn.Module) -> None:
    for key, parameter in own.named_parameters():
        setattr(module, key, parameter)
