"""What both networks check: sizes, names of domains, ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError, nearest, of_kind
from crosstask.options import structure


def widths_of(told: str, given: Any) -> tuple[int, ...]:
    """Widths of layers. OptionError unless there is one, and each is at least 1."""
    widths: tuple[int, ...] = structure(given, tuple[int, ...], told)
    if not widths or min(widths) < 1:
        raise OptionError(f"{told} must name at least one layer, of at least 1 unit, got {list(widths)}")
    return widths


def size_of(told: str, given: Any) -> int:
    """A size of at least 1. OptionError otherwise."""
    size: int = structure(given, int, told)
    if size < 1:
        raise OptionError(f"{told} must be at least 1, got {size}")
    return size


def rate_of(given: Any) -> float:
    """A dropout rate. OptionError outside [0, 1)."""
    rate: float = structure(given, float, "dropout_rate")
    if not 0 <= rate < 1:
        raise OptionError(f"dropout_rate must be at least 0 and less than 1, got {rate}")
    return rate


def known(domain: object, domains: Iterable[str], told: str = "domain") -> str:
    """The name of a domain. DataError, with the nearest, for one that there is not."""
    names = list(domains)
    if not isinstance(domain, str) or domain not in names:
        raise DataError(f"{told}: there is no domain {domain!r}{nearest(domain, names)}")
    return domain


def check_ids(ids: Tensor, size: int, told: str) -> Tensor:
    """Ids [B]. DataError, with their range, for others."""
    of_kind(ids, Tensor, told)
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DataError(f"{told} must be whole numbers [B], got {ids.dtype} of shape {tuple(ids.shape)}")
    if len(ids):
        low, high = (int(end) for end in torch.aminmax(ids))
        if low < 0 or high >= size:
            wrong = low if low < 0 else high
            raise DataError(f"{told}: there is no id {wrong}: they run from 0 to {size - 1}")
    return ids


def layers(width: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """A linear layer, ReLU and dropout for each of the widths."""
    made: list[nn.Module] = []
    for before, after in itertools.pairwise((width, *widths)):
        made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*made)


def key(domain: str) -> str:
    """A module name for any domain: torch allows no dots, and some names are taken."""
    return "domain " + domain.replace("%", "%25").replace(".", "%2E")
