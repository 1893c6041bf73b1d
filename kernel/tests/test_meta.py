"""A meta-learner at work without a run, and the few-shot stage, with the slow and right reference."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import create_meta_batch
from crosstask.learning.fewshot import run_few_shot
from crosstask.learning.meta import BaseMetaLearner, check_head, outputs_of, report_divergence, with_parameters
from crosstask.learning.models import ModelSpec
from crosstask.options import structure
from crosstask.tasks import Portfolio, Task, TaskDescriptor
from crosstask.testing.references import ReferenceMetaLearner


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_tasks(count: int = 4) -> Any:
    data = (torch.randn(40, 3, generator=seeded()), torch.arange(40) % 4)
    return create_meta_batch(data, batch_size=count, ways=2, shots=2, queries=3, generator=seeded())


def network(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, outputs))


def test_lists_of_tasks_and_episodes_are_the_same_batch() -> None:
    episodes = some_tasks()
    sets = [(episodes.support(number), episodes.query(number)) for number in range(4)]
    tasks = [(s.inputs, s.targets * 10 - 3, q.inputs, q.targets * 10 - 3) for s, q in sets]
    one, two = (BaseMetaLearner(ReferenceMetaLearner(), network()) for _ in range(2))
    assert one.meta_train_step(episodes) == two.meta_train_step(tasks)
    assert torch.equal(one.predict(episodes), two.predict(tasks))


def test_a_saved_trainer_goes_on_where_it_was() -> None:
    episodes = some_tasks()
    whole, other = (BaseMetaLearner(ReferenceMetaLearner(), nn.Linear(3, 2)) for _ in range(2))
    for _ in range(5):
        whole.meta_train_step(episodes)
    state = copy.deepcopy(whole.state_dict())
    for _ in range(5):
        whole.meta_train_step(episodes)
    other.load_state_dict(state, episodes)
    for _ in range(5):
        other.meta_train_step(episodes)
    for one, two in zip(whole.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_adapting_takes_arrays_and_any_labels() -> None:
    trainer = BaseMetaLearner(ReferenceMetaLearner(rate=1.0), nn.Linear(1, 2))
    adapted = trainer.adapt_to_task([[1.0], [-1.0]], [70, -2], num_steps=30)
    assert adapted(torch.tensor([[2.0], [-2.0]])).argmax(1).tolist() == [1, 0]


def test_a_given_optimizer_is_used() -> None:
    model = network()
    before = model[0].weight.detach().clone()  # type: ignore[index]
    BaseMetaLearner(ReferenceMetaLearner(), model, torch.optim.SGD(model.parameters(), lr=0.0)).meta_train_step(
        some_tasks()
    )
    assert torch.equal(model[0].weight.detach(), before)  # type: ignore[index]


def test_heads_that_do_not_fit() -> None:
    episodes = some_tasks()
    assert outputs_of(network(5), episodes.query_inputs[0]) == 5
    with pytest.raises(DataError, match="episodes have 2 classes, the model's head has 5 outputs"):
        check_head(network(5), episodes)
    values = create_meta_batch(
        (torch.ones(20, 3), torch.ones(20, 2)), batch_size=2, ways=None, shots=2, queries=2, generator=seeded()
    )
    with pytest.raises(DataError, match="the tasks have 2 values to predict, the model's head has 1 outputs"):
        check_head(network(1), values)


def test_what_divergence_is_reported() -> None:
    good, bad = torch.tensor([[1.0, 1.0], [0.5, 0.6]]), torch.tensor([[1.0, 1.0], [1.0, math.inf]])
    report_divergence("it", "rate", 0.1, good, torch.tensor([20.0, 30.0]))  # hard queries are no divergence
    with pytest.raises(RunError, match=r"episode 1 is inf after 1 inner steps with rate = 0\.1 \(it was 1 before\)"):
        report_divergence("it", "rate", 0.1, bad, torch.ones(2))
    with pytest.raises(RunError, match="episode 0 is nan before the first inner step: inputs, targets or weights"):
        report_divergence("it", "rate", 0.1, torch.full((1, 2), math.nan), torch.ones(2))
    with pytest.warns(RuntimeWarning, match=r"support loss rises from 1 to 30 over 2 inner steps with rate = 0\.1"):
        report_divergence("it", "rate", 0.1, torch.tensor([[1.0], [5.0], [30.0]]), torch.ones(1))


def test_an_adapted_copy_goes_by_the_batch() -> None:
    model = network()
    adapted = with_parameters(model, {"0.bias": torch.full((8,), 3.0)})
    inputs = torch.randn(6, 3, generator=seeded())
    assert torch.equal(adapted[0].bias.detach(), torch.full((8,), 3.0))  # type: ignore[index]
    assert not adapted.training
    with torch.no_grad():
        wanted = model.train()(inputs)  # the bias goes with the mean of the batch
    assert torch.allclose(adapted(inputs), wanted, atol=1e-5)


# The stage


def clouds(name: str, classes: int, seed: int = 0, test: bool = True) -> Task:
    """Classes around points of their own in three of twelve dimensions; the others are noise."""
    labels = torch.arange(40 * classes) % classes
    centres = 1.5 * torch.randn(classes, 3, generator=seeded(seed))
    points = torch.randn(len(labels), 12, generator=seeded(seed + 1))
    points[:, :3] += centres[labels]
    half = len(labels) // 2
    descriptor = TaskDescriptor(
        task_id=name, task_type="classification", classes=tuple("abcdefgh"[:classes]), input_shape=(12,)
    )
    return Task(
        descriptor=descriptor,
        train=(points[:half], labels[:half]),
        **({"test": (points[half:], labels[half:])} if test else {}),
    )


SPEC = structure({"kind": "mlp", "hidden": [16]}, ModelSpec, "model")
SMALL: dict[str, Any] = {"ways": 2, "shots": 2, "queries": 3, "steps": 40, "meta_batch": 4, "test_episodes": 60}


def test_classes_held_out() -> None:
    context = LocalContext(seed=1)
    given = (ReferenceMetaLearner(rate=0.5), SPEC, clouds("c", 8))
    sizes = SMALL | {"steps": 150, "held_out": ["g", "h", "a"]}
    found = run_few_shot(context, *given, **sizes)
    assert (found.held_out, found.split) == ("classes", "test")
    assert set(found.test) == {"g", "h", "a"}
    assert set(found.train) == set("bcdef")
    assert found.accuracy.mean > found.chance + 0.2
    assert sum(found.losses[-30:]) < sum(found.losses[:30])
    assert found.accuracy.low < found.accuracy.mean < found.accuracy.high
    assert len(found.losses) == 150
    assert found.curve.steps == (25, 50, 75, 100, 125, 150)
    again = run_few_shot(context, *given, **sizes)
    assert again == found  # recalled


def test_tasks_held_out() -> None:
    tasks = [clouds(name, 3, 10 * k) for k, name in enumerate("pqr")]
    found = run_few_shot(LocalContext(), ReferenceMetaLearner(), SPEC, Portfolio(tasks), held_out=["q"], **SMALL)
    assert (found.held_out, found.train, found.test) == ("tasks", ("p", "r"), ("q",))


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "no tasks to draw episodes from"),
        (clouds("c", 3), {"ways": 3}, r"3-way episodes need 3 classes to train on, got 0 \(none\)"),
        (
            clouds("c", 4),
            {"ways": 3, "held_out": ["a"]},
            "3-way episodes need 3 classes held out for the test, got 1 .a",
        ),
        (clouds("c", 4), {"held_out": ["z"]}, "class 'z' is not in the data"),
        ([clouds("c", 3), clouds("d", 3)], {"held_out": ["e"]}, "no task 'e' to hold out; the tasks are c, d"),
        ([clouds("c", 3), clouds("d", 3)], {"ways": 4}, "4-way episodes need 4 classes, task '[cd]' has 3: a, b, c"),
    ],
)
def test_what_cannot_be_learned_from(tasks: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_few_shot(LocalContext(), ReferenceMetaLearner(), SPEC, tasks, **(SMALL | options))
