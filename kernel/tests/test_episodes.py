"""Episodes: labels made an episode's own, batches of given tasks, losses and accuracies of each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.descriptors import TensorData
from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task, places, relabel


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20).filter(lambda labels: len(set(labels)) > 1))
@settings(deadline=None)
def test_labels_become_places_in_rising_order(labels: list[int]) -> None:
    classes, found = relabel(torch.tensor(labels))
    assert classes.tolist() == sorted(set(labels))
    assert [classes.tolist()[place] for place in found.tolist()] == labels
    assert places(torch.tensor(labels), classes).tolist() == found.tolist()


def test_labels_that_cannot_be_told_apart() -> None:
    with pytest.raises(DataError, match=r"one class, 3 \(2 samples\): there is nothing to tell apart"):
        relabel(torch.tensor([3, 3]))
    with pytest.raises(DataError, match="no samples"):
        relabel(torch.tensor([], dtype=torch.long))
    with pytest.raises(DataError, match=r"one integer label per sample, got torch\.float32"):
        relabel(torch.tensor([0.5, 1.0]))
    with pytest.raises(DataError, match=r"query labels \[4\] are not among the classes of the support set \[1, 9\]"):
        places(torch.tensor([1, 4]), torch.tensor([1, 9]))
    with pytest.raises(DataError, match=r"2 classes \(labels 1, 9\), the model's head has 3 outputs"):
        of_task(TensorData(torch.ones(2, 1), torch.tensor([1, 9])), 3)


def test_batches_of_given_tasks() -> None:
    """Each is relabelled by its own support set; real targets make it regression."""
    x = torch.arange(4.0)[:, None]
    made = Episodes.of([(x, [7, 2, 7, 2], x[:1], [2]), (x, [0, 0, 5, 5], x[:1], [5])])
    assert made.ways == 2
    assert made.support_targets.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]
    assert made.query_targets.tolist() == [[0], [1]]
    assert Episodes.of([(x, x, x, x)]).ways is None
    for tasks, message in (
        ([(x, [0, 1, 0, 1], x)], "task 0 of the batch: support inputs, support targets, .* are needed, got 3"),
        ([(x, [1, 1, 1, 1], x, [1, 1, 1, 1])], "task 0 of the batch: the support set has one class, 1"),
        (
            [(x, [0, 1, 0, 1], x[:1], [0]), (x, [0, 1, 2, 0], x[:1], [0])],
            "tasks of equal size, got 4 . 1 samples, 2 cl",
        ),
        ([], "tasks of equal size, got none"),
    ):
        with pytest.raises(DataError, match=message):
            Episodes.of(tasks)


def test_episodes_of_unequal_parts_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"the same \[episodes, samples\], got support_inputs \[2, 3\], support_targets"
    ):
        Episodes(torch.ones(2, 3, 1), torch.ones(2, 4), torch.ones(2, 3, 1), torch.ones(2, 3))
    with pytest.raises(DataError, match=r"support and query inputs have shapes \(1,\) and \(2,\)"):
        Episodes(torch.ones(2, 3, 1), torch.ones(2, 3), torch.ones(2, 3, 2), torch.ones(2, 3))


def test_parts_make_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(7, 9, 2, generator=generator), torch.arange(9).expand(7, -1) % 3
    made = Episodes(inputs[:, :3], labels[:, :3], inputs[:, 3:], labels[:, 3:], 3)
    parts = list(made.split(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.query_inputs for part in parts]), made.query_inputs)
    assert {part.ways for part in parts} == {3}
    double = made.to(torch.float64)
    assert (double.query_inputs.dtype, double.query_targets.dtype) == (torch.float64, torch.int64)


def test_losses_and_accuracy_of_each_episode() -> None:
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]])
    targets = torch.tensor([[0, 0], [1, 0]])
    wanted = [torch.nn.functional.cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True)]
    assert torch.allclose(episode_losses(outputs, targets), torch.stack(wanted))
    assert episode_accuracy(outputs, targets).tolist() == [0.5, 1.0]
    values = torch.tensor([[1.0, 3.0]])
    assert episode_losses(torch.zeros(1, 2, 1), values).tolist() == [5.0]
