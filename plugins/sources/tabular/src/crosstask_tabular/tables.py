"""CSV, NPZ and Parquet files as columns."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError

Column = NDArray[Any]
"""float64 [N] or [N, …] with NaN for missing values, or objects [N]: text, or None for missing ones."""
Table = dict[str, Column]
SUFFIXES = (".csv", ".npz", ".parquet")


def columns_of(path: Path, delimiter: str) -> list[str]:
    """The names of a file's columns, also those that are there twice, without reading its rows.

    DataError if it cannot be read.
    """
    if path.suffix == ".csv":
        return _csv_rows(path, delimiter, only_header=True)[0]
    if path.suffix == ".npz":
        with _npz(path) as file:
            return list(file.files)
    return list(_parquet(path).read_schema(path).names)


class Values:
    """One column of several files: its numbers, or its text, and what each value is called.

    Text keeps its identity: labels, categories, groups and the manifest's values are compared as the file writes them,
    even if all of it looks like numbers. In NPZ and Parquet files numbers are numbers: 1.0 is 1.
    """

    def __init__(self, name: str, parts: list[Column], paths: Sequence[Path], missing: Sequence[str]) -> None:
        self.name = name
        self._missing = {text.strip() for text in missing}
        self._parts = parts
        self.counts = [len(part) for part in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(f"{part.shape[1:]} in {path.name}" for part, path in zip(parts, paths, strict=True))
            raise DataError(f"column {name!r} has shape {shapes}")
        self._numbers = all(_holds_numbers(part) for part in parts)
        if not self._numbers and parts[0].ndim > 1:
            raise DataError(f"{paths[0].name}: array {name!r} has more than one dimension and does not hold numbers")
        self.column = self._column()

    def _column(self) -> Column:
        if self._numbers:
            return np.concatenate([_floats(part) for part in self._parts])
        if not self.known or not all(map(_is_number, self.known)):
            return np.array(self.said, dtype=object)
        made = np.array([math.nan if text is None else float(text) for text in self.said])
        for part, end in zip(self._parts, np.cumsum(self.counts), strict=True):
            if _holds_numbers(part):  # beside text: what such a part holds counts, not the shortest way to write it
                own = made[end - len(part) : end]
                own[~np.isnan(own)] = _floats(part)[~np.isnan(own)]
        return made

    @cached_property
    def said(self) -> list[str | None]:
        """What each row says, None where it is missing. DataError if a row has several numbers."""
        if self._parts[0].ndim > 1:
            told = f"array {self.name!r} has shape {self._parts[0].shape[1:]} per row"
            raise DataError(f"{told}; one value is needed to compare it with others")
        if self._numbers:
            return [text for part in self._parts for text in _as_text(part)]
        return [None if text in self._missing else text for part in self._parts for text in _as_text(part)]

    @cached_property
    def known(self) -> frozenset[str]:
        """The different values that rows have."""
        return frozenset(text for text in self.said if text is not None)

    def meant(self, value: Any) -> set[str]:
        """Those of the known values that a value of the manifest stands for.

        Text is the value that is written so. A number, date or truth value is that, too; if no row has it, it is every
        value that reads the same: 1 is `1`, or else `1.0` or `01`. In a column of numbers, all are read as numbers.
        """
        own = {spelled(value)} & self.known
        if own or (isinstance(value, str) and not self._numbers):
            return own
        if isinstance(value, bool):
            return {text for text in self.known if text.lower() == str(value).lower()}
        if isinstance(value, date | time):
            return {value.isoformat()} & self.known
        number = _number(spelled(value))
        return set() if number is None else {text for text in self.known if _number(text) == number}


def spelled(value: Any) -> str:
    """A value of the manifest as a file would write it; the space around it does not count, as in files."""
    return str(value).strip()


@attrs.frozen(eq=False)
class Rows:
    """The rows of several files, one after another: the columns that a task needs, and how many rows each file has."""

    values: dict[str, Values]
    paths: tuple[Path, ...]
    counts: tuple[int, ...]
    table: Table = attrs.field(init=False)

    @table.default
    def _table(self) -> Table:
        return {name: values.column for name, values in self.values.items()}

    def __len__(self) -> int:
        return sum(self.counts)

    def said(self, column: str) -> list[str | None]:
        """A column as labels or categories, None where missing."""
        return self.values[column].said

    def of(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        """Indices of the rows of these files."""
        ends = np.cumsum(self.counts)
        own = [np.arange(e - c, e) for p, c, e in zip(self.paths, self.counts, ends, strict=True) if p in paths]
        return np.concatenate(own)

    def where(self, row: int) -> str:
        """`people.csv, row 3`: file and row, counted from 1 without the header."""
        for path, count in zip(self.paths, self.counts, strict=True):
            if row < count:
                return f"{path.name}, row {row + 1}"
            row -= count
        raise IndexError(row)


@attrs.frozen(eq=False)
class Files:
    """What is read of files: each column once, when the first task needs it."""

    _csv: dict[tuple[Path, str], Table] = attrs.field(factory=dict, init=False)
    _known: dict[tuple[Any, ...], dict[str, Values]] = attrs.field(factory=dict, init=False)

    def rows(self, paths: Sequence[Path], delimiter: str, missing: Sequence[str], wanted: Sequence[str]) -> Rows:
        """These columns of all rows of the files; what is wrong with other columns does not matter.

        Text in `missing` is a missing value. A column is numeric if every value of it, in all files, is a number or
        missing.
        """
        known = self._known.setdefault((tuple(paths), delimiter, tuple(missing)), {})
        new = [name for name in wanted if name not in known]
        parts = [self._read(path, delimiter, new) for path in paths]
        for name in new:
            known[name] = Values(name, [part[name] for part in parts], paths, missing)
        counts = []
        for number, path in enumerate(paths):
            lengths = {name: known[name].counts[number] for name in wanted}
            if len(set(lengths.values())) > 1:
                shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
                told = f"{shortest!r} has {lengths[shortest]} rows, {longest!r} {lengths[longest]}"
                raise DataError(f"{path.name}: all columns must be equally long; {told}")
            counts.append(max(lengths.values()))
            if not counts[-1]:
                raise DataError(f"{path.name} has no rows")
        return Rows({name: known[name] for name in wanted}, tuple(paths), tuple(counts))

    def _read(self, path: Path, delimiter: str, names: list[str]) -> Table:
        if not names:
            return {}
        if path.suffix == ".npz":
            return _npz_table(path, names)
        if path.suffix == ".parquet":
            return _parquet_table(path, names)
        if (path, delimiter) not in self._csv:
            header, *rows = _csv_rows(path, delimiter)
            if not rows:
                raise DataError(f"{path.name} has a header but no rows")
            columns = zip(header, zip(*rows, strict=True), strict=True)
            self._csv[path, delimiter] = {name: np.array(values, dtype=object) for name, values in columns}
        return self._csv[path, delimiter]


def _csv_rows(path: Path, delimiter: str, only_header: bool = False) -> list[list[str]]:
    """The header and the rows, every row as long as the header; empty lines are skipped."""
    rows: list[list[str]] = []
    limit = csv.field_size_limit(2**31 - 1)  # a long text in a column that nobody needs is no mistake
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if not row:
                    continue
                if rows and len(row) != len(rows[0]):
                    told = f"{len(row)} fields, the header has {len(rows[0])}"
                    raise DataError(f"{path.name}, line {reader.line_num}: {told}")
                rows.append(row)
                if only_header:
                    break
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from None
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError(f"{path.name} is empty: it needs a header with the names of the columns")
    return rows


def _npz(path: Path) -> Any:
    try:
        opened = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} cannot be read as an .npz file: {error}") from None
    if not hasattr(opened, "files"):
        raise DataError(f"{path.name} is a single array, not an .npz file: write it with numpy.savez")
    return opened


def _npz_table(path: Path, names: list[str]) -> Table:
    table = {}
    with _npz(path) as file:
        for name in names:
            try:
                array = file[name]
                if getattr(array, "dtype", np.dtype(float)).kind == "S":
                    array = np.char.decode(array, "utf-8")
            except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"{path.name} cannot be read: {error} (in {name!r})") from None
            if not isinstance(array, np.ndarray):
                raise DataError(f"{path.name}: {name!r} is no array")
            if array.ndim == 0:
                raise DataError(f"{path.name}: array {name!r} is a single value, not a column; `exclude` leaves it out")
            table[name] = array
    return table


def _parquet(path: Path) -> Any:
    """pyarrow's module, once it is sure that it can read this file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path.name}: reading Parquet needs pyarrow; try pip install 'crosstask-tabular[parquet]'"
        ) from None
    try:
        pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {error}") from None
    return pyarrow.parquet


