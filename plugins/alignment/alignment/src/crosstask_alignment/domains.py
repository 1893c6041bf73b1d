"""Which domain a row comes from: what is refused, and how several domains are compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from crosstask.errors import DataError, of_kind
from crosstask.options import structure


def check_domains(domain: Tensor, rows: int, n_domains: int | None, who: str, *, least: int = 1) -> Tensor:
    """Numbers of domains [N] as whole numbers. DataError unless there is one for each row, each is from 0 to
    `n_domains` - 1 (by default: to the largest), and each domain has `least` rows.
    """
    of_kind(domain, Tensor, f"{who}: domain")
    if domain.shape != (rows,) or domain.is_floating_point() or domain.is_complex():
        raise DataError(
            f"{who}: domain must be whole numbers [N], one for each of the {rows} rows, got {domain.dtype} of shape "
            f"{tuple(domain.shape)}"
        )
    made = domain.long()
    if not rows:
        raise DataError(f"{who}: the batch has no rows")
    low, high = torch.stack([made.min(), made.max()]).tolist()  # a GPU is waited for once
    count = high + 1 if n_domains is None else n_domains
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        allowed = "from 0 on" if n_domains is None else f"from 0 to {count - 1}, there are {count} (n_domains)"
        raise DataError(f"{who}: domain {wrong} is none: they are numbered {allowed}")
    counts = torch.bincount(made, minlength=count).tolist()
    present = [number for number, found in enumerate(counts) if found]
    if len(present) < 2:
        told = "a row" if rows == 1 else f"{rows} rows"
        raise DataError(f"{who}: {told} of domain {present[0]} only; a batch needs rows of each domain")
    for number, found in enumerate(counts):
        if found < least:
            told = "no row" if not found else f"{found} row" if found == 1 else f"{found} rows"
            needs = "rows of each domain" if least == 1 else f"at least {least} rows of each domain"
            raise DataError(f"{who}: {told} of domain {number} in the batch; it needs {needs}")
    return made


def progress_of(progress: float) -> float:
    """The part of a training that is done. DataError outside 0 to 1."""
    p: float = structure(progress, float, "progress")
    if not 0 <= p <= 1:
        raise DataError(f"progress is the part of the training that is done, from 0 to 1, got {progress!r}")
    return p


def mean_over_pairs(function: Callable[[Tensor, Tensor], Tensor], features: Tensor, domain: Tensor) -> Tensor:
    """The mean of `function(rows of one domain, rows of another)` over all pairs of domains in the batch."""
    parts = [features[domain == number] for number in torch.unique(domain).tolist()]
    found = [function(one, other) for one, other in itertools.combinations(parts, 2)]
    return torch.stack(found).mean()
