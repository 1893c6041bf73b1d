"""Memories: who stays in them, that every sample enters once, and what replaying them keeps on digits."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosstask.context import LocalContext
from crosstask_continual import Batch, ContinualLearner
from crosstask_continual.testing import accuracy, images, learned, learner, pairs
from crosstask_replay import AGEM, DERPlusPlus, Replay
from crosstask_replay.buffer import balanced, inserted, reservoir


def samples(memory: dict[str, Tensor], rows: Tensor | slice = slice(None)) -> Batch:
    return Batch(memory["inputs"][rows], memory["targets"][rows], memory["task_ids"][rows])


@functools.cache
def of_none(scenario: str) -> float:
    return accuracy(learned(scenario=scenario))


# --- Who stays


def filled(size: int, chunks: list[int], seed: int) -> list[int]:
    memory: dict[str, Tensor] = {}
    rng, seen = torch.Generator().manual_seed(seed), 0
    for count in chunks:
        rows = torch.arange(seen, seen + count)
        inserted(memory, {"targets": rows}, reservoir(seen, size, count, rng))
        seen += count
    return memory["targets"].tolist()


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 12), chunks=st.lists(st.integers(1, 15), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_a_reservoir_holds_different_samples_of_the_stream(size: int, chunks: list[int], seed: int) -> None:
    held = filled(size, chunks, seed)
    assert len(held) == min(size, sum(chunks))
    assert len(set(held)) == len(held)
    assert set(held) <= set(range(sum(chunks)))


def test_every_sample_of_the_stream_is_as_likely_to_stay() -> None:
    draws, size, chunks = 3000, 4, [3, 5, 1, 7]
    counts = torch.zeros(16)
    for seed in range(draws):
        counts[filled(size, chunks, seed)] += 1
    expected, spread = draws * size / 16, math.sqrt(draws * 0.25 * 0.75)
    assert float((counts - expected).abs().max()) < 4 * spread


@settings(max_examples=40, deadline=None)
@given(size=st.integers(4, 20), ones=st.integers(0, 60), twos=st.integers(0, 60), seed=st.integers(0, 10**6))
def test_classes_are_balanced_however_rare_they_are(size: int, ones: int, twos: int, seed: int) -> None:
    """Of each class as many as of the others, or all that came."""
    rng, labels = torch.Generator().manual_seed(seed), list[int]()
    stream = [1] * ones + [2] * twos + [3] * 3
    counts: dict[int, int] = {}
    places = balanced(labels, stream, size, counts, rng)
    memory: dict[str, Tensor] = {}
    inserted(memory, {"targets": torch.tensor(stream)}, places)
    assert memory["targets"].tolist() == labels
    held = {label: labels.count(label) for label in (1, 2, 3)}
    assert sum(held.values()) == min(size, len(stream))
    full = max(held.values())
    for label, count in counts.items():
        assert held[label] >= min(count, full - 1)


def test_the_balanced_reservoir_draws_evenly_from_the_largest_class() -> None:
    counts = torch.zeros(12)
    for seed in range(2000):
        memory: dict[str, Tensor] = {}
        places = balanced([], [0] * 12, 3, {}, torch.Generator().manual_seed(seed))
        inserted(memory, {"targets": torch.arange(12)}, places)
        counts[memory["targets"]] += 1
    assert float((counts - 500).abs().max()) < 4 * math.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("kind", [Replay, DERPlusPlus, AGEM])
def test_every_sample_enters_once_however_many_epochs(kind: Any, epochs: int) -> None:
    """A memory larger than the stream holds the stream."""
    strategy = kind(buffer_size=5000)
    learned(strategy, "class", epochs=epochs, count=2)
    stream = torch.cat([task.data("train").inputs for task in pairs()[:2]]).flatten(1)
    assert strategy.seen == len(stream) == len(strategy.memory["targets"])
    held = strategy.memory["inputs"].flatten(1)
    order = [sorted(map(tuple, rows.tolist())) for rows in (stream, held)]
    assert order[0] == order[1]


@pytest.mark.parametrize("buffer", ["reservoir", "balanced", "prioritised"])
def test_the_memory_keeps_its_size_and_its_labels(buffer: str) -> None:
    strategy = Replay(buffer=buffer, buffer_size=60)
    learned(strategy, "class", epochs=1)
    assert len(strategy.memory["targets"]) == 60
    labels = strategy.memory["targets"].tolist()
    if buffer == "balanced":
        assert all(labels.count(k) == 6 for k in range(10))
    known = {tuple(x): int(y) for x, y in zip(images()[0].flatten(1).tolist(), images()[1].tolist(), strict=True)}
    for x, y, t in zip(*(strategy.memory[n] for n in ("inputs", "targets", "task_ids")), strict=True):
        assert known[tuple(x.flatten().tolist())] == y
        assert int(t) == int(y) // 2


# --- What it keeps


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("kind", [Replay, DERPlusPlus])
def test_keeps_most_of_what_is_forgotten_without(kind: Any, scenario: str) -> None:
    made = learned(kind(buffer_size=200), scenario)
    assert accuracy(made) > of_none(scenario) + {"task": 0.03, "domain": 0.05, "class": 0.4}[scenario]


@pytest.mark.parametrize("buffer", ["balanced", "prioritised"])
def test_other_memories_keep_it_too(buffer: str) -> None:
    assert accuracy(learned(Replay(buffer_size=100, buffer=buffer), "class")) > of_none("class") + 0.4


def test_prioritised_draws_follow_the_losses() -> None:
    strategy = Replay(buffer="prioritised", buffer_size=100, alpha=1.0, replay_size=20)
    made = learned(strategy, "class", count=2, epochs=1)
    strategy.task_begins(made.model, pairs()[2])
    strategy.memory["losses"] = torch.full((100,), 1e-6)
    strategy.memory["losses"][:30] = 5.0
    batch = made.model.data(pairs()[0]).part(slice(16))
    more = strategy.replay(batch)
    assert more is not None
    assert len(more) == 20
    assert strategy._drawn is not None
    assert int(strategy._drawn[1].max()) < 30
    joined = Batch.joined([batch, more])
    outputs = made.model(joined.inputs)
    strategy.penalty(made.model, joined, outputs)
    rows = strategy._drawn[1]
    losses = made.model.loss(outputs[16:], more, reduction="none")
    torch.testing.assert_close(strategy.memory["losses"][rows], losses.detach() + 1e-3)
    assert bool((strategy.memory["losses"][30:] < 1e-5).all())


def test_judging_samples_leaves_no_trace_in_batch_statistics() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10))
    strategy = Replay(buffer="prioritised", buffer_size=20)
    made = ContinualLearner(network, strategy)
    made.train_task(pairs()[0], num_epochs=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    strategy.task_ends(made.model, pairs()[0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_der_draws_twice_with_outputs_as_they_were_stored() -> None:
    strategy = DERPlusPlus(buffer_size=100, alpha=0.7, beta=0.3, replay_size=8)
    made = learned(strategy, "task", count=2, epochs=2)
    before = {name: column.clone() for name, column in strategy.memory.items()}
    drawn: list[Tensor] = []
    model, task = made.model, pairs()[2]
    model.add(task, 0)
    strategy.task_begins(model, task)
    batch = model.data(task).part(slice(16))
    outputs = model(batch.inputs)
    state = model.generator.get_state()
    late = Batch(batch.inputs, batch.targets, batch.task_ids, fresh=False)
    found = strategy.penalty(model, late, outputs)
    model.generator.set_state(state)
    drawn = [torch.randperm(100, generator=model.generator)[:8] for _ in range(2)]
    assert not torch.equal(drawn[0], drawn[1])
    logits = model(before["inputs"][drawn[0]])
    second = samples(before, drawn[1])
    expected = 0.7 * (logits - before["outputs"][drawn[0]]).square().mean()
    expected = expected + 0.3 * model.loss(model(second.inputs), second)
    assert found is not None
    torch.testing.assert_close(found, expected)
    for name, column in before.items():
        assert torch.equal(column, strategy.memory[name])  # a later epoch changes nothing
    now = model(before["inputs"])
    assert float((now - before["outputs"]).detach().abs().mean()) > 0.1  # not what the model says now


def test_der_with_a_growing_head_compares_the_outputs_that_were_there() -> None:
    strategy = DERPlusPlus(buffer_size=100)
    made = learner(strategy, "class", outputs=2, hidden=(64,), grow=True, learning_rate=5e-3)
    for task in pairs():
        made.train_task(task, num_epochs=4)
    stored, tasks = strategy.memory["outputs"], strategy.memory["task_ids"]
    assert stored.shape == (100, 10)
    for row, number in zip(stored, tasks.tolist(), strict=True):
        assert row.isnan().tolist() == [k >= 2 * (number + 1) for k in range(10)]
    assert accuracy(made) > of_none("class") + 0.2


def test_agem_takes_off_what_points_against_the_memory() -> None:
    strategy = AGEM(buffer_size=50, replay_size=50)
    made = learned(strategy, "domain", count=1)
    model, task = made.model, pairs()[1]
    model.add(task, 0)
    strategy.task_begins(model, task)
    kept = samples(strategy.memory)
    parameters = list(model.parameters())
    against = torch.autograd.grad(model.loss(model(kept.inputs), kept), parameters)
    rng = torch.Generator().manual_seed(0)
    noise = [0.3 * r.norm() / r.numel() ** 0.5 * torch.randn(r.shape, generator=rng) for r in against]
    for sign in (-1, 1):
        for p, r, e in zip(parameters, against, noise, strict=True):
            p.grad = sign * r + e
        before = [p.grad.clone() for p in parameters if p.grad is not None]
        strategy.after_backward(model)
        after = [p.grad for p in parameters if p.grad is not None]
        along = sum(float((g * r).sum()) for g, r in zip(after, against, strict=True))
        length = sum(float((r * r).sum()) for r in against)
        if sign == 1:
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        else:
            factor = sum(float((g * r).sum()) for g, r in zip(before, against, strict=True)) / length
            assert factor < 0
            assert abs(along) < 1e-4 * length
            for b, a, r in zip(before, after, against, strict=True):
                torch.testing.assert_close(a, b - factor * r, atol=1e-6, rtol=1e-4)


def test_agem_forgets_less_where_the_task_is_known() -> None:
    assert accuracy(learned(AGEM(buffer_size=200), "task")) > of_none("task") + 0.02


def test_several_strategies_replay_side_by_side() -> None:
    first, second = Replay(buffer_size=30, buffer="prioritised", replay_size=5), Replay(buffer_size=20, replay_size=3)
    made = learned([first, second], "class", count=2, epochs=1)
    assert len(first.memory["targets"]) == 30
    assert len(second.memory["targets"]) == 20
    assert len(made.matrix) == 2


def test_found_by_name() -> None:
    context = LocalContext()
    made = ContinualLearner(torch.nn.Linear(4, 2), ["replay", "der++", "agem"], 33, context=context)
    assert [type(s) for s in made.strategies] == [Replay, DERPlusPlus, AGEM]
    assert [s.buffer_size for s in made.strategies] == [33, 33, 33]  # type: ignore[attr-defined]
