"""GradNorm against autograd through its loss, and what the paper promises of it."""

import numpy as np
import pytest
import torch

from crosstask import OptionError, RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask_gradnorm import GradNorm
from crosstask_gradnorm.gradnorm import slopes


def test_slopes_agree_with_autograd() -> None:
    rng = np.random.default_rng(0)
    weights, norms, progress = rng.uniform(0.1, 2, size=(3, 6))
    free = torch.tensor(weights, requires_grad=True)
    scaled = free * torch.tensor(norms)
    rate = torch.tensor(progress / progress.mean())
    target = (scaled.mean() * rate**0.12).detach()
    (scaled - target).abs().sum().backward()
    np.testing.assert_allclose(slopes(weights, norms, progress, 0.12), free.grad.numpy())


def test_first_answer_is_ones_and_weights_keep_their_sum() -> None:
    balancer = GradNorm()
    gradients = MatrixGradients(torch.randn(3, 9, generator=torch.Generator().manual_seed(0)))
    losses = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(balancer.balance(losses, gradients), torch.ones(3))
    for _ in range(50):
        weights = balancer.balance(losses, gradients)
        assert weights.sum() == pytest.approx(3, rel=1e-6)
        assert (weights > 0).all()


def test_norms_become_equal() -> None:
    """With losses that stand still every target is the mean norm, so w_i n_i must become equal."""
    balancer = GradNorm(learning_rate=0.01)
    gradients = MatrixGradients(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
    for _ in range(1000):
        weights = balancer.balance(torch.ones(3), gradients)
    scaled = weights * torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(scaled, scaled.mean().expand(3), rtol=0.05, atol=0)


def test_a_slow_task_gains() -> None:
    balancer = GradNorm(alpha=1.5)
    gradients = MatrixGradients(torch.eye(2))
    for step in range(100):
        weights = balancer.balance(torch.tensor([1.0, 0.97**step]), gradients)
    assert weights[0] > 1.5 > weights[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_state_survives(optimizer: str) -> None:
    draws = torch.Generator().manual_seed(0)
    steps = [(torch.rand(3, generator=draws) + 0.1, torch.randn(3, 5, generator=draws)) for _ in range(6)]
    first, second = GradNorm(optimizer=optimizer), GradNorm(optimizer=optimizer)
    for losses, matrix in steps[:3]:
        first.balance(losses, MatrixGradients(matrix))
    second.load_state_dict(first.state_dict())
    for losses, matrix in steps[3:]:
        assert torch.equal(
            first.balance(losses, MatrixGradients(matrix)), second.balance(losses, MatrixGradients(matrix))
        )


def test_errors() -> None:
    with pytest.raises(OptionError, match="alpha"):
        GradNorm(alpha=-1)
    with pytest.raises(OptionError, match="optimizer"):
        GradNorm(optimizer="lbfgs")
    balancer = GradNorm()
    with pytest.raises(RunError, match="positive"):
        balancer.balance(torch.tensor([1.0, -1.0]), MatrixGradients(torch.eye(2)))
    balancer.balance(torch.ones(2), MatrixGradients(torch.eye(2)))
    with pytest.raises(RunError, match="remembers 2 tasks, was given 3"):
        balancer.balance(torch.ones(3), MatrixGradients(torch.eye(3)))
    with pytest.raises(RunError, match="task 1 is not finite"):
        balancer.balance(torch.ones(2), MatrixGradients(torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])))


def test_only_the_weights_are_trained_by_its_loss() -> None:
    """`.grad` after backward is that of Σ w_i L_i with the returned weights, and nothing else."""
    trunk = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    balancer = GradNorm()
    for _ in range(3):
        trunk.grad = None
        weights = balancer.backward([(trunk**2).sum(), (3 * trunk).sum()], shared=[trunk])
        torch.testing.assert_close(trunk.grad, weights[0] * 2 * trunk.detach() + weights[1] * 3)
