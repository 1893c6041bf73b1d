"""Which rows are for training, validation and test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError
from crosstask.tasks import SPLITS
from crosstask_sources.randomness import rng_for
from crosstask_tabular.manifest import Checked, SplitRule, near
from crosstask_tabular.tables import Rows, spelled

Index = NDArray[np.int64]


def divide(task: Checked, rows: Rows, seed: int) -> dict[str, Index]:
    """Split -> indices of its rows in random order; a split that was not asked for is left out.

    Rows at random depend on the seed and on the number of rows alone: tasks with the same files and the same rule
    have the same split, whatever their targets, and no task tests on rows that another one trains on. Rows that
    `where` leaves out are left out last, for the same reason. DataError for a split without rows.
    """
    entry, rule = task.entry, task.entry.split
    rng = rng_for(seed if rule.seed is None else rule.seed, "split")
    if rule.column is not None:
        found = _by_column(rule, rows, rng)
    else:
        found = _at_random(rule, rows, rows.of(task.parts["train"]), rng)
        found |= {s: rng.permutation(rows.of(paths)) for s, paths in task.parts.items() if s != "train"}
    kept = _kept(task, rows)
    found = {split: index[kept[index]] for split, index in found.items()}
    for split, index in found.items():
        if len(index) == 0:
            cause = f"; `where` keeps {kept.sum()} of {len(kept)} rows" if entry.where else f" of {len(kept)}"
            raise DataError(f"the {split} split has no rows{cause}")
    if len(found) == 1:
        raise DataError("nothing to judge on: give a validation or a test share, column value or file")
    return found


def _by_column(rule: SplitRule, rows: Rows, rng: np.random.Generator) -> dict[str, Index]:
    assert rule.column is not None
    column = rows.values[rule.column]
    codes = {split: set[int]().union(*map(column.meant, rule.values_of(split))) for split in SPLITS}
    odd = np.flatnonzero(~column.rows_with(set[int]().union(*codes.values())))
    if len(odd):
        row = int(odd[0])
        known = {spelled(value) for split in SPLITS for value in rule.values_of(split)}
        told = f"{rows.where(row)}: {rule.column!r} is {column.said(row)!r}, which names no split"
        raise DataError(f"{told}; split.values names {', '.join(sorted(map(repr, known)))}")
    found = {split: np.flatnonzero(column.rows_with(own)) for split, own in codes.items()}
    return {s: rng.permutation(index) for s, index in found.items() if len(index) or s in rule.values or s == "train"}


def _at_random(rule: SplitRule, rows: Rows, own: Index, rng: np.random.Generator) -> dict[str, Index]:
    order = own[_order(rule, rows, own, rng)]
    shares = {split: share for split in ("validation", "test") if (share := getattr(rule, split))}
    found: dict[str, Index] = {}
    if rule.group is None:
        for split, share in shares.items():
            count = round(share * len(own))
            found[split], order = order[:count], order[count:]
        return {"train": order, **found}
    groups = rows.values[rule.group].codes[order]  # rows without a group (-1) are one
    _, first, places, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    waiting = np.argsort(first)[::-1].tolist()  # groups in the order in which they come, the next one last
    splits = np.full(len(counts), "train", dtype="U10")
    for split, share in shares.items():
        have = 0
        while waiting and have < round(share * len(own)):
            group = waiting.pop()
            splits[group] = split
            have += int(counts[group])
    whose = splits[places]
    return {split: order[whose == split] for split in ("train", *shares)}


def _order(rule: SplitRule, rows: Rows, own: Index, rng: np.random.Generator) -> Index:
    """A random order of the rows. Stratified: each gets a random place among its like, as a fraction; sorted by it,
    every stretch holds the values of the column in nearly the same proportions.
    """
    if rule.stratify is None:
        return rng.permutation(len(own))
    column = rows.values[rule.stratify]
    codes = column.codes[own]
    names: list[Any] = [*column.names, None]
    by_value = np.argsort(codes, kind="stable")
    different, starts, counts = np.unique(codes[by_value], return_index=True, return_counts=True)
    places = np.empty(len(own))
    for number in sorted(range(len(different)), key=lambda place: str(names[different[place]])):
        like = by_value[starts[number] : starts[number] + counts[number]]
        places[like] = (rng.permutation(len(like)) + rng.random(len(like))) / len(like)
    return np.argsort(places)


def _kept(task: Checked, rows: Rows) -> NDArray[np.bool_]:
    """Which rows `where` keeps."""
    kept = np.ones(len(rows), dtype=bool)
    for name, wanted in task.entry.where.items():
        column, codes = rows.values[name], set[int]()
        for value in wanted if isinstance(wanted, list | tuple) else [wanted]:
            own = column.meant(value)
            if not own:
                raise DataError(f"where: no row has {spelled(value)!r} in column {name!r}{near(value, column.names)}")
            codes |= own
        kept &= column.rows_with(codes)
    return kept
