"""Sites from one task: every sample at one site, shares as the options say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.tasks import Task
from crosstask_federation import Split, split_by_groups, split_task
from crosstask_federation.testing import digits


def dealt(seed: int = 0, **options: Any) -> list[Task]:
    return split_task(digits(), Split(**options), torch.Generator().manual_seed(seed))


def rows(tasks: list[Task], split: str = "train") -> torch.Tensor:
    return torch.cat([task.data(split).inputs.flatten(1) for task in tasks])


@pytest.mark.parametrize("options", [{"by": "iid", "sites": 7}, {"by": "label", "sites": 4, "alpha": 0.3}])
def test_every_sample_is_at_one_site(options: Any) -> None:
    for split in ("train", "test"):
        found, whole = rows(dealt(**options), split), digits().data(split).inputs.flatten(1)
        assert found.shape == whole.shape
        assert torch.equal(found.sum(0), whole.sum(0))
        assert torch.equal(found.unique(dim=0), whole.unique(dim=0))


def test_iid_sites_are_of_one_size() -> None:
    assert {task.descriptor.sample_count for task in dealt(by="iid", sites=6)} == {133, 134}


def shares(task: Task, split: str) -> torch.Tensor:
    return torch.bincount(task.data(split).targets, minlength=10).double()


def test_a_small_alpha_gives_other_classes_to_each_site_and_a_large_one_the_same() -> None:
    def most(alpha: float) -> float:
        found = dealt(by="label", sites=5, alpha=alpha)
        return float(torch.stack([shares(task, "train").max() / shares(task, "train").sum() for task in found]).mean())

    assert most(0.05) > 0.35 > 0.16 > most(1000.0)


def test_the_test_data_of_a_site_are_of_its_own_kind() -> None:
    for task in dealt(by="label", sites=4, alpha=0.3):
        train, test = (shares(task, split) for split in ("train", "test"))
        assert float((train / train.sum() - test / test.sum()).abs().sum()) < 0.35
        assert task.descriptor.classes == tuple("0123456789")
        assert task.descriptor.output_dim == 10


def test_a_site_that_would_have_nothing_is_filled_up() -> None:
    found = dealt(by="label", sites=30, alpha=0.02, least=5)
    assert min(len(task.data("train")) for task in found) >= 5
    assert min(len(task.data("test")) for task in found) >= 1


def test_another_seed_deals_otherwise() -> None:
    assert not torch.equal(dealt(0)[0].data().inputs, dealt(1)[0].data().inputs)
    assert torch.equal(dealt(0)[0].data().inputs, dealt(0)[0].data().inputs)


def table(inputs: Any, count: int = 12) -> Task:
    descriptor = TaskDescriptor(task_id="t", output_dim=2)
    return Task(descriptor=descriptor, train=(inputs, torch.arange(count) % 2), test=(inputs, torch.arange(count) % 2))


def test_a_column_names_the_sites() -> None:
    numbers = torch.cat([torch.randn(12, 1), torch.arange(12).remainder(3)[:, None].float()], 1)
    found = split_task(table(numbers), Split(by="column", column=1), torch.Generator())
    assert [task.task_id for task in found] == ["t/0", "t/1", "t/2"]
    assert all(bool((task.data().inputs[:, 1] == n).all()) for n, task in enumerate(found))
    odd = torch.tensor([0.0, -0.0, 2.0, 10.0] * 3)[:, None]
    found = split_task(table(odd), Split(by="column", column=0), torch.Generator())
    assert [(task.task_id, len(task.data())) for task in found] == [("t/0", 6), ("t/2", 3), ("t/10", 3)]
    hot = torch.nn.functional.one_hot(torch.arange(12) % 2, 2).float()
    found = split_task(table(hot), Split(by="column", column=(0, 1)), torch.Generator())
    assert [len(task.data()) for task in found] == [6, 6]
    parts = MultiInput({"x": torch.randn(12, 2), "ward": torch.arange(12) % 4})
    found = split_task(table(parts), Split(by="column", column="ward"), torch.Generator())
    assert [task.task_id for task in found] == ["t/0", "t/1", "t/2", "t/3"]


def test_the_order_of_groups_is_that_of_their_names_whichever_come_first() -> None:
    """A group that is called nan has no place among numbers."""
    names = ["nan", "2", "10", "-1", "inf", "b"]
    for first in range(6):
        own = [*names[first:], *names[:first]] * 2
        found = split_by_groups(table(torch.randn(12, 2)), {"train": own, "test": own})
        assert [task.task_id for task in found] == [f"t/{name}" for name in ("-1", "2", "10", "inf", "b", "nan")]


def test_groups_by_name() -> None:
    task = table(torch.randn(12, 2))
    names = ["b"] * 5 + ["a"] * 6 + ["c"]
    found = split_by_groups(task, {"train": names, "test": names})
    assert [(each.task_id, len(each.data())) for each in found] == [("t/a", 6), ("t/b", 5)]  # c has too few samples
    for groups, told in (
        ({"train": names, "test": names[:3]}, "3 groups for 12 test samples"),
        ({"train": names}, "do not say where the test samples belong"),
        ({"train": ["a"] * 12, "test": names}, "1 group has 2 training samples"),
    ):
        with pytest.raises(DataError, match=told):
            split_by_groups(task, groups)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "column"}, "say which column"),
        ({"by": "column", "column": "ward"}, "no input 'ward'"),
        ({"by": "column", "column": 64}, "64 inputs, numbered from 0: there is no column 64"),
        ({"by": "column", "column": ()}, "there is no column"),
        ({"by": "iid", "sites": 500}, "too few for 500 sites"),
    ],
)
def test_what_cannot_be_dealt_is_told(options: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        dealt(**options)


def test_a_quantity_names_no_sites() -> None:
    task = table(torch.arange(600.0).reshape(300, 2) / 7, 300)
    with pytest.raises(DataError, match="300 different values; sites are named by at most 200"):
        split_task(task, Split(by="column", column=0), torch.Generator())
    parts = MultiInput({"x": torch.randn(12, 2)})
    with pytest.raises(DataError, match=r"holds \(2,\) numbers of each row"):
        split_task(table(parts), Split(by="column", column="x"), torch.Generator())


def test_values_are_not_dealt_by_label() -> None:
    task = Task(
        descriptor=TaskDescriptor(task_id="v", task_type="regression"), train=(torch.randn(20, 2), torch.randn(20))
    )
    with pytest.raises(DataError, match="is a regression: only classes"):
        split_task(task, Split(by="label", sites=2), torch.Generator())
    with pytest.raises(OptionError, match="cannot be 'labels'; did you mean 'label'"):
        Split(by="labels")
