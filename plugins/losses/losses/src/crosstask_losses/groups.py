"""Parameters in groups with learning rates of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from crosstask.errors import DataError, OptionError, nearest, of_kind
from crosstask.options import structure

SUFFIX = "_lr_multiplier"


def parameter_groups(
    model: nn.Module, learning_rate: float, multipliers: Mapping[str, float] | None = None, **named: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: `perceiver_lr_multiplier=1.5` trains `model.perceiver` at 1.5 times the rate.

        optimizer = torch.optim.Adam(parameter_groups(model, 1e-3, perceiver_lr_multiplier=1.5))

    `multipliers`: the same by the names of submodules, which may have dots (`{"decoder.head": 0.1}`). The first group,
    "model", is what no other has; a part inside another goes into the innermost group that is named. Parameters that
    need no gradient are left out. OptionError for a part that the model does not have, DataError for one without
    anything to train.
    """
    of_kind(model, nn.Module, "the model")
    learning_rate = structure(learning_rate, float, "parameter_groups: learning_rate")
    chosen = dict(of_kind(multipliers or {}, Mapping, "parameter_groups: multipliers"))  # type: ignore[type-abstract]
    for key, value in named.items():
        if not key.endswith(SUFFIX) or key == SUFFIX:
            raise OptionError(f"parameter_groups: no option {key!r}; the rate of a part is <part>{SUFFIX}")
        chosen[key.removesuffix(SUFFIX)] = value
    modules = dict(model.named_modules())
    groups: dict[str, dict[str, Any]] = {}
    owner: dict[int, str] = {}
    for name in sorted(chosen, key=lambda each: each.count(".")):  # the innermost last, whose word it is
        where = f"learning-rate multiplier of {name!r}"
        factor: float = structure(chosen[name], float, where)
        if not (math.isfinite(factor) and factor > 0):
            raise OptionError(f"{where} must be a finite number above zero, got {factor}")
        if name not in modules or not name:
            raise OptionError(f"{where}: the model has no such part{nearest(name, dict(model.named_children()))}")
        for parameter in modules[name].parameters():
            owner[id(parameter)] = name
        groups[name] = {"params": [], "lr": learning_rate * factor, "name": name}
    rest: dict[str, Any] = {"params": [], "lr": learning_rate, "name": "model"}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.get(owner.get(id(parameter), ""), rest)["params"].append(parameter)
    if empty := [name for name, group in groups.items() if not group["params"]]:
        raise DataError(f"learning-rate multiplier of {empty[0]!r}: it has no parameter of its own to train")
    found = [rest, *groups.values()] if rest["params"] else list(groups.values())
    if not found:
        raise DataError(f"no parameter of {type(model).__name__} can be trained")
    return found
