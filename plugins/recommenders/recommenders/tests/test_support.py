"""Users with unequal numbers of ratings, and the table that a task holds."""

from __future__ import annotations

import pytest
import torch

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_recommenders import Interactions, Support, interactions_of
from crosstask_recommenders.testing import planted, planted_portfolio


def test_three_and_eight_ratings_are_one_batch() -> None:
    support = Support.of([([1, 2, 3], [5, 4, 3]), (range(1, 9), [1.0] * 8)])
    assert support.counts.tolist() == [3, 8]
    assert support.items.shape == (2, 8)
    assert support.first(2).counts.tolist() == [2, 2]
    assert support.take([1]).ratings.tolist() == [[1.0] * 8]


def test_bad_support_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="user 1 of the batch has no support rating"):
        Support.of([([1], [2]), ([], [])])
    with pytest.raises(DataError, match="needs a user"):
        Support.of([])
    with pytest.raises(DataError, match=r"user 0 of the batch: items are whole numbers \[S\]"):
        Support.of([([1, 2], [3.0])])
    with pytest.raises(DataError, match="user 1 of the batch: support rating 0 is nan"):
        Support.of([([1, 2], None), ([3], [float("nan")])])
    with pytest.raises(DataError, match="user 0 of the batch has no support rating"):
        Support(torch.ones(1, 2).long(), torch.ones(1, 2), torch.zeros(1, 2).bool())
    with pytest.raises(DataError, match=r"must be \[B, S\]"):
        Support(torch.ones(2).long(), torch.ones(2), torch.ones(2).bool())


def test_rows_of_a_table_are_those_of_its_users() -> None:
    table = planted(users=5)
    support = Support.rows_of(table)
    assert support.counts.tolist() == table.counts()[1:].tolist()
    assert sorted(support.items[2][support.mask[2]].tolist()) == table.item[table.user == 3].tolist()


def test_a_task_gives_its_table_back() -> None:
    portfolio, table = planted_portfolio(20), planted(users=20, share=0.9)
    rating, liked = interactions_of(portfolio["rating"]), interactions_of(portfolio["liked"])
    assert {*zip(rating.user.tolist(), rating.item.tolist(), rating.rating.tolist(), strict=True)} == {
        *zip(table.user.tolist(), table.item.tolist(), table.rating.tolist(), strict=True)
    }
    assert (rating.feedback, liked.feedback) == ("explicit", "implicit")
    assert len(liked) == int((table.rating >= 3).sum())


def test_side_information_comes_with_the_rows() -> None:
    inputs = MultiInput(
        {"user_ids": torch.tensor([1, 2]), "item_ids": torch.tensor([2, 1]), "item_features": torch.eye(2)}
    )
    table = interactions_of(
        Task(descriptor=TaskDescriptor(task_id="r", task_type="regression"), train=(inputs, [1.0, 2.0]))
    )
    assert table.item_features is not None
    assert table.item_features.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_a_task_of_something_else_is_refused() -> None:
    ids = torch.tensor([1, 2])
    with pytest.raises(DataError, match="no input 'user_ids'; did you mean 'users_ids'"):
        interactions_of(Task(descriptor="x", train=(MultiInput({"users_ids": ids, "item_ids": ids}), ids - 1)))
    with pytest.raises(DataError, match="has no data"):
        interactions_of(Task(descriptor="x"))
    two = Task(
        descriptor=TaskDescriptor(task_id="x", task_type="regression"),
        train=(MultiInput({"user_ids": ids, "item_ids": ids}), torch.zeros(2, 2)),
    )
    with pytest.raises(DataError, match="has 2 targets of each row"):
        interactions_of(two)


def test_interactions_is_the_type_of_the_sources() -> None:
    from crosstask_sources import Interactions as Same

    assert Interactions is Same


def test_five_classes_are_no_feedback() -> None:
    ids = torch.arange(20)
    inputs = MultiInput({"user_ids": ids % 4 + 1, "item_ids": ids // 4 + 1})
    stars = Task(descriptor=TaskDescriptor(task_id="stars", output_dim=5), train=(inputs, ids % 5))
    with pytest.raises(DataError, match="'stars' has 5 classes: interactions are ratings"):
        interactions_of(stars)
