"""What accuracies say, and the accuracy of a model that has learned nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_continual import (
    ContinualModel,
    average_accuracy,
    backward_transfer,
    chance_scores,
    continual_scores,
    forgetting,
    forward_transfer,
    knowledge_retention,
    majority_scores,
)
from crosstask_continual.scores import lower_bound


def test_metrics_of_a_small_example() -> None:
    """By hand: Lopez-Paz and Ranzato (2017), Chaudhry et al. (2018)."""
    found = continual_scores([[[0.9], [0.7, 0.8], [0.75, 0.5, 1.0]]], [[0.5, 0.6, 0.3]], [[0.5, 0.4, 0.5]])
    assert found.accuracy is not None
    assert found.accuracy.mean == pytest.approx((0.75 + 0.5 + 1.0) / 3)
    assert found.backward_transfer is not None
    assert found.backward_transfer.mean == pytest.approx(((0.75 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.forgetting is not None
    assert found.forgetting.mean == pytest.approx(((0.9 - 0.75) + (0.8 - 0.5)) / 2)
    assert found.forward_transfer is not None
    assert found.forward_transfer.mean == pytest.approx(((0.6 - 0.4) + (0.3 - 0.5)) / 2)
    assert found.retention is not None
    assert found.retention.mean == pytest.approx((0.75 / 0.9 + 0.5 / 0.8) / 2)
    single = continual_scores([[[0.9]]], [[0.5]], [[0.5]])
    assert (single.backward_transfer, single.forgetting, single.forward_transfer) == (None, None, None)


@pytest.mark.parametrize(
    ("scenario", "expected"), [("task", [0.75, 2 / 3]), ("domain", [0.75, 1 / 3]), ("class", [0.75, 0.0])]
)
def test_the_majority_class_by_hand(scenario: str, expected: list[float]) -> None:
    """One answer for each task where the task is known, else one for all."""
    tasks = []
    for name, labels in (("a", [0, 0, 0, 1]), ("b", [0, 1, 1])):
        data = (torch.zeros(len(labels), 2), torch.tensor(labels))
        descriptor = TaskDescriptor(task_id=name, input_shape=(2,), output_dim=2)
        tasks.append(Task(descriptor=descriptor, train=data, test=data))
    model = ContinualModel(nn.Linear(2, 2 if scenario == "domain" else 4), scenario)
    for task in tasks:
        model.add(task, 0)
    assert majority_scores(model, tasks) == pytest.approx(expected)
    untested = Task(descriptor=TaskDescriptor(task_id="c", input_shape=(2,), output_dim=2), train=tasks[0].train)
    assert majority_scores(model, [*tasks, untested])[2] is None
    assert chance_scores(model, tasks) == [{"task": 0.5, "domain": 0.5, "class": 0.25}[scenario]] * 2
    assert chance_scores(model, [*tasks, untested][2:]) == [None]
    assert majority_scores(model, [untested]) == [None]


WHOLE = [[0.9, 0.4, 0.5], [0.6, 0.8, 0.3], [0.3, 0.9, 1.0]]
"""The accuracy on every task after every task, those that had not come among them."""


@pytest.mark.parametrize(
    "form", [lambda m: m, torch.tensor, np.array, lambda m: [row[: i + 1] for i, row in enumerate(m)]]
)
def test_each_metric_by_its_formula(form: Any) -> None:
    """Whole matrices in any form, and those whose rows end with the task just learned: the same, but for forward."""
    matrix = form(WHOLE)
    assert average_accuracy(matrix) == pytest.approx((0.3 + 0.9 + 1.0) / 3)
    assert backward_transfer(matrix) == pytest.approx(((0.3 - 0.9) + (0.9 - 0.8)) / 2)
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.3) + (0.8 - 0.9)) / 2, abs=1e-6)
    assert knowledge_retention(matrix) == pytest.approx((0.3 / 0.9 + 0.9 / 0.8) / 2)
    if len(matrix[0]) == 3:
        assert forward_transfer(matrix, [0.5, 0.45, 0.25]) == pytest.approx(((0.4 - 0.45) + (0.3 - 0.25)) / 2, abs=1e-6)
    else:
        with pytest.raises(DataError, match="row 0 of the accuracy matrix ends before task 1: forward transfer needs"):
            forward_transfer(matrix, [0.5, 0.45, 0.25])


def test_metrics_where_something_is_not_known() -> None:
    holes = [[0.9, math.nan, math.nan], [None, 0.8, None], [0.6, None, 1.0]]
    assert average_accuracy(holes) == pytest.approx(0.8)
    assert backward_transfer(holes) == pytest.approx(-0.3)
    assert forgetting(holes) == pytest.approx(0.3)
    assert knowledge_retention(holes) == pytest.approx(0.6 / 0.9)
    assert forward_transfer(holes, [None, None, None]) is None
    assert knowledge_retention([[0.0], [0.5, 1.0]]) is None  # nothing was known of it
    for metric in (average_accuracy, backward_transfer, forgetting, knowledge_retention):
        assert metric([]) is None
    with pytest.raises(DataError, match="row 1 of the accuracy matrix has 1 entries, expected 2 to 2"):
        forgetting([[0.9], [0.8]])
    with pytest.raises(DataError, match="2 initial accuracies for 3 tasks"):
        forward_transfer(WHOLE, [0.5, 0.5])


def test_the_lower_bound_of_a_mean_accuracy() -> None:
    """Of a single share it is the Wald interval around the share, with the spread of Agresti and Coull."""
    share = (60 + 2) / 104
    assert lower_bound([0.6], [100]) == pytest.approx(0.6 - 1.96 * math.sqrt(share * (1 - share) / 104))
    two = lower_bound([0.6, 0.8, None], [100, 50, None])
    other = (40 + 2) / 54
    assert two == pytest.approx(0.7 - 1.96 * math.sqrt(share * (1 - share) / 104 + other * (1 - other) / 54) / 2)
    assert lower_bound([None], [None]) is None
    # How often the bound is above the truth: at most one in forty, in a thousand draws.
    draws = torch.binomial(torch.full((1000,), 80.0), torch.tensor(0.7), generator=torch.Generator().manual_seed(0))
    above = sum((lower_bound([k / 80], [80]) or 0) > 0.7 for k in draws.tolist())
    assert above < 45
