"""Text that looks like numbers keeps its identity, and what nobody asked for refuses no file; in all kinds of files."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from crosstask.errors import DataError
from crosstask.tasks import SPLITS, Task
from crosstask_tabular import Tabular

BIG = 2**53
KINDS = ("csv", "npz", "parquet")
TEXTS = [
    ["01", "1", "02", "2"],
    ["1.1", "1.10", "2.0"],
    ["1", "1.0", "+1"],
    ["0", "-0", "0e0"],
    [str(BIG), str(BIG + 1), str(BIG + 3)],
    ["1e3", "1000", "1E3"],
    ["0x1", "1_0", "10"],
]


def write(path: Path, kind: str, columns: dict[str, Any]) -> None:
    """A file of columns of text or numbers."""
    if kind == "csv":
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.with_suffix(".csv").write_text("\n".join(lines), encoding="utf-8")
    elif kind == "npz":
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
        np.savez(path.with_suffix(".npz"), **arrays)
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))


def manifest(path: Path, kind: str, more: str = "", target: str = "y") -> None:
    (path / "tasks.toml").write_text(
        f'[[tasks]]\nid = "t"\nfile = "d.{kind}"\ntarget = "{target}"\nstandardize = false\n{more}\n', encoding="utf-8"
    )


def load(path: Path, kind: str, columns: dict[str, Any], more: str = "", target: str = "y") -> Task:
    write(path / "d", kind, columns)
    manifest(path, kind, more, target)
    return Tabular(folder=str(path)).load()["t"]


def by_row(task: Task) -> dict[int, int]:
    """Row -> label, if the first feature is the number of the row."""
    return {
        int(row[0]): int(label)
        for split in SPLITS
        if task.has_data(split)
        for row, label in zip(task.data(split).inputs, task.data(split).targets, strict=True)
    }


def repeated(values: list[Any], count: int = 60) -> list[Any]:
    return [values[row % len(values)] for row in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", TEXTS)
def test_labels_of_text(tmp_path: Path, kind: str, texts: list[str]) -> None:
    said = repeated(texts)
    task = load(tmp_path, kind, {"row": range(60), "y": said}, 'features = ["row"]')
    names = task.descriptor.classes
    assert sorted(names) == sorted(texts)
    assert {row: names[label] for row, label in by_row(task).items()} == dict(enumerate(said))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", TEXTS)
def test_categories_of_text(tmp_path: Path, kind: str, texts: list[str]) -> None:
    said = repeated(texts)
    columns = {"row": range(60), "u": said, "y": ["a", "b"] * 30}
    task = load(tmp_path, kind, columns, 'features = ["row", "u"]\ncategorical = ["u"]')
    found: dict[str, set[tuple[float, ...]]] = {text: set() for text in texts}
    for split in SPLITS:
        for row in task.data(split).inputs.tolist():
            found[said[int(row[0])]].add(tuple(row[1:]))
    assert all(len(codes) == 1 for codes in found.values()), "one code for each text"
    assert {next(iter(codes)) for codes in found.values()} == {tuple(row) for row in np.eye(len(texts)).tolist()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", TEXTS)
def test_where_split_groups_and_classes_of_text(tmp_path: Path, kind: str, texts: list[str]) -> None:
    said = repeated(texts)
    columns = {"row": range(60), "u": said, "y": ["a", "b", "b", "a", "a"] * 12}
    for text in texts:
        task = load(tmp_path, kind, columns, f'features = ["row"]\nwhere = {{ u = " {text}" }}')
        assert sorted(by_row(task)) == [row for row, own in enumerate(said) if own == text]
    rule = f'features = ["row"]\nsplit = {{ column = "u", values = {{ train = {texts[1:]}, test = "{texts[0]}" }} }}'
    task = load(tmp_path, kind, columns, rule)
    assert sorted(int(row[0]) for row in task.data("test").inputs) == [r for r in range(60) if said[r] == texts[0]]
    task = load(tmp_path, kind, columns, 'features = ["row"]\nsplit = { group = "u", test = 0.3 }')
    held = {said[int(row[0])] for row in task.data("test").inputs}
    assert not held & {said[int(row[0])] for row in task.data("train").inputs}
    assert len(task.data("test")) == sum(own in held for own in said)
    given = texts[::-1]
    task = load(tmp_path, kind, {"row": range(60), "y": said}, f'features = ["row"]\nclasses = {given}')
    assert task.descriptor.classes == tuple(given)
    assert by_row(task) == {row: given.index(own) for row, own in enumerate(said)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_whole_numbers_too_large_for_a_float(tmp_path: Path, kind: str, dtype: str) -> None:
    ids = [BIG + 1, BIG, BIG + 3, 1234567890123456789]
    columns = {"row": range(60), "u": np.array(repeated(ids), dtype=dtype), "y": ["a", "b", "b"] * 20}
    for number in ids:
        task = load(tmp_path, kind, columns, f'features = ["row"]\nwhere = {{ u = {number} }}')
        assert sorted(by_row(task)) == [row for row in range(60) if repeated(ids)[row] == number]
    task = load(tmp_path, kind, columns, 'features = ["row"]', target="u")
    assert task.descriptor.classes == tuple(str(number) for number in sorted(ids))
    with pytest.raises(DataError, match=f"where: no row has '{BIG + 2}' in column 'u'"):
        load(tmp_path, kind, columns, f'features = ["row"]\nwhere = {{ u = {BIG + 2} }}')


def test_whole_numbers_beside_nulls_in_parquet(tmp_path: Path) -> None:
    ids = [BIG + 1, None, BIG]
    for column in (pyarrow.array(repeated(ids)), pyarrow.array(repeated(ids)).dictionary_encode()):
        columns = {"row": range(60), "u": column, "y": ["a", "b"] * 30}
        task = load(tmp_path, "parquet", columns, f'features = ["row"]\nwhere = {{ u = {BIG} }}')
        assert sorted(by_row(task)) == list(range(2, 60, 3))
        task = load(tmp_path, "parquet", columns, 'features = ["row", "u"]\nmissing = -1')
        for row in task.data("train").inputs.tolist():
            expected = ids[int(row[0]) % 3]
            assert row[1] == float(np.float32(-1 if expected is None else expected))


# What the column holds in CSV (as text), what the manifest says, which of the values are meant.
MEANT: list[tuple[list[str], str, set[str]]] = [
    (["1.0", "2.0"], "1.0", {"1.0"}),
    (["1.0", "2.0"], "1", {"1.0"}),
    (["1", "2"], "1.0", {"1"}),
    (["1", "1.0", "2"], "1", {"1"}),
    (["1", "1.0", "2"], "1.0", {"1.0"}),
    (["1", "1.0", "2"], "[1, 1.0]", {"1", "1.0"}),
    (["007", "7"], "7", {"7"}),
    (["007", "8"], "7", {"007"}),
    (["1e-3", "1"], "0.001", {"1e-3"}),
    (["100000.0", "1"], "1e5", {"100000.0"}),
    (["0.1", "0.10", "0.3"], "0.1", {"0.1"}),
    (["true", "false"], "true", {"true"}),
    (["True", "False"], "false", {"False"}),
    (["2020-01-02", "2020-01-03"], "2020-01-02", {"2020-01-02"}),
    (["2020-01-02T03:04:05", "x"], "2020-01-02T03:04:05", {"2020-01-02T03:04:05"}),
    (["1e99999999999999999999", "1"], "1", {"1"}),
]


@pytest.mark.parametrize(("texts", "given", "meant"), MEANT)
def test_values_of_the_manifest_that_are_no_text(tmp_path: Path, texts: list[str], given: str, meant: set[str]) -> None:
    said = repeated(texts)
    columns = {"row": range(60), "u": said, "y": ["a", "b", "b", "a", "a"] * 12}
    rows = [row for row, own in enumerate(said) if own in meant]
    task = load(tmp_path, "csv", columns, f'features = ["row"]\nwhere = {{ u = {given} }}')
    assert sorted(by_row(task)) == rows
    others = sorted(set(texts) - meant)
    rule = f'features = ["row"]\nsplit = {{ column = "u", values = {{ train = {given}, test = {others} }} }}'
    if others:
        task = load(tmp_path, "csv", columns, rule)
        assert sorted(int(row[0]) for row in task.data("train").inputs) == rows


@pytest.mark.parametrize("given", ["[0.0, 1.0]", "[0, 1]", '["0", "1"]', '["0.0", "1.0"]'])
@pytest.mark.parametrize("kind", ["npz", "parquet"])
@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "float64"])
def test_in_a_column_of_numbers_all_values_are_numbers(tmp_path: Path, given: str, kind: str, dtype: str) -> None:
    columns = {"row": range(60), "y": np.array([0, 1] * 30, dtype=dtype)}
    assert by_row(load(tmp_path, kind, columns, f"classes = {given}")) == {row: row % 2 for row in range(60)}
    assert load(tmp_path, kind, columns).descriptor.classes == ("0", "1")


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_short_floats_are_called_what_they_are_written(tmp_path: Path, kind: str) -> None:
    short = np.array(repeated([0.1, 0.2]), dtype=np.float32)
    task = load(
        tmp_path, kind, {"row": range(60), "y": short, "u": short}, 'features = ["row"]\nwhere = { u = [0.1, 0.2] }'
    )
    assert task.descriptor.classes == ("0.1", "0.2")
    assert len(by_row(task)) == 60


@pytest.mark.parametrize(
    ("texts", "given"),
    [
        (["0.0", "1.0"], "[0, 1]"), (["-1", "+1"], "[-1, 1]"), (["-1", "+1"], '["-1", "+1"]'),
        (["false", "true"], "[false, true]"),
    ],
)  # fmt: skip
def test_classes_that_are_no_text(tmp_path: Path, texts: list[str], given: str) -> None:
    task = load(tmp_path, "csv", {"row": range(60), "y": repeated(texts)}, f"classes = {given}")
    assert by_row(task) == {row: row % 2 for row in range(60)}


def test_classes_that_mean_the_same(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes: 1 and 1.0 are both '1'"):
        load(tmp_path, "npz", {"row": range(60), "y": [1, 2] * 30}, "classes = [1, 1.0, 2]")


def test_missing_values_are_read_as_the_files(tmp_path: Path) -> None:
    columns = {"row": range(60), "u": [" -999 ", " 5"] * 30, "y": ["a", "b", "b"] * 20}
    task = load(tmp_path, "csv", columns, 'missing_values = ["-999 "]\nmissing = 3')
    assert {(int(row) % 2, u) for row, u in task.data("train").inputs.tolist()} == {(0, 3), (1, 5)}


def test_a_file_of_text_beside_one_of_numbers(tmp_path: Path) -> None:
    third = np.float32(1 / 3)
    write(tmp_path / "d", "csv", {"row": range(20), "u": ["007", "7"] * 10, "y": ["a", "b"] * 10})
    write(tmp_path / "e", "npz", {"row": range(20, 40), "u": np.array([7, third] * 10, "f4"), "y": ["a", "b"] * 10})
    manifest(tmp_path, "csv")
    text = (tmp_path / "tasks.toml").read_text().replace('"d.csv"', '["d.csv", "e.npz"]')
    (tmp_path / "tasks.toml").write_text(text)
    found = {int(row): u for row, u in Tabular(folder=str(tmp_path)).load()["t"].data("train").inputs.tolist()}
    assert found == {row: float(third) if row >= 20 and row % 2 else 7.0 for row in found}, "numbers are as they were"
    (tmp_path / "tasks.toml").write_text(text + 'where = { u = "7" }\nfeatures = ["row"]')
    assert sorted(by_row(Tabular(folder=str(tmp_path)).load()["t"])) == [*range(1, 20, 2), *range(20, 40, 2)]


# Columns that nobody can learn from.
ODD = {
    "timestamp": pyarrow.array([datetime.datetime(2020, 1, 1)] * 40),
    "list": pyarrow.array([["q"]] * 40),
    "struct": pyarrow.array([{"x": 1}] * 40),
    "null": pyarrow.nulls(40),
    "binary": pyarrow.array([b"\xff"] * 40),
    "map": pyarrow.array([[("a", 1)]] * 40, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "object": np.array([None, {}] * 20, dtype=object),
    "scalar": np.array(3),
    "short": np.arange(3),
    "long": np.arange(300),
    "texts": np.array([["a", "b"]] * 40),
    "bytes": np.array([b"\xff"] * 40),
    "nothing": np.zeros((0,)),
}
REFUSED = {
    "null": "column 'w' has no value in any training row",
    "object": "d.npz cannot be read: Object arrays cannot be loaded",
    "scalar": "array 'w' is a single value, not a column; `exclude` leaves it out",
    "short": "all columns must be equally long; 'w' has 3 rows, 'x' 40",
    "long": "all columns must be equally long; 'x' has 40 rows, 'w' 300",
    "texts": "array 'w' has more than one dimension and does not hold numbers",
    "bytes": "d.npz cannot be read: 'utf-8' codec",
    "nothing": "all columns must be equally long; 'w' has 0 rows, 'x' 40",
}


@pytest.mark.parametrize("odd", ODD)
def test_columns_that_nobody_asked_for(tmp_path: Path, odd: str) -> None:
    kind = "npz" if isinstance(ODD[odd], np.ndarray) else "parquet"
    columns = {"x": range(40), "y": ["a", "b"] * 20}
    plain = load(tmp_path, kind, columns).fingerprint()
    columns["w"] = ODD[odd]
    for more in ('exclude = ["w"]', 'exclude = ["w*"]', 'features = ["x"]'):
        assert load(tmp_path, kind, columns, more).fingerprint() == plain
    message = REFUSED.get(odd, "d.parquet: column 'w' has type .*; `exclude` leaves it out")
    for more in ("", 'features = ["x", "w"]'):
        with pytest.raises(DataError, match=message):
            load(tmp_path, kind, columns, more)
    for more in ("where = { w = 1 }", 'split = { column = "w" }'):
        with pytest.raises(DataError, match="'w'"):
            load(tmp_path, kind, columns, f'{more}\nfeatures = ["x"]')


def test_one_task_asks_and_the_other_does_not(tmp_path: Path) -> None:
    write(tmp_path / "d", "parquet", {"x": range(40), "w": [["q"]] * 40, "y": ["a", "b"] * 20})
    both = (
        '[defaults]\nfile = "d.parquet"\ntarget = "y"\n[[tasks]]\nid = "one"\nfeatures = ["x"]\n[[tasks]]\nid = "two"\n'
    )
    (tmp_path / "tasks.toml").write_text(both)
    assert Tabular(folder=str(tmp_path), tasks=("one",)).load().ids == ["one"]
    found = Tabular(folder=str(tmp_path)).load()
    assert found.ids == ["one"]
    for ask in (lambda: found["two"], Tabular(folder=str(tmp_path), tasks=("one", "two")).load):
        with pytest.raises(DataError, match=r"tasks\[2\] \('two'\): d.parquet: column 'w' has type list"):
            ask()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_two_columns_of_one_name(tmp_path: Path, kind: str) -> None:
    rows = [(row, 5.0, 6.0, "ab"[row % 2]) for row in range(40)]
    if kind == "csv":
        text = "\n".join(["x,w,w,y", *(",".join(map(str, row)) for row in rows)])
        (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    else:
        table = pyarrow.Table.from_arrays(
            [pyarrow.array(v) for v in zip(*rows, strict=True)], names=["x", "w", "w", "y"]
        )
        pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    for more in ('exclude = ["w"]', 'features = ["x"]'):
        manifest(tmp_path, kind, more)
        assert Tabular(folder=str(tmp_path)).load()["t"].descriptor.input_shape == (1,)
    for more in (
        "",
        'features = ["w"]',
        'features = ["x"]\nwhere = { w = 5.0 }',
        'features = ["x"]\nsplit = {column = "w"}',
    ):
        manifest(tmp_path, kind, more)
        with pytest.raises(DataError, match=f"file: d.{kind}: two columns are called 'w'"):
            Tabular(folder=str(tmp_path)).load()


def test_columns_that_are_in_one_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "d", "csv", {"x": range(40), "y": ["a", "b"] * 20})
    write(tmp_path / "e", "csv", {"note": ["?"] * 10, "x": range(10), "y": ["a", "b"] * 5})
    text = '[[tasks]]\nid = "t"\ntarget = "y"\nfiles = { train = "d.csv", test = "e.csv" }\n'
    (tmp_path / "tasks.toml").write_text(text + 'exclude = ["note"]')
    assert Tabular(folder=str(tmp_path)).load()["t"].descriptor.input_shape == (1,)
    (tmp_path / "tasks.toml").write_text(text)
    with pytest.raises(DataError, match=r"files.test: e.csv and d.csv differ in column 'note'"):
        Tabular(folder=str(tmp_path)).load()


def test_long_text_that_nobody_asked_for(tmp_path: Path) -> None:
    columns = {"x": range(40), "w": ["t" * 200_000] + ["t"] * 39, "y": ["a", "b"] * 20}
    assert load(tmp_path, "csv", columns, 'exclude = ["w"]').descriptor.input_shape == (1,)


def test_dotted_names_beside_nested_columns_in_parquet(tmp_path: Path) -> None:
    columns = {"a": [{"b": 1}] * 40, "a.b": range(40), "y": ["a", "b"] * 20}
    assert set(by_row(load(tmp_path, "parquet", columns, 'features = ["a.b"]'))) == set(range(40))


def test_an_array_of_several_numbers_is_no_value(tmp_path: Path) -> None:
    columns = {"x": range(40), "w": np.zeros((40, 2)), "y": ["a", "b"] * 20}
    for more in ("where = { w = 0 }", 'split = { column = "w" }', 'split = { test = 0.5, stratify = "w" }'):
        with pytest.raises(DataError, match=r"array 'w' has shape \(2,\) per row; one value is needed"):
            load(tmp_path, "npz", columns, more)
