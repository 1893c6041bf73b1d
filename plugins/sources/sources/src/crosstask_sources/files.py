"""CSV, NPZ and Parquet files as columns. What a file says of its size is checked before memory is taken for it."""

from __future__ import annotations

import codecs
import csv
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError

Codes = NDArray[np.int64]
"""[N]: which of the names each row has; -1 for a missing value."""
SUFFIXES = (".csv", ".npz", ".parquet")
"""Of the files that are read."""

_CELLS = 100_000  # of a CSV file that are Python strings at a time
_END = b"\xff"  # between cells: no byte of UTF-8
_MARK = _END.decode("utf-8", "surrogateescape")
_DEFLATE = 1032  # how many times as large as its compressed form anything can be (zlib's technical details)
_VALUES = 1 << 22  # of a Parquet file that are read at a time, of some columns at once


@attrs.frozen
class Format:
    """How a CSV file is written."""

    delimiter: str = ","
    encoding: str = "utf-8"


class Part(Protocol):
    """One column of one file."""

    shape: tuple[int, ...]
    """Of one row; () for a plain column."""
    numeric: bool
    """Whether the file itself says that these are numbers."""

    def __len__(self) -> int:
        """Rows."""

    def coded(self) -> tuple[Codes, list[str]]:
        """What each row says: places among the names that occur."""

    def floats(self, missing: frozenset[str], decimal: str) -> NDArray[np.float64] | None:
        """The values, NaN where missing; None if a value is no number."""


# What columns are made of ---------------------------------------------------------------------------------------------


class Numbers:
    """An array of numbers [N, …]; integers with gaps are masked."""

    numeric = True

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape[1:]

    def __len__(self) -> int:
        return len(self.array)

    def coded(self) -> tuple[Codes, list[str]]:
        """Numbers as short as they can be written, whole ones without `.0`."""
        held, gaps = np.ma.getdata(self.array), np.ma.getmaskarray(self.array)
        if held.dtype.kind == "f":
            gaps = gaps | np.isnan(held)
        codes = np.full(len(held), -1)
        different, places = np.unique(held[~gaps], return_inverse=True)
        codes[~gaps] = places
        return codes, [_shortest(value) for value in different]

    def floats(self, missing: frozenset[str], decimal: str) -> NDArray[np.float64]:
        made = self.array.astype(np.float64, copy=False)
        return made.filled(math.nan) if isinstance(made, np.ma.MaskedArray) else made


def _shortest(value: Any) -> str:
    if value.dtype.kind != "f":
        return str(int(value))
    if not np.isfinite(value):
        return str(value)
    exact = float(value)
    return str(int(exact)) if exact.is_integer() else str(value)


class Coded:
    """Text as codes; the space around it does not count."""

    numeric = False
    shape: tuple[int, ...] = ()
    """Of one row: a plain column."""

    def __init__(self, codes: Codes, names: Sequence[str | None]) -> None:
        places: dict[str, int] = {}
        moved = [-1 if name is None else places.setdefault(name.strip(), len(places)) for name in names]
        self._codes = np.array([*moved, -1])[codes]
        self._names = list(places)

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Coded:
        """Of what each row says."""
        places: dict[str | None, int] = {}
        codes = np.array([places.setdefault(value, len(places)) for value in values], dtype=np.int64)
        return cls(codes, list(places))

    def __len__(self) -> int:
        return len(self._codes)

    def coded(self) -> tuple[Codes, list[str]]:
        """(which of the names each row has, -1 for a missing value; the names)."""
        return self._codes, self._names

    def floats(self, missing: frozenset[str], decimal: str) -> NDArray[np.float64] | None:
        """The numbers that the rows say; None if one says none."""
        held: list[float] = []
        for name in self._names:
            value = math.nan if name in missing else number(name, decimal)
            if value is None:
                return None
            held.append(value)
        found: NDArray[np.float64] = np.array([*held, math.nan])[self._codes]
        return found


class Cells:
    """A column of a CSV file: its text, as bytes, in pieces of many rows."""

    numeric = False
    shape: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, cells: Sequence[str]) -> None:
        self._pieces.append(_MARK.join(cells).encode("utf-8", "surrogateescape"))
        self._count += len(cells)

    def _texts(self) -> Iterator[str]:
        for piece in self._pieces:
            yield from piece.decode("utf-8", "surrogateescape").split(_MARK)

    def coded(self) -> tuple[Codes, list[str]]:
        return Coded.of(text.strip() for text in self._texts()).coded()

    def floats(self, missing: frozenset[str], decimal: str) -> NDArray[np.float64] | None:
        made = np.empty(self._count)
        row = 0
        plain = decimal == "." and all(math.isnan(value) for text in missing if (value := _float(text)) is not None)
        for piece in self._pieces:
            own: list[float] | None = None
            if plain and b"_" not in piece:
                try:
                    own = list(map(float, piece.split(_END)))
                except ValueError:  # a gap, most likely
                    own = None
            if own is None:
                own = []
                for text in piece.decode("utf-8", "surrogateescape").split(_MARK):
                    value = math.nan if (said := text.strip()) in missing else number(said, decimal)
                    if value is None:
                        return None
                    own.append(value)
            made[row : row + len(own)] = own
            row += len(own)
        return made


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def number(text: str, decimal: str = ".") -> float | None:
    """The number that a text stands for; None if it is none. With a decimal comma, a point is no part of a number."""
    if decimal != ".":
        if "." in text:
            return None
        text = text.replace(decimal, ".")
    return None if "_" in text else _float(text)


