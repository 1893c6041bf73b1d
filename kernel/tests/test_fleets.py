"""Members of a fleet learn what they would learn alone, whoever is with them."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.learning.fleets import Member, Phase, Trained, muster, train_fleet
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import forward, frozen, head_of, trunk_parameters
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.records import Budget
from crosstask.tasks import Task

BUDGET = Budget(steps=12, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=5)
WHOLE = (Phase(12),)
LP_FT = (Phase(6, head=True, rate=10.0), Phase(6))


def digit_task(name: str, labels: Any, kind: str = "classification", **more: Any) -> Task:
    """A task over scikit-learn's digits."""
    raw = load_digits()
    images = torch.tensor(raw.images).unsqueeze(1) / 16
    targets = labels(torch.tensor(raw.target))
    outputs = {"classification": int(targets.max()) + 1, "regression": 1}.get(kind, targets.shape[-1])
    descriptor = TaskDescriptor(task_id=name, task_type=kind, input_shape=(1, 8, 8), output_dim=outputs)
    splits = {"train": slice(200), "validation": slice(200, 290), "test": slice(300, 350)}
    return Task(descriptor=descriptor, **{s: (images[part], targets[part]) for s, part in splits.items()}, **more)


def tasks() -> list[Task]:
    return [
        digit_task("ten", lambda t: t),
        digit_task("parity", lambda t: t % 2),
        digit_task("thirds", lambda t: t % 3),
        digit_task("low", lambda t: (t < 5).long()),
    ]


class Doubled(nn.Module):
    """Data are kept in single precision: here they become double."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def in_double(model: nn.Module) -> nn.Module:
    """The same model in double precision, to compare to 1e-9."""
    model.trunk.insert(0, Doubled())  # type: ignore[operator,union-attr]
    return model.double()


def member(task: Task, seed: int, budget: Budget = BUDGET, spec: Any = None, phases: Any = WHOLE) -> Member:
    model = spec if isinstance(spec, nn.Module) else in_double((spec or ModelSpec()).build(task.descriptor, 0))
    task = drawn(task, budget.samples, seed)
    return Member(fresh_model(model, task, seed), task, budget, phases, seed)


def by_the_loop(given: Member, curve: str | None = "validation") -> tuple[History, float, nn.Module]:
    """What `fit` makes of a copy: the reference."""
    model, generator, history = copy.deepcopy(given.model), torch.Generator().manual_seed(given.seed), History()
    for phase in given.phases:
        budget = attrs.evolve(given.budget, learning_rate=phase.rate * given.budget.learning_rate)
        with frozen(trunk_parameters(model) if phase.head else []):
            history.extend(fit(model, given.task, budget, generator, steps=phase.steps, curve_split=curve))
    return history, evaluate(model, given.task, "validation"), model


def assert_same(members: list[Member]) -> None:
    expected = [by_the_loop(each) for each in members]
    found = train_fleet(members, curve_split="validation", score_split="validation")
    for each, (history, score, model), result in zip(members, expected, found, strict=True):
        assert isinstance(result, Trained), result
        assert result.history.steps == history.steps
        torch.testing.assert_close(result.history.losses, history.losses, rtol=0, atol=1e-9)
        assert result.history.values == pytest.approx(history.values, abs=1e-9)
        assert result.score == pytest.approx(score, abs=1e-9)
        for (name, one), (_, other) in zip(each.model.named_parameters(), model.named_parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


CONV = ModelSpec(kind="conv", hidden=(8, 16))


@pytest.mark.parametrize("phases", [WHOLE, LP_FT], ids=["whole", "lp_ft"])
@pytest.mark.parametrize("spec", [ModelSpec(), CONV], ids=["mlp", "conv"])
def test_a_fleet_learns_what_the_loop_does(spec: ModelSpec, phases: Any) -> None:
    """Tasks with 10, 2, 3 and 2 classes in one fleet, two seeds each, in double precision: to 1e-9."""
    assert_same([member(task, seed, spec=spec, phases=phases) for task in tasks() for seed in (3, 8)])


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "sgd", "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 3},
        {"weight_decay": 0.01, "schedule": "linear", "clip": 0.05},
        {"samples": None, "batch_size": 300},
    ],
    ids=["sgd", "adamw", "clip", "whole batches"],
)
def test_what_a_budget_can_ask_for(more: dict[str, Any]) -> None:
    budget = attrs.evolve(BUDGET, **more)
    assert_same([member(task, seed, budget, phases=LP_FT) for task in tasks()[:3] for seed in (1, 2)])
