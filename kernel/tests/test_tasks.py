"""Descriptors, tasks with every kind of data, portfolios."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from crosstask import DataError, OptionError, Portfolio, Task, TaskDescriptor
from crosstask.descriptors import TensorData
from crosstask.tasks import SPLITS
from crosstask.testing import blobs


def test_descriptor_round_trip_and_history() -> None:
    first = TaskDescriptor(task_id="a", input_shape=(1, 8, 8), required_skills=("x",), transfer_efficiency={"b": 0.5})
    second = first.with_performance("accuracy", 0.5).with_performance("accuracy", 0.75)
    assert first.performance_history == ()
    assert [p.value for p in second.performance_history] == [0.5, 0.75]
    assert TaskDescriptor.from_json(second.to_json()) == second
    assert (second.task_name, second.input_dim) == ("a", 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_id": ""}, "task_id must not be empty"),
        ({"task_id": 3}, "task_id must be a string, got 3"),
        ({"task_id": "a", "complexity": 1.5}, "complexity must be >= 0 and <= 1, got 1.5"),
        ({"task_id": "a", "output_dim": 2.5}, "output_dim must be an integer, got 2.5"),
        ({"task_id": "a", "required_skills": "shape"}, "required_skills must be a list, got 'shape'"),
        ({"task_id": "a", "prerequisites": ["a"]}, "names itself as a prerequisite"),
        ({"task_id": "a", "output_dim": 3, "classes": ["x", "y"]}, "2 class names for output_dim 3"),
    ],
)
def test_bad_descriptors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskDescriptor(**fields)  # type: ignore[arg-type]


def test_from_json_names_unknown_and_missing_fields() -> None:
    with pytest.raises(OptionError, match="unknown option 'task_nam'; did you mean 'task_name'"):
        TaskDescriptor.from_json({"task_id": "a", "task_nam": "b"})
    with pytest.raises(OptionError, match="missing option 'task_id'"):
        TaskDescriptor.from_json({})


INPUTS, LABELS = torch.randn(10, 2), torch.arange(10) % 3


def task(train: object, **fields: object) -> Task:
    known = {"task_id": "t", "input_shape": (2,), "output_dim": 3, **fields}
    return Task(descriptor=TaskDescriptor(**known), train=train)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "train",
    [
        (INPUTS, LABELS),
        (INPUTS.numpy(), LABELS.numpy()),
        (INPUTS.tolist(), LABELS.tolist()),
        (INPUTS.double(), LABELS.double()),
        TensorDataset(INPUTS, LABELS),
        lambda: DataLoader(TensorDataset(INPUTS, LABELS), batch_size=4),
        [INPUTS, LABELS[:, None]],
    ],
    ids=["tensors", "arrays", "lists", "doubles", "dataset", "loader factory", "column"],
)
def test_every_kind_of_data_reads_the_same(train: object) -> None:
    data = task(train).data("train")
    assert torch.allclose(data.inputs, INPUTS)
    assert data.targets.dtype == torch.int64
    assert torch.equal(data.targets, LABELS)


NAN = INPUTS.clone()
NAN[3, 1] = float("nan")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, "task 't' has no train data .it has a descriptor only."),
        ((NAN, LABELS), "task 't', train data: inputs hold NaN or infinite values .first in sample 3"),
        ((INPUTS / 0, LABELS), "NaN or infinite"),
        ((INPUTS[:5], LABELS), "5 inputs but 10 targets"),
        ((INPUTS[:0], LABELS[:0]), "no samples"),
        ((INPUTS, LABELS + 1), "labels run from 1 to 3, the classes are 0 to 2"),
        ((INPUTS, LABELS - 1), "labels run from -1 to 1, the classes are 0 to 2"),
        ((INPUTS, LABELS + 0.5), "labels must be integers"),
        ((INPUTS, torch.eye(10)), "one label per sample"),
        ((torch.randn(10, 3), LABELS), r"inputs have shape \(3,\), the descriptor says \(2,\)"),
        ((["a"] * 10, LABELS), "cannot be made a tensor"),
        (7, "expected .inputs, targets., a Dataset, a DataLoader"),
        (list, "no samples"),
    ],
)
def test_bad_data(train: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task(train).data("train")


def test_regression_targets_may_be_anything_finite() -> None:
    made = task((INPUTS, np.linspace(-5, 5, 10)), task_type="regression", output_dim=1)
    assert made.data("train").targets.dtype == torch.float32


def test_fingerprint_is_of_the_data_not_of_what_was_measured() -> None:
    one, same, other = blobs("a"), blobs("a"), blobs("a", seed=1)
    one.record("accuracy", 0.5)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_the_content_is_the_same_whatever_a_task_is_called() -> None:
    one, other = blobs("a"), blobs("a", seed=1)
    renamed = Task(descriptor=attrs.evolve(one.descriptor, task_id="z", domain="else"), **_splits(one))
    assert renamed.fingerprint() != one.fingerprint()
    assert renamed.content() == one.content() != other.content()
    judged = Task(descriptor=one.descriptor, metric="balanced_accuracy", **_splits(one))
    assert judged.content() != one.content()
    assert Task(descriptor=TaskDescriptor(task_id="a")).content() is None


def _splits(made: Task) -> dict[str, TensorData]:
    return {split: made.data(split) for split in SPLITS if made.has_data(split)}


def test_portfolio_pairs_and_focus() -> None:
    portfolio = Portfolio([blobs(f"t{n}") for n in range(4)], unseen=[blobs("new")])
    pairs = [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
    assert len(pairs) == len(set(pairs)) == 12
    focused = [(s.task_id, t.task_id) for s, t in portfolio.focused("t1").pairs()]
    assert sorted(focused) == sorted(p for p in pairs if "t1" in p)
    unseen = [(s.task_id, t.task_id) for s, t in portfolio.focused("new").pairs()]
    assert unseen == [(f"t{n}", "new") for n in range(4)]
    assert "new" not in portfolio
    assert portfolio["new"].task_id == "new"


def test_has_pair_is_whether_pairs_has_it() -> None:
    portfolio = Portfolio([Task(descriptor=f"t{n}") for n in range(4)], unseen=[Task(descriptor="new")])
    chosen = portfolio.restricted([("t1", "t0"), ("t2", "t3")])
    into_new = portfolio.focused("new").restricted([("t1", "new"), ("t2", "t3")])
    views = [portfolio, portfolio.focused("t1"), portfolio.focused("new"), chosen, chosen.focused("t2"), into_new]
    names = ["t0", "t1", "t2", "t3", "new", "nobody"]
    for view in views:
        pairs = {(s.task_id, t.task_id) for s, t in view.pairs()}
        assert {(s, t) for s in names for t in names if view.has_pair(s, t)} == pairs


def test_portfolio_restricted_to_chosen_pairs() -> None:
    portfolio = Portfolio([blobs(f"t{n}") for n in range(4)], unseen=[blobs("new")])
    view = portfolio.restricted([("t1", "t0"), ("t2", "t3"), ("t1", "t0")])
    assert [(s.task_id, t.task_id) for s, t in view.pairs()] == [("t1", "t0"), ("t2", "t3")]
    assert [(s.task_id, t.task_id) for s, t in view.focused("t2").pairs()] == [("t2", "t3")]
    assert view.ids == portfolio.ids
    assert list(portfolio.restricted([]).pairs()) == []
    assert len(list(portfolio.pairs())) == 12, "the portfolio itself is as it was"
    into_new = portfolio.focused("new").restricted([("t1", "new")])
    assert [(s.task_id, t.task_id) for s, t in into_new.pairs()] == [("t1", "new")]
    with pytest.raises(DataError, match="'new' is held back as unseen"):
        portfolio.restricted([("t1", "new")])
    with pytest.raises(DataError, match="with itself"):
        portfolio.restricted([("t1", "t1")])
    with pytest.raises(DataError, match=r"no task 't9'"):
        portfolio.restricted([("t9", "t1")])


def test_portfolio_mistakes() -> None:
    with pytest.raises(DataError, match="is empty"):
        Portfolio().check()
    portfolio = Portfolio([blobs("first")])
    with pytest.raises(DataError, match="already has a task 'first'"):
        portfolio.add(blobs("first"))
    with pytest.raises(DataError, match=r"no task 'frist'.*did you mean 'first'"):
        portfolio["frist"]
    portfolio.add(blobs("second", prerequisites=("thrid",)))
    with pytest.raises(DataError, match="'second' needs unknown prerequisite 'thrid'"):
        portfolio.check()
    cycle = Portfolio(
        [blobs("a", prerequisites=("c",)), blobs("b", prerequisites=("a",)), blobs("c", prerequisites=("b",))]
    )
    with pytest.raises(
        DataError, match=r"prerequisites form a cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"
    ):
        cycle.check()
