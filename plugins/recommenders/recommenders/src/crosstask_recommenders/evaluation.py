"""Cold start: users whom no recommender has seen, a few of their ratings, and what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError, OptionError, RunError
from crosstask.options import structure
from crosstask_recommenders.metrics import auc, hit_at_k, mae, ndcg_at_k, rmse
from crosstask_recommenders.records import ColdStartScores
from crosstask_recommenders.support import Interactions, Support, padded

Scorer = Callable[[Support, Tensor], Tensor]
"""Scores [B, K] for the users of a support set and items [B, K]."""


def cold_users(table: Interactions, share: float, least: int, seed: int = 0) -> tuple[Interactions, Interactions]:
    """(the table without, the table of) a share of the users, drawn from those with `least` rows or more.

    DataError where no user has as many, or none would be left to learn from.
    """
    if not 0 < share < 1:
        raise OptionError(f"cold_users: the share of users must be between 0 and 1, got {share}")
    counts = table.counts()
    enough = (counts >= least).nonzero().flatten()
    enough = enough[enough > 0]
    have = int((counts[1:] > 0).sum())
    wanted = max(1, round(share * have))
    if not len(enough) or have - min(wanted, len(enough)) < 1:
        told = f"the most is {int(counts.max())}, of {have} users"
        raise DataError(
            f"cold start: no user with {least} rows can be held back ({told}); ask for fewer support ratings"
        )
    drawn = np.random.default_rng([seed, 11]).permutation(len(enough))[:wanted]
    cold = torch.isin(table.user, enough[torch.from_numpy(drawn)])
    return table.take(~cold), table.take(cold)


@attrs.frozen(eq=False)
class ColdStart:
    """A test on B users: a pool of support ratings of each in random order, queries [B, Q] apart from them, the same
    for every number of support ratings, and negatives [B, M] that none of the users has anywhere.
    """

    supports: tuple[int, ...]
    pool: Support
    items: Tensor
    ratings: Tensor
    mask: Tensor
    negatives: Tensor
    feedback: str
    liked: float
    """Ratings of so much or more are of what a user likes."""

    top: int = 10

    @classmethod
    def of(
        cls, test: Interactions, supports: Sequence[int] = (1, 3, 5, 10), *, queries: int = 10, negatives: int = 100,
        top: int = 10, liked: float | None = None, generator: torch.Generator,
    ) -> ColdStart:  # fmt: skip
        """From the rows of users who were held back; each needs one more than the largest of `supports`."""
        supports = structure(supports, tuple[int, ...], "cold start: supports")
        if not supports or min(supports) < 1:
            raise OptionError(f"cold start: numbers of support ratings must be 1 or more, got {tuple(supports)}")
        implicit = test.feedback != "explicit"
        for told, size in (("queries", queries), ("top", top), *([("negatives", negatives)] if implicit else [])):
            if structure(size, int, f"cold start: {told}") < 1:
                raise OptionError(f"cold start: {told} must be 1 or more, got {size}")
        most, (users, order, starts) = max(supports), test.by_user()
        pool, asked = [], []
        for user, first, last in zip(users.tolist(), starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if last - first <= most:
                who = test.called("user", user)
                raise DataError(
                    f"cold start: user {who} has {last - first} rows; {most} of support and a query are asked"
                )
            rows = order[first:last][torch.randperm(last - first, generator=generator)]
            pool.append(rows[:most])
            asked.append(rows[most : most + queries])
        items, mask = padded([test.item[rows] for rows in asked])
        drawn = test.negatives(users, negatives, generator) if implicit else items.new_zeros(len(users), 0)
        return cls(
            tuple(supports), Support.of([(test.item[rows], test.rating[rows]) for rows in pool]), items,
            padded([test.rating[rows] for rows in asked])[0], mask, drawn, test.feedback,
            float(test.rating.mean()) if liked is None else liked, top,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.pool)


def cold_start(scorer: Scorer, test: ColdStart, name: str = "", *, baseline: bool = False) -> list[ColdStartScores]:
    """How good a recommender's scores are, for each number of support ratings.

    Of explicit feedback: RMSE and MAE over all queries, and, as means over users, AUC of the liked among the rated and
    NDCG@top by the ratings (None where some are below 0). Of implicit feedback, as means over users and their queries:
    AUC, NDCG@top and hit@top of a query among the negatives. RunError for scores that are not finite, or of another
    shape.
    """
    found = []
    items = torch.cat([test.items, test.negatives], dim=1)
    if test.supports:
        scorer(test.pool.first(test.supports[0]), items)  # what is made at the first call is no user's time
    for count in test.supports:
        before = time.process_time()
        scores = scorer(test.pool.first(count), items)
        seconds = (time.process_time() - before) / len(test)
        if scores.shape != items.shape or not bool(torch.isfinite(scores).all()):
            told = f"have shape {list(scores.shape)}, not {list(items.shape)}"
            raise RunError(f"{name}: its scores {told if scores.shape != items.shape else 'are not all finite'}")
        rated = scores[:, : test.items.shape[1]]
        values: dict[str, float | None] = dict.fromkeys(("rmse", "mae", "auc", "ndcg", "hit"))
        if test.feedback == "explicit":
            values["rmse"] = float(rmse(rated, test.ratings, test.mask))
            values["mae"] = float(mae(rated, test.ratings, test.mask))
            values["auc"] = float(auc(rated, test.ratings >= test.liked, test.mask).nanmean())
            if not bool((test.ratings < 0).any()):
                values["ndcg"] = float(ndcg_at_k(rated, test.ratings, test.top, test.mask).nanmean())
        else:
            values |= _ranked(rated, scores[:, test.items.shape[1] :], test)
        found.append(ColdStartScores(recommender=name, support=count, baseline=baseline, seconds=seconds, **values))
    return found


def _ranked(rated: Tensor, negative: Tensor, test: ColdStart) -> dict[str, float | None]:
    """Each query among the negatives of its user: the mean over the user's queries, then over users."""
    users, places = test.mask.nonzero(as_tuple=True)
    scores = torch.cat([rated[users, places][:, None], negative[users]], dim=1)
    relevant = torch.zeros_like(scores)
    relevant[:, 0] = 1
    won = (scores[:, :1] > scores[:, 1:]) + 0.5 * (scores[:, :1] == scores[:, 1:])
    each = {
        "auc": won.mean(1),
        "ndcg": ndcg_at_k(scores, relevant, test.top),
        "hit": hit_at_k(scores, relevant, test.top),
    }
    counts = test.mask.sum(1)
    return {
        name: float((values.new_zeros(len(test)).index_add(0, users, values) / counts).mean())
        for name, values in each.items()
    }
