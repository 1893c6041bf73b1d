"""Which layers of a model an adapter takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from torch import nn

from crosstask.errors import DataError, nearest
from crosstask_adapters.adapted_layers import computed_names, own_tensor
from crosstask_adapters.base_weights import base_modules, base_names, check_materialised


def match_targets(
    model: nn.Module,
    targets: Sequence[str],
    fits: Callable[[str, nn.Module], bool],
    what: str,
    choose: Callable[[list[str]], list[str]] = list,
) -> list[str]:
    """Names of the modules that `targets` mean (see `Adapter.attach`) and that `fits` accepts, in the model's order.

    Without targets, `choose` picks among all that fit. A module with several names goes by its first, and is meant by
    each. DataError if nothing is left, or a target matches nothing; `what` says in it what could be adapted.
    """
    check_materialised(model)
    modules = {name: module for name, module in base_modules(model) if name}
    fit = [name for name, module in modules.items() if fits(name, module)]
    wanted = [t for t in targets if not t.startswith("!")]
    out = [t[1:] for t in targets if t.startswith("!")]
    names_of = {name: names for name, names in base_names(model).items() if name}
    every = {name for names in names_of.values() for name in names}
    matched = {
        target: [first for first, names in names_of.items() if any(_matches(target, n, target in every) for n in names)]
        for target in wanted + out
    }
    for target, names in matched.items():
        if not names:
            raise DataError(f"target {target!r} matches no module of {type(model).__name__}{nearest(target, fit)}")
        if target in wanted and not set(names) & set(fit):
            kind = type(modules[names[0]]).__name__
            raise DataError(f"target {target!r} is a {kind}; this adapter works on {what}{nearest(target, fit)}")
    taken = {name for target in wanted for name in matched[target]}
    left = {name for target in out for name in matched[target]}
    chosen = [name for name in (fit if wanted else choose(fit)) if name not in left and (not wanted or name in taken)]
    if not chosen:
        outside = f" outside {', '.join(out[:4])}" if out else ""
        raise DataError(f"{type(model).__name__} has no {what}{outside} to adapt{nearest('', fit)}")
    return chosen


def _matches(target: str, name: str, exact: bool) -> bool:
    """Whether a target means a module. The whole name of one is exact: it does not mean others that end like it."""
    if name == target or name.startswith(f"{target}."):
        return True
    return not exact and (f".{target}." in f".{name}." or ("*" in target and fnmatch.fnmatchcase(name, target)))


def is_floating(module: nn.Module) -> bool:
    """Whether a layer's own weights are floating-point numbers, which can be adapted."""
    computed = (own_tensor(module, name) for name in computed_names(module))
    own = (*module.parameters(recurse=False), *computed)
    return all(p is None or p.is_floating_point() for p in own)


def called(model: nn.Module, name: str) -> bool:
    """Whether a layer is called in the forward pass, as far as can be known: attention only reads its `out_proj`."""
    parent, _, child = name.rpartition(".")
    return child != "out_proj" or not isinstance(model.get_submodule(parent), nn.MultiheadAttention)
