"""Averaging in closed form: gradient descent on all data, the proximal term, momentum at the server, what stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError
from crosstask.learning.modules import seeded
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_fedavg import FedAvg
from crosstask_federation import Gathered, Plan, Rounds, Site, State
from crosstask_federation.testing import digits, digits_at

RATE = 0.2
WHOLE = Budget(steps=1, batch_size=10_000, learning_rate=RATE, optimizer="sgd")


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def network(norm: bool = False) -> nn.Module:
    with seeded(0):
        middle = [nn.BatchNorm1d(16)] if norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *middle, nn.ReLU(), nn.Linear(16, 10))


def course(federation: FedAvg, tasks: list[Task], budget: Budget = WHOLE, norm: bool = False, **given: Any) -> Any:
    sites = {task.task_id: task for task in tasks}
    plan = Plan(federation, budget, **{"rounds": 3, "evaluate_every": 3, **given})
    return Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, network(norm)), 0, "test").run()


def test_one_step_on_all_data_of_each_site_is_gradient_descent_on_all_data(double: None) -> None:
    tasks = digits_at(4, train=120, test=40)
    assert len({len(task.data()) for task in tasks}) > 1  # sites of other sizes
    found = course(FedAvg(), tasks, rounds=10, evaluate_every=10).state.shared
    own = network()
    inputs, targets = (torch.cat([getattr(t.data(), part) for t in tasks]) for part in ("inputs", "targets"))
    for _ in range(10):
        own.zero_grad()
        nn.functional.cross_entropy(own(inputs), targets).backward()
        with torch.no_grad():
            for p in own.parameters():
                p -= RATE * p.grad
    for name, p in own.named_parameters():
        assert float((p.detach() - found[f"weights/{name}"]).abs().max()) < 1e-9


def quadratic(rows: int) -> tuple[Site, Any, Any]:
    """A site of least squares without an intercept, its inputs and values."""
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 1
    descriptor = TaskDescriptor(task_id="q", task_type="regression", output_dim=1, input_shape=(3,))
    with seeded(1):
        model = nn.Sequential(nn.Identity(), nn.Linear(3, 1, bias=False))
    budget = Budget(steps=1200, batch_size=rows, learning_rate=0.05, optimizer="sgd")
    return Site("q", Task(descriptor=descriptor, train=(x, y)), model, budget, torch.Generator().manual_seed(0)), x, y


def test_a_site_that_is_held_ends_where_the_proximal_point_is(double: None) -> None:
    """argmin 1/n |X w - y|² + mu/2 |w - w₀|²: (2/n XᵀX + mu) w = 2/n Xᵀy + mu w₀."""
    site, x, y = quadratic(20)
    start = site.network[1].weight.detach().clone()
    federation = FedAvg(mu=0.7)
    found = federation.local(site, federation.begin(site.network).shared).shared["weights/1.weight"]
    left = 2 / 20 * x.T @ x + 0.7 * torch.eye(3)
    right = 2 / 20 * x.T @ y + 0.7 * start.T
    assert float((found - torch.linalg.solve(left, right).T).abs().max()) < 1e-9


def test_momentum_at_the_server() -> None:
    federation = FedAvg(server_momentum=0.9, server_rate=0.5)
    state = State({"weights/w": torch.tensor([4.0]), "buffers/n": torch.tensor(3)})
    for mean, velocity, expected in ((2.0, 2.0, 3.0), (2.0, 2.8, 1.6)):  # v ← 0.9 v + (w - mean); w ← w - v/2
        total = {"weights/w": torch.tensor([mean]), "buffers/n": torch.tensor(4.6, dtype=torch.float64)}
        state = federation.merge(state, Gathered(("a",), torch.ones(1), total))
        assert float(state.shared["weights/w"]) == pytest.approx(expected)
        assert float(state.own["velocity/weights/w"]) == pytest.approx(velocity)
    assert state.shared["buffers/n"].dtype == torch.long
    assert int(state.shared["buffers/n"]) == 5


def test_statistics_of_batch_norm_are_averaged_or_stay() -> None:
    tasks = digits_at(2, train=100, test=40)
    averaged = course(FedAvg(), tasks, norm=True)
    assert int(averaged.state.shared["buffers/2.num_batches_tracked"]) == 3
    kept = course(FedAvg(keep=["batch_norm"]), tasks, norm=True)
    assert not [name for name in kept.state.shared if "/2." in name]
    own = [kept.kept[task.task_id] for task in tasks]
    assert not torch.equal(own[0]["buffers/2.running_mean"], own[1]["buffers/2.running_mean"])
    assert {int(each["buffers/2.num_batches_tracked"]) for each in own} == {3}
    assert sorted(own[0]) == [f"{form}/2.{name}" for form, name in (
        ("buffers", "num_batches_tracked"), ("buffers", "running_mean"), ("buffers", "running_var"),
        ("weights", "bias"), ("weights", "weight"),
    )]  # fmt: skip


def test_averaging_learns_what_no_site_knows() -> None:
    """Each site has half of the digits; only together all ten are told apart."""
    whole, parts = digits(), []
    for number in range(2):
        rows = (whole.data().targets % 2 == number).nonzero().flatten()[:200]
        task = whole.over(train=whole.data().take(rows), test=whole.data("test"))
        task.descriptor = TaskDescriptor(task_id=str(number), input_shape=(1, 8, 8), output_dim=10)
        parts.append(task)
    budget = Budget(steps=4, batch_size=50, learning_rate=0.1, optimizer="sgd")
    found = course(FedAvg(), parts, budget, rounds=30, evaluate_every=30)
    assert all(scores[-1] > 0.7 for scores in found.scores.values())  # a site alone cannot have more than 0.5


def test_what_cannot_stay_is_told() -> None:
    with pytest.raises(OptionError, match="keep cannot name 'heads'; did you mean 'head'"):
        FedAvg(keep=["heads"])
