"""LwF: several heads, the softmax over all classes seen, and a teacher that stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from crosstask_continual import Batch, ContinualModel, ScenarioWarning
from crosstask_continual.testing import forgetting, learned, pairs
from crosstask_lwf import LwF


def at_the_third_task(scenario: str) -> tuple[LwF, ContinualModel, nn.Module, Batch]:
    """A strategy at the start of the third task, the model with other weights, and the teacher as it must be."""
    strategy = LwF(weight=3.0, temperature=2.0)
    made = learned(strategy, scenario, epochs=1, count=2)
    task, model = pairs()[2], made.model
    model.add(task, 0)
    teacher = copy.deepcopy(model.network)
    strategy.task_begins(model, task)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    return strategy, model, teacher, model.data(task).part(slice(32))


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_penalty_by_its_definition(scenario: str) -> None:
    strategy, model, teacher, batch = at_the_third_task(scenario)
    outputs, wanted = model(batch.inputs), teacher(batch.inputs)
    found = strategy.penalty(model, batch, outputs)
    expected = torch.zeros(())
    spans = {"task": [(0, 2, 2), (2, 4, 4)], "domain": [(0, 2, 2)], "class": [(0, 4, 6)]}[scenario]
    for first, last, end in spans:
        p = functional.softmax(wanted[:, first:last] / 2, 1)
        q = functional.softmax(outputs[:, first:end] / 2, 1)[:, : last - first]  # in `class` over the new ones too
        expected = expected + 4 * (p * (p / q).log()).sum(1).mean()
    assert found is not None
    assert float(found.detach()) > 1e-4
    torch.testing.assert_close(found, 3 * expected)


def test_the_teacher_is_the_model_before_the_task_and_stays_it() -> None:
    strategy, model, teacher, _ = at_the_third_task("task")
    kept = strategy._teacher
    assert kept is not None
    assert not kept.training
    assert model.network.training
    for mine, theirs in zip(kept.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad


def test_no_teacher_in_the_first_task() -> None:
    none, kept = learned(None, count=1), learned(LwF(), count=1)
    for a, b in zip(none.model.parameters(), kept.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_forgets_less(scenario: str) -> None:
    none, kept = learned(None, scenario), learned(LwF(), scenario)
    assert forgetting(none) > 0.07
    assert forgetting(kept) < 0.6 * forgetting(none)


def test_class_incremental_warns_and_is_better_than_nothing() -> None:
    with pytest.warns(ScenarioWarning, match="the student sees no inputs of the old ones"):
        kept = learned(LwF(), "class")
    assert sum(kept.evaluate_all_tasks().values()) / 5 < 0.6
