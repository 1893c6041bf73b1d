"""Whatever a torch user has becomes tensors: pairs, data sets, loaders, tables; several inputs; missing labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from crosstask import Budget, DataError, ModelSpec, Portfolio, Task, TaskDescriptor
from crosstask.descriptors import MultiInput
from crosstask.learning.modules import forward
from crosstask.learning.objectives import METRICS, Metric, chance, loss_of, metric_name, metric_of
from crosstask.learning.training import evaluate, fit, misfit

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Samples(Dataset[Any]):
    """Samples of any form."""

    def __init__(self, make: Any, count: int = 12) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.make(number)


class Frame:
    """As much of a data frame as is asked for (pandas itself is tried in tests/test_own_data.py)."""

    iloc = None

    def __init__(self, **columns: Any) -> None:
        self.columns, self.held = list(columns), columns

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.held[name])


def test_everything_is_inferred_from_the_training_data() -> None:
    task = Task(descriptor="t", train=(X, Y), test=(X, Y))
    assert task.data("test").inputs.shape == (12, 4)
    assert (task.descriptor.input_shape, task.descriptor.output_dim) == ((4,), 3)


@pytest.mark.parametrize(
    "train",
    [
        Samples(lambda n: (X[n], int(Y[n]), n)),
        Samples(lambda n: {"x": X[n].numpy(), "label": int(Y[n])}),
        DataLoader(TensorDataset(X, Y), batch_size=5),
        DataLoader(Samples(lambda n: {"x": X[n], "label": int(Y[n])}), batch_size=5),
        {"x": X, "label": Y},
        Frame(a=X[:, 0], b=X[:, 1], c=X[:, 2], d=X[:, 3], label=Y),
        (X.to_sparse(), Y),
    ],
    ids=["triples", "dicts", "loader", "loader of dicts", "columns", "frame", "sparse"],
)
def test_forms(train: Any) -> None:
    data = Task(descriptor="t", train=train).data()
    torch.testing.assert_close(data.inputs, X)
    assert torch.equal(data.targets, Y)


def test_which_fields_are_meant() -> None:
    frame = Frame(a=X[:, 0], b=X[:, 1], price=X[:, 2], id=range(12))
    task = Task(
        descriptor=TaskDescriptor(task_id="t", task_type="regression"), train=frame, inputs=["b", "a"], target="price"
    )
    torch.testing.assert_close(task.data().inputs, X[:, [1, 0]])
    assert task.descriptor.output_dim == 1


def _table(order: str, **others: Any) -> dict[str, Any]:
    return {name: others.get(name, X[:, "abcd".index(name)] if name in "abcd" else X[:, 0]) for name in order} | {
        "label": Y
    }


@pytest.mark.parametrize("form", [lambda **c: c, Frame], ids=["columns", "frame"])
def test_columns_of_another_split_go_by_their_names(form: Any) -> None:
    def both(order: str) -> Task:
        return Task(descriptor="t", train=form(**_table("abcd")), test=form(**_table(order)))

    data = both("dbca").data("test")
    torch.testing.assert_close(data.inputs, X)
    assert data.columns == data.take(slice(2)).columns == ("a", "b", "c", "d")
    wrong = {
        "abce": "the column 'e' is none of those of the training data .only arrays go by position.; valid: d",
        "abcde": "the column 'e' is none of those of the training data",
        "abc": "the column 'd' of the training data is missing",
    }
    for order, message in wrong.items():
        with pytest.raises(DataError, match=f"task 't', test data: {message}"):
            both(order).data("test")
    chosen = Task(descriptor="t", train=form(**_table("abcd")), test=form(**_table("dcxba")), inputs=["d", "a"])
    torch.testing.assert_close(chosen.data("test").inputs, X[:, [3, 0]])
    later = both("abcd")
    later.data("train")
    torch.testing.assert_close(later.over(test=form(**_table("dcba"))).data("test").inputs, X)


def test_columns_of_a_pair_go_by_their_names_and_arrays_by_position() -> None:
    def frame(order: str) -> Frame:
        return Frame(**{name: X[:, "abcd".index(name)] for name in order})

    task = Task(descriptor="t", train=(frame("abcd"), Y), validation=(X, Y), test=(frame("cdab"), Y))
    torch.testing.assert_close(task.data("test").inputs, X)
    torch.testing.assert_close(task.data("validation").inputs, X)
    whole = Task(descriptor="t", train=(frame("abcd"), Y), test=_table("badc"))
    torch.testing.assert_close(whole.data("test").inputs, X)
    table = Portfolio.from_table(frame("abcd"), {"t": Y})["t"]
    torch.testing.assert_close(table.over(train=table.data(), test=_table("badc")).data("test").inputs, X)


def test_several_inputs_stand_in_the_order_of_the_training_data() -> None:
    def named(order: str) -> dict[str, Any]:
        return {name: X if name == "a" else X[:, None] for name in order}

    task = Task(descriptor="t", train=(named("ab"), Y), test=(named("ba"), Y))
    assert list(task.data("test").inputs.parts) == ["a", "b"]  # type: ignore[attr-defined]
    samples = [Samples(lambda n, o=o: {**{k: v[n] for k, v in named(o).items()}, "label": 1}) for o in ("ab", "ba")]
    read = Task(descriptor="t", train=samples[0], test=samples[1]).data("test")
    assert list(read.inputs.parts) == ["a", "b"]  # type: ignore[attr-defined]


def _indexed(order: Any = range(12)) -> tuple[pd.DataFrame, pd.Series]:
    """The inputs as a frame whose rows are labelled 20 to 31, and the labels in another order of them."""
    index = pd.Index(range(20, 32))
    return pd.DataFrame(X.numpy(), index), pd.Series(Y.numpy(), index).iloc[list(order)]


def test_rows_of_pandas_go_by_their_index() -> None:
    inputs, labels = _indexed(reversed(range(12)))
    columns = {"a": inputs[0], "b": inputs[1].sort_index(ascending=False), "label": labels}
    table = Portfolio.from_table(
        inputs,
        {"t": labels, "u": labels},
        splits={"train": pd.Series(range(12), inputs.index)[::-1] < 8},
        mask=pd.DataFrame({"u": labels >= 0, "t": labels != 1}),
    )
    assert torch.equal(Task(descriptor="t", train=(inputs, labels)).data().targets, Y)
    data = Task(descriptor="t", train=columns).data()
    assert torch.equal(data.targets, Y)
    torch.testing.assert_close(data.inputs, X[:, :2])
    masked = Task(descriptor="t", train=(inputs, labels, labels != 1)).data()
    assert masked.targets.tolist() == Y[Y != 1].tolist()
    assert table["u"].data().targets.tolist() == Y[:8].tolist()
    assert table["t"].data().targets.tolist() == Y[:8][Y[:8] != 1].tolist()
    torch.testing.assert_close(table["t"].data().inputs, X[:8][Y[:8] != 1])


def test_rows_of_another_index_are_refused_and_arrays_go_by_position() -> None:
    inputs, labels = _indexed()
    other = labels.reset_index(drop=True)
    assert torch.equal(Task(descriptor="t", train=(inputs, other.to_numpy())).data().targets, Y)
    assert torch.equal(Task(descriptor="t", train=(X, labels)).data().targets, Y)
    with pytest.raises(DataError, match=r"the rows of the targets have another index .*only the one has '0'.*numpy"):
        Task(descriptor="t", train=(inputs, other)).data()
    with pytest.raises(DataError, match="the rows of the targets of task 't' have another index"):
        Portfolio.from_table(inputs, {"t": other})
    twice = inputs.set_axis([1, 1, *range(10)]), labels.set_axis([*range(10), 1, 1])
    with pytest.raises(DataError, match="labels that come several times stand in another order"):
        Task(descriptor="t", train=twice).data()
    same = inputs.set_axis([1, 1, *range(10)]), labels.set_axis([1, 1, *range(10)])
    assert torch.equal(Task(descriptor="t", train=same).data().targets, Y)


def test_names_are_classes_and_hold_in_every_split() -> None:
    names = np.array(["cat", "dog", "eel"])
    task = Task(descriptor="t", train=(X, names[Y]), test=(X[:2], ["eel", "cat"]))
    assert task.data("test").targets.tolist() == [2, 0]
    assert task.descriptor.classes == ("cat", "dog", "eel")
    bad = Task(descriptor="t", train=(X, names[Y]), test=(X[:2], ["eel", "dgo"]))
    with pytest.raises(DataError, match="sample 1 has label 'dgo', which is no class; did you mean 'dog'"):
        bad.data("test")


def test_numbers_that_are_no_labels_are_names() -> None:
    task = Task(descriptor="t", train=(X, Y * 3 - 1))
    assert task.data().targets.tolist() == Y.tolist()
    assert task.descriptor.classes == ("-1", "2", "5")
    both = Task(descriptor="t", train=(X, Y * 3 - 1), test=(X[:2], torch.tensor([5, 2])))
    assert both.data("test").targets.tolist() == [2, 1], "they are names in every split"
    other = Task(descriptor="t", train=(X, Y * 3 - 1), test=(X[:2], torch.tensor([5, 1])))
    with pytest.raises(DataError, match="sample 1 has label '1', which is no class"):
        other.data("test")


def test_bytes_and_truths_are_numbers_and_integers_stay() -> None:
    pictures = torch.randint(0, 256, (12, 1, 3, 3), dtype=torch.uint8)
    got = Task(descriptor="t", train=(pictures, Y)).data().inputs
    torch.testing.assert_close(got, pictures.float() / 255)
    assert Task(descriptor="t", train=(X > 0, Y)).data().inputs.dtype == torch.float32
    assert Task(descriptor="t", train=(torch.arange(48).reshape(12, 4), Y)).data().inputs.dtype == torch.int64


def test_integers_are_numbers_to_a_network_without_embeddings_and_ids_to_one_with() -> None:
    ids = torch.randint(0, 9, (12, 4))
    plain = nn.Linear(4, 2)
    torch.testing.assert_close(forward(plain, ids), plain(ids.float()))
    with_embedding = nn.Sequential(nn.Embedding(9, 2), nn.Flatten())
    torch.testing.assert_close(forward(with_embedding, ids), with_embedding(ids))


def test_labels_that_are_missing() -> None:
    mask = torch.arange(12) % 2 == 0
    for train in ((X, Y, mask), (X, torch.where(mask, Y.float(), torch.nan))):
        data = Task(descriptor="t", train=train).data()
        torch.testing.assert_close(data.inputs, X[mask])
        assert torch.equal(data.targets, Y[mask])
    with pytest.raises(DataError, match="task 't', train data: the mask leaves no sample a label"):
        Task(descriptor="t", train=(X, Y, torch.zeros(12))).data()
    with pytest.raises(DataError, match="which labels are known: True or False"):
        Task(descriptor="t", train=(X, Y, Y)).data()


def test_a_loss_over_known_values_only() -> None:
    wanted = torch.tensor([[1.0, math.nan], [math.nan, 3.0], [2.0, 2.0]])
    task = Task(descriptor=TaskDescriptor(task_id="t", task_type="regression"), train=(X[:3], wanted))
    outputs = torch.zeros(3, 2)
    assert float(loss_of(task)(outputs, task.data().targets)) == pytest.approx((1 + 9 + 4 + 4) / 4)
    assert task.descriptor.output_dim == 2


def test_several_inputs_go_by_name_or_by_place() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, more: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.one(ids).mean(1) + more), "other": more}

    ids = torch.randint(0, 9, (12, 5))
    named = Task(descriptor="t", train=({"more": X, "ids": ids}, Y), model=Two())
    placed = Task(descriptor="t", train=((ids, X), Y), model=named.model)
    for task in (named, placed):
        assert misfit(named.model, task) is None  # type: ignore[arg-type]
    a, b = (forward(named.model, t.data().inputs) for t in (named, placed))  # type: ignore[arg-type]
    torch.testing.assert_close(a, b)
    assert named.descriptor.input_shapes == {"more": (4,), "ids": (5,)}
    taken = named.data().take(torch.tensor([3, 1]))
    torch.testing.assert_close(taken.inputs.parts["more"], X[[3, 1]])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="inputs of different lengths"):
        MultiInput({"a": X, "b": X[:3]})
    assert named.data().inputs[:0].flatten(1).shape == (0, 9)


def test_a_table_of_tasks_shares_its_inputs() -> None:
    mask = np.stack([np.arange(12) % 2 == 0, np.ones(12, bool)], axis=1)
    portfolio = Portfolio.from_table(
        X, {"kind": Y, "size": X[:, 0]}, mask=mask, splits={"train": range(8), "test": range(8, 12)},
        descriptors={"size": TaskDescriptor(task_id="size", task_type="regression")},
    )  # fmt: skip
    kind, size = portfolio["kind"].data(), portfolio["size"].data()
    assert (len(kind), len(size)) == (4, 8)
    assert kind.table == size.table is not None
    assert kind.rows.tolist() == [0, 2, 4, 6]  # type: ignore[union-attr]
    torch.testing.assert_close(kind.inputs, X[[0, 2, 4, 6]])
    assert portfolio["kind"].data("test").rows.tolist() == [8, 10]  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"the mask has shape \(12, 1\): 2 tasks need \[N, 2\]"):
        Portfolio.from_table(X, {"kind": Y, "size": Y}, mask=mask[:, :1])
    with pytest.raises(DataError, match="unknown split 'tarin'; did you mean 'train'"):
        Portfolio.from_table(X, {"kind": Y}, splits={"tarin": range(3)})
    with pytest.raises(
        DataError, match=r"splits 'train' and 'test' share 2 rows \(the first is 2\): nothing is judged"
    ):
        Portfolio.from_table(X, {"kind": Y}, splits={"train": range(4), "test": range(2, 5)})
    with pytest.raises(DataError, match="splits 'validation' and 'train' share 1 rows"):
        Portfolio.from_table(X, {"kind": Y}, splits={"validation": [0], "train": [1, 0]})
    Portfolio.from_table(X, {"kind": Y}, splits={"train": [0], "validation": [1], "test": [1]})
    with pytest.raises(DataError, match=r"'kind': its targets are a label for every row, such as table\['y'\], and no"):
        Portfolio.from_table(X, {"kind": "y"})


# Task types -----------------------------------------------------------------------------------------------------------


def learn(task: Task, spec: ModelSpec | None = None, steps: int = 60) -> float:
    model = (spec or ModelSpec(hidden=(16,))).build(task.descriptor, 0) if task.model is None else task.model
    fit(model, task, Budget(steps=steps, learning_rate=0.01), torch.Generator().manual_seed(0), curve_split=None)
    return evaluate(model, task, "train")


def of_type(kind: str, targets: Any, **more: Any) -> Task:
    descriptor = TaskDescriptor(task_id="t", task_type=kind, output_dim=more.pop("output_dim", None))
    task = Task(descriptor=descriptor, train=(X, targets), **more)
    task.data()
    return task


def test_two_classes_by_a_single_logit() -> None:
    task = of_type("classification", (X[:, 0] > 0).long(), output_dim=1)
    assert learn(task) == 1.0
    logit = torch.tensor([[2.0], [-1.0]])
    expected = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(1.0))) / 2
    assert float(loss_of(task)(logit, torch.tensor([1, 1]))) == pytest.approx(expected)


def test_several_labels_at_once() -> None:
    task = of_type("multilabel", (X[:, :3] > 0).long())
    assert (task.descriptor.output_dim, learn(task), metric_name(task)) == (3, 1.0, "f1")


def test_whole_numbers_as_values() -> None:
    assert learn(of_type("regression", (X[:, 0] * 10).round().long()), steps=400) > 0.5


def test_a_label_for_every_place() -> None:
    pictures = torch.rand(6, 1, 4, 4)
    labels = (pictures[:, 0] > 0.5).long()
    labels[0, 0, 0] = -100
    task = Task(
        descriptor=TaskDescriptor(task_id="t", task_type="segmentation"), train=(pictures, labels),
        model=nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)),
    )  # fmt: skip
    task.data()
    assert learn(task, steps=400) > 0.9
    with pytest.raises(DataError, match="gives one answer per sample, a segmentation task needs one for every place"):
        ModelSpec().build(task.descriptor, 0)


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("classification", X[:, 0], "classification labels must be integers .for values say task_type='regression'"),
        ("classification", torch.eye(12), "several labels at once: task_type='multilabel'"),
        ("multilabel", Y, r"needs targets \[N, K\] of 0 and 1"),
        ("segmentation", Y, "needs a label for every place"),
        ("regression", ["a"] * 12, "targets of a regression task must be numbers, got texts such as 'a'"),
        ("regression", X[:, 0] / 0, "infinite"),
        ("classification", [None] * 12, "no sample has a label"),
    ],
)
def test_targets_that_do_not_fit_their_type(kind: str, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        of_type(kind, targets)


# Metrics --------------------------------------------------------------------------------------------------------------


def test_metrics_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 3, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    found, chosen = logits.softmax(1).numpy(), logits.argmax(1)
    expected = {
        "accuracy": metrics.accuracy_score(labels, chosen),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, chosen),
        "f1": metrics.f1_score(labels, chosen, average="macro"),
        "auroc": metrics.roc_auc_score(labels, found, multi_class="ovr"),
        "matthews": metrics.matthews_corrcoef(labels, chosen),
        "iou": metrics.jaccard_score(labels, chosen, average="macro"),
    }
    for name, value in expected.items():
        assert float(METRICS[name](logits, labels)) == pytest.approx(value, abs=1e-5), name
    binary = (labels > 0).long()
    assert float(METRICS["auroc"](logits[:, :1], binary)) == pytest.approx(
        metrics.roc_auc_score(binary, logits[:, 0]), abs=1e-5
    )
    values, wanted = logits[:, 0], logits[:, 1]
    for name, function in (("rmse", metrics.root_mean_squared_error), ("mae", metrics.mean_absolute_error)):
        assert float(METRICS[name](values, wanted)) == pytest.approx(-function(wanted, values), abs=1e-5)
    relevant = torch.randint(0, 4, (60, 3), generator=generator)
    relevant[:, 0] = 1
    task = Task(descriptor="t", train=(X, Y), metric="ndcg@2")
    assert float(metric_of(task)(logits, relevant.float())) == pytest.approx(
        metrics.ndcg_score(relevant, logits, k=2), abs=1e-5
    )


def test_metrics_of_torchmetrics_bring_their_range_and_direction() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    task = Task(descriptor="t", train=(X, Y), metric=torchmetrics.MeanAbsoluteError())
    metric = metric_of(task)
    assert (metric.told, metric.range) == ("neg_MeanAbsoluteError", (-math.inf, 0.0))
    assert float(metric(torch.zeros(3), torch.ones(3))) == -1.0
    assert float(metric(torch.zeros(3), torch.ones(3))) == -1.0, "nothing is carried over from one call to the next"
    f1 = Task(descriptor="t", train=(X, Y), metric=torchmetrics.F1Score(task="multiclass", num_classes=3))
    assert metric_of(f1).range == (0.0, 1.0)


def test_metrics_that_are_none() -> None:
    model = nn.Linear(4, 3)
    for metric, message in (
        (lambda o, t: o.mean(0), r"must be one number, got shape \(3,\)"),
        (lambda o, t: "good", "must be a number, got 'good'"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(model, Task(descriptor="t", test=(X, Y), metric=metric), "test")
    from crosstask.errors import RunError

    lost = Metric(lambda o, t: torch.tensor(math.nan), name="lost")
    with pytest.raises(RunError, match="task 't': the metric lost on the test data is nan"):
        evaluate(model, Task(descriptor="t", test=(X, Y), metric=lost), "test")
    with pytest.raises(DataError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        evaluate(model, Task(descriptor="t", test=(X, Y), metric="acuracy"), "test")


def test_what_a_model_that_learned_nothing_scores() -> None:
    skewed = torch.tensor([0] * 9 + [1, 2, 2])
    task = Task(descriptor="t", train=(X, skewed), test=(X, skewed))
    assert chance(task) == pytest.approx(9 / 12)
    values = Task(descriptor=TaskDescriptor(task_id="v", task_type="regression"), train=(X, X), test=(X, X))
    assert chance(values) == 0.0
    single = Task(descriptor=TaskDescriptor(task_id="s", output_dim=1), train=(X, skewed.clamp(max=1)), test=(X, Y > 0))
    assert chance(single) == pytest.approx(4 / 12)


# Loaders and data sets that break -------------------------------------------------------------------------------------


class Promising(IterableDataset[Any]):
    """Says that it has more than it gives."""

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[n], Y[n]) for n in range(7)])


def short() -> DataLoader[Any]:
    class Ending(DataLoader[Any]):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            return iter(list(super().__iter__())[:1])

    return Ending(TensorDataset(X, Y), batch_size=5)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (short(), "the loader ended after 5 of 12 samples"),
        (DataLoader(Promising(), batch_size=4), "the loader ended after 7 of 12 samples"),
        (Samples(lambda n: {"x": X[n], "lable": 1}), "none of the fields 'x', 'lable' is a target by its name"),
        (Samples(lambda n: X[n][: n + 1]), "sample 0: expected .inputs, target. or a mapping, got Tensor"),
        (Samples(lambda n: (torch.zeros(n + 1), 1)), r"sample 1 has inputs of shape \(2,\), the first had \(1,\)"),
        (Samples(lambda n: ("a text", 1)), "cannot be made a tensor: it holds text, not numbers"),
        (Samples(lambda n: (X[n], 1), count=0), "no samples"),
        (Samples([(X[0], 1)].__getitem__, count=3), "it says that it has 3 samples, and ended after 1"),
        (lambda: [(X, Y[:3])], "batch 0 has 12 inputs but 3 targets"),
        ({"x": X}, "none of the fields 'x' is a target"),
    ],
)
def test_broken_sources_of_data(train: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"task 't', train data: {message}"):
        Task(descriptor="t", train=train).data()


def test_a_field_that_is_not_there() -> None:
    task = Task(descriptor="t", train=Samples(lambda n: {"image": X[n], "label": 1}), inputs="imge", target="label")
    with pytest.raises(DataError, match="samples have no field 'imge'; did you mean 'image'"):
        task.data()


# Training options -----------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_large_batch() -> None:
    """Without momentum: the mean gradient of two halves is that of the whole."""
    found = []
    for budget in (Budget(steps=3, batch_size=12), Budget(steps=3, batch_size=6, accumulate=2)):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        task = Task(descriptor="t", train=(X, Y))
        fit(model, task, Budget(**{**vars(budget), "optimizer": "sgd"}), torch.Generator().manual_seed(0))
        found.append(model.weight.detach())
    torch.testing.assert_close(*found)


def test_the_gradient_is_clipped_and_the_rate_falls_to_zero() -> None:
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    task = Task(descriptor="t", train=(X * 1e3, Y))
    fit(model, task, Budget(steps=1, optimizer="sgd", learning_rate=1.0, clip=0.01), torch.Generator())
    assert float((model.weight.detach() - before).norm()) <= 0.0101
    steps: list[float] = []
    model.register_forward_hook(lambda *_: steps.append(float(model.weight.detach()[0, 0])))
    budget = Budget(steps=40, optimizer="sgd", learning_rate=0.5, schedule="cosine", warmup=10)
    fit(model, Task(descriptor="t", train=(X, Y)), budget, torch.Generator().manual_seed(0), curve_split=None)
    change = np.abs(np.diff(steps))
    assert change[-1] < 0.05 * change[8:12].mean()
    assert change[0] < change[8:12].mean()


def test_half_precision_learns_too() -> None:
    task = Task(descriptor="t", train=(X, (X[:, 0] > 0).long()))
    task.data()
    model = ModelSpec(hidden=(16,)).build(task.descriptor, 0)
    fit(model, task, Budget(steps=80, learning_rate=0.01, precision="bfloat16"), torch.Generator(), curve_split=None)
    assert evaluate(model, task, "train") == 1.0
    assert next(model.parameters()).dtype == torch.float32


def test_training_stops_early_and_keeps_the_best() -> None:
    noise = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))
    task = Task(descriptor="t", train=(X, noise), validation=(X, Y))
    task.data()
    model = ModelSpec(hidden=(32,)).build(task.descriptor, 0)
    budget = Budget(steps=400, learning_rate=0.01, evaluate_every=5, patience=4)
    history = fit(model, task, budget, torch.Generator().manual_seed(0))
    assert "nothing better since step" in history.stopped
    assert len(history.losses) < 400
    assert evaluate(model, task, "validation") == pytest.approx(max(history.values[1:]))
    with pytest.raises(DataError, match="patience looks at validation data"):
        fit(model, Task(descriptor="t", train=(X, Y)), budget, torch.Generator())
