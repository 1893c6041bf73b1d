"""Advantages and returns against sums written out, and where an episode ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask_reinforcement.returns import discounted_returns, gae


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def never(steps: int) -> Tensor:
    return torch.zeros(steps, 1, dtype=torch.bool)


def test_advantages_are_the_sum_of_discounted_errors() -> None:
    """Schulman et al. 2016, equation 16: the sum over l of (gamma lambda)^l delta_{t+l}."""
    rewards, values, following = column(1, 2, 3), column(0.5, 0.25, 2), column(0.25, 2, 4)
    gamma, trace = 0.9, 0.7
    deltas = [1 + 0.9 * 0.25 - 0.5, 2 + 0.9 * 2 - 0.25, 3 + 0.9 * 4 - 2]
    wanted = [sum((gamma * trace) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)]
    found = gae(rewards, values, following, never(3), never(3), discount=gamma, trace=trace)
    torch.testing.assert_close(found[:, 0], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 7])
def test_a_constant_reward_has_the_geometric_sum(steps: int) -> None:
    """With lambda 1 and no values: r (1 - gamma^n) / (1 - gamma), and gamma^n V of what follows the last."""
    rewards, zeros = torch.full((steps, 2), 2.0, dtype=torch.float64), torch.zeros(steps, 2, dtype=torch.float64)
    nowhere = torch.zeros(steps, 2, dtype=torch.bool)
    found = gae(rewards, zeros, zeros, nowhere, nowhere, discount=0.8, trace=1.0)
    torch.testing.assert_close(found[0], torch.full((2,), 2 * (1 - 0.8**steps) / 0.2, dtype=torch.float64))
    last = torch.full_like(zeros, 5.0)
    returns = discounted_returns(rewards, last, nowhere, nowhere, discount=0.8)
    wanted = 2 * (1 - 0.8**steps) / 0.2 + 0.8**steps * 5
    torch.testing.assert_close(returns[0], torch.full((2,), wanted, dtype=torch.float64))


def test_truncation_is_bootstrapped_and_termination_is_not() -> None:
    rewards, values, following = column(1, 1), column(0, 0), column(10, 20)
    end = torch.tensor([[True], [False]])
    cut = gae(rewards, values, following, never(2), end, discount=0.5, trace=1.0)
    done = gae(rewards, values, following, end, end, discount=0.5, trace=1.0)
    assert cut[:, 0].tolist() == [1 + 0.5 * 10, 1 + 0.5 * 20]
    assert done[:, 0].tolist() == [1, 1 + 0.5 * 20]
    returns = discounted_returns(rewards, following, end, end, discount=0.5)
    assert returns[:, 0].tolist() == [1, 11]
    assert discounted_returns(rewards, following, never(2), end, discount=0.5)[:, 0].tolist() == [6, 11]


def test_steps_that_are_none_are_left_out() -> None:
    rewards, values, following = column(1, 99, 1), column(0, 99, 0), column(0, 99, 4)
    end, valid = torch.tensor([[True], [False], [False]]), torch.tensor([[True], [False], [True]])
    found = gae(rewards, values, following, end, end, discount=0.5, trace=1.0, valid=valid)
    assert found[:, 0].tolist() == [1, 0, 3]


def test_a_column_beside_rows_is_refused() -> None:
    rows = torch.zeros(3, 4)
    flags = torch.zeros(3, 4, dtype=torch.bool)
    with pytest.raises(DataError, match=r"rewards are \(3, 4\), values \(3, 4, 1\)"):
        gae(rows, rows[..., None], rows, flags, flags, discount=1, trace=1)
    with pytest.raises(DataError, match=r"valid \(3,\)"):
        gae(rows, rows, rows, flags, flags, discount=1, trace=1, valid=flags[:, 0])
