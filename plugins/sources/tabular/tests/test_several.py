"""Several tasks of one manifest: bad ones, those without all labels, shared tables, and tasks of every type."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score, roc_auc_score

from crosstask.cli import cli
from crosstask.engine import TransferEngine
from crosstask.errors import DataError, OptionError
from crosstask.learning.objectives import METRICS, metric_of
from crosstask.learning.training import evaluate
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask_tabular import Tabular
from crosstask_tabular.manifest import FITTING

DIGITS = load_digits()
HEAD = """
[defaults]
file = "digits.npz"
features = ["pixels"]
"""


def load(path: Path, manifest: str, **options: Any) -> Any:
    (path / "tasks.toml").write_text(HEAD + manifest, encoding="utf-8")
    return Tabular(folder=str(path), **options).load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    digit = DIGITS.target.astype(np.float64)
    half = np.where(np.arange(1797) % 3 == 0, np.nan, digit)
    bits = np.stack([(DIGITS.target >> bit) & 1 for bit in range(4)], axis=1).astype(np.float64)
    gaps = bits.copy()
    gaps[::5, 0] = np.nan
    gaps[::7] = np.nan
    named = {f"bit{bit}": bits[:, bit].astype(bool) for bit in range(4)}
    np.savez(tmp_path / "digits.npz", pixels=DIGITS.data / 16, digit=DIGITS.target, half=half, bits=bits, gaps=gaps,
             odd=DIGITS.target % 2, ink=DIGITS.data.mean(1), top=DIGITS.data[:, :32].mean(1), **named)  # type: ignore[arg-type]  # fmt: skip
    return tmp_path


GOOD = '[[tasks]]\nid = "digit"\ntarget = "digit"\n'


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("target = 'digt'", r"target: no column 'digt' in digits.npz; did you mean 'digit'"),
        ("target = 'digit'\nfile = 'x.csv'", "no file 'x.csv'"),
        ("target = 'digit'\nmising = 1", "unknown option 'mising'; did you mean 'missing'"),
        ("target = 'pixels'\nfeatures = ['ink']", r"target 'pixels' has shape \(64,\) per row"),
        ("target = 'digit'\nwhere = { digit = 11 }", "where: no row has '11' in column 'digit'"),
        ("target = 'digit'\nshape = [7]", r"shape \[7\] has 7 numbers, the features 64"),
        ("target = 'digit'\noutput_dim = 1", "output_dim 1 for 10 classes"),
        ("target = 'digit'\ndescriptor = { prerequisites = ['none'] }", "descriptor.prerequisites: no task 'none'"),
    ],
)
def test_a_bad_task_stops_only_who_uses_it(
    folder: Path, bad: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = '[[tasks]]\nid = "{}"\ntarget = "odd"\ndescriptor = {{ prerequisites = ["{}"] }}\n'
    tasks = GOOD + f'[[tasks]]\nid = "bad"\n{bad}\n' + needs.format("user", "bad") + needs.format("other", "digit")
    tasks += needs.format("users", "user")
    portfolio = load(folder, tasks)
    assert portfolio.ids == ["digit", "other"]
    assert list(portfolio.left_out) == ["bad", "user", "users"]
    assert "it needs 'bad', which is left out" in portfolio.left_out["user"]
    logged = capsys.readouterr().err
    assert logged.count("task left out") == 3
    for ask in (lambda: portfolio["bad"], lambda: load(folder, tasks, tasks=("digit", "bad"))):
        with pytest.raises((DataError, OptionError), match=rf"tasks\[2\] \('bad'\): .*{reason}"):
            ask()
    assert load(folder, tasks, tasks=("digit", "other")).ids == ["digit", "other"]
    with TransferEngine() as engine:
        engine.register(portfolio)
        assert engine.portfolio.ids == ["digit", "other"]


def test_a_run_says_what_was_left_out(folder: Path, tmp_path: Path) -> None:
    load(folder, GOOD + '[[tasks]]\nid = "bad"\ntarget = "digt"\n[[tasks]]\nid = "odd"\ntarget = "odd"\n')
    recipe = f"""
