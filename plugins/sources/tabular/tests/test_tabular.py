"""Tables become tasks as scikit-learn would make them, and as the README says."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from crosstask.cli import cli
from crosstask.engine import TransferEngine
from crosstask.job import load_run
from crosstask.learning.training import evaluate
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import SPLITS, Portfolio
from crosstask_tabular import Tabular
from crosstask_tabular.plugin import PLUGIN

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
ADULT = Path("../shared/data/adult_32561_16281.npz")


def folder(path: Path, manifest: str, **files: str) -> Path:
    """A folder with `tasks.toml` and CSV files by name."""
    path.mkdir(exist_ok=True)
    (path / "tasks.toml").write_text(manifest, encoding="utf-8")
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text, encoding="utf-8")
    return path


def load(path: Path, **options: Any) -> Portfolio:
    return Tabular(folder=str(path), **options).load()


def csv_of(columns: dict[str, Any]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join("" if v is None else str(v) for v in row) for row in rows)])


PEOPLE = {
    "age": [20, None, 40, 50, 30, 25, 61, 35],
    "job": ["cook", "smith", "cook", None, "smith", "clerk", "pilot", "cook"],
    "fold": ["train"] * 5 + ["test"] * 3,
    "rich": ["no", "no", "yes", "yes", "no", "yes", "no", "yes"],
}
TASK = '[[tasks]]\nid = "rich"\nfile = "people.csv"\ntarget = "rich"\nsplit = { column = "fold" }\n'


def by_age(portfolio: Portfolio, task: str, split: str) -> Any:
    """Inputs and targets of a split in an order that does not depend on the shuffling."""
    data = portfolio[task].data(split)
    order = sorted(range(len(data)), key=lambda row: data.inputs[row].tolist())
    return data.inputs[order].numpy(), data.targets[order].numpy()


def test_numbers_categories_and_gaps_as_scikit_learn_makes_them(tmp_path: Path) -> None:
    portfolio = load(folder(tmp_path, TASK, people=csv_of(PEOPLE)))
    age = np.array([[np.nan if v is None else float(v)] for v in PEOPLE["age"]])
    job = np.array([[v or "missing"] for v in PEOPLE["job"]], dtype=object)
    known = SimpleImputer().fit(age[:5]), StandardScaler().fit(age[:5]), OneHotEncoder(handle_unknown="ignore")
    known[2].fit(job[:5])
    for split, rows in (("train", slice(0, 5)), ("test", slice(5, 8))):
        one_hot = known[2].transform(job[rows]).toarray()
        names = list(known[2].categories_[0])
        places = [names.index(name) for name in sorted(set(names) - {"missing"})] + [names.index("missing")]
        expected = np.hstack([known[1].transform(known[0].transform(age[rows])), one_hot[:, places]])
        found, labels = by_age(portfolio, "rich", split)
        order = np.lexsort(expected.T[::-1])
        assert np.allclose(found, expected[order], atol=1e-6)
        assert labels.tolist() == [int(PEOPLE["rich"][rows][row] == "yes") for row in order]
    described = portfolio["rich"].descriptor
    assert (described.classes, described.input_shape, described.output_dim) == (("no", "yes"), (4,), 2)
    assert not portfolio["rich"].has_data("validation")


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ('missing = "median"', [0.0, 0.0]),  # known: 20, 40, 50, 30; the gap counts as 35, the median
        ("missing = 35", [0.0, 0.0]),
        ("missing = 46.1803398875", [1.0, 0.0]),  # one standard deviation, 11.18, above the mean
        ('missing = "indicator"', [0.0, 1.0]),
    ],
)
def test_rules_for_gaps(tmp_path: Path, more: str, first: list[float]) -> None:
    found, _ = by_age(load(folder(tmp_path, TASK + more, people=csv_of(PEOPLE))), "rich", "train")
    gap = found[np.isclose(found[:, 0], first[0], atol=1e-6)]
    assert len(gap) == 1
    if "indicator" in more:
        assert gap[0, 1] == 1
        assert found[:, 1].sum() == 1


def test_without_standardising_numbers_stay_what_they_are(tmp_path: Path) -> None:
    found, _ = by_age(load(folder(tmp_path, TASK + "standardize = false", people=csv_of(PEOPLE))), "rich", "test")
    assert found[:, 0].tolist() == [25, 35, 61]


def test_numbers_can_be_categories(tmp_path: Path) -> None:
    table = {"floor": [10, 9, 10, 9, 11], "y": [0, 1, 0, 1, 0], "fold": ["train"] * 4 + ["test"]}
    manifest = '[[tasks]]\nid = "t"\nfile = "a.csv"\ntarget = "y"\ncategorical = ["floor"]\nsplit = { column = "fold" }'
    portfolio = load(folder(tmp_path, manifest, a=csv_of(table)))
    assert sorted(portfolio["t"].data("train").inputs.tolist()) == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert portfolio["t"].data("test").inputs.tolist() == [[0, 0]], "11 is unknown"


SPACE = """
[defaults]
file = "people.csv"
split = {{ column = "fold" }}
{}
[[tasks]]
id = "rich"
target = "rich"
[[tasks]]
id = "job"
target = "job"
where = {{ job = ["cook", "smith"] }}
"""


def test_tasks_of_one_space_share_their_inputs_and_never_see_their_target(tmp_path: Path) -> None:
    where = folder(tmp_path, SPACE.format('space = "people"'), people=csv_of(PEOPLE))
    portfolio = load(where)
    rich, job = portfolio["rich"].data("train").inputs, portfolio["job"].data("train").inputs
    assert rich.shape[1:] == job.shape[1:] == (6,)  # age; cook, smith, no job; no, yes
    assert (job[:, 1:4] == 0).all(), "the job is the target of `job`"
    assert (rich[:, 4:] == 0).all(), "and rich that of `rich`"
    assert (rich[:, 1:4].sum(dim=1) == 1).all()
    apart = load(folder(tmp_path, SPACE.format(""), people=csv_of(PEOPLE)))
    assert [apart[t].descriptor.input_shape for t in ("rich", "job")] == [(4,), (3,)]


def rows_of(portfolio: Portfolio, task: str, split: str) -> set[int]:
    return {int(row) for row in portfolio[task].data(split).inputs[:, 0]}


RULES = ["", 'stratify = "y"', 'group = "person"']


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.sampled_from(RULES), seed=st.integers(0, 99), validation=st.sampled_from([0.2, 0.3]),
    count=st.integers(30, 60),
)  # fmt: skip
def test_random_splits_are_apart_and_have_their_sizes(
    tmp_path: Path, rule: str, seed: int, validation: float, count: int
) -> None:
    table = {
        "row": range(count),
        "person": [i // 3 for i in range(count)],
        "y": [int(i % 5 == 0) for i in range(count)],
    }
    split = ", ".join(filter(None, [f"validation = {validation}, test = 0.25, seed = {seed}", rule]))
    manifest = (
        f'[defaults]\nfile = "a.csv"\nstandardize = false\nfeatures = ["row"]\nsplit = {{ {split} }}\n'
        '[[tasks]]\nid = "y"\ntarget = "y"\n[[tasks]]\nid = "who"\ntarget = "person"\ntype = "regression"\n'
    )
    portfolio = load(folder(tmp_path, manifest, a=csv_of(table)))
    parts = {split: rows_of(portfolio, "y", split) for split in SPLITS}
    assert sorted(row for part in parts.values() for row in part) == list(range(count))
    assert {split: rows_of(portfolio, "who", split) for split in SPLITS} == parts, "all tasks have the same split"
    slack = 2 if "group" in rule else 0
    assert 0 <= len(parts["validation"]) - round(validation * count) <= slack
    assert 0 <= len(parts["test"]) - round(0.25 * count) <= slack
    if "stratify" in rule:
        for part in parts.values():
            assert abs(sum(row % 5 == 0 for row in part) - len(part) / 5) <= 1.5
    if "group" in rule:
        people = [{row // 3 for row in part} for part in parts.values()]
        assert sum(map(len, people)) == len(set().union(*people))


def test_where_does_not_move_rows_between_splits(tmp_path: Path) -> None:
    table = {"row": range(60), "shop": [i % 3 for i in range(60)], "y": [i // 2 % 2 for i in range(60)]}
    manifest = '[defaults]\nfile = "a.csv"\nstandardize = false\ntarget = "y"\n[[tasks]]\nid = "all"\n'
    manifest += '[[tasks]]\nid = "first"\nwhere = { shop = 0 }\n[[tasks]]\nid = "others"\nwhere = { shop = [1, 2] }\n'
    portfolio = load(folder(tmp_path, manifest, a=csv_of(table)))
    for split in SPLITS:
        first, others = rows_of(portfolio, "first", split), rows_of(portfolio, "others", split)
        assert first | others == rows_of(portfolio, "all", split)
        assert {row % 3 for row in first} == {0}


def test_files_for_each_split_and_a_share_for_what_has_none(tmp_path: Path) -> None:
    parts = {name: csv_of({"row": range(a, b), "y": [i % 2 for i in range(a, b)]})
             for name, a, b in (("a", 0, 10), ("b", 10, 20), ("c", 20, 30))}  # fmt: skip
    manifest = '[[tasks]]\nid = "y"\ntarget = "y"\nstandardize = false\n'
    manifest += 'files = { train = ["a.csv", "b.csv"], test = "c.csv" }\n'
    portfolio = load(folder(tmp_path, manifest + "split = { validation = 0.2 }\n", **parts))
    assert rows_of(portfolio, "y", "test") == set(range(20, 30))
    held = rows_of(portfolio, "y", "validation")
    assert len(held) == 4
    assert held | rows_of(portfolio, "y", "train") == set(range(20))
    assert not load(folder(tmp_path, manifest, **parts))["y"].has_data("validation")


def test_regression_on_several_targets(tmp_path: Path) -> None:
    table = {"x": range(8), "a": [3.0 * i for i in range(8)], "b": [i % 3 for i in range(8)],
             "fold": ["train"] * 6 + ["test"] * 2}  # fmt: skip
    manifest = (
        '[[tasks]]\nid = "t"\nfile = "t.csv"\ntype = "regression"\ntarget = ["a", "b"]\nsplit = {column="fold"}\n'
    )
    task = load(folder(tmp_path, manifest, t=csv_of(table)))["t"]
    train = task.data("train")
    assert train.targets.shape == (6, 2)
    assert torch.allclose(train.targets.mean(dim=0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(train.targets.std(dim=0, correction=0), torch.ones(2), atol=1e-6)
    assert task.descriptor.output_dim == 2
    plain = load(folder(tmp_path, manifest + "standardize_target = false", t=csv_of(table)))["t"]
    assert sorted(plain.data("test").targets.tolist()) == [[18, 0], [21, 1]]


def test_rows_without_a_target_are_no_samples(tmp_path: Path) -> None:
    table = PEOPLE | {"rich": ["no", None, "yes", "yes", "no", "yes", None, "yes"]}
    task = load(folder(tmp_path, TASK, people=csv_of(table)))["rich"]
    assert [len(task.data(split)) for split in ("train", "test")] == [4, 2]


DIGITS = """
name = "digits"
[defaults]
file = "digits.{0}"
features = ["pixel*"]
shape = [1, 8, 8]
standardize = false
split = {{ column = "fold", values = {{ train = 0, validation = 1, test = 2 }} }}
[[tasks]]
id = "digit"
target = "digit"
[[tasks]]
id = "odd"
target = "odd"
classes = ["even", "odd"]
"""


def digits_as(path: Path, kind: str) -> Portfolio:
    raw = load_digits()
    fold = np.arange(1797) % 10 // 4
    odd = np.where(raw.target % 2 == 0, "even", "odd")
    pixels = {f"pixel{i}": raw.data[:, i] for i in range(64)}
    columns = {**pixels, "digit": raw.target, "odd": odd, "fold": fold}
    where = folder(path, DIGITS.format(kind))
    match kind:
        case "csv":
            (where / "digits.csv").write_text(csv_of(columns), encoding="utf-8")
        case "npz":
            np.savez(where / "digits.npz", pixels=raw.images, digit=raw.target, odd=odd, fold=fold)
        case "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), where / "digits.parquet")
    return load(where)


def test_digits_are_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    kinds = {kind: digits_as(tmp_path / kind, kind) for kind in ("csv", "npz", "parquet")}
    raw = load_digits()
    images = {image.astype(np.float32).tobytes(): digit for image, digit in zip(raw.images, raw.target, strict=True)}
    for portfolio in kinds.values():
        assert portfolio.ids == ["digit", "odd"]
        assert portfolio["digit"].descriptor.classes == tuple("0123456789")
        for split in SPLITS:
            for task in portfolio:
                digits = [images[image.numpy().tobytes()] for image in task.data(split).inputs]
                labels = task.data(split).targets.tolist()
                assert labels == (digits if task.task_id == "digit" else [d % 2 for d in digits])
    prints = {tuple(task.fingerprint() for task in portfolio) for portfolio in kinds.values()}
    assert len(prints) == 1


def test_an_array_of_images_keeps_its_shape(tmp_path: Path) -> None:
    raw = load_digits()
    np.savez(folder(tmp_path, "") / "d.npz", image=raw.images, label=raw.target)
    manifest = '[[tasks]]\nid = "d"\nfile = "d.npz"\ntarget = "label"\n'
    folder(tmp_path, manifest)
    assert load(tmp_path)["d"].descriptor.input_shape == (8, 8)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder(tmp_path, DIGITS.format("parquet")) / "digits.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        Exception, match=r"reading Parquet needs pyarrow; try pip install 'crosstask-sources\[parquet\]'"
    ):
        load(tmp_path)


def test_transfer_between_the_tasks_of_a_space(tmp_path: Path) -> None:
    engine = TransferEngine(budget=Budget(steps=40, samples=60, learning_rate=3e-3), train=Budget(steps=150), seeds=3)
    with engine:
        engine.register(digits_as(tmp_path, "csv"))
        result = engine.transfer_knowledge("digit", "odd")
    assert result.score.mean > 0.7
    assert "trunk.1.weight" in result.transferred


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [part.partition("```")[0] for part in README.read_text(encoding="utf-8").split("```toml\n")[1:]]
    manifest, recipe = blocks
    folder(tmp_path / "wine", manifest, wine=(HERE / "wine" / "wine.csv").read_text(encoding="utf-8"))
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shown, tested = (load(where) for where in (Path("wine"), HERE / "wine"))
    assert [task.fingerprint() for task in shown] == [task.fingerprint() for task in tested]
    told = CliRunner().invoke(cli, ["run", "recipe.toml", "--out", "results"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    record = load_run(tmp_path / "results")
    assert record.status == "finished"
    assert record.summary["target"] == "first_or_not"
    assert record.summary["measured_pairs"] == 2


def test_a_linear_model_learns_wine_as_well_as_scikit_learns() -> None:
    task = load(HERE / "wine")["cultivar"]
    train, test = task.data("train"), task.data("test")
    peer = LogisticRegression(max_iter=500).fit(train.inputs, train.targets).score(test.inputs, test.targets)
    raw = load_wine()
    assert len(train) + len(task.data("validation")) + len(test) == len(raw.target)
    assert peer > 0.94


@pytest.mark.parametrize("options", [{"tasks": ["first_or_not"]}, {"tasks": ("cultivar", "strength"), "seed": 3}])
def test_a_subset_and_a_seed(options: dict[str, Any]) -> None:
    portfolio = load(HERE / "wine", **options)
    assert [*portfolio.ids, *(t.task_id for t in portfolio.unseen)] == list(options["tasks"])
    assert all(not task.descriptor.prerequisites for task in portfolio)


def test_it_is_found_by_name() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    made = registry.create("source", "tabular", {"folder": str(HERE / "wine")})
    assert made.load().name == "wine"


@pytest.mark.slow
@pytest.mark.skipif(not ADULT.is_file(), reason="needs the adult census data in ../shared/data")
def test_adult(tmp_path: Path) -> None:
    with np.load(ADULT) as raw:
        vocab = [ast.literal_eval(text) for text in raw["vocab"]]
        for split in ("train", "test"):
            columns: dict[str, Any] = {}
            for i, name in enumerate(raw["cat_names"]):
                columns[str(name)] = [vocab[i][code] for code in raw[f"cat_{split}"][:, i]]
            for i, name in enumerate(raw["num_names"]):
                columns[str(name)] = raw[f"num_{split}"][:, i].tolist()
            columns["income"] = np.where(raw[f"y_{split}"] == 1, "above 50k", "up to 50k").tolist()
            (tmp_path / f"{split}.csv").write_text(csv_of(columns), encoding="utf-8")
    manifest = """
