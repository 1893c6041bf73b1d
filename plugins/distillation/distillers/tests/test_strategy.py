"""The prior over learning rates from scores that are known, and what the choice is worth on tasks left out."""

from __future__ import annotations

import math

import pytest
import torch

from crosstask.errors import DataError
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import fresh_model
from crosstask.records import Budget
from crosstask.testing import small_portfolio
from crosstask_distillers import Strategy, train_with
from crosstask_distillers.strategy import SCHEDULES, TrainingStrategy

BUDGET = Budget(steps=40, learning_rate=1e-4, batch_size=16)


def test_the_prior_is_where_the_scores_are() -> None:
    maker = Strategy(rates=(1e-3, 1e-2, 1e-1), sharpness=1000.0)
    share = torch.zeros(2, len(SCHEDULES), 3, dtype=torch.float64)
    share[0, 1, 0] = share[1, 1, 2] = 1.0  # the second schedule; the first task wants 1e-3, the other 1e-1
    place, mean, spread = maker._prior(share)
    assert place == 1
    assert mean == pytest.approx(math.log(1e-2))
    assert spread == pytest.approx(math.log(10))


def test_it_finds_that_the_default_is_too_small_and_the_choice_serves_a_left_out_task() -> None:
    tasks = [t for t in small_portfolio() if t.task_id != "shuffled"]
    maker = Strategy(rates=(1e-4, 1e-2), budget=BUDGET)
    found = maker.distill(tasks, None)
    rate = found.knowledge.applicability_conditions["learning_rate"]
    assert 5e-3 < rate < 1.1e-2
    assert found.knowledge.generalization_score is not None
    assert found.knowledge.generalization_score > 0.1
    unseen = small_portfolio().unseen[0]
    model = fresh_model(tasks[0].model, unseen, 3)
    advised = maker.apply(model, found, 1.0)
    train_with(advised, unseen, BUDGET, torch.Generator().manual_seed(0))
    fit(model, unseen, BUDGET, torch.Generator().manual_seed(0), curve_split=None)
    assert evaluate(advised, unseen) > evaluate(model, unseen)


def test_applied_in_part_it_lies_between_on_a_log_scale() -> None:
    maker = Strategy(rates=(1e-3, 1e-2), budget=Budget(steps=6, learning_rate=1e-4))
    tasks = list(small_portfolio())
    found = maker.distill(tasks[:2], None)
    wanted = math.exp(float(found.tensors["log_rate"][0]))
    assert tasks[0].model is not None
    half = maker.apply(tasks[0].model, found, 0.5).training_strategy
    assert half.learning_rate == pytest.approx(math.sqrt(1e-4 * wanted))
    none = maker.apply(tasks[0].model, found, 0.0).training_strategy
    assert none.learning_rate == pytest.approx(1e-4)
    assert set(none.factors) == {1.0}


def test_a_constant_strategy_is_plain_training_and_every_step_is_spent() -> None:
    task = small_portfolio()["moons"]
    models = [fresh_model(task.model, task, 0) for _ in range(2)]
    budget = Budget(steps=10, learning_rate=0.01)
    fit(models[0], task, budget, torch.Generator().manual_seed(0), curve_split=None)
    train_with(models[1], task, budget, torch.Generator().manual_seed(0), TrainingStrategy(0.01))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    history = train_with(models[1], task, budget, torch.Generator(), TrainingStrategy(0.01, (1.0, 0.5, 0.1)))
    assert len(history.losses) == 10


def test_what_it_needs() -> None:
    bare = list(small_portfolio())[:1]
    bare[0].validation = None
    with pytest.raises(DataError, match="training and validation data"):
        Strategy().distill(bare, None)
    task = small_portfolio()["moons"]
    assert task.model is not None
    with pytest.raises(DataError, match="carries no training strategy"):
        train_with(task.model, task, BUDGET, torch.Generator())
