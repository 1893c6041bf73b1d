"""Files that lie about their sizes, are no files, or hold what nobody expects: the answer, or a clear sentence."""

import io
import os
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask.tasks import Task
from crosstask_sources import files
from crosstask_tabular import Tabular

ROWS = [(row, row % 7, "ab"[row % 2]) for row in range(40)]


def text(*rows: tuple[Any, ...], head: str = "x,z,y", between: str = ",") -> str:
    return "\n".join([head.replace(",", between), *(between.join(map(str, row)) for row in rows)])


def manifest(path: Path, file: str, more: str = "", task: str = "t") -> None:
    told = f'[[tasks]]\nid = "{task}"\nfile = "{file}"\ntarget = "y"\nstandardize = false\n{more}\n'
    (path / "tasks.toml").write_text(told, encoding="utf-8")


def load(path: Path, content: str | bytes, more: str = "", file: str = "d.csv") -> Task:
    (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    manifest(path, file, more)
    return Tabular(folder=str(path)).load()["t"]


def refused(path: Path, kind: type[CrosstaskError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        Tabular(folder=str(path)).load()
    assert "tasks[1] ('t')" in str(caught.value)
    return str(caught.value)


# What is no file ------------------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
@pytest.mark.parametrize(
    ("make", "what"),
    [(_pipe, r"a pipe (FIFO)"), (_socket, "a socket"), (Path.mkdir, "a folder"), (_device, "a device")],
)
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, suffix: str, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / f"d.{suffix}")
    manifest(tmp_path, f"d.{suffix}")
    begun = time.monotonic()
    assert f"d.{suffix} is {what}, not a file" in refused(tmp_path)
    assert time.monotonic() - begun < 5


def test_a_manifest_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tasks.toml")
    with pytest.raises(DataError, match=r"no manifest .*tasks.toml is a pipe"):
        Tabular(folder=str(tmp_path)).load()


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 10_000])
def test_a_manifest_that_python_cannot_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(f"x = {text}")
    with pytest.raises(OptionError, match=f"^(source 'tabular': )?{path}: "):
        Tabular(folder=str(tmp_path)).load()


@pytest.mark.parametrize("name", ["d\\u0000.csv", "d.csv\\u0000", "\\u0000" * 5000])
def test_names_with_nul(tmp_path: Path, name: str) -> None:
    manifest(tmp_path, name)
    told = refused(tmp_path, OptionError)
    assert "NUL character" in told
    assert len(told) < 1000
    for given in ({"folder": f"{tmp_path}\0"}, {"folder": str(tmp_path), "manifest": "a\0.toml"}):
        with pytest.raises(CrosstaskError, match="no manifest"):
            Tabular(**given).load()


def test_names_of_5000_characters(tmp_path: Path) -> None:
    long = "n" * 5000
    manifest(tmp_path, f"{long}.csv")
    told = refused(tmp_path, OptionError)
    assert "name too long" in told.lower()
    assert "(5004 characters)" in told
    for given in ({"folder": f"{tmp_path}/{long}"}, {"folder": str(tmp_path), "manifest": long}):
        with pytest.raises(DataError, match="no manifest"):
            Tabular(**given).load()
    table = text(*ROWS, head=f"x,{long},y")
    assert load(tmp_path, table).descriptor.input_shape == (2,)
    (tmp_path / "d.csv").write_text(table)
    manifest(tmp_path, "d.csv", f'exclude = ["{long[:-1]}m"]')
    assert len(refused(tmp_path, OptionError)) < 1500
    manifest(tmp_path, "d.csv", task=long)
    assert Tabular(folder=str(tmp_path)).load().ids == [long]


# Sizes that are not true ----------------------------------------------------------------------------------------------


def npy(shape: tuple[int, ...], dtype: str = "<f8", held: int = 40 * 8) -> bytes:
    """An array as NPY with whatever shape it says."""
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": dtype, "fortran_order": False, "shape": shape})
    return made.getvalue() + bytes(held)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npy((10**13,)), r"says it has shape (10000000000000,) of float64, 80,000,000,000,000 bytes; the file has 320"),
        (npy((40, 10**12)), "the file has 320 for it"),
        (npy((39,)), "312 bytes; the file has 320 for it"),
        (npy((10**13, 0), held=0), "no value in a row"),
        (npy((10**13,), "<U0", held=0), "has type <U0; numbers, text and true/false can be read"),
        (npy((-40,)), "no value in a row"),
        (npy((40,), "<M8[s]"), "has type datetime64[s]; numbers, text and true/false can be read"),
        (npy((40,), "<c16", held=640), "has type complex128"),
        (npy((40,), "|V8"), "has type |V8"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "cannot be read"),
        (b"not an array", "cannot be read"),
    ],
)
def test_arrays_that_lie(tmp_path: Path, content: bytes, told: str) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)
        file.writestr("y.npy", npy((40,)))
    manifest(tmp_path, "d.npz")
    assert told in refused(tmp_path)


