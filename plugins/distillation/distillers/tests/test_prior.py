"""Alignment undoes any permutation of hidden units; mean, precision and penalty by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.points.distillation import Distilled
from crosstask.records import MetaKnowledge
from crosstask.tasks import Task
from crosstask_distillers import WeightPrior, align, prior_penalty


def mlp(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def conv(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
        )  # fmt: skip
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        return model.eval()


@torch.no_grad()
def shuffled(model: nn.Sequential, seed: int) -> nn.Sequential:
    """The same function with its hidden units in another order, made with an independent loop."""
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in made if isinstance(m, nn.Linear | nn.Conv2d)]
    for number, layer in enumerate(layers[:-1]):
        order = torch.randperm(layer.weight.shape[0], generator=generator)
        layer.weight.copy_(layer.weight[order].clone())
        layer.bias.copy_(layer.bias[order].clone())
        following = layers[number + 1]
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.Linear):
            columns = torch.cat([torch.arange(4) + 4 * int(k) for k in order])  # 2 x 2 places for each channel
        else:
            columns = order
        following.weight.copy_(following.weight[:, columns].clone())
        if number == 0 and isinstance(made[1], nn.BatchNorm2d):
            norm = made[1]
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(tensor[order].clone())
    return made


@given(st.integers(0, 999))
@settings(max_examples=8, deadline=None)
def test_any_permutation_is_undone(seed: int) -> None:
    for make, inputs in ((mlp, torch.randn(5, 6)), (conv, torch.randn(2, 2, 8, 8))):
        model = make(0)
        other = shuffled(model, seed)
        torch.testing.assert_close(other(inputs), model(inputs), atol=1e-5, rtol=1e-4)
        found, done = align(other, model)
        assert done
        for name, tensor in found.state_dict().items():
            torch.testing.assert_close(tensor, model.state_dict()[name], msg=name)


def test_the_function_stays_and_the_distance_falls() -> None:
    one, other, inputs = mlp(0), mlp(1), torch.randn(9, 6)
    found, done = align(other, one)
    assert done
    torch.testing.assert_close(found(inputs), other(inputs), atol=1e-5, rtol=1e-4)

    def apart(model: nn.Module) -> float:
        return sum(
            float((a - b).detach().square().sum()) for a, b in zip(model.parameters(), one.parameters(), strict=True)
        )

    assert apart(found) < 0.95 * apart(other)


def test_what_is_no_chain_is_left_as_it_is() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(self.two(self.one(inputs).relu()) + inputs)

    torch.manual_seed(0)
    one, other = Skip(), Skip()
    found, done = align(other, one)
    assert not done
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), other.parameters(), strict=True))
    assert align(mlp(0), conv(0))[1] is False


def moved(model: nn.Module, by: float) -> nn.Module:
    made = copy.deepcopy(model)
    with torch.no_grad():
        made[1].weight[0] += by
    return made


def task(name: str, model: nn.Module) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, output_dim=3), model=model)


def test_mean_and_precision_by_hand() -> None:
    """Three models that differ in the weights of one unit, by -0.2, 0 and 0.2, and in the order of their units."""
    base = mlp(0)
    models = [base, shuffled(moved(base, 0.2), 1), shuffled(moved(base, -0.2), 2)]
    found = WeightPrior(shrinkage=0.5).distill([task(str(n), m) for n, m in enumerate(models)], None)
    torch.testing.assert_close(found.tensors["mean.1.weight"], base[1].weight.detach())
    variance = torch.zeros(9, 6)
    variance[0] = 0.04
    expected = 1 / (0.5 * variance + 0.5 * variance.mean())
    torch.testing.assert_close(found.tensors["precision.1.weight"], expected, rtol=1e-3, atol=0)
    assert found.knowledge.applicability_conditions["aligned"] is True
    assert "mean.5.weight" not in found.tensors, "the head is not part of it"


def prior(mean: float, precision: list[float]) -> Distilled:
    tensors = {"mean.1.bias": torch.full((9,), mean), "precision.1.bias": torch.tensor(precision)}
    return Distilled(MetaKnowledge(kind="prior", source_tasks=("a",)), tensors)


def test_weights_in_which_tasks_agree_move_further() -> None:
    model, precision = mlp(0), [1.0] * 8 + [10.0]  # their mean is 2
    before = model[1].bias.detach()
    after = WeightPrior().apply(model, prior(1.0, precision), 0.5)[1].bias.detach()
    torch.testing.assert_close(after[:8], before[:8] + 0.5 * (2 / 3) * (1 - before[:8]))
    torch.testing.assert_close(after[8], before[8] + 0.5 * (1 - before[8]))
    with pytest.raises(DataError, match="no weight fits the prior"):
        WeightPrior().apply(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), prior(1.0, precision), 0.5)


def test_the_penalty_pulls_to_the_mean() -> None:
    model, precision = mlp(0), [1.0] * 8 + [10.0]
    penalty = prior_penalty(model, prior(1.0, precision))
    penalty.backward()
    expected = torch.tensor(precision) / 2 * (model[1].bias.detach() - 1)
    torch.testing.assert_close(model[1].bias.grad, expected)
    torch.testing.assert_close(penalty.detach(), 0.5 * (expected * (model[1].bias.detach() - 1)).sum())
