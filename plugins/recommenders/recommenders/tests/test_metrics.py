"""Metrics and losses against scikit-learn, closed forms and every order of ties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.metrics import mean_absolute_error, ndcg_score, roc_auc_score, root_mean_squared_error

from crosstask.errors import DataError, OptionError
from crosstask_recommenders import auc, bpr_loss, hit_at_k, mae, ndcg_at_k, rmse, sampled_negative_loss


def drawn(ties: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(7, 12, generator=generator, dtype=torch.float64)
    scores = scores.round() if ties else scores
    relevance = torch.randint(0, 4, (7, 12), generator=generator)
    mask = torch.rand(7, 12, generator=generator) < 0.8
    mask[:, :3], relevance[:, 0], relevance[:, 1] = True, 3, 0
    return scores, relevance, mask


@pytest.mark.parametrize("ties", [False, True])
def test_they_are_scikit_learns_user_by_user(ties: bool) -> None:
    scores, relevance, mask = drawn(ties)
    for user in range(7):
        own, good = scores[user][mask[user]].numpy(), relevance[user][mask[user]].numpy()
        assert float(auc(scores, relevance, mask)[user]) == pytest.approx(roc_auc_score(good > 0, own))
        for k in (1, 3, 10, 50):
            assert float(ndcg_at_k(scores, relevance, k, mask)[user]) == pytest.approx(ndcg_score([good], [own], k=k))
    truth = relevance.double()
    assert float(rmse(scores, truth, mask)) == pytest.approx(root_mean_squared_error(truth[mask], scores[mask]))
    assert float(mae(scores, truth, mask)) == pytest.approx(mean_absolute_error(truth[mask], scores[mask]))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_hit_is_the_mean_over_all_orders_of_ties(k: int) -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0], [5.0, 4.0, 4.0, 0.0, 9.0]])
    relevant = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    for user in range(3):
        items = [place for place in range(5) if mask[user, place]]
        orders = [
            order
            for order in itertools.permutations(items)
            if all(scores[user, a] >= scores[user, b] for a, b in itertools.pairwise(order))
        ]
        wanted = sum(any(relevant[user, place] for place in order[:k]) for order in orders) / len(orders)
        assert float(hit_at_k(scores, relevant, k, mask)[user]) == pytest.approx(wanted)


def test_a_user_without_anything_to_rank_is_not_counted() -> None:
    scores, nothing = torch.randn(2, 4), torch.zeros(2, 4)
    assert bool(torch.isnan(auc(scores, nothing)).all())
    assert bool(torch.isnan(auc(scores, nothing + 1)).all())
    assert bool(torch.isnan(ndcg_at_k(scores, nothing)).all())
    assert bool(torch.isnan(hit_at_k(scores, nothing)).all())


def test_bad_input_is_refused_in_words() -> None:
    with pytest.raises(DataError, match=r"scores \[3, 1\] against \[3\]"):
        rmse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(DataError, match=r"and mask \[2\]"):
        auc(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(2).bool())
    with pytest.raises(OptionError, match="at least 1, got 0"):
        ndcg_at_k(torch.zeros(1, 3), torch.ones(1, 3), 0)


def test_losses_are_their_formulas() -> None:
    positive, negative = torch.tensor([1.0, -0.5]), torch.tensor([[0.0, 2.0], [1.0, -3.0]])

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    pairs = [(p, n) for p, row in zip(positive.tolist(), negative.tolist(), strict=True) for n in row]
    assert float(bpr_loss(positive, negative)) == pytest.approx(-sum(log_sigmoid(p - n) for p, n in pairs) / 4)
    wanted = -sum(log_sigmoid(p) for p in positive.tolist()) / 2 - sum(log_sigmoid(-n) for _, n in pairs) / 4
    assert float(sampled_negative_loss(positive, negative)) == pytest.approx(wanted)
    assert float(bpr_loss(positive, negative[:, 0])) == pytest.approx(-(log_sigmoid(1.0) + log_sigmoid(-1.5)) / 2)
    first = torch.tensor([True, False])
    assert float(bpr_loss(positive, negative[:, 0], first)) == pytest.approx(-log_sigmoid(1.0))
    with pytest.raises(DataError, match=r"negatives \[3\] of positives \[2\]"):
        bpr_loss(positive, torch.zeros(3))


def test_what_has_no_order_is_refused() -> None:
    scores, nan = torch.tensor([[3, 2, 1]]), torch.tensor([[3.0, float("nan"), 1.0]])
    assert float(ndcg_at_k(scores, torch.tensor([[5, 1, 2]]))) == pytest.approx(
        float(ndcg_at_k(scores.float(), torch.tensor([[5.0, 1.0, 2.0]])))
    )
    for metric in (auc, ndcg_at_k, hit_at_k):
        with pytest.raises(DataError, match="NaN have no order"):
            metric(nan, torch.tensor([[1, 0, 1]]))
        with pytest.raises(DataError, match=r"must be \[B, K\], got \[2\]"):
            metric(torch.zeros(2), torch.ones(2))
    with pytest.raises(DataError, match="relevances that are 0 or more"):
        ndcg_at_k(scores, torch.tensor([[5.0, -1.0, 2.0]]))
    assert bool(hit_at_k(torch.zeros(2, 0), torch.zeros(2, 0)).isnan().all())