# Files ----------------------------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """DataError for what is no regular file: a pipe would be waited for without end, a device never ends."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path.name)} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket"}
    what = kinds.get(stat.S_IFMT(mode), "a device")
    raise DataError(f"{shown(path.name)} is {what}, not a file: write its rows into a file")


def shown(text: str) -> str:
    """A name for a message, cut if nobody would read it to its end."""
    return text if len(text) <= 200 else f"{text[:100]}…{text[-20:]} ({len(text)} characters)"


def columns_of(path: Path, form: Format) -> list[str]:
    """The names of a file's columns, also those that are there twice, without reading its rows.

    DataError if it cannot be read.
    """
    check_file(path)
    if path.suffix == ".csv":
        for header, _ in _csv_rows(path, form):
            return header
    if path.suffix == ".npz":
        with _npz(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def read_columns(path: Path, form: Format, names: Sequence[str]) -> dict[str, Part]:
    """These columns of a file. DataError says what is wrong with it, and where."""
    check_file(path)
    reader = {".csv": _csv_columns, ".npz": _npz_columns, ".parquet": _parquet_columns}[path.suffix]
    try:
        return reader(path, form, names)
    except MemoryError:
        raise DataError(f"{path.name} does not fit into memory: fewer columns (`features`) or rows") from None


def memory() -> int:
    """How many bytes this process can have at most: what the machine, its container and its own limit allow."""
    found = [2**63]
    try:
        import resource  # deferred: not every system has it

        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] if limit != resource.RLIM_INFINITY else []
    except (ImportError, AttributeError, ValueError):
        pass
    try:
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # none, or "max"
        pass
    return min(found)


def _fits_memory(path: Path, size: int, what: str) -> None:
    have = memory()
    if size > have:
        told = f"{what} takes {size / 2**30:,.1f} GiB of memory, there are {have / 2**30:,.1f}"
        raise DataError(f"{path.name}: {told}: fewer columns (`features`) or rows, or a file that is not damaged")


# CSV ------------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, form: Format) -> Iterator[tuple[list[str], int]]:
    """The header and the rows with the lines on which they begin, every row as long as the header; empty lines are
    skipped.
    """
    size = 0
    limit = csv.field_size_limit(2**31 - 1)  # a long text in a column that nobody needs is no mistake
    start = 1
    try:
        with path.open(encoding="utf-8-sig" if form.encoding == "utf-8" else form.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=form.delimiter, strict=True)
            for row in reader:
                line, start = start, reader.line_num + 1
                if not row:
                    continue
                if size and len(row) != size:
                    told = f"{len(row)} fields, the header has {size}"
                    raise DataError(f"{path.name}, line {line}: {told}")
                size = size or len(row)
                yield row, line
    except UnicodeError as error:
        raise DataError(_misread(path, form.encoding, error)) from None
    except csv.Error as error:
        told = f"{error}" if "unexpected end" not in str(error) else "a quote is opened and never closed"
        raise DataError(f"{path.name}, line {start}: {told}") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from None
    finally:
        csv.field_size_limit(limit)
    if not size:
        raise DataError(f"{path.name} is empty: it needs a header with the names of the columns")


_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def _misread(path: Path, encoding: str, error: UnicodeError) -> str:
    """What to say of a file that is not in the encoding that it should have."""
    with path.open("rb") as file:
        begin = file.read(2)
        if begin in _MARKS and encoding == "utf-8":
            return f"{path.name} is not UTF-8 but UTF-16 text; say encoding = 'utf-16'"
        file.seek(0)
        if encoding == "utf-8":
            for line, content in enumerate(file, 1):
                try:
                    content.decode("utf-8")
                except UnicodeDecodeError as found:
                    told = f"line {line}: {found.reason}, {content[found.start : found.start + 1]!r}"
                    return f"{path.name} is not UTF-8 text: {told}; name another, such as encoding = 'cp1252'"
    return f"{path.name} is not text in the encoding {encoding!r}: {getattr(error, 'reason', error)}"


def _csv_columns(path: Path, form: Format, names: Sequence[str]) -> dict[str, Part]:
    _fits_memory(path, path.stat().st_size, "the file")
    rows = _csv_rows(path, form)
    header, _ = next(rows)
    places = {name: place for place, name in enumerate(header)}
    wanted = [(places[name], Cells()) for name in names]
    many = max(8, _CELLS // len(header))
    held: list[list[str]] = []

    def keep() -> None:
        columns = list(zip(*held, strict=True))
        held.clear()
        for place, cells in wanted:
            cells.add(columns[place])

    for row, _ in rows:
        held.append(row)
        if len(held) == many:
            keep()
    if held:
        keep()
    if not len(wanted[0][1]):
        raise DataError(f"{path.name} has a header but no rows")
    return dict(zip(names, (cells for _, cells in wanted), strict=True))


# NPZ ------------------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{path.name} is a single array, not an .npz file: write it with numpy.savez")
        return zipfile.ZipFile(path)
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} cannot be read as an .npz file: {error}") from None


