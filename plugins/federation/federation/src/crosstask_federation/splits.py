"""Sites from one task: its rows dealt evenly, by label, or by what a column says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, nearest
from crosstask.options import option, record
from crosstask.tasks import SPLITS, Task

MOST = 200
"""The most values of a column that is to name sites: one of more values is a quantity."""


@record
class Split:
    """How one task becomes sites."""

    by: str = option("iid", choices=("iid", "label", "column"), help="at random, by class, or by a column's values")
    sites: int = option(5, ge=2, help="how many (iid, label)")
    alpha: float = option(0.5, gt=0, help="of the Dirichlet shares of each class (label); small: sites differ much")
    column: str | int | tuple[int, ...] | None = option(
        None, help="an input's name, a place among the inputs, or the places of one-hot columns (column)"
    )
    least: int = option(2, ge=1, help="fewest training samples of a site: smaller groups are left out or filled up")


def split_task(task: Task, split: Split, generator: torch.Generator) -> list[Task]:
    """The sites. Test and validation data are dealt as the training data are: each site is judged on its own kind.

    DataError where a site would have no training or no test data.
    """
    if split.by == "column":
        named = {s: _values(task, s, split.column) for s in SPLITS if task.has_data(s)}
        return split_by_groups(task, named, least=split.least)
    shares = _shares(task, split, generator.initial_seed()) if split.by == "label" else None
    rows = {s: _dealt(task, s, split, shares, generator) for s in SPLITS if task.has_data(s)}
    return _sites(task, [str(number) for number in range(split.sites)], rows)


def split_by_groups(task: Task, groups: Mapping[str, Sequence[Any] | Tensor], *, least: int = 2) -> list[Task]:
    """A site for each group that has `least` training samples and a test sample, in the order of their names; `groups`
    hold, by split, to which each of its samples belongs (drawers, alphabets, hospitals).
    """
    names: dict[str, list[str]] = {}
    for split, given in groups.items():
        values = given.tolist() if isinstance(given, Tensor) else list(given)
        if len(values) != len(task.data(split)):
            count = len(task.data(split))
            raise DataError(f"task {task.task_id!r}: {len(values)} groups for {count} {split} samples")
        names[split] = [str(value) for value in values]
    missing = [split for split in SPLITS if task.has_data(split) and split not in names]
    if missing:
        raise DataError(f"task {task.task_id!r}: groups do not say where the {missing[0]} samples belong")
    wanted = {"train": least, "test": 1}
    found = [
        name
        for name in sorted(set(names["train"]), key=_natural)
        if all(names[split].count(name) >= count for split, count in wanted.items() if split in names)
    ]
    if len(found) < 2:
        raise DataError(
            f"task {task.task_id!r}: {len(found)} group has {least} training samples and a test sample; sites are two "
            "or more"
        )
    rows = {
        split: [torch.tensor([at for at, value in enumerate(own) if value == name], dtype=torch.long) for name in found]
        for split, own in names.items()
    }
    return _sites(task, found, rows)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by their size, and before names."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (1, 0.0, name) if math.isnan(value) else (0, value, name)


def _sites(task: Task, names: Sequence[str], rows: Mapping[str, Sequence[Tensor]]) -> list[Task]:
    made = []
    for place, name in enumerate(names):
        given = {}
        for split, own in rows.items():
            if len(own[place]):
                part = task.data(split).take(own[place])
                given[split] = TensorData(part.inputs, part.targets)
        site = task.over(**given)
        told = attrs.evolve(task.descriptor, task_id=f"{task.task_id}/{name}", sample_count=len(rows["train"][place]))
        site.descriptor = told
        made.append(site)
    return made


def _dealt(task: Task, name: str, split: Split, shares: Tensor | None, generator: torch.Generator) -> list[Tensor]:
    """Which rows of a part of the data each site has; `shares` [classes, sites] of each class, or evenly."""
    data = task.data(name)
    least = split.least if name == "train" else 1
    if len(data) < least * split.sites:
        raise DataError(
            f"task {task.task_id!r}: {len(data)} {name} samples are too few for {split.sites} sites of {least}"
        )
    order = torch.randperm(len(data), generator=generator)
    if shares is None:
        return [part.sort().values for part in order.tensor_split(split.sites)]
    labels = data.targets.cpu()[order]
    site = torch.empty(len(data), dtype=torch.long)
    for label in range(len(shares)):
        own = order[labels == label]
        # where the running shares cut the class's samples: sizes are right to a sample
        cuts = (shares[label].cumsum(0) * len(own)).round().long().clamp(max=len(own))
        cuts[-1] = len(own)
        site[own] = torch.bucketize(torch.arange(len(own)), cuts, right=True)
    counts = torch.bincount(site, minlength=split.sites)
    for poor in range(split.sites):
        while counts[poor] < least:
            rich = int(counts.argmax())
            given = order[site[order] == rich][0]
            site[given] = poor
            counts[poor] += 1
            counts[rich] -= 1
    return [(site == number).nonzero().flatten() for number in range(split.sites)]


def _shares(task: Task, split: Split, seed: int) -> Tensor:
    """Dirichlet shares [classes, sites], the same for every part of a task's data."""
    if task.descriptor.task_type != "classification":
        raise DataError(f"task {task.task_id!r} is a {task.descriptor.task_type}: only classes are dealt by label")
    task.data("train")  # what the descriptor leaves open is known now
    size = max(2, task.descriptor.output_dim or 0), split.sites
    drawn = np.random.default_rng(seed).standard_gamma(split.alpha, size)  # torch's draws from the global numbers only
    drawn = np.maximum(drawn, np.finfo(float).tiny)  # of a tiny alpha all may vanish
    return torch.from_numpy(drawn / drawn.sum(1, keepdims=True))


def _values(task: Task, split: str, column: str | int | tuple[int, ...] | None) -> list[str]:
    """What the column says of each row."""
    inputs, who = task.data(split).inputs, f"task {task.task_id!r}"
    if column is None:
        raise DataError(f"{who}: say which column names the sites")
    if isinstance(column, str):
        parts: dict[str, Tensor] = getattr(inputs, "parts", {})
        if column not in parts:
            raise DataError(f"{who} has no input {column!r}{nearest(column, parts)}")
        values = parts[column]
    else:
        rows = inputs.flatten(1)
        places = (column,) if isinstance(column, int) else column
        if not places or min(places) < 0 or max(places) >= rows.shape[1]:
            raise DataError(f"{who} has {rows.shape[1]} inputs, numbered from 0: there is no column {column}")
        values = rows[:, column] if isinstance(column, int) else rows[:, list(column)].argmax(1)
    if values.ndim != 1:
        raise DataError(f"{who}: {column!r} holds {tuple(values.shape[1:])} numbers of each row, not one")
    found = [f"{value + 0:.9g}" for value in values.tolist()]  # -0 is 0, no two of single precision are one
    if len(set(found)) > MOST:
        raise DataError(
            f"{who}: column {column!r} has {len(set(found))} different values; sites are named by at most {MOST}"
        )
    return found
