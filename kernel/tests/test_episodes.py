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
        ([(x, [0, 1, 0, 1], x)], "task 0 of the batch: support inputs, support targets, .* are needed, .* got 3"),
        ([(x, [1, 1, 1, 1], x, [1, 1, 1, 1])], "task 0 of the batch: the support set has one class, 1"),
        ({"u": (x, [0, 1, 0, 1], x[:3], [0])}, r"task 'u': query inputs \[3, 1\] and targets \[1\] have unequal"),
        ([(x[:0], [], x, [])], "task 0 of the batch: query inputs"),
        ([(x[:0], [], x[:0], [])], "task 0 of the batch: the support set has no samples"),
        ([(x, x, x, x), (x, x, torch.ones(2, 3), x[:2])], r"need inputs of one shape, got \(1,\), \(3,\)"),
        (["ab"], "task 0 of the batch: support inputs, .* got a str"),
        ([({}, [0, 1])], "task 0 of the batch: its inputs and targets must be tensors or arrays"),
        (
            [(x, [0, 1, 0, 1], x[:1], [0]), (x, [0, 1, 2, 0], x[:1], [0])],
            r"same number of classes, got 4 \+ 1 samples, 2 classes; 4 \+ 1 samples, 3 classes: a model",
        ),
        ([], "same number of classes, got none"),
    ):
        with pytest.raises(DataError, match=message):
            Episodes.of(tasks)


def users() -> list[tuple[torch.Tensor, ...]]:
    """Three tasks of 3 + 2, 8 + 1 and 3 + 4 samples, each with labels of its own."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for support, query in ((3, 2), (8, 1), (3, 4)):
        x = torch.randn(support + query, 2, generator=generator)
        y = torch.arange(support + query) % 2
        made.append((x[:support], y[:support], x[support:], y[support:]))
    return made


def test_tasks_of_unequal_sizes_are_padded() -> None:
    made = Episodes.of({"ann": users()[0], "bob": users()[1], "cem": users()[2]})
    assert made.support_inputs.shape == (3, 8, 2)
    assert (made.support_counts.tolist(), made.query_counts.tolist()) == ([3, 8, 3], [2, 1, 4])
    assert [made.name(number) for number in range(3)] == ["task 'ann'", "task 'bob'", "task 'cem'"]
    for number, (task, wanted) in enumerate(zip(made, users(), strict=True)):
        assert all(torch.equal(one, two) for one, two in zip(task, wanted, strict=True))
        assert torch.equal(made.support(number).inputs, wanted[0])
        assert torch.equal(made.query(number).targets, wanted[3])
    single = made.select(slice(1, 2))
    assert (single.names, single.padded) == (("bob",), True)
    assert not Episodes.of([users()[1]]).padded
    groups = {tuple(rows.tolist()): part for rows, part in made.equal()}
    assert set(groups) == {(0,), (1,), (2,)}
    twice = Episodes.of([users()[0], users()[1], users()[0]])
    (_, one), (_, two) = sorted(twice.equal(), key=lambda found: len(found[0]))
    assert (one.support_inputs.shape, two.support_inputs.shape) == ((1, 8, 2), (2, 3, 2))
    assert not one.padded
    assert torch.equal(two.query_inputs[1], users()[0][2])


def test_padding_never_holds_what_a_module_could_not_take() -> None:
    """Whatever stands there, also where real samples do not come first: a sample of the episode takes its place."""
    x = torch.arange(8.0).reshape(2, 4, 1)
    hidden = x.clone()
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    hidden[~mask] = torch.nan
    made = Episodes(hidden, hidden, x, x, support_mask=mask, query_mask=torch.ones(2, 4, dtype=torch.bool))
    assert made.query_mask is None
    assert made.support_inputs[0].flatten().tolist() == [1, 1, 2, 1]
    assert made.support(0).inputs.flatten().tolist() == [1, 2]
    parts = {len(part.support_inputs[0]): part.support_inputs for _, part in made.equal()}
    assert parts[2].flatten().tolist() == [1, 2]
    none = Episodes(x, x, x, x, query_mask=torch.tensor([[True] * 4, [False] * 4]))
    assert none.query_inputs[1].flatten().tolist() == [4] * 4  # the first support sample
    assert none.query_counts.tolist() == [4, 0]
    moved = made.to(torch.float64)
    assert (moved.support_inputs.dtype, moved.support_mask is not None) == (torch.float64, True)
    with pytest.raises(DataError, match="episode 1 has no support sample that is not masked"):
        Episodes(x, x, x, x, support_mask=torch.tensor([[True] * 4, [False] * 4]))
    with pytest.raises(DataError, match=r"support_mask must be bool \[2, 4\], got torch\.float32 \[2, 3\]"):
        Episodes(x, x, x, x, support_mask=torch.ones(2, 3))
    with pytest.raises(DataError, match="1 names for 2 episodes"):
        Episodes(x, x, x, x, names=("a",))


def test_pairs_are_tasks_without_queries() -> None:
    x = torch.arange(4.0)[:, None]
    made = Episodes.of([(x, [7, 2, 7, 2]), (x[:2], [1, 0])])
    assert made.query_inputs.shape == (2, 0, 1)
    assert made.support_counts.tolist() == [4, 2]
    assert made.query_counts.tolist() == [0, 0]
    mixed = Episodes.of([(x, x), (x, x, x, x)])
    assert mixed.query_counts.tolist() == [0, 4]


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


def test_what_a_mask_leaves_out_counts_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(2, 5, 3, generator=generator), torch.arange(5).expand(2, -1) % 3
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    for targets, loss in ((labels, torch.nn.functional.cross_entropy), (outputs.flip(1), torch.nn.functional.mse_loss)):
        found = episode_losses(outputs, targets, mask)
        assert torch.allclose(found[0], loss(outputs[0, :2], targets[0, :2]))
        assert torch.allclose(found[1], loss(outputs[1], targets[1]))
    right = (outputs.argmax(2) == labels).float()
    assert torch.allclose(episode_accuracy(outputs, labels, mask), torch.stack([right[0, :2].mean(), right[1].mean()]))


def test_losses_and_accuracy_of_each_episode() -> None:
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]])
    targets = torch.tensor([[0, 0], [1, 0]])
    wanted = [torch.nn.functional.cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True)]
    assert torch.allclose(episode_losses(outputs, targets), torch.stack(wanted))
    assert episode_accuracy(outputs, targets).tolist() == [0.5, 1.0]
    values = torch.tensor([[1.0, 3.0]])
    assert episode_losses(torch.zeros(1, 2, 1), values).tolist() == [5.0]
