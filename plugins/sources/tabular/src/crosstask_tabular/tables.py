"""Columns of several files, and the rows that tasks are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, time
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError
from crosstask_sources.files import Codes, Format, Part, number, read_columns, shown


@attrs.frozen
class Reading:
    """How a task reads its files: what of them is the same for two tasks is read once."""

    paths: tuple[Path, ...]
    form: Format = attrs.field(factory=Format)
    missing: frozenset[str] = frozenset()
    decimal: str = "."


class Values:
    """One column of several files: its numbers, or its text, and what each value is called.

    Text keeps its identity: labels, categories, groups and the manifest's values are compared as the file writes them,
    even if all of it looks like numbers. In NPZ and Parquet files numbers are numbers: 1.0 is 1.
    """

    def __init__(self, name: str, parts: list[Part], how: Reading) -> None:
        self.name = name
        self._parts, self._how = parts, how
        self.counts = [len(part) for part in parts]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(f"{part.shape} in {path.name}" for part, path in zip(parts, how.paths, strict=True))
            raise DataError(f"column {shown(name)!r} has shape {shapes}")
        self.shape = parts[0].shape
        self._numeric = all(part.numeric for part in parts)

    @cached_property
    def numbers(self) -> NDArray[np.float64] | None:
        """[N, …], NaN where missing; None for a column of text."""
        made = []
        for part in self._parts:
            found = part.floats(self._how.missing, self._how.decimal)
            if found is None:
                return None
            made.append(found)
        whole = made[0] if len(made) == 1 else np.concatenate(made)
        return None if not self._numeric and bool(np.isnan(whole).all()) else whole

    @property
    def is_text(self) -> bool:
        """Whether a value is no number, or none is known."""
        return self.numbers is None

    @cached_property
    def _coded(self) -> tuple[Codes, list[str]]:
        if self.shape:
            told = f"array {shown(self.name)!r} has shape {self.shape} per row"
            raise DataError(f"{told}; one value is needed to compare it with others")
        places: dict[str, int] = {}
        codes = []
        for part in self._parts:
            own, names = part.coded()
            gone = frozenset() if self._numeric else self._how.missing
            moved = [-1 if name in gone else places.setdefault(name, len(places)) for name in names]
            codes.append(np.array([*moved, -1], dtype=np.int64)[own])
        return np.concatenate(codes), list(places)

    @property
    def codes(self) -> Codes:
        """[N]: which of `names` each row has, -1 where it is missing. DataError if a row has several numbers."""
        return self._coded[0]

    @property
    def names(self) -> list[str]:
        """The different values that rows have."""
        return self._coded[1]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def said(self, row: int) -> str | None:
        """What one row says."""
        code = int(self.codes[row])
        return None if code < 0 else self.names[code]

    def is_number(self, name: str) -> bool:
        """Whether one of `names` is a number as the task writes them."""
        return number(name, self._how.decimal) is not None

    def with_comma(self, name: str) -> bool:
        """Whether a text is a number with a decimal comma, where the task says nothing of such."""
        return self._how.decimal != "," and "," in name and number(name, ",") is not None

    def meant(self, value: Any) -> set[int]:
        """The codes of those values that a value of the manifest stands for.

        Text is the value that is written so. A number, date or truth value is that, too; if no row has it, it is every
        value that reads the same: 1 is `1`, or else `1.0` or `01`. In a column of numbers, all are read as numbers.
        """
        own = self._places.get(spelled(value))
        if own is not None:
            return {own}
        if isinstance(value, str) and not self._numeric:
            return set()
        if isinstance(value, bool):
            return {place for place, text in enumerate(self.names) if text.lower() == str(value).lower()}
        if isinstance(value, date | time):
            own = self._places.get(value.isoformat())
            return set() if own is None else {own}
        exact = _exact(spelled(value), ".")
        decimal = "." if self._numeric else self._how.decimal
        return set() if exact is None else {p for p, text in enumerate(self.names) if _exact(text, decimal) == exact}

    def rows_with(self, codes: Iterable[int]) -> NDArray[np.bool_]:
        """[N]: the rows that have one of these values."""
        chosen = np.zeros(len(self.names) + 1, dtype=bool)  # the last place is that of -1
        chosen[list(codes)] = True
        return chosen[self.codes]


def spelled(value: Any) -> str:
    """A value of the manifest as a file would write it; the space around it does not count, as in files."""
    return str(value).strip()


def _exact(text: str, decimal: str) -> Decimal | None:
    """The exact number that a text stands for."""
    try:
        return None if number(text, decimal) is None else Decimal(text.replace(decimal, "."))
    except InvalidOperation:  # more digits in the exponent than anyone writes
        return None


@attrs.frozen(eq=False)
class Rows:
    """The rows of several files, one after another: the columns that a task needs, and how many rows each file has."""

    values: dict[str, Values]
    how: Reading
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def of(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        """Indices of the rows of these files."""
        ends = np.cumsum(self.counts)
        every = zip(self.how.paths, self.counts, ends, strict=True)
        return np.concatenate([np.arange(e - c, e) for p, c, e in every if p in paths])

    def where(self, row: int) -> str:
        """`people.csv, row 3`: file and row, counted from 1 without the header."""
        for path, count in zip(self.how.paths, self.counts, strict=True):
            if row < count:
                return f"{path.name}, row {row + 1}"
            row -= count
        raise IndexError(row)


class Files:
    """What is read of files: each column once, with all others that a task will ask for."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[Path, Format], dict[str, None]] = {}
        self._parts: dict[tuple[Path, Format], dict[str, Part]] = {}
        self._known: dict[Reading, dict[str, Values]] = {}
        self._unreadable: dict[tuple[Path, Format], DataError] = {}

    def expect(self, how: Reading, wanted: Iterable[str]) -> None:
        """Say which columns of files will be asked for, so that each file is read once."""
        for path in how.paths:
            self._wanted.setdefault((path, how.form), {}).update(dict.fromkeys(wanted))

    def rows(self, how: Reading, wanted: Sequence[str]) -> Rows:
        """These columns of all rows of the files; what is wrong with other columns does not matter.

        A column is numeric if every value of it, in all files, is a number or missing.
        """
        known = self._known.setdefault(how, {})
        new = [name for name in wanted if name not in known]
        parts = [self._read(path, how.form, new) for path in how.paths]
        for name in new:
            known[name] = Values(name, [part[name] for part in parts], how)
        counts = []
        for place, path in enumerate(how.paths):
            lengths = {name: known[name].counts[place] for name in wanted}
            if len(set(lengths.values())) > 1:
                shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
                told = f"{shown(shortest)!r} has {lengths[shortest]} rows, {shown(longest)!r} {lengths[longest]}"
                raise DataError(f"{path.name}: all columns must be equally long; {told}")
            counts.append(max(lengths.values()))
            if not counts[-1]:
                raise DataError(f"{path.name} has no rows")
        return Rows({name: known[name] for name in wanted}, how, tuple(counts))

    def _read(self, path: Path, form: Format, names: list[str]) -> dict[str, Part]:
        held = self._parts.setdefault((path, form), {})
        missing = [name for name in names if name not in held]
        if missing:
            held |= self._asked(path, form, missing)
        return held

    def _asked(self, path: Path, form: Format, names: list[str]) -> dict[str, Part]:
        """These columns and, where nothing is wrong with them, all that others will ask for."""
        if (path, form) in self._unreadable:
            raise self._unreadable[path, form]
        expected = [name for name in self._wanted.pop((path, form), ()) if name not in self._parts[path, form]]
        every = list(dict.fromkeys([*names, *expected]))
        try:
            return read_columns(path, form, every)
        except DataError as error:
            if path.suffix == ".csv":  # the file itself: nobody can read it
                self._unreadable[path, form] = error
            if path.suffix == ".csv" or len(every) == len(names):
                raise
        return read_columns(path, form, names)
