"""SI: the path integral by hand, and that it differs from no strategy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.options import component
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy, ScenarioWarning
from crosstask_continual.testing import forgetting, learned, learner, network, pairs
from crosstask_si import SI


@component
class ByHand(ContinualStrategy):
    """Zenke et al. (2017) as it is written: the penalty is differentiated, the task's own gradient taken apart."""

    capabilities = frozenset({"task", "domain"})

    def __attrs_post_init__(self) -> None:
        self.omega: dict[str, Tensor] = {}
        self.star: dict[str, Tensor] = {}

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self.start = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.small = {n: torch.zeros_like(p) for n, p in model.named_parameters()}

    def penalty(self, model: ContinualModel, batch: Any, outputs: Tensor) -> Tensor | None:
        named = dict(model.named_parameters())
        loss = functional.cross_entropy(model.masked(outputs, batch.task_ids), batch.targets)
        self.gradient = dict(
            zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True)
        )
        self.before = {n: p.detach().clone() for n, p in named.items()}
        total = outputs.new_zeros(())
        for n, p in named.items():
            if n in self.omega:
                total = total + (self.omega[n] * (p - self.star[n]) ** 2).sum()
        return total

    def after_step(self, model: ContinualModel) -> None:
        for n, p in model.named_parameters():
            self.small[n] -= self.gradient[n] * (p.detach() - self.before[n])

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        for n, p in model.named_parameters():
            new = self.small[n].clamp_min(0) / ((p.detach() - self.start[n]) ** 2 + 1e-3)
            self.omega[n] = self.omega.get(n, torch.zeros_like(new)) + new
            self.star[n] = p.detach().clone()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_is_what_the_paper_writes(optimizer: str) -> None:
    given: dict[str, Any] = {"epochs": 1, "count": 3, "optimizer": optimizer, "learning_rate": 3e-3}
    ours, written = learned(SI(), **given), learned(ByHand(), **given)
    for mine, theirs in zip(ours.model.parameters(), written.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3 if optimizer == "adam" else 1e-5, rtol=1e-3)


def test_path_adds_up_to_the_fall_of_the_loss() -> None:
    """With small steps on one batch, Σ ω is what the loss fell by (Zenke et al. 2017, equation 3)."""
    task = pairs()[0]
    data = task.data("train")
    one = Task(descriptor=task.descriptor, train=(data.inputs[:64], data.targets[:64]))
    strategy = SI()
    made = learner(strategy, model=network(2, (16,)), optimizer="sgd", learning_rate=1e-3, batch_size=64)
    made.model.add(one, 0)
    batch = made.model.data(one)
    before = float(made.model.loss(made.model(batch.inputs), batch).detach())
    strategy.task_begins(made.model, one)
    made._epochs(batch, 30, "one", made._asked)
    fell = before - float(made.model.loss(made.model(batch.inputs), batch).detach())
    path = strategy._path
    assert path is not None
    assert fell > 0.02
    assert sum(float(w.sum()) for w in path.work) == pytest.approx(fell, rel=0.05)


def test_differs_from_no_strategy_and_forgets_less() -> None:
    none, kept = learned(None), learned(SI())
    assert any(not torch.equal(a, b) for a, b in zip(none.model.parameters(), kept.model.parameters(), strict=True))
    assert forgetting(none) > 0.07
    assert forgetting(kept) < 0.7 * forgetting(none)


def test_importance_is_of_the_task_without_the_penalty() -> None:
    """A penalty a thousand times stronger moves the weights less, and does not make them more important."""
    weak, strong = SI(strength=1e-6), SI(strength=1e3)
    for strategy in (weak, strong):
        learned(strategy, epochs=2, count=2, learning_rate=1e-3)
    totals = [sum(float(v.sum()) for v in s.importance.values()) for s in (weak, strong)]
    assert totals[1] < 2 * totals[0]


def test_class_incremental_stays_near_one_in_five() -> None:
    with pytest.warns(ScenarioWarning, match="no loss ever compares a class"):
        made = learned(SI(), "class")
    assert sum(made.evaluate_all_tasks().values()) / 5 < 0.4


def test_a_complex_weight_matters_as_both_its_parts_together() -> None:
    generator = torch.Generator().manual_seed(0)
    start, step, slope = (torch.randn(4, 2, generator=generator) for _ in range(3))

    def learned_by(weight: torch.Tensor, change: torch.Tensor, gradient: torch.Tensor) -> Any:
        model: Any = torch.nn.Module()
        model.weight = torch.nn.Parameter(weight.clone())
        strategy = SI(xi=1e-2)
        strategy.task_begins(model, pairs()[0])
        model.weight.grad = gradient.clone()
        strategy.after_backward(model)
        with torch.no_grad():
            model.weight += change
        strategy.after_step(model)
        return strategy, model

    made, model = learned_by(*(torch.view_as_complex(t) for t in (start, step, slope)))
    other, _ = learned_by(start, step, slope)
    work = other._path.work[0].sum(-1)
    made.task_ends(model, pairs()[0])
    torch.testing.assert_close(made.importance["weight"], work.clamp_min(0) / (step.square().sum(-1) + 1e-2))