def test_an_archive_that_lies(tmp_path: Path) -> None:
    """Array and archive agree on a size, and neither is true."""
    size = 2**33
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", npy((size // 8,), held=0))
        file.writestr("y.npy", npy((40,)))
        file.getinfo("x.npy").file_size += size
    manifest(tmp_path, "d.npz")
    assert "'x' says it has 8,589,934,592 bytes; it cannot, in" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_more_than_there_is_memory_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"x": np.arange(4000.0), "y": np.arange(4000) % 2}
    if kind == "csv":
        (tmp_path / "d.csv").write_text(text(*zip(*columns.values(), strict=True), head="x,y"))
    elif kind == "npz":
        np.savez_compressed(tmp_path / "d.npz", **columns)  # type: ignore[arg-type]
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    manifest(tmp_path, f"d.{kind}")
    assert Tabular(folder=str(tmp_path)).load().ids == ["t"]
    monkeypatch.setattr(files, "memory", lambda: 10_000)
    assert "GiB of memory, there are" in refused(tmp_path)


def test_memory_is_that_of_this_machine() -> None:
    total = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) * 1024
    assert 0 < files.memory() <= total


@pytest.mark.parametrize("rows", [134_000_000, 1_099_999, 1_100_001])
def test_parquet_that_lies_about_its_rows(tmp_path: Path, rows: int) -> None:
    """The number of rows, as a zigzag varint, stands in the footer: of the file, the row group and the columns."""

    def varint(value: int) -> bytes:
        value, made = 2 * value, b""
        while value > 127:
            made, value = made + bytes([value % 128 + 128]), value // 128
        return made + bytes([value])

    true = 1_100_000
    columns = {"x": np.zeros(true, dtype=np.int8), "y": np.arange(true, dtype=np.int8) % 2}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet", row_group_size=true)
    whole = (tmp_path / "d.parquet").read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[start:]
    assert footer.count(varint(true)) >= 2
    everywhere, once = footer.replace(varint(true), varint(rows)), footer.replace(varint(true), varint(rows), 1)
    for changed in (everywhere, once) if rows > true else (once,):
        (tmp_path / "d.parquet").write_bytes(whole[:start] + changed)
        manifest(tmp_path, "d.parquet")
        told = refused(tmp_path)
        assert "d.parquet" in told
        assert "rows" in told or "cannot be read as Parquet" in told


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_damaged_files_say_so(tmp_path: Path, kind: str) -> None:
    """Any byte changed, or the file cut: the data, or a DataError. Nothing else, whatever it is."""
    columns = {"x": np.arange(40.0), "y": np.arange(40) % 2}
    if kind == "npz":
        np.savez_compressed(tmp_path / "d.npz", **columns)  # type: ignore[arg-type]
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    whole = (tmp_path / f"d.{kind}").read_bytes()
    manifest(tmp_path, f"d.{kind}")
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        cut = int(rng.integers(len(whole))) if rng.random() < 0.2 else len(whole)
        (tmp_path / f"d.{kind}").write_bytes(damaged[:cut])
        try:
            Tabular(folder=str(tmp_path)).load()
        except CrosstaskError as error:
            assert f"d.{kind}" in str(error) or "column" in str(error)  # noqa: PT017


# Text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    rows = [(row, ["Köln", "Würzburg"][row % 2], "ab"[row % 2]) for row in range(40)]
    content = text(*rows).encode(encoding)
    said = encoding.removesuffix("-sig")
    more = f'where = {{ z = "Köln" }}\nfeatures = ["x"]\nencoding = "{said}"\nclasses = ["a", "b"]'
    (tmp_path / "d.csv").write_bytes(content)
    manifest(tmp_path, "d.csv", more.replace('"b"]', '"b"]\nsplit = { validation = 0.2, test = 0.2 }'))
    task = Tabular(folder=str(tmp_path)).load()["t"]
    found = [x for split in ("train", "validation", "test") for x in task.data(split).inputs[:, 0].tolist()]
    assert sorted(found) == list(range(0, 40, 2))
    manifest(tmp_path, "d.csv")
    if encoding == "utf-16":
        assert "d.csv is not UTF-8 but UTF-16 text; say encoding = 'utf-16'" in refused(tmp_path)
    elif not encoding.startswith("utf-8"):
        assert "d.csv is not UTF-8 text: line 2: invalid start byte, b'\\xf6'; name another" in refused(tmp_path)
    manifest(tmp_path, "d.csv", 'encoding = "cp1251x"')
    assert "encoding cannot be 'cp1251x'; did you mean 'cp1252'" in refused(tmp_path, OptionError)
    manifest(tmp_path, "d.csv", 'encoding = "rot13"')
    assert "encoding cannot be 'rot13'" in refused(tmp_path, OptionError)


