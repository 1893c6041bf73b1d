"""CSV, NPZ and Parquet files as columns."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Sequence
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
    """The names of a file's columns, without reading its rows. DataError if it cannot be read."""
    if path.suffix == ".csv":
        return _csv_rows(path, delimiter, only_header=True)[0]
    if path.suffix == ".npz":
        with _npz(path) as file:
            return list(file.files)
    return list(_parquet(path).read_schema(path).names)


@attrs.frozen(eq=False)
class Rows:
    """The rows of several files, one after another: the columns, and how many rows each file has."""

    table: Table
    paths: tuple[Path, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

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


def read_rows(paths: Sequence[Path], delimiter: str, missing: Sequence[str]) -> Rows:
    """The files' rows. Text in `missing` is a missing value.

    A column is numeric if every value of it, in all files, is a number or missing.
    """
    parts = [_read(path, delimiter) for path in paths]
    names = list(parts[0])
    for path, part in zip(paths, parts, strict=True):
        if set(part) != set(names):
            odd = sorted(set(part) ^ set(names))[0]
            raise DataError(f"{path.name} and {paths[0].name} must have the same columns; {odd!r} is in one of them")
    table = {name: _joined(name, [part[name] for part in parts], paths, set(missing)) for name in names}
    return Rows(table, tuple(paths), tuple(len(next(iter(part.values()))) for part in parts))


def _read(path: Path, delimiter: str) -> Table:
    if path.suffix == ".csv":
        header, *rows = _csv_rows(path, delimiter)
        if not rows:
            raise DataError(f"{path.name} has a header but no rows")
        return {
            name: np.array(values, dtype=object) for name, values in zip(header, zip(*rows, strict=True), strict=True)
        }
    if path.suffix == ".npz":
        with _npz(path) as file:
            try:
                table = {name: _decoded(file[name]) for name in file.files}
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"{path.name} cannot be read: {error}") from None
    else:
        table = _parquet_table(path)
    lengths = {name: len(array) if array.ndim else 0 for name, array in table.items()}
    if len(set(lengths.values())) > 1:
        shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        told = f"{shortest!r} has {lengths[shortest]} rows, {longest!r} {lengths[longest]}"
        raise DataError(f"{path.name}: all columns must be equally long; {told}")
    if not table or not max(lengths.values()):
        raise DataError(f"{path.name} has no rows")
    return table


def _csv_rows(path: Path, delimiter: str, only_header: bool = False) -> list[list[str]]:
    """The header and the rows, every row as long as the header; empty lines are skipped."""
    rows: list[list[str]] = []
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
    if not rows:
        raise DataError(f"{path.name} is empty: it needs a header with the names of the columns")
    header = rows[0]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path.name}: two columns are called {twice!r}")
    return rows


def _npz(path: Path) -> Any:
    try:
        opened = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} cannot be read as an .npz file: {error}") from None
    if not hasattr(opened, "files"):
        raise DataError(f"{path.name} is a single array, not an .npz file: write it with numpy.savez")
    return opened


def _decoded(array: Column) -> Column:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


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


def _parquet_table(path: Path) -> Table:
    import pyarrow.types as kinds

    found = _parquet(path).read_table(path)
    table = {}
    for name, column in zip(found.column_names, found.columns, strict=True):
        kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
        if kinds.is_integer(kind) or kinds.is_floating(kind):
            table[name] = np.array([math.nan if v is None else v for v in column.to_pylist()], dtype=np.float64)
        elif kinds.is_boolean(kind) or kinds.is_string(kind) or kinds.is_large_string(kind):
            table[name] = np.array([None if v is None else str(v) for v in column.to_pylist()], dtype=object)
        else:
            raise DataError(f"{path.name}: column {name!r} has type {kind}; numbers, text and true/false can be read")
    return table


def _joined(name: str, parts: list[Column], paths: Sequence[Path], missing: set[str]) -> Column:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{part.shape[1:]} in {path.name}" for part, path in zip(parts, paths, strict=True))
        raise DataError(f"column {name!r} has shape {shapes}")
    if all(part.dtype.kind in "fiu" for part in parts):
        return np.concatenate(parts).astype(np.float64)
    if parts[0].ndim > 1:
        raise DataError(f"{paths[0].name}: array {name!r} has more than one dimension and does not hold numbers")
    texts = [
        None if v is None or str(v).strip() in missing else str(v).strip() for part in parts for v in part.tolist()
    ]
    known = [text for text in texts if text is not None]
    if known and all(_is_number(text) for text in known):
        return np.array([math.nan if text is None else float(text) for text in texts])
    return np.array(texts, dtype=object)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def as_text(column: Column) -> list[str | None]:
    """A column as labels or categories: whole numbers without their `.0`, None where missing."""
    if column.dtype == object:
        return list(column)
    return [None if math.isnan(v) else str(int(v)) if v.is_integer() else repr(v) for v in column.tolist()]
