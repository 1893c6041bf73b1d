"""Every way in which a manifest or its files can be wrong has a message that names the file, the task and the key."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask_tabular import Tabular
from crosstask_tabular import tabular as module

PEOPLE = """name,age,city,fold,income
a,20,Rome,1,low
b,30,Oslo,1,high
c,40,Rome,1,low
d,50,Oslo,2,high
e,60,Rome,2,low
f,70,Oslo,2,high
"""
SPLIT = "split = { column = 'fold', values = { train = 1, test = 2, validation = 3 } }\n"
GOOD = f"""
[defaults]
file = 'people.csv'
exclude = ['name']
{SPLIT}
[[tasks]]
id = 'income'
target = 'income'
"""
TASK = r"tasks.toml: tasks\[1\] \('income'\): "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "people.csv").write_text(PEOPLE, encoding="utf-8")
    return tmp_path


def refused(folder: Path, manifest: str, kind: type[CrosstaskError] = OptionError) -> str:
    (folder / "tasks.toml").write_text(manifest, encoding="utf-8")
    with pytest.raises(kind) as caught:
        Tabular(folder=str(folder)).load()
    return str(caught.value)


def test_the_good_manifest_loads(folder: Path) -> None:
    (folder / "tasks.toml").write_text(GOOD.replace(", validation = 3", ""), encoding="utf-8")
    assert Tabular(folder=str(folder)).load().ids == ["income"]


# What is added to the task (or replaces a key of it) -> the message. Nothing of these reads a row.
WRONG_KEYS: dict[str, str] = {
    "targt = 'income'": TASK + "unknown option 'targt'; did you mean 'target'",
    "target = 'incom'": TASK + "target: no column 'incom' in people.csv; did you mean 'income'",
    "target = ['income', 'age']": TASK + r"classification has one target column, got \['income', 'age'\]",
    "target = []": TASK + "target names nothing",
    "target = true": TASK + "target must be a list, got True",
    "target = { column = 'income' }": TASK + "target must be a list",
    "id = ''": r"tasks\[1\] \(''\): id must not be empty",
    "id = 3": r"tasks\[1\] \('3'\): id must be a string, got 3",
    "type = 'clasification'": TASK + "type cannot be 'clasification'; did you mean 'classification'",
    "file = 'peple.csv'": TASK + "file: no file 'peple.csv' in .*; did you mean 'people.csv'",
    "file = 'people.xlsx'": TASK + "file: 'people.xlsx' must end in .csv, .npz, .parquet",
    "file = '../people.csv'": TASK + "file: '../people.csv' is outside the folder",
    "file = '/etc/people.csv'": TASK + "file: '/etc/people.csv' is outside the folder",
    "file = ''": TASK + "either `file` .* or `files` .* is needed",
    "file = 7": TASK + r"file\[0\] must be a string, got 7",
    "files = { train = 'people.csv' }": TASK + "`files` says already which rows .* leave out split.column",
    "files = { training = 'people.csv' }\nsplit = {}": TASK + "files: unknown split 'training'; did you mean 'train'",
    "files = { test = 'people.csv' }\nsplit = {}": TASK + "files needs `train`",
    "files = { train = 'people.csv', test = 'p.csv' }\nsplit = {}": TASK + "files.test: no file 'p.csv'",
    "files = { train = 'people.csv', test = 'people.csv' }\nsplit = { test = 0.1 }": TASK
    + "files gives the test rows already; leave out split.test",
    "features = ['agee']": TASK + "features: no column 'agee' in people.csv; did you mean 'age'",
    "features = ['pixel*']": TASK + r"features: no column 'pixel\*' in people.csv; valid: age, city",
    "features = ['age', 'income']": TASK + "features: 'income' is the target; what is predicted cannot be an input",
    "features = 'age'": TASK + "features must be a list, got 'age'",
    "features = []": TASK + "no feature is left; people.csv has the columns name, age",
    "exclude = ['*']": TASK + "no feature is left",
    "exclude = ['nmae']": TASK + "exclude: no column 'nmae' in people.csv; did you mean 'name'",
    "categorical = ['town']": TASK + "categorical: no column 'town' in people.csv",
    "categorical = ['name']": TASK + "categorical: 'name' is not among the features; valid: age",
    "where = { city_ = 'Rome' }": TASK + "where: no column 'city_' in people.csv; did you mean 'city'",
    "missing = 'meen'": TASK + "missing must be a number or a rule, got 'meen'; did you mean 'mean'",
    "missing = true": TASK + "missing must be a string or a number, got True",
    "missing_values = '?'": TASK + r"missing_values must be a list, got '\?'",
    "unknown = 'ignore'": TASK + "unknown cannot be 'ignore'; valid: error, zeros",
    "max_categories = 1": TASK + "max_categories must be >= 2, got 1",
    "max_categories = 2.5": TASK + "max_categories must be an integer, got 2.5",
    "standardize = 'yes'": TASK + "standardize must be true or false, got 'yes'",
    "delimiter = ''": TASK + "delimiter must be one character, .*got ''",
    "delimiter = ';'": TASK + "target: no column 'income' in people.csv",
    "classes = ['low']": TASK + r"classes must be two or more different names, got \['low'\]",
    "classes = ['low', 'low']": TASK + "classes must be two or more different names",
    "classes = ['a', 'b']\ntype = 'regression'": TASK + "classes are for classification; this is regression",
    "shape = [2, 0]": TASK + "shape must be >= 1, got",
    "shape = [2, 1]\ncategorical = ['city']": TASK + "shape is for numeric columns",
    "loss = 'crossentropy'": TASK + "loss cannot be 'crossentropy'; did you mean 'cross_entropy'",
    "metric = 'acc'": TASK + "metric cannot be 'acc'; did you mean 'accuracy'",
    "unseen = true": "tasks.toml: every task is unseen; nothing is left to learn",
    "split = { colum = 'fold' }": TASK + "split: unknown option 'colum'; did you mean 'column'",
    "split = { column = 'flod' }": TASK + "split.column: no column 'flod' in people.csv; did you mean 'fold'",
    "split = { stratify = 'flod' }": TASK + "split.stratify: no column 'flod'",
    "split = { group = 'nam' }": TASK + "split.group: no column 'nam' in people.csv; did you mean 'name'",
    "split = { validation = 1.5 }": TASK + "split: validation must be >= 0 and < 1, got 1.5",
    "split = { validation = '20 %' }": TASK + "split: validation must be a number, got '20 %'",
    "split = { validation = 0.5, test = 0.5 }": TASK + "split: nothing is left to train on",
    "split = { column = 'fold', test = 0.2 }": TASK + "split: `column` excludes validation and test shares",
    "split = { values = { train = 1 } }": TASK + "split: `values` needs `column`",
    "split = { column = 'fold', values = { tests = 1 } }": TASK + "split: values: unknown split 'tests'",
    "split = { group = 'name', stratify = 'city' }": TASK + "split: rows are kept together by `group` or spread by",
    "split = 0.2": TASK + r"split must be a SplitRule, or a table of its options \(column, values, ",
    "descriptor = { skill = ['x'] }": TASK + "descriptor: unknown option 'skill'; did you mean 'skills'",
    "descriptor = { skills = 'x' }": TASK + "descriptor: skills must be a list, got 'x'",
    "descriptor = { complexity = 2 }": TASK + "descriptor: complexity must be >= 0 and <= 1",
    "descriptor = { prerequisites = ['incme'] }": TASK + "descriptor.prerequisites: no task 'incme'",
}


@pytest.mark.parametrize("change", WRONG_KEYS)
def test_wrong_keys_of_a_task(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_rows", lambda *_: pytest.fail("a row was read before all was checked"))
    lines = [line for line in GOOD.splitlines() if line]
    keys = {line.partition(" =")[0] for line in change.splitlines()}
    start = lines.index("[[tasks]]")
    own = [line for line in lines[start + 1 :] if line.partition(" =")[0] not in keys]
    shared = [line for line in lines[:start] if "files" not in keys or not line.startswith("file =")]
    manifest = "\n".join([*shared, "[[tasks]]", *own, change])
    told = refused(folder, manifest)
    assert re.search(WRONG_KEYS[change], told), told
    assert str(folder) in told


# Whole manifests -> the message.
WRONG_MANIFESTS: dict[str, str] = {
    "": "tasks.toml has no task: add a \\[\\[tasks\\]\\] table",
    "tasks = 3": r"tasks must be a list of tables \(\[\[tasks\]\]\), got 3",
    "[tasks]\nid = 'income'": r"tasks must be a list of tables",
    "[[task]]\nid = 'income'": "unknown key 'task'; did you mean 'tasks'",
    "name = 5\n" + GOOD: "tasks.toml: name must be a string, got 5",
    "defaults = 5\n[[tasks]]\nid = 'x'": r"defaults must be a table \(\[defaults\]\), got 5",
    "[defaults]\nid = 'x'\n[[tasks]]": "defaults.id: every task has an id of its own",
    "[defaults]\nfeature = ['x']\n[[tasks]]": "defaults: unknown key 'feature'; did you mean 'features'",
    "[[tasks]]\ntarget = 'y'": r"tasks\[1\] \('without id'\): missing option 'id'",
    "[[tasks]]\nid = 'y'": r"tasks\[1\] \('y'\): missing option 'target'",
    "[[tasks]]\nid = y\n": r"tasks.toml: .*line 2",
    GOOD + "[[tasks]]\nid = 'income'\ntarget = 'city'": r"tasks\[2\] \('income'\): id 'income' is taken by tasks\[1\]",
}


@pytest.mark.parametrize("manifest", WRONG_MANIFESTS)
def test_wrong_manifests(folder: Path, manifest: str) -> None:
    told = refused(folder, manifest)
    assert re.search(WRONG_MANIFESTS[manifest], told), told
    assert "tasks.toml" in told


def test_prerequisites_in_a_circle(folder: Path) -> None:
    more = "descriptor = {{ prerequisites = ['{}'] }}\n"
    manifest = GOOD.replace(", validation = 3", "") + more.format("city")
    manifest += "[[tasks]]\nid = 'city'\ntarget = 'city'\n" + more.format("income")
    told = refused(folder, manifest)
    assert "('income'): descriptor.prerequisites: they form a cycle: income -> city -> income" in told


def test_manifests_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest .*tasks.toml: No such file"):
        Tabular(folder=str(folder)).load()
    with pytest.raises(DataError, match=r"nowhere is no folder"):
        Tabular(folder=str(folder / "nowhere")).load()
    (folder / "tasks.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(OptionError, match=r"is not UTF-8 text: .* at byte 8"):
        Tabular(folder=str(folder)).load()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["incom"], "unknown task 'incom'; did you mean 'income'"),
        ([], "leave nothing to learn"),
        ("x", "must be a list"),
    ],
)
def test_wrong_options(folder: Path, tasks: Any, message: str) -> None:
    (folder / "tasks.toml").write_text(GOOD.replace(", validation = 3", ""), encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        Tabular(folder=str(folder), tasks=tasks).load()


def table(*rows: str) -> str:
    return "\n".join(["name,age,city,fold,income", *rows])


BASE = ["a,20,Rome,1,low", "b,30,Oslo,1,high", "c,40,Rome,2,low"]
EASY = GOOD.replace(", validation = 3", "")

# (the file, lines added to the task) -> the message.
WRONG_DATA: list[tuple[str, str, str]] = [
    ("", "", "people.csv is empty: it needs a header"),
    (table(), "", "people.csv has a header but no rows"),
    (table(*BASE, "d,50"), "", "people.csv, line 5: 2 fields, the header has 5"),
    ("a,b,a\n1,2,3", "", "people.csv: two columns are called 'a'"),
    (table(*BASE, 'd,50,"Oslo,1,low'), "", r"people.csv, line 5: a quote is opened and never closed"),
    (table(*BASE, "d,50,Oslo,3,low"), "", "people.csv, row 4: 'fold' is '3', which names no split; .* '1', '2'"),
    (table(*BASE, "d,50,Oslo,,low"), "", "people.csv, row 4: 'fold' is None, which names no split"),
    (table(*BASE, "d,50,Oslo,2,midle"), "", "people.csv, row 4: target 'income' is 'midle', which is no class of the"),
    (table(*BASE), "classes = ['lo', 'high']", "target 'income' is 'low', which is none of `classes`; did you"),
    (table(BASE[0], BASE[2]), "", "target 'income' has 1 class in the training rows; two are needed"),
    (table(*BASE), "split = {}", "nothing to judge on: give a validation or a test share, column value or file"),
    (table(*BASE[:2]), "", "the test split has no rows of 2"),
    (table(*BASE[2:]), "", "the train split has no rows of 1"),
    (table(*BASE), "where = { city = 'Rome' }", "has 1 class in the training rows"),
    (table(*BASE), "where = { city = 'Roma' }", "where: no row has 'Roma' in column 'city'"),
    (table(*BASE), "where = { age = [20, 30] }", "the test split has no rows; `where` keeps 2 of 3 rows"),
    (table(*BASE), "categorical = []", r"column 'city' holds text \(people.csv, row 1: 'Rome'\); list it in `categ"),
    (table("a,inf,Rome,1,low", *BASE[1:]), "", "people.csv, row 1: column 'age' has a value that is infinite"),
    (table("a,,Rome,1,low", *BASE[1:]), "missing = 'error'", "people.csv, row 1: column 'age' has a value that is mis"),
    (table("a,20,,1,low", *BASE[1:]), "missing = 'error'", "people.csv, row 1: column 'city' has a value that is mis"),
    (table("a,,Rome,1,low", "b,,Oslo,1,high", BASE[2]), "", "column 'age' has no value in any training row"),
    (table(*BASE[:2], "c,40,Bonn,2,low"), "unknown = 'error'", "row 3: column 'city' has 'Bonn', which no train"),
    (table(*BASE), "features = ['age']\nshape = [2]", r"shape \[2\] has 2 numbers, the features 1"),
    (table(*BASE), "target = 'city'\ntype = 'regression'", "target 'city' does not hold one number per row"),
    (table("a,20,Rome,1,1", "b,30,Oslo,1,1", "c,40,Rome,2,2"), "type = 'regression'",
     "target 'income' has the same value in every training row"),
    (table(*BASE[:2], "c,40,Rome,2,"), "", r"no row of the test split has a target \('income'\)"),
    (table("a,20,Rome,1,1", "b,30,Oslo,1,", "c,40,Rome,2,2"), "type = 'regression'", "the same value in every"),
    (table(*BASE), "split = { validation = 0.1, test = 0.1 }", "the validation split has no rows of 3"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "more", "message"), WRONG_DATA)
def test_wrong_data(folder: Path, content: str, more: str, message: str) -> None:
    (folder / "people.csv").write_text(content, encoding="utf-8")
    lines = EASY.splitlines()
    keys = {line.partition(" =")[0] for line in more.splitlines()}
    start = lines.index("[[tasks]]")
    own = [line for line in lines[start:] if line.partition(" =")[0] not in keys]
    told = refused(folder, "\n".join([*lines[:start], *own, more]), CrosstaskError)
    assert re.search(message, told), told
    assert re.search(TASK, told), told


def test_too_many_categories(folder: Path) -> None:
    rows = [f"person {i},20,Rome,{1 + i % 2},{'high' if i % 3 else 'low'}" for i in range(300)]
    (folder / "people.csv").write_text(table(*rows), encoding="utf-8")
    told = refused(folder, EASY.replace("exclude = ['name']", ""), DataError)
    assert "column 'name' has 150 categories in the training rows; leave it out with `exclude`" in told


def test_a_column_of_text_here_and_numbers_there(folder: Path) -> None:
    (folder / "other.csv").write_text(table("a,old,Rome,1,low", "b,young,Oslo,1,high", "c,old,Rome,2,low"), "utf-8")
    second = "space = 's'\n[[tasks]]\nid = 'b'\nfile = 'other.csv'\ntarget = 'income'\nspace = 's'\n"
    (folder / "tasks.toml").write_text(EASY + second, encoding="utf-8")
    found = Tabular(folder=str(folder)).load()
    assert found.ids == ["income"]
    assert "column 'age' holds categories in task 'b' and numbers in 'income'" in found.left_out["b"]


def test_files_of_one_task_have_the_same_columns(folder: Path) -> None:
    (folder / "more.csv").write_text("name,age,city,fold,wage\na,1,x,1,low", "utf-8")
    told = refused(folder, EASY + "file = ['people.csv', 'more.csv']", DataError)
    assert re.search(TASK + "file: more.csv and people.csv differ in column 'income'", told)


class Bomb:
    """Would say so if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("it was unpickled",)