name = "r"
seeds = 1
[source]
use = "tabular"
folder = "{folder}"
[train]
steps = 2
[discovery]
discoverers = ["skills"]
"""
    (tmp_path / "recipe.toml").write_text(recipe)
    told = CliRunner().invoke(cli, ["run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "task left out" in told.output + (told.stderr or "")


def test_ids_that_are_taken_circles_and_spaces_leave_out_their_tasks(folder: Path) -> None:
    task = '[[tasks]]\nid = "{}"\ntarget = "odd"\n'
    assert load(folder, GOOD + task.format("two") * 2).ids == ["digit"]
    circle = "".join(
        task.format(one) + f'descriptor = {{ prerequisites = ["{two}"] }}\n' for one, two in ("ab", "bc", "ca", "da")
    )
    found = load(folder, GOOD + circle)
    assert found.ids == ["digit"]
    assert "they form a cycle: a -> b -> c -> a" in found.left_out["b"].replace("a -> c -> b -> a", "a -> b -> c -> a")
    spaces = task.format("one") + 'space = "s"\n' + task.format("two") + 'space = "s"\nmissing = "median"\n'
    found = load(folder, spaces)
    assert found.ids == ["one"]
    assert "share one encoding; missing is 'median' here and 'mean' in 'one'" in found.left_out["two"]


def test_rows_without_a_label_are_no_samples(folder: Path) -> None:
    portfolio = load(folder, GOOD + '[[tasks]]\nid = "half"\ntarget = "half"\n')
    whole, half = portfolio["digit"], portfolio["half"]
    assert half.descriptor.classes == whole.descriptor.classes == tuple("0123456789")
    assert half.descriptor.sample_count == len(half.data("train"))
    for split in ("train", "validation", "test"):
        all_, some = whole.data(split), half.data(split)
        kept = all_.rows % 3 != 0
        assert torch.equal(some.rows, all_.rows[kept])
        assert torch.equal(some.inputs, all_.inputs[kept])
        assert some.targets.tolist() == DIGITS.target[some.rows.numpy()].tolist()
        assert some.table == all_.table


def test_tasks_over_the_same_rows_share_one_tensor(folder: Path) -> None:
    even = '[[tasks]]\nid = "even"\ntarget = "digit"\nwhere = { odd = 0 }\n'
    several = '[[tasks]]\nid = "bits"\ntarget = "bits"\ntype = "multilabel"\n'
    other = '[[tasks]]\nid = "top"\ntarget = "odd"\nfeatures = ["ink", "top"]\n'
    portfolio = load(folder, GOOD + '[[tasks]]\nid = "odd"\ntarget = "odd"\n' + several + even + other)
    for split in ("train", "validation", "test"):
        one, two, three, four, five = (task.data(split) for task in portfolio)
        assert one.inputs.data_ptr() == two.inputs.data_ptr() == three.inputs.data_ptr()
        assert one.table == two.table == three.table
        assert one.table not in (four.table, five.table)  # scaled by other rows, made of other columns
        assert torch.equal(one.rows, five.rows)
        assert one.targets.tolist() == DIGITS.target[one.rows.numpy()].tolist()
        assert two.targets.tolist() == (DIGITS.target % 2)[two.rows.numpy()].tolist()
        known = torch.tensor(DIGITS.data / 16, dtype=torch.float32)
        train = known[portfolio["digit"].data("train").rows]
        scale = train.std(0, correction=0)
        expected = (known - train.mean(0)) / torch.where(scale > 0, scale, 1.0)
        assert torch.allclose(one.inputs, expected[one.rows], atol=1e-4)
    half = '[[tasks]]\nid = "{0}"\ntarget = "digit"\nspace = "s"\nwhere = {{ odd = {0} }}\n'
    space = half.format(0) + half.format(1)
    zero, one = (task.data("train") for task in load(folder, space))
    assert zero.table == one.table
    assert not set(zero.rows.tolist()) & set(one.rows.tolist())


def test_several_labels_single_logits_and_several_values(folder: Path) -> None:
    tasks = """
