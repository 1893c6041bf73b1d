"""The bounds that strategies are compared with."""

from __future__ import annotations

import pytest
import torch

from crosstask_baselines import Joint, Naive
from crosstask_continual import ContinualLearner, ScenarioWarning
from crosstask_continual.testing import learner as digits_learner
from crosstask_continual.testing import pairs


def learner(strategy: object) -> ContinualLearner:
    return digits_learner(strategy, "class", hidden=(64,), learning_rate=5e-3)


def test_naive_is_no_strategy_and_says_so() -> None:
    with pytest.warns(ScenarioWarning, match="it is the baseline"):
        named = learner(Naive())
    nothing = learner(None)
    for task in pairs()[:2]:
        named.train_task(task, num_epochs=1)
        nothing.train_task(task, num_epochs=1)
    for a, b in zip(named.model.parameters(), nothing.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_joint_passes_over_all_data_once_in_an_epoch() -> None:
    made, tasks = learner(Joint()), pairs()[:3]
    strategy = made.strategies[0]
    for task in tasks[:2]:
        made.train_task(task, num_epochs=1)
    made.model.add(tasks[2], 0)
    strategy.task_begins(made.model, tasks[2])
    data, seen = made.model.data(tasks[2]), []
    for first in range(0, len(data), 32):
        more = strategy.replay(data.part(slice(first, first + 32)))
        assert more is not None
        seen += [tuple(x.flatten().tolist()) for x in more.inputs]
    earlier = torch.cat([task.data("train").inputs for task in tasks[:2]])
    assert sorted(seen) == sorted(tuple(x.flatten().tolist()) for x in earlier)


def test_joint_is_the_upper_bound() -> None:
    made = learner(Joint())
    for task in pairs():
        made.train_task(task, num_epochs=6)
    assert sum(made.evaluate_all_tasks().values()) / 5 > 0.88
