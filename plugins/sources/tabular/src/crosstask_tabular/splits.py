"""Which rows are for training, validation and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError, nearest
from crosstask.tasks import SPLITS
from crosstask_sources.randomness import rng_for
from crosstask_tabular.manifest import Checked, SplitRule
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
    said = rows.said(rule.column)
    values = {split: set[str]().union(*map(rows.values[rule.column].meant, rule.values_of(split))) for split in SPLITS}
    meant = set[str]().union(*values.values())
    odd = next((row for row, value in enumerate(said) if value not in meant), None)
    if odd is not None:
        known = {spelled(value) for split in SPLITS for value in rule.values_of(split)}
        told = f"{rows.where(odd)}: {rule.column!r} is {said[odd]!r}, which names no split"
        raise DataError(f"{told}; split.values names {', '.join(sorted(map(repr, known)))}")
    found = {split: np.flatnonzero([value in own for value in said]) for split, own in values.items()}
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
    groups = np.array([str(value) for value in rows.said(rule.group)], dtype=object)[order]
    names = list(dict.fromkeys(groups))  # in random order, since the rows are
    for split, share in shares.items():
        chosen: list[str] = []
        while names and np.isin(groups, chosen).sum() < round(share * len(own)):
            chosen.append(names.pop(0))
        found[split] = order[np.isin(groups, chosen)]
    return {"train": order[np.isin(groups, names)], **found}


def _order(rule: SplitRule, rows: Rows, own: Index, rng: np.random.Generator) -> Index:
    """A random order of the rows. Stratified: each gets a random place among its like, as a fraction; sorted by it,
    every stretch holds the values of the column in nearly the same proportions.
    """
    if rule.stratify is None:
        return rng.permutation(len(own))
    said = np.array([str(value) for value in rows.said(rule.stratify)], dtype=object)[own]
    places = np.empty(len(own))
    for value in sorted(set(said)):
        (like,) = np.nonzero(said == value)
        places[like] = (rng.permutation(len(like)) + rng.random(len(like))) / len(like)
    return np.argsort(places)


def _kept(task: Checked, rows: Rows) -> NDArray[np.bool_]:
    """Which rows `where` keeps and, with `drop_unlabelled`, have all targets."""
    kept = np.ones(len(rows), dtype=bool)
    for column, wanted in task.entry.where.items():
        values, names = rows.values[column], set[str]()
        for value in wanted if isinstance(wanted, list | tuple) else [wanted]:
            own = values.meant(value)
            if not own:
                hint = nearest(value, values.known) if len(values.known) <= 1000 else ""
                raise DataError(f"where: no row has {spelled(value)!r} in column {column!r}{hint}")
            names |= own
        kept &= np.array([value in names for value in values.said])
    for target in task.entry.targets if task.entry.drop_unlabelled else ():
        kept &= np.array([value is not None for value in rows.said(target)])
    return kept