[[tasks]]
id = "bits"
target = ["bit0", "bit1", "bit2", "bit3"]
type = "multilabel"
metric = "auroc"
[[tasks]]
id = "array"
target = "gaps"
type = "multilabel"
[[tasks]]
id = "odd"
target = "odd"
output_dim = 1
[[tasks]]
id = "ink"
target = ["ink", "top"]
type = "regression"
metric = "rmse"
"""
    portfolio = load(folder, tasks)
    bits, array, odd, ink = portfolio
    assert bits.descriptor.classes == ("bit0", "bit1", "bit2", "bit3")
    assert (odd.descriptor.output_dim, odd.descriptor.classes) == (1, ("0", "1"))
    assert (ink.descriptor.output_dim, array.descriptor.output_dim) == (2, 4)
    data = array.data("train")
    assert not bool((data.rows % 7 == 0).any()), "rows without any label"
    assert torch.equal(torch.isnan(data.targets[:, 0]), data.rows % 5 == 0)
    with TransferEngine(train=Budget(steps=150, batch_size=64, learning_rate=3e-3), seeds=1) as engine:
        engine.register(portfolio)
        engine.train()
        scores = {task.task_id: evaluate(task.model, task) for task in engine.portfolio}  # type: ignore[arg-type]
        model, test = engine.portfolio["bits"].model, bits.data("test")
        assert model is not None
        outputs = model(test.inputs).detach().numpy()
        assert scores["bits"] == pytest.approx(roc_auc_score(test.targets, outputs), abs=1e-5)
        assert metric_of(array)(torch.tensor(outputs), test.targets) == pytest.approx(
            f1_score(test.targets, outputs > 0, average="macro"), abs=1e-5
        )
        assert engine.portfolio["odd"].model(odd.data("test").inputs).shape[1] == 1  # type: ignore[misc]
    assert scores["bits"] > 0.9
    assert scores["odd"] > 0.85
    assert scores["ink"] > -0.6, "negated: the root of the mean squared error, of targets of variance 1"


def test_labels_of_several_that_are_not_0_or_1(folder: Path) -> None:
    with pytest.raises(DataError, match=r"digits.npz, row \d+: target 'digit' is '\d'; a label of several is 0 or 1"):
        load(folder, '[[tasks]]\nid = "t"\ntarget = ["odd", "digit"]\ntype = "multilabel"\n')
    with pytest.raises(DataError, match="several labels at once need two or more columns, got target 'odd'"):
        load(folder, '[[tasks]]\nid = "t"\ntarget = "odd"\ntype = "multilabel"\n')


@pytest.mark.parametrize("kind", FITTING)
def test_every_metric_is_of_a_type_and_scores_it(folder: Path, kind: str) -> None:
    target = {"classification": '"digit"', "regression": '["ink", "top"]', "multilabel": '"bits"'}[kind]
    losses, metrics = FITTING[kind]
    task = f'[[tasks]]\nid = "{{}}"\ntarget = {target}\ntype = "{kind}"\nstandardize_target = false\n'
    tasks = "".join(task.format(name) + f'metric = "{name}"\n' for name in metrics)
    tasks += "".join(task.format(f"loss {name}") + f'loss = "{name}"\n' for name in losses)
    tasks += "".join(task.format(f"wrong {name}") + f'metric = "{name}"\n' for name in METRICS if name not in metrics)
    tasks += "".join(task.format(f"{n}@3") + f'metric = "{n}@3"\n' for n in metrics if n in ("ndcg", "hit_rate"))
    portfolio = load(folder, tasks)
    assert all("is none of" in reason for reason in portfolio.left_out.values())
    generator = torch.Generator().manual_seed(0)
    for each in portfolio:
        test = each.data("test")
        outputs = torch.rand(len(test), each.descriptor.output_dim or 0, generator=generator)
        metric = metric_of(each)
        score = float(metric(outputs, test.targets))
        assert metric.range[0] <= score <= metric.range[1], each.task_id
    assert {name.partition("@")[0] for name in {*metrics}} == {*metrics}


def test_all_metrics_are_named_for_some_type() -> None:
    assert {name for _, metrics in FITTING.values() for name in metrics} == set(METRICS)


def test_a_portfolio_is_a_portfolio(folder: Path) -> None:
    found = load(folder, GOOD)
    assert isinstance(found, Portfolio)
    assert isinstance(found["digit"], Task)
    with pytest.raises(DataError, match=r"no task 'digt' in portfolio .*; did you mean 'digit'"):
        found["digt"]
