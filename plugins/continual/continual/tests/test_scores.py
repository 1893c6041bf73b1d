"""What accuracies say, and the accuracy of a model that has learned nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, continual_scores, majority_scores


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
    assert majority_scores(model, [untested]) == [None]
