"""Weighted sums of LoRA adapters as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.modules import copy_of
from crosstask_adapters import AdapterConfig, AdapterModel, LayersHandle, base_digests
from crosstask_lora.lora import LowRank


@torch.no_grad()
def combine_lora(
    models: Sequence[AdapterModel],
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    name: str = "combined",
) -> AdapterModel:
    """A model with one adapter `name`, whose change of each weight is Σ weight * alpha/r * B A over those of `models`:
    exactly, since its B's are theirs side by side (each times its factor) and its A's one under the other. Its rank is
    the sum of theirs. The models stay as they are; the new one has a copy of their base.

    `names` says which adapter of each model (the same model may stand there several times); without them each has one.
    `weights` default to equal ones that sum to one. Heads of their own are averaged with the weights, divided by the
    sum of these. What only some adapt has their part alone. DataError for other adapters than LoRA, other bases, and
    tied weights of which they adapt other places.
    """
    if not models:
        raise DataError("there is no model to combine")
    shares = [1 / len(models)] * len(models) if weights is None else [float(w) for w in weights]
    if len(shares) != len(models) or not all(map(math.isfinite, shares)):
        raise DataError(f"each of {len(models)} models needs a finite weight, got {shares}")
    chosen = _names(models, names)
    handles = [_lora(model, each) for model, each in zip(models, chosen, strict=True)]
    digests = [base_digests(model.base) for model in models]
    if wrong := next((k for k, d in enumerate(digests) if d != digests[0]), None):
        raise DataError(f"model {wrong} has another base than model 0: their changes cannot be added")
    saved = [model.saved(each) for model, each in zip(models, chosen, strict=True)]
    if any((each is None) != (saved[0] is None) for each in saved) or any(
        each is not None and saved[0] is not None and list(each.parts) != list(saved[0].parts) for each in saved
    ):
        raise DataError("the adapters have heads of their own (modules_to_save) for other modules: nothing to average")
    rank = sum(_rank(handle) for handle in handles)
    made = AdapterModel(_plain(models[0]), (), models[0]._context)
    made.add_adapter(
        name,
        AdapterConfig(
            adapter_type="lora",
            lora_r=rank,
            lora_alpha=rank,
            target_modules=tuple(dict.fromkeys(where for handle in handles for where in handle.parts)),
            modules_to_save=tuple(saved[0].parts) if saved[0] is not None else (),
            options={"any_rank": True},
        ),
    )
    handle = _lora(made, name)
    _check_ties(handle, handles)
    own = handle.named_parameters()
    for p in own.values():
        p.zero_()
    start = 0
    for each, share in zip(handles, shares, strict=True):
        stop = start + _rank(each)
        for key, factor, scale in _factors(each):
            target = own[key]
            if key.endswith(".up"):
                target[:, start:stop] = share * scale * factor
            else:
                target[start:stop] = factor
        start = stop
    _average(made.saved(name), saved, shares)
    return made


def _names(models: Sequence[AdapterModel], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(models):
            raise DataError(f"{len(names)} names of adapters for {len(models)} models")
        return list(names)
    for number, model in enumerate(models):
        if len(model.adapters) != 1:
            there = ", ".join(model.adapters) or "none"
            raise DataError(f"model {number} has {len(model.adapters)} adapters ({there}): say which with `names`")
    return [next(iter(model.adapters)) for model in models]


def _lora(model: AdapterModel, name: str) -> LayersHandle:
    handle = model.handle(name)
    if not isinstance(handle, LayersHandle) or not all(isinstance(part, LowRank) for part in handle.parts.values()):
        raise DataError(f"adapter {name!r} is a {model.adapters[name].adapter_type!r}: only LoRA's changes add up so")
    return handle


def _plain(model: AdapterModel) -> nn.Module:
    """A copy of the base without adapters."""
    copied = copy_of(model)
    assert isinstance(copied, AdapterModel)
    for name in list(copied.adapters):
        copied.remove_adapter(name)
    return copied.base


def _rank(handle: LayersHandle) -> int:
    first = next(iter(handle.parts.values()))
    assert isinstance(first, LowRank)
    return first.r


def _factors(handle: LayersHandle) -> Iterator[tuple[str, Tensor, float]]:
    """(name, factor, alpha / r) of everything that an adapter trains."""
    scales = {
        id(p): part.scale for part in handle.parts.values() for p in part.parameters() if isinstance(part, LowRank)
    }
    return ((key, factor, scales[id(factor)]) for key, factor in handle.named_parameters().items())


def _check_ties(handle: LayersHandle, handles: Sequence[LayersHandle]) -> None:
    """A tied weight has one change; one adapter must not change it at fewer places than another."""
    groups: dict[int, set[str]] = {}
    for where, part in handle.parts.items():
        groups.setdefault(id(next(part.parameters())), set()).add(where)
    for group in groups.values():
        for number, each in enumerate(handles):
            if 0 < len(there := group & set(each.parts)) < len(group):
                raise DataError(
                    f"{', '.join(sorted(group))} share a weight, which model {number} adapts only at "
                    f"{', '.join(sorted(there))}: the sum is no change of the weight"
                )


def _average(target: LayersHandle | None, saved: Sequence[LayersHandle | None], shares: Sequence[float]) -> None:
    if target is None:
        return
    total = sum(shares)
    if not total:
        raise DataError("the weights sum to zero: heads of their own (modules_to_save) have no mean")
    states = [each.state() for each in saved if each is not None]
    mean = {key: sum(s / total * state[key] for s, state in zip(shares, states, strict=True)) for key in states[0]}
    target.load_state({key: torch.as_tensor(value) for key, value in mean.items()})
