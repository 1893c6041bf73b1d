"""The yardsticks are what they say, by hand."""

from __future__ import annotations

import pytest
import torch

from crosstask.errors import DataError
from crosstask_baseline_recommenders import BPRMF, BiasedMF, GlobalMean, ItemMean, Popularity, UserMean
from crosstask_recommenders import Interactions, Support, auc
from crosstask_recommenders.testing import planted

TABLE = Interactions.of([1, 1, 2, 2, 3], [1, 2, 1, 3, 1], [5, 3, 4, 1, 2])  # the mean is 3
ASKED = torch.tensor([[0, 1, 2, 3]])


def scored(recommender, users, table=TABLE, items=ASKED):
    return recommender.score(recommender.fit(table), Support.of(users), items)[0].tolist()


def test_means() -> None:
    user = [([1, 2], [5, 5])]
    assert scored(GlobalMean(), user) == [3, 3, 3, 3]
    item = [3, 3 + 2 / 4, 3, 3 - 2 / 2]
    assert scored(ItemMean(shrink=1.0), user) == pytest.approx(item)
    assert scored(UserMean(shrink=2.0), user) == [4, 4, 4, 4]
    away = (5 - item[1] + 5 - item[2]) / 4
    with_items = UserMean(shrink=2.0, item_means=True, item_shrink=1.0)
    assert scored(with_items, user) == pytest.approx([each + away for each in item])


def test_popularity_is_counted() -> None:
    table = Interactions.of([1, 1, 2, 2, 3], [1, 2, 1, 3, 1])
    assert scored(Popularity(), [([3], None)], table) == pytest.approx([0, 0.6, 0.2, 0.2])
    with pytest.raises(DataError, match="takes implicit feedback; this table is of explicit feedback"):
        Popularity().fit(TABLE)


@pytest.mark.parametrize("recommender", [BiasedMF(factors=2, user_decay=1.0), BPRMF(factors=2, user_decay=1.0)])
def test_factors_find_the_taste_of_a_new_user(recommender) -> None:
    """The planted table has two tastes: items of even and of odd numbers."""
    model = recommender.fit(planted("implicit", users=80))
    support = Support.of([([1, 3, 5], None), ([2, 4], None)])
    scores = recommender.score(model, support, torch.arange(6, 13).expand(2, -1))
    even = torch.tensor([1, 0, 1, 0, 1, 0, 1])
    assert auc(scores, torch.stack([1 - even, even])).min() > 0.9


def test_ratings_of_a_new_user_follow_the_taste() -> None:
    recommender = BiasedMF(factors=2, user_decay=1.0)
    model = recommender.fit(planted(users=80))
    scores = recommender.score(model, Support.of([([1, 3, 4], [5.0, 5.0, 1.0])]), torch.tensor([[5, 7, 6, 8]]))
    assert scores[0, :2].min() > 3.5
    assert scores[0, 2:].max() < 2.5


def test_users_who_have_everything_are_left_out() -> None:
    table = Interactions.of([1, 1, 1, 2, 2, 3], [1, 2, 3, 1, 2, 1])
    assert BPRMF(epochs=1).fit(table).get_buffer("item").shape == (4, 17)
    with pytest.raises(DataError, match="every user has every item"):
        BPRMF().fit(table.of_users([1]))


def test_items_are_asked_for_user_by_user() -> None:
    model = BiasedMF(factors=2).fit(TABLE)
    support = Support(torch.tensor([[2]]), torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[True]]))
    assert BiasedMF().score(model, support, torch.tensor([[1, 2]])).dtype == torch.float32
    for items, told in (([1, 2], r"must be \[1, K\]"), ([[1], [2]], r"must be \[1, K\]"), ([[1.0]], "whole numbers")):
        with pytest.raises(DataError, match=told):
            BiasedMF().score(model, support, torch.tensor(items))