def _parquet_table(path: Path, names: list[str]) -> Table:
    parquet = _parquet(path)
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            found = file.read(columns=names)  # also the parts of a nested column `a` for a name `a.b`
        return {name: _parquet_column(path, name, found.column(name)) for name in names}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {error}") from None


def _parquet_column(path: Path, name: str, column: Any) -> Column:
    import pyarrow.types as kinds

    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    values = column.to_pylist() if kinds.is_dictionary(column.type) or not _numeric_kind(kind) else None
    if _numeric_kind(kind):
        if values is None and (kinds.is_floating(kind) or not column.null_count):
            return np.asarray(column.to_numpy())
        values = column.to_pylist() if values is None else values
        gaps = [value is None for value in values]
        held = np.array([0 if value is None else value for value in values], dtype=kind.to_pandas_dtype())
        return np.ma.MaskedArray(held, mask=gaps)
    if kinds.is_boolean(kind) or kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind):
        return np.array([None if value is None else str(value) for value in values or ()], dtype=object)
    told = f"{path.name}: column {name!r} has type {kind}; numbers, text and true/false can be read"
    raise DataError(f"{told}; `exclude` leaves it out")


def _numeric_kind(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _holds_numbers(part: Column) -> bool:
    return part.dtype.kind in "fiu"


def _floats(part: Column) -> Column:
    made = part.astype(np.float64, copy=False)
    return made.filled(math.nan) if isinstance(made, np.ma.MaskedArray) else made


def _as_text(part: Column) -> list[str | None]:
    """What each value is called: text as it is, numbers as short as they can be, whole ones without `.0`."""
    if not _holds_numbers(part):
        return [None if value is None else str(value).strip() for value in part.tolist()]
    if part.dtype.kind != "f":
        return [None if value is None else str(value) for value in part.tolist()]
    exact = part.astype(np.float64).tolist()
    return [
        None if math.isnan(value) else str(int(value)) if value.is_integer() else str(short)
        for value, short in zip(exact, part, strict=True)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _number(text: str) -> Decimal | None:
    """The exact number that a text stands for."""
    try:
        return Decimal(text) if _is_number(text) else None
    except InvalidOperation:  # more digits in the exponent than anyone writes
        return None
