"""Episodes: what is drawn, which data cannot be drawn from, and what is kept apart for the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_meta.samplers import EpisodeSampler, create_meta_batch, split_classes, split_groups
from crosstask_meta.testing import seeded


def numbered(labels: Any) -> TensorData:
    """Samples that carry their own number and their label as inputs."""
    labels = torch.as_tensor(labels)
    return TensorData(torch.stack([torch.arange(len(labels)), labels], dim=1).float(), labels)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_episode_is_n_way_k_shot_without_repetition(seed: int, ways: int, shots: int, queries: int) -> None:
    counts = torch.randint(7, 12, (6,), generator=seeded(seed))
    data = numbered(torch.tensor([-4, 0, 3, 50, 51, 900]).repeat_interleave(counts))
    made = EpisodeSampler(data, ways=ways, shots=shots, queries=queries).sample(8, seeded(seed))
    assert made.ways == ways
    assert made.support_inputs.shape == (8, ways * shots, 2)
    assert made.query_targets.shape == (8, ways * queries)
    for number in range(8):
        support, query = made.support(number), made.query(number)
        rows = torch.cat([support.inputs, query.inputs])[:, 0].tolist()
        assert len(set(rows)) == len(rows)
        of_label: dict[int, set[float]] = {}
        for part, each in ((support, shots), (query, queries)):
            assert torch.bincount(part.targets, minlength=ways).tolist() == [each] * ways
            for label, original in zip(part.targets.tolist(), part.inputs[:, 1].tolist(), strict=True):
                of_label.setdefault(label, set()).add(original)
        assert all(len(found) == 1 for found in of_label.values())
        assert len(set.union(*of_label.values())) == ways


def test_classes_and_their_order_are_drawn_uniformly() -> None:
    made = EpisodeSampler(numbered(torch.arange(5).repeat(4)), ways=2, shots=1, queries=1).sample(5000, seeded())
    first = made.support_inputs[:, 0, 1]
    counts = torch.bincount(first.long(), minlength=5) / 5000
    assert torch.allclose(counts, torch.full((5,), 0.2), atol=0.03)
    samples = torch.bincount(made.support_inputs[..., 0].flatten().long(), minlength=20) / 10_000
    assert torch.allclose(samples, torch.full((20,), 0.05), atol=0.015)


def test_large_classes_are_drawn_uniformly_and_without_repetition() -> None:
    """Beyond 4096 samples another way of drawing is used."""
    made = EpisodeSampler(numbered(torch.arange(2).repeat_interleave(5000)), ways=2, shots=2, queries=8)
    found = made.sample(300, seeded())
    rows = torch.cat([found.support_inputs, found.query_inputs], dim=1)[..., 0]
    assert all(len(set(own.tolist())) == 20 for own in rows)
    assert abs(float((rows % 5000).mean()) - 2500) < 100
    assert abs(float((found.support_inputs[:, :, 0] % 5000).mean()) - 2500) < 250


def test_the_seed_decides() -> None:
    sampler = EpisodeSampler(numbered(torch.arange(6).repeat(5)), ways=3, shots=1, queries=2)
    one, two, other = (sampler.sample(4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.query_inputs, two.query_inputs)
    assert not torch.equal(one.query_inputs, other.query_inputs)


def test_each_episode_is_drawn_from_one_of_several_tasks() -> None:
    sources = [numbered([10 * k] * 9 + [10 * k + 1] * 9) for k in range(3)]
    made = EpisodeSampler(sources, ways=2, shots=2, queries=3).sample(300, seeded())
    tens = made.support_inputs[..., 1] // 10
    assert bool((tens == tens[:, :1]).all())
    assert torch.allclose(torch.bincount(tens[:, 0].long()) / 300, torch.full((3,), 1 / 3), atol=0.1)


def test_regression_draws_samples_of_one_data_set() -> None:
    x = torch.arange(40.0)[:, None]
    made = EpisodeSampler([(x, 2 * x), (x + 100, 3 * (x + 100))], ways=None, shots=5, queries=4).sample(20, seeded())
    assert made.ways is None
    factor = torch.cat([made.support_targets, made.query_targets], 1) / torch.cat(
        [made.support_inputs, made.query_inputs], 1
    ).clamp_min(1e-9)
    assert made.support_inputs.shape == (20, 5, 1)
    for own, inputs in zip(factor, made.support_inputs, strict=True):
        wanted = 3.0 if float(inputs[0, 0]) >= 100 else 2.0
        assert bool(((own == wanted) | (own == 0)).all())


def test_data_may_be_arrays_pairs_and_tasks() -> None:
    x, y = np.arange(40, dtype=np.float32)[:, None], np.arange(40) % 4
    task = Task(
        descriptor=TaskDescriptor(task_id="t", task_type="classification", classes=("a", "b", "c", "d")),
        train=(torch.tensor(x), torch.tensor(y)),
    )
    for data in ((x, y), TensorData(torch.tensor(x), torch.tensor(y)), task, [task, task]):
        made = create_meta_batch(data, batch_size=3, ways=4, shots=2, queries=3, generator=seeded())
        labels = made.support_inputs[..., 0] % 4
        assert all(len(set(own.tolist())) == 4 for own in labels)


THREE = {"ways": 3, "shots": 1, "queries": 1}
UNLIKE = [numbered([0, 1]), TensorData(torch.ones(2, 3), torch.tensor([0, 1]))]
VALUES = (torch.ones(3, 1), torch.ones(3, 1))


@pytest.mark.parametrize(
    ("data", "sizes", "message"),
    [
        (numbered([1, 1, 2, 2]), THREE, "3-way episodes need 3 classes, data set 0 has 2: 1, 2"),
        (numbered([1, 2, 2, 3, 3]), THREE, "need 2 samples of each class: in data set 0, class 1 has 1"),
        (numbered([1, 1]), {"ways": 1}, "need ways >= 2, shots >= 1, queries >= 1, got 1, 1, 15"),
        ([], {}, "no data to draw episodes from"),
        (UNLIKE, {}, r"inputs of one shape, got data set 0 \(2,\), data set 1 \(3,\)"),
        (VALUES, {"ways": None, "shots": 2, "queries": 2}, "2 query samples need 4 samples: data set 0 has 3"),
    ],
)
def test_data_that_cannot_be_drawn_from(data: Any, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        EpisodeSampler(data, **sizes)


def test_a_class_with_too_few_samples_goes_by_its_name() -> None:
    descriptor = TaskDescriptor(task_id="pets", task_type="classification", classes=("cat", "dog"))
    task = Task(descriptor=descriptor, train=(torch.ones(5, 1), torch.tensor([0, 0, 0, 0, 1])))
    with pytest.raises(DataError, match=r"in task 'pets', class dog has 1\. Ask for fewer"):
        EpisodeSampler(task, ways=2, shots=1, queries=1)


# Splits


def test_no_class_is_on_both_sides() -> None:
    data = numbered(torch.arange(6).repeat(3) + 10)
    train, test = split_classes(data, [11, 15])
    assert sorted(set(test.targets.tolist())) == [11, 15]
    assert sorted(set(train.targets.tolist())) == [10, 12, 13, 14]
    assert len(train) + len(test) == 18
    drawn = split_classes(data, 2, seeded(3))[1]
    assert len(set(drawn.targets.tolist())) == 2
    assert torch.equal(drawn.targets, split_classes(data, 2, seeded(3))[1].targets)
    names = TaskDescriptor(task_id="t", task_type="classification", classes=("cat", "dog", "cow"))
    task = Task(descriptor=names, train=(torch.ones(6, 1), torch.arange(6) % 3))
    assert set(split_classes(task, ["cow"])[1].targets.tolist()) == {2}
    for held, message in (
        (["cov"], "task 't': class 'cov' is not in the data; did you mean 'cow'"),
        (["cat", "dog", "cow"], "3 of 3 held out; both sides need at least one"),
        (1, "drawing 1 to hold out needs a generator"),
    ):
        with pytest.raises(DataError, match=message):
            split_classes(task, held)


def test_groups_stay_together() -> None:
    data, writers = numbered(torch.arange(2).repeat(6)), torch.arange(12) // 4
    train, test = split_groups(data, writers, [1])
    assert test.inputs[:, 0].tolist() == [4, 5, 6, 7]
    assert len(train) == 8
    with pytest.raises(DataError, match="3 groups for 12 samples"):
        split_groups(data, [0, 1, 2], [1])
