"""From columns to numbers: what the training rows say is used for every row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError
from crosstask_tabular.manifest import Checked, TaskEntry
from crosstask_tabular.splits import Index
from crosstask_tabular.tables import Rows

Floats = NDArray[np.float32]


@attrs.frozen(eq=False)
class Numeric:
    """A numeric column, or an array of them: gaps filled, then standardised. `mean`, `scale`, `fill` are [W]."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    fill: NDArray[np.float64]
    indicator: bool

    @property
    def width(self) -> int:
        return len(self.mean) * (2 if self.indicator else 1)

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        gaps = np.isnan(values)
        made = (np.where(gaps, self.fill, values) - self.mean) / self.scale
        return np.hstack([made, gaps]) if self.indicator else made


@attrs.frozen(eq=False)
class Categorical:
    """A column of categories: one column for each that the training rows have; any other gives zeros."""

    vocabulary: tuple[str | None, ...]
    unknown_is_error: bool

    @property
    def width(self) -> int:
        return len(self.vocabulary)


@attrs.frozen(eq=False)
class Member:
    """A task of a space with its rows and splits."""

    task: Checked
    rows: Rows
    splits: dict[str, Index]

    @property
    def entry(self) -> TaskEntry:
        return self.task.entry

    def said(self, column: str, index: Index) -> list[str | None]:
        """Some rows of a column as labels or categories."""
        said = self.rows.said(column)
        return [said[row] for row in index]


class Encoding:
    """The inputs of all tasks of one space: the same columns in the same order, encoded by all their training rows.

    A column that is not among a task's features is zeros for that task.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self.codes: dict[str, Numeric | Categorical] = {}
        for column in dict.fromkeys(name for member in members for name in member.task.features):
            own = [member for member in members if column in member.task.features]
            kinds = {member.entry.id: _is_categorical(member, column) for member in own}
            if len(set(kinds.values())) > 1:
                text, number = (next(t for t, kind in kinds.items() if kind is wanted) for wanted in (True, False))
                raise DataError(f"column {column!r} holds categories in task {text!r} and numbers in {number!r}")
            made = _categorical if kinds[own[0].entry.id] else _numeric
            self.codes[column] = made(own, column)
        self.width = sum(code.width for code in self.codes.values())
        self.shape = first.entry.shape or (self.width,)
        if math.prod(self.shape) != self.width:
            raise DataError(f"shape {list(self.shape)} has {math.prod(self.shape)} numbers, the features {self.width}")
        blocks = {first.rows.table[name].shape[1:] for name in self.codes if name in first.rows.table}
        if first.entry.shape is None and len(self.codes) == 1 and len(shape := blocks.pop()) > 1:
            self.shape = shape  # one array of images, say, stays what it is

    def encode(self, member: Member, index: Index) -> Floats:
        """Inputs [N, *shape] of some rows of a task."""
        made = []
        for column, code in self.codes.items():
            if column not in member.task.features:
                made.append(np.zeros((len(index), code.width)))
            elif isinstance(code, Numeric):
                made.append(code.encode(_numbers(member, column, index)))
            else:
                made.append(_one_hot(member, column, code, index))
        return np.hstack(made).astype(np.float32).reshape(len(index), *self.shape)


def _is_categorical(member: Member, column: str) -> bool:
    values, listed = member.rows.table[column], member.entry.categorical
    if listed is not None and column in listed:
        if values.ndim > 1:
            raise DataError(f"categorical: {column!r} is an array of shape {values.shape[1:]} per row, no category")
        return True
    if values.dtype == object and listed is not None:
        row = next((row for row, value in enumerate(values) if value is not None), 0)
        told = f"column {column!r} holds text ({member.rows.where(row)}: {values[row]!r})"
        raise DataError(f"{told}; list it in `categorical`, or leave it out")
    return values.dtype == object


def _numbers(member: Member, column: str, index: Index) -> NDArray[np.float64]:
    """Rows of a numeric column as [N, W]. DataError for infinite values, and for gaps where these are errors."""
    values = member.rows.table[column][index].reshape(len(index), -1)
    wrong = np.isinf(values) | (np.isnan(values) if member.entry.missing == "error" else False)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        what = "infinite" if np.isinf(values[row]).any() else "missing"
        raise DataError(f"{member.rows.where(int(index[row]))}: column {column!r} has a value that is {what}")
    return values


def _numeric(members: Sequence[Member], column: str) -> Numeric:
    entry = members[0].entry
    widths = {member.rows.table[column].shape[1:] for member in members}
    if len(widths) > 1:
        raise DataError(f"array {column!r} has other shapes in other tasks: {sorted(widths)}")
    values = np.concatenate([_numbers(member, column, member.splits["train"]) for member in members])
    if np.isnan(values).all(axis=0).any():
        raise DataError(f"column {column!r} has no value in any training row; leave it out")
    mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    if isinstance(entry.missing, int | float):
        fill = np.full(len(mean), float(entry.missing))
    else:
        fill = np.nanmedian(values, axis=0) if entry.missing == "median" else mean
    plain = np.zeros_like(mean), np.ones_like(mean)
    mean, scale = (mean, np.where(spread > 1e-12 * abs(mean), spread, 1.0)) if entry.standardize else plain
    return Numeric(mean, scale, fill, entry.missing == "indicator")


def _categorical(members: Sequence[Member], column: str) -> Categorical:
    entry = members[0].entry
    said = list(itertools.chain.from_iterable(m.said(column, m.splits["train"]) for m in members))
    vocabulary = ordered({value for value in said if value is not None})
    if len(vocabulary) > entry.max_categories:
        told = f"column {column!r} has {len(vocabulary)} categories in the training rows"
        raise DataError(f"{told}; leave it out with `exclude`, or raise max_categories ({entry.max_categories})")
    if not vocabulary:
        raise DataError(f"column {column!r} has no value in any training row; leave it out")
    return Categorical((*vocabulary, None) if None in said else vocabulary, entry.unknown == "error")


def _one_hot(member: Member, column: str, code: Categorical, index: Index) -> NDArray[np.float64]:
    places = {value: place for place, value in enumerate(code.vocabulary)}
    made = np.zeros((len(index), code.width))
    for number, value in enumerate(member.said(column, index)):
        if value in places:
            made[number, places[value]] = 1
        if value is None and member.entry.missing == "error":
            raise DataError(f"{member.rows.where(int(index[number]))}: column {column!r} has a value that is missing")
        if value is not None and value not in places and code.unknown_is_error:
            row = member.rows.where(int(index[number]))
            raise DataError(f"{row}: column {column!r} has {value!r}, which no training row has")
    return made


def ordered(names: set[str]) -> tuple[str, ...]:
    """Names in the order of their numbers if all are numbers, else of the alphabet."""
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))
