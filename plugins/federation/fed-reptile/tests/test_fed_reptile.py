"""The server's step, the exact gradient of a start in closed form, and sites that are served better for adapting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import RunError
from crosstask.learning.modules import seeded
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_fed_reptile import FedReptile, PerFedAvg
from crosstask_federation import Federation, Gathered, Plan, Rounds, Site, State, put
from crosstask_federation.testing import Counting, digits_at


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_a_part_of_the_way_to_the_mean() -> None:
    state = State({"weights/w": torch.tensor([1.0]), "buffers/n": torch.tensor(2)})
    total = {"weights/w": torch.tensor([3.0]), "buffers/n": torch.tensor(4.0)}
    made = FedReptile(server_rate=0.25).merge(state, Gathered(("a",), torch.ones(1), total)).shared
    assert (float(made["weights/w"]), int(made["buffers/n"])) == (1.5, 4)


def quadratic(**budget: Any) -> tuple[Site, Any, Any]:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 1
    descriptor = TaskDescriptor(task_id="q", task_type="regression", output_dim=1, input_shape=(3,))
    with seeded(1):
        model = nn.Sequential(nn.Identity(), nn.Linear(3, 1, bias=False))
    given = Budget(**{"steps": 1, "batch_size": 20, "learning_rate": 0.1, "optimizer": "sgd", **budget})
    return Site("q", Task(descriptor=descriptor, train=(x, y)), model, given, torch.Generator().manual_seed(0)), x, y


@pytest.mark.parametrize("order", ["full", "first"])
def test_the_gradient_of_a_start(double: None, order: str) -> None:
    """f(w) = 1/n |X w - y|², H = 2/n XᵀX: w ← w - β (I - α H) ∇f(w - α ∇f(w)); without the first factor by order
    'first'.
    """
    alpha, beta = 0.3, 0.1
    site, x, y = quadratic()
    w = site.network[1].weight.detach().clone().T
    for _ in range(1):
        hessian = 2 / 20 * x.T @ x
        inner = w - alpha * (hessian @ w - 2 / 20 * x.T @ y)
        gradient = hessian @ inner - 2 / 20 * x.T @ y
        w = w - beta * (gradient - alpha * hessian @ gradient if order == "full" else gradient)
    federation = PerFedAvg(alpha=alpha, order=order)
    found = federation.local(site, federation.begin(site.network).shared).shared["weights/1.weight"]
    assert float((found.T - w).abs().max()) < 1e-9


def test_a_loss_that_diverges_is_told() -> None:
    site, _, _ = quadratic(steps=400, learning_rate=1e3)
    federation = PerFedAvg(alpha=10.0, order="first")
    with pytest.raises(RunError, match=r"the loss is .* at step .*; try a smaller learning rate"):
        federation.local(site, federation.begin(site.network).shared)


def accuracy(federation: Federation, alpha: float = 0.15) -> float:
    from crosstask.learning.models import ModelSpec
    from crosstask_federation.splits import Split, split_task
    from crosstask_federation.testing import digits

    tasks = split_task(digits(train=400), Split(by="label", sites=4, alpha=alpha), torch.Generator().manual_seed(0))
    sites = {task.task_id: task for task in tasks}
    network = ModelSpec(hidden=(32,)).build(tasks[0].descriptor, 0)
    budget = Budget(steps=5, batch_size=32, learning_rate=0.1, optimizer="sgd")
    plan = Plan(federation, budget, rounds=12, evaluate_every=12)
    found = Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, network), 0, "test").run()
    sizes = [len(task.data("test")) for task in tasks]
    return sum(s * found.scores[n][-1] for s, n in zip(sizes, sites, strict=True)) / sum(sizes)


class Unadapted(FedReptile):
    """The same start, as it is."""

    def model_for(self, site: Any, sent: Any) -> Any:
        return site.received(sent)


def test_sites_of_other_classes_are_served_better_by_a_model_of_their_own() -> None:
    adapted = accuracy(FedReptile())
    assert adapted > 0.75
    assert adapted > accuracy(Unadapted()) + 0.05
    assert accuracy(PerFedAvg(adapt_steps=5)) > 0.6


def test_what_a_module_keeps_besides_tensors_stays_at_its_site() -> None:
    model = nn.Sequential(Counting(), nn.Linear(64, 10))
    sites = {task.task_id: task for task in digits_at(2, train=60, test=20)}
    budget = Budget(batch_size=16, steps=3, learning_rate=0.1)
    plan = Plan(PerFedAvg(), budget, rounds=2, evaluate_every=2)
    found = Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, model), 0, "test").run()
    for name in sites:
        put(model, found.kept[name])
        assert model[0].seen == 2 * 3 * 2, "two gradients in each step"  # type: ignore[union-attr]
