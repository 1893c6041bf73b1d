"""EWC: the merged quadratic against a sum over tasks, the Fisher it takes, and what it keeps on digits."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.errors import RunError
from crosstask.options import component
from crosstask.tasks import Task
from crosstask.testing.references import ReferenceAdapter
from crosstask_continual import ContinualLearner, ContinualModel, ContinualStrategy, ScenarioWarning, adapt
from crosstask_continual.consolidation import Pull, merged
from crosstask_continual.testing import accuracy, forgetting, learned, learner, network, pairs
from crosstask_ewc import EWC, MAS


@component
class Textbook(ContinualStrategy):
    """Kirkpatrick et al. (2017), equation 3, as it is written: a term for every earlier task, differentiated; the
    Fisher from a backward pass for every sample.
    """

    capabilities = frozenset({"task", "domain"})

    def __attrs_post_init__(self) -> None:
        self.terms: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.strength = 50.0

    def penalty(self, model: ContinualModel, batch: Any, outputs: Tensor) -> Tensor | None:
        total = outputs.new_zeros(())
        for fisher, star in self.terms:
            for name, p in model.named_parameters():
                total = total + (fisher[name] * (p - star[name]) ** 2).sum()
        return self.strength / 2 * total

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        batch = model.data(task)
        fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for n in range(len(batch)):
            one = batch.part(slice(n, n + 1))
            loss = model.loss(model(one.inputs), one)
            for (_, total), g in zip(fisher.items(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                total += g**2 / len(batch)
        self.terms.append((fisher, {name: p.detach().clone() for name, p in model.named_parameters()}))


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_agrees_with_the_textbook(scenario: str) -> None:
    given = {"epochs": 1, "count": 3, "learning_rate": 0.02, "optimizer": "sgd"}
    ours, written = (learned(s, scenario, **given) for s in (EWC(strength=50.0), Textbook()))  # type: ignore[arg-type]
    for mine, theirs in zip(ours.model.parameters(), written.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 5), zeros=st.booleans())
def test_one_quadratic_has_the_gradient_of_the_sum(seed: int, tasks: int, zeros: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    importance: dict[str, Tensor] = {}
    centre: dict[str, Tensor] = {}
    model = nn.Linear(3, 2).double()
    x = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = {name: torch.zeros_like(value) for name, value in x.items()}
    for _ in range(tasks):
        new = {n: torch.rand(v.shape, generator=rng, dtype=v.dtype) for n, v in x.items()}
        if zeros:
            new["weight"][0] = 0
        at = {n: torch.randn(v.shape, generator=rng, dtype=v.dtype) for n, v in x.items()}
        for n in x:
            expected[n] += new[n] * (x[n] - at[n])
        importance, centre = merged(importance, centre, new, at)
    pull = Pull(model, importance, centre)
    pull.add_gradient(2.0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, 2 * expected[name])
    # The proximal step is where the gradient of |x - θ|²/2 + rate/2 Σ A (x - m)² vanishes.
    pull.step(0.7)
    for name, p in model.named_parameters():
        slope = (p.detach() - x[name]) + 0.7 * importance[name] * (p.detach() - centre[name])
        torch.testing.assert_close(slope, torch.zeros_like(slope))


@functools.cache
def forgetting_of_none() -> float:
    return forgetting(learned())


@pytest.mark.parametrize(
    "strategy",
    [EWC(), EWC(mode="online"), EWC(labels="expected", strength=1000.0)],
    ids=["offline", "online", "expected"],
)
def test_keeps_earlier_tasks_where_the_task_is_known(strategy: EWC) -> None:
    """Half the forgetting at least, and no worse on what comes new."""
    made = learned(strategy)
    assert forgetting_of_none() > 0.07
    assert forgetting(made) < 0.6 * forgetting_of_none()
    assert accuracy(made) > 0.92
    assert min(row[-1] or 0.0 for row in made.matrix) > 0.9


def test_class_incremental_stays_near_one_in_five() -> None:
    """The known failure: a better figure would mean that the identity of the task leaks."""
    with pytest.warns(ScenarioWarning, match="last task's classes win"):
        made = learned(EWC(), "class")
    assert accuracy(made) < 0.35


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
def test_with_replay_each_does_its_part() -> None:
    """In scenario `class` replay is what helps; beside it the penalty still holds the weights of earlier tasks."""
    moved = []
    for strength in (0.0, 1000.0):
        made = learned([EWC(strength=strength), {"use": "replay", "buffer_size": 200}], "class", count=4)
        strategy: Any = made.strategies[0]
        importance, centre = dict(strategy.importance), dict(strategy.centre)
        made.train_task(pairs()[4], num_epochs=8)
        now = dict(made.model.named_parameters())
        moved.append(sum(float((f * (now[n].detach() - centre[n]) ** 2).sum()) for n, f in importance.items()))
        assert accuracy(made) > 0.6
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
def test_with_replay_and_an_adapter_it_holds_what_is_trained() -> None:
    """The Fisher is that of the adapter and the head, and nothing pulls at the weights beneath them."""
    moved = []
    for strength in (0.0, 10.0):
        made_for = network()
        adapt(LocalContext(), ReferenceAdapter(), made_for, torch.Generator().manual_seed(0))
        base = {name: value.clone() for name, value in network().state_dict().items() if "head" not in name}
        strategies = [EWC(strength=strength, samples=50), {"use": "replay", "buffer_size": 200}]
        made = learner(strategies, "class", model=made_for)
        for task in pairs()[:3]:
            made.train_task(task, num_epochs=8)
        strategy: Any = made.strategies[0]
        importance, centre = dict(strategy.importance), dict(strategy.centre)
        assert set(importance) == {n for n, p in made.model.named_parameters() if p.requires_grad} == made.trained
        assert any("head" not in name and bool(value.any()) for name, value in importance.items())
        made.train_task(pairs()[3], num_epochs=8)
        now = dict(made.model.named_parameters())
        moved.append(sum(float((f * (now[n].detach() - centre[n]) ** 2).sum()) for n, f in importance.items()))
        assert all(torch.equal(value, made_for.state_dict()[name]) for name, value in base.items())
        assert accuracy(made) > 0.4  # a quarter is what knowing the last task alone is worth
    assert moved[1] < 0.5 * moved[0]


def test_the_penalty_is_not_silently_zero() -> None:
    """From the second task on the gradient is that of the task and that of the penalty; before, of the task alone."""
    made = learned(EWC(strength=1000.0), count=1)
    strategy: Any = made.strategies[0]
    assert all(bool(v.any()) for n, v in strategy.importance.items() if "head" not in n)
    model, task = made.model, pairs()[1]
    model.add(task, 0)
    strategy.task_begins(model, task)
    batch = model.data(task)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    model.loss(model(batch.inputs), batch).backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    strategy.after_backward(model)
    for n, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad - before[n], 1000 * 0.01 * strategy.importance[n], atol=1e-5, rtol=1e-3)


def test_the_proximal_form_stays_finite_where_gradients_do_not() -> None:
    given: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "count": 2, "epochs": 2}
    with pytest.raises(RunError, match="a weaker penalty"):
        learned(EWC(strength=1e9), **given)
    made = learned(EWC(strength=1e9, proximal=True), **given)
    assert made.matrix[1][0] is not None
    assert made.matrix[0][0] is not None
    assert made.matrix[1][0] > made.matrix[0][0] - 0.03


def test_a_fisher_of_zero_is_an_error() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = functional.relu(self.head(inputs.flatten(1)) - 1e6)
            return out

    made = ContinualLearner(Constant(), EWC(), scenario="domain")
    with pytest.raises(RunError, match=r"no weight is important after task 'digits:0.1': its penalty would do nothing"):
        made.train_task(pairs()[0], num_epochs=1)


def test_fewer_samples_and_frozen_weights() -> None:
    made_for = network(hidden=(16,))
    made_for.get_submodule("trunk").requires_grad_(False)
    strategy = EWC(samples=20)
    made = ContinualLearner(made_for, strategy)
    for task in pairs()[:2]:
        made.train_task(task, num_epochs=1)
    assert set(strategy.importance) == {"network.head.weight", "network.head.bias"}


def test_mas_holds_weights_that_matter_to_outputs() -> None:
    """The first task is forgotten less; at this default later tasks are learned less well in turn."""
    none, kept = learned(count=2), learned(MAS(strength=0.1), count=2)
    firsts = [made.matrix[1][0] or 0.0 for made in (none, kept)]
    assert firsts[1] > firsts[0] + 0.02


def test_mas_importance_by_its_definition() -> None:
    made = learned(MAS(), count=1, epochs=1)
    strategy: Any = made.strategies[0]
    task, model = pairs()[0], made.model
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    inputs = task.data("train").inputs
    for n in range(len(inputs)):
        norm = model(inputs[n : n + 1])[:, :2].square().sum()
        for p, g in zip(total.values(), torch.autograd.grad(norm, list(model.parameters())), strict=True):
            p += g.abs() / len(inputs)
    for name, value in total.items():
        torch.testing.assert_close(strategy.importance[name], value, atol=1e-5, rtol=1e-3)
