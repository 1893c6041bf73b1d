"""Merging of files and of modules, without an engine."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import copy_of
from crosstask.options import build, unstructure
from crosstask_merging.checkpoints import order_of, write_checkpoint
from crosstask_merging.grams import grams_of
from crosstask_merging.merger import Ingredients, Merger
from crosstask_merging.plugin import PLUGIN
from crosstask_merging.shards import is_checkpoint
from crosstask_merging.weights import OnDisk, Weights, check_alike, load, ordered, weights_of, whole, write
from crosstask_synthesis.batchnorm import has_statistics, reestimate

Source = str | Path | nn.Module | Mapping[str, Tensor]


def merge(
    paths: Sequence[str | Path],
    out: str | Path,
    method: str | Merger | None = None,
    *,
    base: str | Path | None = None,
    weights: Sequence[float] | None = None,
    grams: Sequence[Source] | None = None,
    fishers: Sequence[Source] | None = None,
    score: Callable[[Mapping[str, Tensor]], float] | None = None,
    **options: Any,
) -> Path:
    """Merge safetensors files into the file `out`, tensor by tensor: one tensor of each of a few models is in memory.

    A path may also be a folder that `save_pretrained` wrote, or the index of one whose weights are in several files.
    From folders a folder is made (unless `out` is a `.safetensors`): its weights divided among files as those of the
    first model, with an index, and with the first model's settings and tokeniser.

    `method` is a name with its `options`, or a component; by default `regmean` if there are `grams` (one per model, see
    `grams_of`), else `uniform_soup`. `weights` are divided by their sum. The file's metadata say from what it was made.
    DataError with the list of what differs, or with what the method needs.
    """
    chosen = _method(method, grams is not None, options)
    models = [weights_of(path) for path in paths]
    start = weights_of(base) if base is not None else None
    given = Ingredients(models, _shares(weights, len(models)), start, _all(grams), _all(fishers), score)
    check_alike(models, start)
    told = {
        "method": _name(chosen), "options": unstructure(chosen.options()), "models": [str(p) for p in paths],
        "weights": list(given.weights), "base": None if base is None else str(base),
    }  # fmt: skip
    metadata = {"format": "pt", "crosstask": json.dumps(told)}  # transformers reads no file without the format
    first, target = models[0], Path(out)
    if isinstance(first, OnDisk) and is_checkpoint(first.path) and target.suffix != ".safetensors":
        files: dict[str, list[str]] = {}
        for name, file in first.files.items():
            files.setdefault(file.name, []).append(name)
        tensors = chosen.merged(given, order_of(files, first.index))
        like = first.path if first.path.is_dir() else first.path.parent
        write_checkpoint(target, files, first.index, tensors, metadata, like)
    else:
        index = ordered(first.index)
        write(target, index, chosen.merged(given, list(index)), metadata)
    return target


def merge_modules(
    models: Sequence[nn.Module],
    method: str | Merger | None = None,
    *,
    base: nn.Module | None = None,
    weights: Sequence[float] | None = None,
    inputs: Sequence[Tensor] | Tensor | None = None,
    grams: Sequence[Source] | None = None,
    fishers: Sequence[Source] | None = None,
    score: Callable[[Mapping[str, Tensor]], float] | None = None,
    **options: Any,
) -> nn.Module:
    """A new module with the merged weights of modules in memory; see `merge`.

    `inputs` (one tensor for all models, or one for each) give RegMean its Gram matrices, and BatchNorm its statistics.
    By default `regmean` if there are inputs or `grams`, else `uniform_soup`.
    """
    chosen = _method(method, grams is not None or inputs is not None, options)
    own = [inputs] * len(models) if isinstance(inputs, Tensor) else inputs
    if own is not None and len(own) != len(models):
        raise DataError(f"{len(own)} tensors of inputs for {len(models)} models")
    if grams is None and own is not None and "grams" in chosen.needs:
        grams = [grams_of(model, seen) for model, seen in zip(models, own, strict=True)]
    if score is not None and models:
        score = functools.partial(_score_with, score, models[0])
    sources = [weights_of(model, f"model {number}") for number, model in enumerate(models)]
    start = None if base is None else weights_of(base, "base")
    given = Ingredients(sources, _shares(weights, len(models)), start, _all(grams), _all(fishers), score)
    state = dict(chosen.merged(given))
    made = copy_of(models[0])
    load(made, state)
    if own is not None and has_statistics(made):
        reestimate(made, own[0] if isinstance(inputs, Tensor) else torch.cat(list(own)))
    return made


def _score_with(score: Callable[[Mapping[str, Tensor]], float], model: nn.Module, state: Mapping[str, Tensor]) -> float:
    """The score of tensors, and of what else the module's `load_state_dict` expects."""
    return score(whole(model, state))


def _all(sources: Sequence[Source] | None) -> list[Weights] | None:
    return None if sources is None else [weights_of(source) for source in sources]


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / max(1, count)] * count
    if len(weights) != count:
        raise DataError(f"{len(weights)} weights for {count} models")
    if not all(isinstance(weight, int | float) and math.isfinite(weight) for weight in weights):
        raise DataError(f"weights must be finite numbers, got {list(weights)}")
    if min(weights, default=0) < 0 or not any(weights):
        raise DataError(f"weights must not be negative and not all zero, got {list(weights)}")
    largest = max(weights)
    weights = [weight / largest for weight in weights]  # the sum of large ones would be infinite
    total = sum(weights)
    return [weight / total for weight in weights]


def _method(method: str | Merger | None, regression: bool, options: Mapping[str, Any]) -> Merger:
    if isinstance(method, Merger):
        if options:
            raise OptionError(f"options {sorted(options)} belong to the component that was given")
        return method
    name = method or ("regmean" if regression else "uniform_soup")
    known = {extension.name: extension.target for extension in PLUGIN.extensions}
    if name not in known:
        raise OptionError(f"unknown merging method {name!r}{nearest(name, known)}")
    module, _, kind = known[name].partition(":")
    return build(getattr(importlib.import_module(module), kind), options, name)


def _name(method: Merger) -> str:
    kind = f"{type(method).__module__}:{type(method).__name__}"
    return next((e.name for e in PLUGIN.extensions if e.target == kind), kind)
