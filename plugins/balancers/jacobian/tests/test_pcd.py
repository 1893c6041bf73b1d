"""Priority-constrained descent: its closed form for two tasks, TorchJD's figures, what a priority means."""

import math

import pytest
import torch
from torch import Tensor

from crosstask import RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask_jacobian import PCD


def draw(tasks: int, size: int, seed: int) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5, 1.0])
def test_two_tasks_by_the_closed_form(tau: float) -> None:
    for seed in range(6):
        first, second = matrix = draw(2, 5, seed)
        n1, n2 = first / first.norm(), second / second.norm()  # one step: the mean squared length is the gradient's own
        short = max(tau - float(n1 @ n2), 0.0)
        direction = n1 + short * n2
        expected = direction * first.norm() / direction.norm()
        torch.testing.assert_close(PCD(tau=tau, eps=0.0).combine(matrix), expected, rtol=1e-6, atol=1e-6)


def test_values_of_torchjd() -> None:
    """Over steps, so that the running means of the squared lengths differ from those of the step."""
    peer = pytest.importorskip("torchjd.aggregation").PCD
    for tasks, tau, beta in ((1, 0.02, 0.9), (3, 0.02, 0.9), (4, 0.3, 0.0), (6, 0.7, 0.999)):
        theirs, ours = peer(tau=tau, beta=beta), PCD(tau=tau, beta=beta)
        for seed in range(5):
            matrix = draw(tasks, 12, seed) * torch.logspace(-1, 1, tasks, dtype=torch.float64)[:, None]
            torch.testing.assert_close(ours.combine(matrix), theirs(matrix), rtol=1e-5, atol=1e-6)
    matrix, tau = draw(3, 8, 1), torch.tensor([0.1, 0.9], dtype=torch.float64)
    named = MatrixGradients(matrix, ("main", "b", "c"))
    weights = PCD(tau={"b": 0.1, "c": 0.9}).balance(torch.ones(3).double(), named)
    torch.testing.assert_close(weights @ matrix, peer(tau=tau)(matrix), rtol=1e-5, atol=1e-6)


def test_every_other_task_gets_its_part() -> None:
    matrix = draw(4, 10, 0)
    found = PCD(tau=0.25, eps=0.0).combine(matrix)
    assert float(found.norm()) == pytest.approx(float(matrix[0].norm()))
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    weights = PCD(tau=0.25, eps=0.0).balance(torch.ones(4).double(), MatrixGradients(matrix))
    assert isinstance(weights, Tensor)
    direction = found / (float(weights[0]) * matrix[0].norm())  # in which the primary's unit gradient has weight 1
    assert float((unit[1:] @ direction).min()) >= 0.25 - 1e-8


def test_what_cannot_be_had_is_left_out() -> None:
    """Two others that pull in opposite directions cannot both gain: the primary gradient alone. Nothing without it."""
    matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(PCD().combine(matrix.to(dtype)), matrix[0].to(dtype))
        assert not PCD().combine(torch.cat([torch.zeros(1, 2), matrix]).to(dtype)).any()
    cancel = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert not PCD(tau=0.0).combine(cancel).any()  # the nearest direction that does not harm the other is none


def test_what_can_only_just_be_had() -> None:
    """Two others that are all but opposite gain both only in a narrow cone whose apex is far away, at tau / sin."""
    peer = pytest.importorskip("torchjd.aggregation").PCD
    for angle in (1e-2, 1e-3, 1e-4):
        others = [[math.sin(angle), math.cos(angle)], [math.sin(angle), -math.cos(angle)]]
        matrix = torch.tensor([[-1.0, 0.5], *others], dtype=torch.float64)
        found = PCD(tau=0.5).combine(matrix)
        # The apex is the nearest point of the cone: the update has its direction, and the length of the primary's
        torch.testing.assert_close(found, torch.tensor([1.25**0.5, 0.0], dtype=torch.float64), rtol=1e-5, atol=2e-4)
        torch.testing.assert_close(found, peer(tau=0.5)(matrix), rtol=1e-4, atol=1e-4)


def test_the_primary_task_by_name() -> None:
    matrix = draw(3, 6, 2)
    by_name = PCD(primary="c")
    found = by_name.balance(torch.ones(3).double(), MatrixGradients(matrix, ("a", "b", "c")))
    expected = PCD().balance(torch.ones(3).double(), MatrixGradients(matrix[[2, 0, 1]]))
    assert isinstance(found, Tensor)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(found[[2, 0, 1]], expected)
    with pytest.raises(RunError, match="primary task 'c' is not in the step; valid: a, b"):
        by_name.balance(torch.ones(2), MatrixGradients(matrix[:2], ("a", "b")))
    with pytest.raises(RunError, match="tau has no number for task 'b'; did you mean 'bb'"):
        PCD(tau={"bb": 0.1}).balance(torch.ones(2), MatrixGradients(matrix[:2], ("a", "b")))


def test_the_mean_is_that_of_the_tasks_own_steps() -> None:
    balancer = PCD(beta=0.5)
    losses = torch.ones(2).double()
    balancer.balance(losses, MatrixGradients(torch.diag(torch.tensor([1.0, 2.0])).double(), ("a", "b")))
    balancer.balance(losses, MatrixGradients(torch.diag(torch.tensor([3.0, 4.0])).double(), ("a", "c")))
    assert balancer.average == pytest.approx({"a": 0.25 + 4.5, "b": 2.0, "c": 8.0})
    assert balancer.updates == {"a": 2, "b": 1, "c": 1}
    assert math.isclose(balancer.average["a"] / (1 - 0.5**2), (1 + 2 * 9) / 3)
