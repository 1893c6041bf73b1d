"""Tables of interactions: splits, honest negatives, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crosstask.errors import DataError, OptionError
from crosstask_sources import Interactions


def table(**more: Any) -> Interactions:
    generator = torch.Generator().manual_seed(0)
    user, item = (torch.rand(10, 12, generator=generator) < 0.6).nonzero(as_tuple=True)
    return Interactions.of(user + 1, item + 1, torch.rand(len(user)), users=10, items=14, **more)


def test_a_random_split_is_of_each_user_and_of_no_order() -> None:
    whole = table()
    rows = whole.split(0.1, 0.25, seed=1)
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(len(whole)))
    held = whole.take(rows["test"]).counts()
    assert held[1:].tolist() == [int(n * 0.25 + 0.5) for n in whole.counts()[1:].tolist()]
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(3))
    turned = whole.take(order)
    again = turned.take(turned.split(0.1, 0.25, seed=1)["test"])
    first = whole.take(rows["test"])
    assert {*zip(again.user.tolist(), again.item.tolist(), strict=True)} == {
        *zip(first.user.tolist(), first.item.tolist(), strict=True)
    }
    assert not torch.equal(whole.split(seed=2)["test"], whole.split(seed=1)["test"])


def test_leave_last_out_goes_by_time() -> None:
    user, item, when = [1, 1, 1, 2, 2], [1, 2, 3, 1, 2], torch.tensor([5, 9, 7, 2, 1])
    rows = Interactions.of(user, item, time=when).split(1, 1, how="last")
    assert {name: own.tolist() for name, own in rows.items()} == {"train": [0, 4], "validation": [2], "test": [1, 3]}
    with pytest.raises(DataError, match="needs a column with the time"):
        table().split(how="last")
    with pytest.raises(OptionError, match="unknown way 'latest'"):
        table().split(how="latest")
    with pytest.raises(OptionError, match="test is a share below 1"):
        table().split(test=1.5)


def test_negatives_are_in_no_split_and_all_alike() -> None:
    whole = table()
    train = whole.take(whole.split()["train"])
    users = torch.arange(1, 11)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([train.negatives(users, 2, generator) for _ in range(600)])
    for place, user in enumerate(users.tolist()):
        free = set(range(1, 15)) - set(whole.item[whole.user == user].tolist())
        values, counts = torch.unique(drawn[:, place], return_counts=True)
        assert set(values.tolist()) == free
        expected = 1200 / len(free)
        assert float(((counts - expected) ** 2 / expected).sum()) < 45  # chi-square; at most 12 degrees of freedom
        assert bool((drawn[:, place, 0] != drawn[:, place, 1]).all())
    with pytest.raises(DataError, match="items left, and 14 negatives are asked for"):
        whole.negatives(users, 14, generator)


def test_the_last_free_items_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask_sources.interactions.DRAWS", 1)
    whole = Interactions.of([1] * 8, range(1, 9), items=10)
    found = whole.negatives(torch.tensor([1]), 2, torch.Generator().manual_seed(0))
    assert sorted(found[0].tolist()) == [9, 10]


def test_by_user_and_of_users() -> None:
    whole = Interactions.of([3, 1, 3], [1, 2, 2], user_names=("", "ann", "bob", "cy"))
    users, order, starts = whole.by_user()
    assert (users.tolist(), order.tolist(), starts.tolist()) == ([1, 3], [1, 0, 2], [0, 1, 3])
    assert whole.of_users([3]).item.tolist() == [1, 2]
    with pytest.raises(DataError, match="user 'bob' has none"):
        whole.of_users([2])
    assert table().ids("user", [3]).tolist() == [3]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([0.5], [1]), "users must be whole numbers"),
        (([1, -2], [1, 1]), "users of row 1 is -2: ids count from 1"),
        (([1], [1], [1.0, 2.0]), "1 users but 2 of rating"),
        (([1, 1], [1, 2], [1.0, float("inf")]), "the rating of row 1 .user 1, item 2. is inf"),
        (([], []), "must be whole numbers|no rows"),
    ],
)
def test_what_is_no_table_is_refused(given: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Interactions.of(*given)
    with pytest.raises(DataError, match="items count up to 1, a row has 2"):
        Interactions.of([1], [2], items=1)
    with pytest.raises(OptionError, match="unknown feedback 'implict'; did you mean 'implicit'"):
        Interactions.of([1], [2], feedback="implict")
    with pytest.raises(DataError, match="item_features has 1 rows, needed are 3"):
        Interactions.of([1], [2], item_features=torch.zeros(1, 2))
    with pytest.raises(DataError, match="no rows"):
        Interactions.of(torch.zeros(0).long(), torch.zeros(0).long())


def test_a_pair_twice_would_be_in_two_splits() -> None:
    with pytest.raises(DataError, match="rows 1, 3 are both of user 1, item 2: keep one"):
        Interactions.of([1, 1, 2, 1], [1, 2, 2, 2], [1, 2, 3, 4])
    unknown = Interactions.of([0, 0, 1, 1], [2, 2, 0, 0], [1, 2, 3, 4])  # whoever is not known may be several
    assert len(unknown) == 4


def test_of_implicit_feedback_every_rating_is_one() -> None:
    assert Interactions.of([1, 2], [1, 2], [5.0, 3.0], feedback="implicit").rating.tolist() == [1, 1]
    with pytest.raises(DataError, match="explicit feedback needs ratings"):
        Interactions.of([1, 2], [1, 2], feedback="explicit")


def test_columns_of_any_kind_are_taken_or_refused() -> None:
    ids = np.array([1, 2], dtype=np.uint64)
    unsigned = Interactions.of(ids, ids.astype(np.uint16), [1, 2], time=[1, 2])
    assert unsigned.users == 2
    with pytest.raises(DataError, match="users must be numbers"):
        Interactions.of(["a", "b"], [1, 2], [1, 2])
    with pytest.raises(DataError, match="ratings must be numbers"):
        Interactions.of([1, 2], [1, 2], ["good", "bad"])
    with pytest.raises(DataError, match="no rows"):
        Interactions.of([], [], [])
    with pytest.raises(DataError, match=r"rating must be \[N\], got \[2, 1\]"):
        Interactions.of([1, 2], [1, 2], [[1.0], [2.0]])
    with pytest.raises(DataError, match="the time of row 1 is nan"):
        Interactions.of([1, 2], [1, 2], [1, 2], time=[1.0, float("nan")])
    with pytest.raises(DataError, match="users are numbered from 1 to 1"):
        Interactions(torch.tensor([1, 2]), torch.tensor([1, 1]), torch.ones(2), users=1, items=1)
    with pytest.raises(DataError, match="unknown user 11: the table has users 1 to 10"):
        table().negatives(torch.tensor([11]), 1, torch.Generator())
    with pytest.raises(OptionError, match="no 'items'; did you mean 'item'"):
        table().ids("items", [1])
    with pytest.raises(OptionError, match="got nan"):
        table().split(float("nan"))
