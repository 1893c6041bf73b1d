"""From columns to numbers: what the training rows say is used for every row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError
from crosstask_sources.files import shown
from crosstask_tabular.manifest import Checked, TaskEntry
from crosstask_tabular.splits import Index
from crosstask_tabular.tables import Rows, Values

Floats = NDArray[np.float32]
LARGEST = float(np.finfo(np.float32).max)
_CELLS = 1 << 19  # that are float64 at a time


@attrs.frozen(eq=False)
class Numeric:
    """Plain columns of numbers, or one whose values are arrays: gaps filled, then standardised.

    `mean`, `scale` and `fill` are [W]. With `indicator` each of several columns is followed by one that says where its
    gaps were; an array by as many.
    """

    columns: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    fill: NDArray[np.float64]
    indicator: bool

    @property
    def width(self) -> int:
        return len(self.mean) * (2 if self.indicator else 1)

    def encode(self, values: NDArray[np.float64], out: Floats) -> None:
        """[N, W] into [N, width]."""
        gaps = np.isnan(values)
        made = (np.where(gaps, self.fill, values) - self.mean) / self.scale
        if not self.indicator:
            out[:] = made
        elif len(self.columns) > 1:
            out[:, 0::2], out[:, 1::2] = made, gaps
        else:
            out[:, : len(self.mean)], out[:, len(self.mean) :] = made, gaps

    def without(self, absent: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[width]: the places of columns [len(columns)] that are absent."""
        return np.repeat(absent, self.width // len(self.columns))


@attrs.frozen(eq=False)
class Categorical:
    """A column of categories: one column for each that the training rows have; any other gives zeros."""

    column: str
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

    def column(self, name: str) -> Values:
        return self.rows.values[name]


def digest(index: Index) -> str:
    """Which rows, in which order."""
    return hashlib.sha256(np.ascontiguousarray(index).view(np.uint8).data).hexdigest()


class Encoding:
    """The inputs of all tasks of one space: the same columns in the same order, encoded by all their training rows.

    A column that is not among a task's features is zeros for that task. Rows that several tasks train on count once.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        sources: dict[tuple[object, str], int] = {}  # the same rows are the same source, whoever trains on them
        source = [sources.setdefault((m.rows.how, digest(m.splits["train"])), len(sources)) for m in members]
        users: dict[str, dict[int, Member]] = {}
        kinds: dict[str, tuple[bool, str]] = {}
        for number, member in zip(source, members, strict=True):
            for name in member.task.features:
                text = _is_categorical(member, name)
                other, task = kinds.setdefault(name, (text, member.entry.id))
                if text is not other:
                    ids = (member.entry.id, task) if text else (task, member.entry.id)
                    told = f"holds categories in task {shown(ids[0])!r} and numbers in {shown(ids[1])!r}"
                    raise DataError(f"column {shown(name)!r} {told}")
                users.setdefault(name, {}).setdefault(number, member)
        self.codes: list[Numeric | Categorical] = []
        for names in _blocks(users, kinds):
            own = list(users[names[0]].values())
            made = _categorical(own, names[0]) if kinds[names[0]][0] else _numeric(own, names)
            self.codes.append(made)
        self.width = sum(code.width for code in self.codes)
        self.shape = first.entry.shape or (self.width,)
        if math.prod(self.shape) != self.width:
            raise DataError(f"shape {list(self.shape)} has {math.prod(self.shape)} numbers, the features {self.width}")
        if first.entry.shape is None and len(users) == 1:
            ((name, own_members),) = users.items()
            shape = next(iter(own_members.values())).column(name).shape
            if len(shape) > 1:
                self.shape = shape  # one array of images, say, stays what it is

    def encode(self, member: Member, index: Index) -> Floats:
        """Inputs [N, *shape] of some rows of a task."""
        made = np.zeros((len(index), self.width), dtype=np.float32)
        start = 0
        for code in self.codes:
            own = made[:, start : start + code.width]
            start += code.width
            if isinstance(code, Categorical):
                if code.column in member.task.own:
                    _one_hot(member, code, index, own)
                continue
            absent = np.array([name not in member.task.own for name in code.columns])
            if absent.all():
                continue
            for rows, values in _numbers(member, code.columns, index):
                code.encode(values, own[rows])
            own[:, code.without(absent)] = 0
        # standardised by a spread that is next to nothing, or filled with a number that is too large
        if len(made) and not np.isfinite([made.min(), made.max()]).all():
            row, place = (int(found[0]) for found in np.nonzero(~np.isfinite(made)))
            raise DataError(f"{member.rows.where(int(index[row]))}: input {place + 1} is too large for a float32")
        return made.reshape(len(index), *self.shape)


def _blocks(users: dict[str, dict[int, Member]], kinds: dict[str, tuple[bool, str]]) -> Iterator[tuple[str, ...]]:
    """Columns that are encoded together: neighbours that are plain numbers of the same rows."""
    block: list[str] = []
    before: tuple[int, ...] | None = None
    for name, own in users.items():
        plain = not kinds[name][0] and not next(iter(own.values())).column(name).shape
        like = tuple(own) if plain else None
        if block and (like is None or like != before):
            yield tuple(block)
            block = []
        before = like
        block.append(name)
    if block:
        yield tuple(block)


def _is_categorical(member: Member, name: str) -> bool:
    """Whether a column is one of categories. DataError where what it holds does not tell."""
    column, listed = member.column(name), member.entry.categorical
    if listed is not None and name in listed:
        if column.shape:
            raise DataError(f"categorical: {name!r} is an array of shape {column.shape} per row, no category")
        return True
    if not column.is_text:
        return False
    if listed is not None:
        row = int(np.flatnonzero(column.codes >= 0)[0]) if column.names else 0
        told = f"column {shown(name)!r} holds text ({member.rows.where(row)}: {column.said(row)!r})"
        raise DataError(f"{told}; list it in `categorical`, or leave it out")
    check_mixed(column, member.rows, "list it in `categorical` if these are categories")
    return True


def check_mixed(column: Values, rows: Rows, otherwise: str) -> None:
    """DataError for a column of text most of which are numbers: it says where the first other one is."""
    told = f"column {shown(column.name)!r}"
    if column.names and all(map(column.with_comma, column.names)):
        row = int(np.flatnonzero(column.codes >= 0)[0])
        said = f"{rows.where(row)}: {told} holds {column.said(row)!r}"
        raise DataError(f"{said}: numbers with decimal commas; say decimal = ',', or {otherwise}")
    known = column.codes[column.codes >= 0]
    numbers = np.array([column.is_number(name) for name in column.names], dtype=bool)
    share = int(numbers[known].sum())
    if numbers.any() and 2 * share > len(known):
        row = int(np.flatnonzero(column.rows_with(np.flatnonzero(~numbers).tolist()))[0])
        said = f"{rows.where(row)}: {told} holds {shown(column.said(row) or '')!r}, and numbers in {share} other rows"
        raise DataError(f"{said}; if it stands for a missing value, list it in `missing_values`; {otherwise}")


def _numbers(member: Member, names: Sequence[str], index: Index) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Some rows at a time of columns of numbers, as [n, W]; those that the task has not are zeros. DataError for
    values that are too large, and for gaps where these are errors.
    """
    columns = {
        place: values for place, name in enumerate(names)
        if name in member.task.own and (values := member.column(name).numbers) is not None
    }  # fmt: skip
    single = next(iter(columns.values()))
    width = len(names) if single.ndim == 1 else math.prod(single.shape[1:])
    many = max(1, _CELLS // max(1, width))
    for start in range(0, len(index), many):
        rows = slice(start, min(start + many, len(index)))
        some = index[rows]
        if single.ndim > 1:
            values = single[some].reshape(len(some), -1)
        else:
            values = np.zeros((len(some), len(names)))
            for place, column in columns.items():
                values[:, place] = column[some]
        wrong = np.abs(values) > LARGEST
        if member.entry.missing == "error":
            wrong |= np.isnan(values)
        if wrong.any():
            row, place = (int(found[0]) for found in np.nonzero(wrong))
            name = names[place] if single.ndim == 1 else names[0]
            value = values[row, place]
            what = "missing" if np.isnan(value) else "infinite" if np.isinf(value) else f"too large: {value:.3g}"
            told = f"{member.rows.where(int(some[row]))}: column {shown(name)!r} has a value that is {what}"
            raise DataError(f"{told}; as an input it must be at most 3.4e38" if "large" in what else told)
        yield rows, values


def _numeric(members: Sequence[Member], names: tuple[str, ...]) -> Numeric:
    entry = members[0].entry
    shapes = {member.column(names[0]).shape for member in members}
    if len(shapes) > 1:
        raise DataError(f"array {shown(names[0])!r} has other shapes in other tasks: {sorted(shapes)}")
    width = len(names) * math.prod(next(iter(shapes)))
    mean, spread, fill = (np.zeros(width) for _ in range(3))
    median = entry.missing == "median"
    parts = [(names, slice(0, width))]
    rows = sum(len(member.splits["train"]) for member in members)
    if median and len(names) > 1:  # a median needs all rows of a column at once
        many = max(1, _CELLS // rows)
        parts = [(names[at : at + many], slice(at, min(at + many, width))) for at in range(0, width, many)]
    for some, where in parts:
        mean[where], spread[where], fill[where] = _statistics(members, some, median)
    if isinstance(entry.missing, int | float):
        fill[:] = float(entry.missing)
    if not entry.standardize:
        return Numeric(names, np.zeros(width), np.ones(width), fill, entry.missing == "indicator")
    scale = np.where(spread > 1e-12 * abs(mean), spread, 1.0)
    return Numeric(names, mean, scale, fill, entry.missing == "indicator")


def _statistics(
    members: Sequence[Member], names: tuple[str, ...], median: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and what fills gaps, [W] each, of the values that the training rows have."""

    def pieces() -> Iterable[NDArray[np.float64]]:
        for member in members:
            # which columns a task has differs in a space; one that trains on the same rows has these
            whole = attrs.evolve(member, task=attrs.evolve(member.task, features=names))
            for _, values in _numbers(whole, names, member.splits["train"]):
                yield values

    count: NDArray[np.float64] = np.zeros(1)
    total: NDArray[np.float64] = np.zeros(1)
    for values in pieces():
        count = count + (~np.isnan(values)).sum(axis=0)
        total = total + np.nansum(values, axis=0)
    empty = np.flatnonzero(count == 0)
    if len(empty):
        name = names[int(empty[0])] if len(names) > 1 else names[0]
        raise DataError(f"column {shown(name)!r} has no value in any training row; leave it out")
    mean = total / count
    squares: NDArray[np.float64] = np.zeros(1)
    for values in pieces():
        squares = squares + np.nansum((values - mean) ** 2, axis=0)
    fill = np.nanmedian(np.concatenate(list(pieces())), axis=0) if median else mean
    return mean, np.sqrt(squares / count), fill


def _categorical(members: Sequence[Member], name: str) -> Categorical:
    entry = members[0].entry
    said: set[str | None] = set()
    for member in members:
        column = member.column(name)
        names = [*column.names, None]
        said |= {names[code] for code in np.unique(column.codes[member.splits["train"]])}
    vocabulary = ordered({value for value in said if value is not None})
    if len(vocabulary) > entry.max_categories:
        told = f"column {shown(name)!r} has {len(vocabulary)} categories in the training rows"
        raise DataError(f"{told}; leave it out with `exclude`, or raise max_categories ({entry.max_categories})")
    if not vocabulary:
        raise DataError(f"column {shown(name)!r} has no value in any training row; leave it out")
    return Categorical(name, (*vocabulary, None) if None in said else vocabulary, entry.unknown == "error")


def _one_hot(member: Member, code: Categorical, index: Index, out: Floats) -> None:
    column = member.column(code.column)
    codes = column.codes[index]
    places = {value: place for place, value in enumerate(code.vocabulary)}
    where = np.array([places.get(name, -1) for name in [*column.names, None]])[codes]
    wrong = codes < 0 if member.entry.missing == "error" else np.zeros(len(index), dtype=bool)
    if code.unknown_is_error:
        wrong = wrong | ((where < 0) & (codes >= 0))
    if wrong.any():
        row = int(index[np.flatnonzero(wrong)[0]])
        value = column.said(row)
        what = "a value that is missing" if value is None else f"{shown(value)!r}, which no training row has"
        raise DataError(f"{member.rows.where(row)}: column {shown(code.column)!r} has {what}")
    (known,) = np.nonzero(where >= 0)
    out[known, where[known]] = 1


def ordered(names: set[str]) -> tuple[str, ...]:
    """Names in the order of their numbers if all are numbers, else of the alphabet."""
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))
