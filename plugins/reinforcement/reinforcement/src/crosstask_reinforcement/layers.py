"""What the networks of agents are checked and built with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError, nearest, of_kind
from crosstask.options import structure


def size(value: Any, where: str) -> int:
    """A whole number of at least 1; OptionError, which begins with `where`."""
    found: int = structure(value, int, where)
    if found < 1:
        raise OptionError(f"{where} must be at least 1, got {found}")
    return found


def widths(dims: Any, where: str) -> tuple[int, ...]:
    """Widths of layers, at least one."""
    found: tuple[int, ...] = structure(dims, tuple[int, ...], where)
    if not found:
        raise OptionError(f"{where} must name at least one layer")
    return tuple(size(each, where) for each in found)


def rate(value: Any, where: str) -> float:
    """A share for dropout, from 0 to below 1."""
    found: float = structure(value, float, where)
    if not 0 <= found < 1:
        raise OptionError(f"{where} must be at least 0 and less than 1, got {found}")
    return found


def action_dims(dims: Any, where: str) -> dict[str, int]:
    """How many actions each task has, by its name; at least one task."""
    found: dict[str, int] = structure(dims, dict[str, int], where)
    if not found:
        raise OptionError(f"{where} must name at least one task")
    return {name: size(count, f"{where}: task {name!r}") for name, count in found.items()}


def stack(dims: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear, ReLU and, where there is any, dropout from each width to the next. There is nothing that looks at the
    batch, so one state is answered alone as among others.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(dims):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def states(state: Any, state_dim: int, who: str) -> tuple[Tensor, bool]:
    """States as rows [B, S], and whether it was a single one, [S]. DataError for another width or kind."""
    found = of_kind(state, Tensor, f"{who}: state")
    if found.ndim not in (1, 2) or found.shape[-1] != state_dim:
        raise DataError(f"{who}: state must be [B, {state_dim}] or [{state_dim}], got {tuple(found.shape)}")
    if not found.is_floating_point():
        found = found.to(torch.get_default_dtype())
    return (found[None], True) if found.ndim == 1 else (found, False)


def task_number(name: Any, tasks: Mapping[str, Any], who: str) -> int:
    """The place of a task among those known; DataError with the nearest name."""
    if not isinstance(name, str) or name not in tasks:
        raise DataError(f"{who}: no task {name!r}{nearest(name, tasks)}")
    return list(tasks).index(name)


def task_numbers(task_ids: Any, count: int, rows: int, who: str) -> Tensor:
    """Numbers of tasks [B], one for each row; DataError for another shape or a number that is no task's."""
    found = of_kind(task_ids, Tensor, f"{who}: task_ids")
    if found.shape != (rows,) or found.is_floating_point() or found.dtype == torch.bool:
        raise DataError(f"{who}: task_ids must be whole numbers [{rows}], got {found.dtype} {tuple(found.shape)}")
    if rows and (int(found.min()) < 0 or int(found.max()) >= count):
        raise DataError(f"{who}: task_ids must be from 0 to {count - 1}, got {int(found.min())} to {int(found.max())}")
    return found.long()
