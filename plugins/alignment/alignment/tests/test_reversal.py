"""The layer that reverses gradients, alone, in a balancer, and its schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.errors import CrosstaskError
from crosstask.testing.references import ReferenceBalancer
from crosstask_alignment import Critic, GradientReversalLayer, reversal_strength


def test_forward_is_the_identity_and_backward_minus_alpha_times_the_gradient() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [-1.0, 0.25]])
    made: Any = GradientReversalLayer.apply(x, 0.3)
    assert torch.equal(made, x)
    (made * weights).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, -0.3 * weights)


def test_alpha_gets_no_gradient() -> None:
    alpha = torch.tensor(2.0, requires_grad=True)
    x = torch.ones(3, requires_grad=True)
    made: Any = GradientReversalLayer.apply(x, alpha)
    made.sum().backward()
    assert alpha.grad is None
    assert x.grad is not None
    assert x.grad.tolist() == [-2, -2, -2]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_the_schedule_is_that_of_the_paper(p: float) -> None:
    assert reversal_strength(p) == pytest.approx(2 / (1 + math.exp(-10 * p)) - 1, abs=1e-15)


def test_a_steep_schedule_does_not_overflow() -> None:
    assert reversal_strength(1.0, 1e6) == 1


@pytest.mark.parametrize("p", [-0.1, 1.01, math.nan])
def test_progress_outside_zero_to_one_is_refused(p: float) -> None:
    with pytest.raises(CrosstaskError, match="progress is the part of the training that is done, from 0 to 1"):
        reversal_strength(p)


@pytest.mark.parametrize("mode", ["auto", "layers", "matrix", "batched"])
def test_a_domain_loss_is_one_more_loss_of_a_balancer(mode: Any) -> None:
    torch.manual_seed(0)
    trunk, head, critic = nn.Linear(4, 3), nn.Linear(3, 2), Critic(3, (5,), 2)
    x, y, domain = torch.randn(12, 4), torch.arange(12) % 2, torch.arange(12) // 6

    def losses() -> dict[str, torch.Tensor]:
        features = trunk(x)
        return {
            "task": nn.functional.cross_entropy(head(features), y),
            "domain": nn.functional.cross_entropy(critic(features, 0.5), domain),
        }

    parts = [*trunk.parameters(), *head.parameters(), *critic.parameters()]
    wanted = [torch.autograd.grad(losses()[name], [*trunk.parameters()]) for name in ("task", "domain")]
    plain = torch.autograd.grad(losses()["domain"], [*critic.parameters()])
    ReferenceBalancer().backward(losses(), mode=mode)
    assert all(p.grad is not None for p in parts)
    for parameter, one, other in zip(trunk.parameters(), *wanted, strict=True):
        assert torch.allclose(parameter.grad, (one + other) / 2, atol=1e-6)  # type: ignore[arg-type]
    for parameter, gradient in zip(critic.parameters(), plain, strict=True):  # its own: not reversed
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)  # type: ignore[arg-type]


def test_it_is_differentiated_and_vmapped_by_torch_func() -> None:
    x = torch.randn(3, 2)

    def loss(row: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = GradientReversalLayer.apply(row, 0.5)
        return turned.square().sum()

    assert torch.equal(torch.func.grad(loss)(x), -x)
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(x), -x)