def test_a_wrong_byte_far_into_a_file_is_found_on_its_line(tmp_path: Path) -> None:
    rows = [(row, "a" * 50, "ab"[row % 2]) for row in range(5000)]
    content = text(*rows).encode().splitlines(keepends=True)
    content[4321] = content[4321].replace(b"a" * 50, b"\xe4")
    (tmp_path / "d.csv").write_bytes(b"".join(content))
    manifest(tmp_path, "d.csv")
    assert "line 4322: invalid continuation byte, b'\\xe4'" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "d.csv is empty: it needs a header"),
        ("\n\n", "d.csv is empty: it needs a header"),
        ("x,z,y\n", "d.csv has a header but no rows"),
        ("x,x,y\n1,2,a\n", "two columns are called 'x'"),
        (text(*ROWS[:5], (5, 6)), "d.csv, line 7: 2 fields, the header has 3"),
        (text(*ROWS[:5], (5, 6, "a", "")), "d.csv, line 7: 4 fields, the header has 3"),
        (text((0, '"a\nb"', "a"), (1, 2, "b", 3)), "d.csv, line 4: 4 fields, the header has 3"),
        (text((0, 1, "a"), (1, '"2', "b"), *ROWS), "d.csv, line 3: a quote is opened and never closed"),
        (text(*ROWS, between=";"), "its header is one column, is it written with delimiter = ';'?"),
        (text(*((f"1{row}", "n.a." if row == 3 else row, "ab"[row % 2]) for row in range(40))),
         "d.csv, row 4: column 'z' holds 'n.a.', and numbers in 39 other rows; if it stands for a missing value"),
        (text(*((row, f'"{row},5"', "ab"[row % 2]) for row in range(40))),
         "d.csv, row 1: column 'z' holds '0,5': numbers with decimal commas; say decimal = ','"),
        (text((0, "1e999", "a"), *ROWS), "d.csv, row 1: column 'z' has a value that is infinite"),
        (text((0, 10**300, "a"), *ROWS), "d.csv, row 1: column 'z' has a value that is too large: 1e+300"),
        (text((0, "9" * 400, "a"), *ROWS), "d.csv, row 1: column 'z' has a value that is infinite"),
    ],
)  # fmt: skip
def test_text_that_is_wrong(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "d.csv").write_text(content, encoding="utf-8", newline="")
    manifest(tmp_path, "d.csv")
    assert told in refused(tmp_path, CrosstaskError)


def test_quoted_newlines_nul_and_quotes_are_text(tmp_path: Path) -> None:
    odd = ["a\nb", "a\r\nb", "a\0b", 'a"b', "a\xffb", "a,b"]
    rows = [(row, '"' + odd[row % 6].replace('"', '""') + '"', "ab"[row % 2]) for row in range(60)]
    task = load(tmp_path, text(*rows), 'target = "z"\nfeatures = ["x"]'.replace("target", "exclude = [] #"))
    assert task.task_id == "t"
    (tmp_path / "tasks.toml").write_text('[[tasks]]\nid = "t"\nfile = "d.csv"\ntarget = "z"\nfeatures = ["x"]\n')
    assert set(Tabular(folder=str(tmp_path)).load()["t"].descriptor.classes) == set(odd)


def test_decimal_commas(tmp_path: Path) -> None:
    rows = [(f"{row},25", f"-{row}", "ab"[row % 2]) for row in range(40)]
    some = f"where = {{ x = {[row + 0.25 for row in range(10)]} }}"
    task = load(tmp_path, text(*rows, between=";"), f"delimiter = ';'\ndecimal = ','\n{some}")
    found = [row for split in ("train", "validation", "test") for row in task.data(split).inputs.tolist()]
    assert sorted(found) == [[row + 0.25, -row] for row in range(10)]
    (tmp_path / "d.csv").write_text(text(*rows[:-1], ("1.234,5", 1, "a"), between=";"))
    manifest(tmp_path, "d.csv", "delimiter = ';'\ndecimal = ','")
    assert "d.csv, row 40: column 'x' holds '1.234,5', and numbers in 39 other rows" in refused(tmp_path)
    manifest(tmp_path, "d.csv", "decimal = ','")
    assert "decimal and delimiter are both ','" in refused(tmp_path, OptionError)


def test_numbers_of_every_kind_are_what_python_reads(tmp_path: Path) -> None:
    said = ["1", "-0", " 2.5 ", "1e3", "+4", ".5", "5.", "1E-3", str(2**63), "1" * 30]
    rows = [(row, said[row % 10], "ab"[row % 2]) for row in range(40)]
    task = load(tmp_path, text(*rows))
    for split in ("train", "validation", "test"):
        for row, value in task.data(split).inputs.tolist():
            assert value == float(np.float32(float(said[int(row) % 10])))
    decimals = pyarrow.array(["1.50", "2.25"] * 20).cast(pyarrow.decimal128(5, 2))
    columns = {"x": range(40), "z": decimals, "y": ["a", "b"] * 20}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    manifest(tmp_path, "d.parquet")
    found = Tabular(folder=str(tmp_path)).load()["t"].data("train").inputs.tolist()
    assert all(value == 1.5 + row % 2 * 0.75 for row, value in found)