[defaults]
files = { train = "train.csv", test = "test.csv" }
split = { validation = 0.1 }
space = "census"
exclude = ["relationship", "fnlwgt"]
[[tasks]]
id = "income"
target = "income"
[[tasks]]
id = "married"
target = "marital-status"
where = { marital-status = ["Never-married", "Married-civ-spouse"] }
[[tasks]]
id = "hours"
target = "hours-per-week"
type = "regression"
"""
    (tmp_path / "tasks.toml").write_text(manifest, encoding="utf-8")
    portfolio = load(tmp_path)
    assert len({task.descriptor.input_shape for task in portfolio}) == 1
    income = portfolio["income"]
    assert [len(income.data(split)) for split in SPLITS] == [29305, 3256, 16281]
    assert float(income.data("test").targets.float().mean()) == pytest.approx(0.764, abs=0.001)
    with TransferEngine(train=Budget(steps=600, batch_size=128, learning_rate=3e-3), seeds=1) as engine:
        engine.register(portfolio)
        engine.train()
        assert evaluate(engine.portfolio["income"].model, income) > 0.84, "as published for networks"
        assert evaluate(engine.portfolio["hours"].model, portfolio["hours"]) > 0.1
        gain = engine.transfer_knowledge("income", "married").performance_gain
    assert gain.mean > -0.05