def npz(**arrays: Any) -> dict[str, Any]:
    good = {"x": np.zeros((4, 2)), "y": np.array([0, 1, 0, 1]), "fold": np.array([1, 1, 2, 2])}
    return {**good, **arrays}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (npz(y=np.zeros(3)), "all columns must be equally long; 'y' has 3 rows, 'x' 4"),
        (npz(x=np.array([Bomb()] * 4, dtype=object)), "d.npz cannot be read: Object arrays cannot be loaded"),
        (npz(x=np.array([["a", "b"]] * 4)), "array 'x' has more than one dimension and does not hold numbers"),
        (npz(y=np.zeros((4, 2))), r"target 'y' has shape \(2,\) per row; one label is needed"),
        (npz(y=np.array([0.0, 1, np.nan, np.nan])), r"no row of the test split has a target \('y'\)"),
        ({name: array[:0] for name, array in npz().items()}, "d.npz has no rows"),
    ],
)
def test_wrong_npz_files(folder: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(folder / "d.npz", **arrays)
    manifest = "[[tasks]]\nid = 'income'\nfile = 'd.npz'\ntarget = 'y'\n" + SPLIT.replace(", validation = 3", "")
    assert re.search(message, refused(folder, manifest, DataError))


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Bomb())], ids=["empty", "text", "pickle"])
def test_files_that_are_not_what_they_are_called(folder: Path, suffix: str, content: bytes) -> None:
    (folder / f"d.{suffix}").write_bytes(content)
    told = refused(folder, f"[[tasks]]\nid = 'income'\nfile = 'd.{suffix}'\ntarget = 'y'\n", DataError)
    assert re.search(TASK + rf"file: d.{suffix} cannot be read as", told), told


def test_a_single_array_is_no_npz_file(folder: Path) -> None:
    np.save(folder / "d.npy", np.zeros(3))
    (folder / "d.npy").rename(folder / "d.npz")
    told = refused(folder, "[[tasks]]\nid = 'income'\nfile = 'd.npz'\ntarget = 'y'\n", DataError)
    assert "write it with numpy.savez" in told


def test_parquet_columns_of_another_kind(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"x": [[1], [2]], "y": ["a", "b"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "d.parquet")
    told = refused(folder, "[[tasks]]\nid = 'income'\nfile = 'd.parquet'\ntarget = 'y'\n", DataError)
    assert "d.parquet: column 'x' has type list" in told


def test_text_that_is_not_utf8(folder: Path) -> None:
    (folder / "people.csv").write_bytes(PEOPLE.replace("Oslo", "K\xf6ln").encode("latin-1"))
    told = refused(folder, EASY, DataError)
    assert "people.csv is not UTF-8 text: line 3: invalid start byte, b'\\xf6'; name another, such as encod" in told
