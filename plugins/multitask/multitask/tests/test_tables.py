"""Tasks over one table: one draw, one pass through the trunk, and the gradients of separate passes."""

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.modules import forward
from crosstask.learning.objectives import loss_of
from crosstask.options import component
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import Portfolio
from crosstask_multitask import MultiTaskTrainer, Sampler
from crosstask_multitask.tables import tables_of
from crosstask_multitask.testing import Heads, ReferenceSharing


@component
class Equal(Balancer):
    """The sum."""

    weighs_losses = True

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.ones_like(losses)


class Counting(nn.Module):
    """A trunk for one input or two, that notes how many samples each of its passes had."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 8).double()
        self.passes: list[int] = []

    def forward(self, left: Tensor, right: Tensor | None = None) -> tuple[Tensor, str]:
        self.passes.append(len(left))
        whole = left if right is None else torch.cat([left, right], dim=1)
        return torch.tanh(self.layer(whole.double())), "and what else a network may return"


def portfolio(several: bool = False) -> Portfolio:
    images, digit = load_digits(return_X_y=True)
    inputs: Any = torch.from_numpy(images) / 16
    if several:
        inputs = {"left": inputs[:, :24], "right": inputs[:, 24:]}
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(len(images), 3, generator=generator) < torch.tensor([0.9, 0.5, 0.3])
    ink = torch.from_numpy(images).mean(dim=1).double()
    ink = (ink - ink.mean()) / ink.std()
    targets = {"digit": torch.from_numpy(digit), "parity": torch.from_numpy(digit % 2), "ink": ink}
    return Portfolio.from_table(
        inputs, targets, mask=mask, descriptors={"ink": TaskDescriptor(task_id="ink", task_type="regression")},
        splits={"train": range(1200), "validation": range(1200, 1500), "test": range(1500, 1797)},
    )  # fmt: skip


class OnePass(Heads):
    """As a sharing that passes a batch once writes it."""

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        batches = {id(batch): batch for batch in inputs.values()}
        features = {key: forward(self.trunk, batch) for key, batch in batches.items()}
        return {task_id: self.heads[task_id](features[id(batch)]) for task_id, batch in inputs.items()}


def trainer(several: bool = False, sampler: Sampler | None = None, **more: Any) -> MultiTaskTrainer:
    tasks = list(portfolio(several))
    built = ReferenceSharing().build(tasks, Counting())
    assert isinstance(built, Heads)
    module = OnePass(built.trunk, dict(built.heads.items())).double()
    budget = Budget(**{"steps": 5, "batch_size": 60, "learning_rate": 0.01, **more})
    return MultiTaskTrainer(module, tasks, Equal(), budget, LocalContext(), sampler)


@pytest.mark.parametrize("several", [False, True])
def test_one_pass_over_the_rows_of_all_tasks(several: bool) -> None:
    made = trainer(several)
    made.module.trunk.passes.clear()
    for number in range(1, 6):
        assert set(made.step(number)) == {"digit", "parity", "ink"}
    # 60 rows were drawn each time, of which those without any label (of 100 about 3.5) are not passed.
    assert len(made.module.trunk.passes) == 5
    assert all(50 <= count <= 60 for count in made.module.trunk.passes)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_are_those_of_separate_passes(several: bool) -> None:
    made = trainer(several)
    module = made.module
    rows = next(made._stream("digit"))  # what the trainer will draw
    module.trunk.passes.clear()
    losses = made.losses(made.tasks)
    assert len(module.trunk.passes) == 1
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    module.zero_grad()
    (table,) = tables_of({t.task_id: t.data() for t in made.tasks})
    chosen = set(rows.tolist())
    known = torch.unique(torch.cat([t.data().rows for t in made.tasks]))  # type: ignore[misc]
    for task in made.tasks:
        data = task.data()
        assert data.rows is not None
        places = [n for n, row in enumerate(data.rows.tolist()) if int((known == row).nonzero()) in chosen]
        own = data.take(torch.tensor(places))
        assert isinstance(own.inputs, MultiInput) == several
        loss = loss_of(task)(module({task.task_id: own.inputs})[task.task_id], own.targets)
        torch.testing.assert_close(loss, losses[task.task_id])
        loss.backward()
    assert len(module.trunk.passes) == 4
    assert len(table) == len(known)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name])


def test_a_task_without_a_label_in_the_draw_is_not_in_the_step() -> None:
    made = trainer(batch_size=3)  # three rows a step: a task of which a third has labels is often missing
    before: dict[str, int] = {}
    for number in range(1, 16):
        losses = made.step(number)
        assert losses
        for task_id in losses:
            before[task_id] = before.get(task_id, 0) + 1
    assert {t: len(v) for t, v in made.history.items()} == before
    assert before["ink"] < 15


def test_a_sampler_takes_some_of_them() -> None:
    @component
    class Ink(Sampler):
        def sample(self, tasks: list[str], history: Any, rng: torch.Generator) -> list[str]:
            return ["ink"]

    made = trainer(sampler=Ink())
    made.module.trunk.passes.clear()
    assert set(made.step(1)) == {"ink"}
    assert made.module.trunk.passes[0] < 40  # of 60 rows about 18 have its label


def test_training_is_resumed_and_learns() -> None:
    whole = trainer(steps=80, evaluate_every=20, learning_rate=0.05)
    whole.fit()
    first = trainer(steps=80, evaluate_every=20, learning_rate=0.05)
    for number in range(1, 26):
        first.step(number, record=number % 20 == 0 or number == 1)
    second = trainer(steps=80, evaluate_every=20, learning_rate=0.05)
    second.load_state_dict(first.state_dict())
    second.fit()
    assert second.history == whole.history
    assert second.curves == whole.curves
    assert whole.scores("test")["digit"] > 0.8


def test_tables_hold_each_row_once() -> None:
    tasks = list(portfolio())
    (table,) = tables_of({t.task_id: t.data() for t in tasks})
    for task in tasks:
        place = table.places[task.task_id]
        assert int((place >= 0).sum()) == len(task.data())
        assert isinstance(table.inputs, Tensor)
        assert torch.equal(table.inputs[place >= 0], task.data().inputs[place[place >= 0]])
    assert tables_of({"digit": tasks[0].data()}) == []
