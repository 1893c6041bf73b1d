"""The weighted sum is gradient descent on all data; a balancer is given the sites' gradients as those of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.modules import seeded
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask_fed_gradients import FedGradients
from crosstask_federation import Gathered, Plan, Rounds, State, put
from crosstask_federation.testing import Counting, digits_at

WHOLE = Budget(batch_size=10_000)


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


def course(
    federation: FedGradients, budget: Budget = WHOLE, norm: bool = False, rounds: int = 5
) -> tuple[Any, list[Any]]:
    tasks = digits_at(3, train=120, test=40)
    sites = {task.task_id: task for task in tasks}
    plan = Plan(federation, budget, rounds=rounds, evaluate_every=rounds)
    return Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, network(norm)), 0, "test").run(), tasks


class Ones(Balancer):
    """The plain sum."""

    def balance(self, losses: Any, gradients: TaskGradients) -> Any:
        assert gradients.names == ("digits/0", "digits/1", "digits/2")
        assert bool((losses > 0).all())
        return torch.ones_like(losses)


@pytest.mark.parametrize("balancer", [None, Ones()], ids=["sum", "balancer of ones"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_sum_is_gradient_descent_on_all_data(double: None, balancer: Any, momentum: float) -> None:
    found, tasks = course(FedGradients(balancer=balancer, learning_rate=0.2, momentum=momentum))
    own = network()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.2, momentum=momentum)
    inputs, targets = (torch.cat([getattr(t.data(), part) for t in tasks]) for part in ("inputs", "targets"))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(inputs), targets).backward()
        optimizer.step()
    for name, p in own.named_parameters():
        assert float((p.detach() - found.state.shared[f"weights/{name}"]).abs().max()) < 1e-9


class NoConflict(Balancer):
    """For two tasks: each gradient without its part against the other, summed (Yu et al. 2020)."""

    def combine(self, gradients: Any) -> Any:
        one, two = gradients
        inner = float(one @ two)
        if inner >= 0:
            return one + two
        return (one - inner / (two @ two) * two) + (two - inner / (one @ one) * one)


def test_a_balancer_keeps_a_step_from_hurting_a_site() -> None:
    state = State({"weights/w": torch.zeros(2)})
    each = tuple(
        {"gradients/w": torch.tensor(g), "loss/mean": torch.tensor(1.0)} for g in ([2.0, 0.0], [-6.0, 2.0])
    )  # fmt: skip
    gathered = Gathered(("a", "b"), torch.tensor([0.5, 0.5]), each=each)
    plain = FedGradients(learning_rate=1.0).merge(state, gathered).shared["weights/w"]
    assert plain.tolist() == [2.0, -1.0]  # site a's loss rises along its gradient (1, 0)
    safe = FedGradients(learning_rate=1.0, balancer=NoConflict()).merge(state, gathered).shared["weights/w"]
    # (1, 0) + 3/10 (-3, 1) = (0.1, 0.3) and (-3, 1) + 3 (1, 0) = (0, 1)
    assert torch.allclose(safe, torch.tensor([-0.1, -1.3]))


def test_a_batch_is_drawn_and_statistics_are_averaged() -> None:
    found, _ = course(FedGradients(), Budget(batch_size=8), norm=True, rounds=2)
    assert int(found.state.shared["buffers/2.num_batches_tracked"]) == 2
    assert found.state.shared["buffers/2.num_batches_tracked"].dtype == torch.long
    other, _ = course(FedGradients(), WHOLE, norm=True, rounds=2)
    assert not torch.equal(found.state.shared["weights/1.weight"], other.state.shared["weights/1.weight"])


def test_what_a_module_keeps_besides_tensors_stays_at_its_site() -> None:
    sites = {task.task_id: task for task in digits_at(2, train=60, test=20)}
    model = nn.Sequential(Counting(), nn.Linear(64, 10))
    plan = Plan(FedGradients(), Budget(batch_size=16, steps=3), rounds=3, evaluate_every=3)
    found = Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, model), 0, "test").run()
    for name in sites:
        put(model, found.kept[name])
        assert model[0].seen == 3, "one gradient in each round"  # type: ignore[union-attr]
