"""The stage `recommend`: what it finds, refuses and shows; the recipe; the cold start behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosstask.engine import TransferEngine
from crosstask.errors import DataError, OptionError, RecipeError, RunError
from crosstask.graph import TransferGraph
from crosstask.options import component
from crosstask.testing import conformance, reference_registry, small_portfolio
from crosstask_recommenders import ColdStart, Interactions, Support, cold_start, cold_users, digits
from crosstask_recommenders.records import ColdStartScores, RecommendResult
from crosstask_recommenders.stage import Recommend
from crosstask_recommenders.testing import REFERENCE, ReferenceRecommender, planted, planted_portfolio

REGISTRY = reference_registry(REFERENCE)
SMALL: dict[str, Any] = {"recommenders": ["reference"], "supports": [1, 3], "queries": 4, "negatives": 2}

test_stage = conformance(Recommend, options=SMALL, registry=REGISTRY, portfolio=planted_portfolio)


@component
class Worse(ReferenceRecommender):
    """The reference, always half a point too high, and no yardstick."""

    capabilities = frozenset({"explicit"})

    def score(self, model: torch.nn.Module, support: Support, items: Tensor) -> Tensor:
        return super().score(model, support, items) + 0.5


def ran(**given: Any) -> RecommendResult:
    with TransferEngine(registry=REGISTRY, discoverers=[]) as engine:
        engine.register(planted_portfolio())
        found: RecommendResult = engine.run_stage("recommend", **{**SMALL, **given}).record
        return found


def test_what_it_finds_and_shows() -> None:
    result = ran(recommenders=[Worse(), "reference", "reference"])
    assert (result.task, result.feedback, result.train_users, result.test_users) == ("rating", "explicit", 32, 8)
    assert result.names == ("Worse", "reference 1", "reference 2")
    assert result.beaten("Worse", 3) is False
    assert result.beaten("Worse", 3, "hit") is None
    best = result.best_baseline(3)
    assert best is not None
    assert best.rmse == result.of("reference 2", 3).rmse
    assert Recommend.summary(result)["recommend_best_of_3"].startswith("reference 1: rmse")
    (section,) = Recommend.sections(result, TransferGraph())
    assert "Worse with 1, 3 support ratings" in section.html
    assert "reference 1 (baseline)" in section.html
    assert "NDCG@10" in section.html
    assert "hit@10" not in section.html
    assert set(result.fit_seconds) == set(result.names)


def test_a_classification_is_implicit_feedback() -> None:
    result = ran(task="liked")
    assert (result.feedback, result.main, result.negatives) == ("implicit", "ndcg", 2)
    scores = result.of("reference", 3)
    assert scores.rmse is None
    assert scores.hit == 1.0  # of three candidates all are among ten
    assert scores.auc is not None
    (section,) = Recommend.sections(result, TransferGraph())
    assert "hit@10" in section.html
    assert "Not better" not in section.html
    assert Recommend.summary(result)["recommend_best_of_1"].startswith("reference: ndcg")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"task": "ratings"}, "no task 'ratings'.* did you mean 'rating'"),
        ({"recommenders": []}, "name at least one"),
        ({"supports": []}, "supports: name"),
        ({"recommenders": [Worse()], "task": "liked"}, "does not take the implicit feedback of 'liked'"),
        ({"task": "moons"}, "'moons' has not the inputs 'user_ids' and 'item_ids'"),
    ],
)
def test_refused_before_any_work(given: dict[str, Any], told: str) -> None:
    portfolio = planted_portfolio()
    for task in small_portfolio(models=False):
        portfolio.add(task)
    with TransferEngine(registry=REGISTRY, discoverers=[]) as engine:
        engine.register(portfolio)
        with pytest.raises(RecipeError, match=told):
            engine.run_stage("recommend", **{**SMALL, **given})


def test_a_portfolio_without_interactions_is_refused() -> None:
    with pytest.raises(RecipeError, match="no task has the inputs 'user_ids'"):
        Recommend(**SMALL).check(small_portfolio(models=False))


def test_users_held_back_are_in_nothing_else() -> None:
    table = planted(users=50)
    train, test = cold_users(table, 0.2, 6, seed=3)
    assert not set(train.user.tolist()) & set(test.user.tolist())
    assert len(set(test.user.tolist())) == 10
    assert int(test.counts()[test.user].min()) >= 6
    assert len(train) + len(test) == len(table)
    with pytest.raises(DataError, match="no user with 99 rows"):
        cold_users(table, 0.2, 99)
    with pytest.raises(OptionError, match="share of users"):
        cold_users(table, 1.0, 2)


def test_queries_are_the_same_for_every_number_of_support_ratings() -> None:
    table = planted("implicit", users=60)
    rows = table.counts() >= 4
    test = table.take(rows[table.user])
    cold = ColdStart.of(test, (1, 3), negatives=3, generator=torch.Generator().manual_seed(0))
    users = torch.unique(test.user)
    for number, user in enumerate(users.tolist()):
        own = set(table.item[table.user == user].tolist())
        pool, asked = set(cold.pool.items[number].tolist()), set(cold.items[number][cold.mask[number]].tolist())
        assert pool | asked == own
        assert not pool & asked
        assert not own & set(cold.negatives[number].tolist())
    with pytest.raises(DataError, match="asked"):
        ColdStart.of(test, (1, 30), generator=torch.Generator())
    with pytest.raises(OptionError, match="1 or more"):
        ColdStart.of(test, (), generator=torch.Generator())


def test_scores_of_who_knows_the_answers() -> None:
    table = digits.table(40, feedback="implicit")
    test = table.take((table.counts() >= 8)[table.user])
    cold = ColdStart.of(test, (2,), negatives=20, generator=torch.Generator().manual_seed(0))
    (perfect,) = cold_start(
        lambda s, items: (torch.arange(items.shape[1]) < cold.items.shape[1]) * 1.0 + 0 * items, cold
    )
    assert (perfect.auc, perfect.ndcg, perfect.hit) == (1.0, 1.0, 1.0)
    (blind,) = cold_start(lambda s, items: torch.zeros(items.shape), cold)
    assert blind.auc == 0.5
    assert blind.hit == pytest.approx(10 / 21)
    with pytest.raises(RunError, match="mine: its scores are not all finite"):
        cold_start(lambda s, items: torch.full(items.shape, torch.nan), cold, "mine")
    with pytest.raises(RunError, match="mine: its scores have shape"):
        cold_start(lambda s, items: torch.zeros(1), cold, "mine")


def test_a_record_without_baselines_beats_none() -> None:
    only = ColdStartScores(recommender="a", support=1, rmse=1.0, mae=1.0, auc=0.5, ndcg=0.5, hit=None)
    result = RecommendResult(
        task="t", feedback="explicit", train_users=1, test_users=1, items=1, top=10, negatives=0, scores=(only,)
    )
    assert result.best_baseline(1) is None
    assert result.beaten("a", 1) is None


def test_digits_are_a_table() -> None:
    portfolio = digits.portfolio(30)
    assert portfolio.ids == ["ink", "inked"]
    table = digits.table(30)
    assert isinstance(table, Interactions)
    assert (table.users, table.items) == (30, 64)
    assert float(table.rating.max()) == 16


def test_ratings_below_zero_have_no_ndcg_and_bad_sizes_are_told() -> None:
    whole = planted(users=20, share=0.9)
    train, test = cold_users(Interactions.of(whole.user, whole.item, whole.rating - 3, users=20, items=12), 0.3, 4)
    generator = torch.Generator().manual_seed(0)
    reference = ReferenceRecommender()
    model = reference.fit(train)
    (found,) = cold_start(lambda s, i: reference.score(model, s, i), ColdStart.of(test, (3,), generator=generator))
    assert found.ndcg is None
    assert found.rmse is not None
    for given in ({"queries": 0}, {"top": 0}, {"supports": ("1",)}):
        with pytest.raises(OptionError, match="cold start: "):
            ColdStart.of(test, **{"supports": (1,), **given}, generator=generator)  # type: ignore[arg-type]
    liked = planted("implicit", users=20)
    with pytest.raises(OptionError, match="negatives must be 1 or more"):
        ColdStart.of(liked, (1,), negatives=0, generator=generator)