def _npz_columns(path: Path, form: Format, names: Sequence[str]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    with _npz(path) as archive:
        for name in names:
            try:
                found[name] = _array(path, archive, name)
            except DataError:
                raise
            except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"{path.name} cannot be read: {error} (in {shown(name)!r})") from None
    return found


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> Part:
    told = f"{path.name}: array {shown(name)!r}"
    if f"{name}.npy" not in archive.NameToInfo:
        raise DataError(f"{path.name}: {shown(name)!r} is no array")
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):  # 3.0 is for records whose fields have names that are not Latin-1
            raise DataError(f"{told} is of format {version}; numbers and text can be read")
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        have = info.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if dtype.kind not in "biufSU" or not dtype.itemsize:
        raise DataError(f"{told} has type {dtype}; numbers, text and true/false can be read; `exclude` leaves it out")
    if not shape:
        raise DataError(f"{told} is a single value, not a column; `exclude` leaves it out")
    if any(side < 0 for side in shape) or (0 in shape[1:] and shape[0]):
        raise DataError(f"{told} has shape {shape}: no value in a row")
    size = math.prod(shape) * dtype.itemsize
    if size != have:
        raise DataError(f"{told} says it has shape {shape} of {dtype}, {size:,} bytes; the file has {have:,} for it")
    stored = info.compress_type == zipfile.ZIP_STORED
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE}.get(info.compress_type)
    if info.compress_size > path.stat().st_size or (most and info.file_size > most * info.compress_size + 64):
        of = "" if stored else " compressed ones"
        raise DataError(f"{told} says it has {size:,} bytes; it cannot, in {info.compress_size:,}{of}")
    _fits_memory(path, size, f"array {shown(name)!r} of shape {shape}")
    with archive.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if dtype.kind in "iuf":
        return Numbers(array)
    if array.ndim > 1:
        raise DataError(f"{told} has more than one dimension and does not hold numbers")
    return Coded.of(str(value) for value in array)


# Parquet --------------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Any:
    """pyarrow's reader of this file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path.name}: reading Parquet needs pyarrow; try pip install 'crosstask-sources[parquet]'"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {error}") from None


def _parquet_columns(path: Path, form: Format, names: Sequence[str]) -> dict[str, Part]:
    with _parquet(path) as file:
        import pyarrow

        rows = file.metadata.num_rows
        _fits_memory(path, rows * 8 * len(names), f"{rows:,} rows of {len(names):,} columns")
        held = sum(file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups))
        if held != rows:
            raise DataError(f"{path.name} says it has {rows:,} rows, and {held:,} in its row groups")
        found: dict[str, Part] = {}
        try:
            many = max(1, _VALUES // max(1, rows))
            for start in range(0, len(names), many):
                some = names[start : start + many]
                table = file.read(columns=list(some))  # also the parts of a nested column `a` for a name `a.b`
                if table.num_rows != rows:
                    raise DataError(f"{path.name} says it has {rows:,} rows; there are {table.num_rows:,}")
                for name in some:
                    found[name] = _parquet_part(path, name, table.column(name))
                del table
                pyarrow.default_memory_pool().release_unused()
        except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path.name} cannot be read as Parquet: {error}") from None
    return found


def _parquet_part(path: Path, name: str, column: Any) -> Part:
    import pyarrow.compute
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if kinds.is_integer(kind) or kinds.is_floating(kind):
        whole = np.empty(len(column), dtype=kind.to_pandas_dtype())
        gaps = np.zeros(len(column), dtype=bool)
        row = 0
        for piece in column.chunks:  # one at a time: the table is never there twice
            own = slice(row, row := row + len(piece))
            if piece.null_count:
                gaps[own] = pyarrow.compute.is_null(piece).to_numpy(zero_copy_only=False)
                piece = pyarrow.compute.fill_null(piece, math.nan if whole.dtype.kind == "f" else 0)
            whole[own] = piece.to_numpy()
        return Numbers(np.ma.MaskedArray(whole, mask=gaps) if gaps.any() and whole.dtype.kind != "f" else whole)
    if kinds.is_null(kind):
        return Coded(np.full(len(column), -1), [])
    if kinds.is_boolean(kind) or kinds.is_decimal(kind):  # numbers as they are written, with all their digits
        return Coded.of(None if value is None else str(value) for value in column.to_pylist())
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        coded = column.dictionary_encode().combine_chunks()
        if not hasattr(coded, "indices"):  # several pieces remain where there is no row
            return Coded.of(column.to_pylist())
        return Coded(coded.indices.fill_null(-1).to_numpy().astype(np.int64), coded.dictionary.to_pylist())
    told = f"{path.name}: column {shown(name)!r} has type {kind}; numbers, text and true/false can be read"
    raise DataError(f"{told}; `exclude` leaves it out")
