"""Semi-Markov returns against what they are by hand, by a loop, and in closed form on a chain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask_hierarchical import semi_markov_advantages


def test_a_choice_is_worth_its_discounted_rewards_and_the_value_after_it() -> None:
    """Sutton, Precup and Singh (1999), section 3: r1 + g r2 + g² V, and three more steps up to an end."""
    rewards = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    values = torch.tensor([[10.0], [-9.0], [20.0], [-9.0], [-9.0]])
    begins = torch.tensor([[True], [False], [True], [False], [False]])
    terminated = torch.tensor([[False], [False], [False], [False], [True]])
    found = semi_markov_advantages(
        rewards, values, torch.full((5, 1), 70.0), begins, terminated, terminated, discount=0.5, trace=0.0
    )
    first, second = 1 + 0.5 * 2 + 0.25 * 20, 3 + 0.5 * 4 + 0.25 * 5
    assert found[:, 0].tolist() == pytest.approx([first - 10, 0, second - 20, 0, 0])
    cut_off = semi_markov_advantages(
        rewards, values, torch.full((5, 1), 70.0), begins, ~terminated & False, terminated, discount=0.5, trace=0.0
    )
    assert float(cut_off[2, 0]) == pytest.approx(second + 0.125 * 70 - 20)  # only cut off: it still has a value
    whole = semi_markov_advantages(
        rewards, values, torch.full((5, 1), 70.0), begins, terminated, terminated, discount=0.5, trace=0.8
    )
    assert float(whole[0, 0]) == pytest.approx(first - 10 + 0.8 * 0.25 * (second - 20))


def test_a_loop_over_choices_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    shape, discount, trace = (30, 5), 0.9, 0.7
    rewards, values, following = (torch.randn(shape, generator=generator) for _ in range(3))
    ends = torch.rand(shape, generator=generator) < 0.15
    terminated = ends & (torch.rand(shape, generator=generator) < 0.5)
    begins = torch.rand(shape, generator=generator) < 0.4
    begins[1:] |= ends[:-1]
    found = semi_markov_advantages(rewards, values, following, begins, terminated, ends, discount=discount, trace=trace)
    for place in range(shape[1]):
        later: dict[int, float] = {}
        for step in reversed(range(shape[0])):
            if not begins[step, place]:
                assert float(found[step, place]) == 0
                continue
            total, weight, at = 0.0, 1.0, step
            while True:
                total, weight = total + weight * float(rewards[at, place]), weight * discount
                if ends[at, place] or at == shape[0] - 1:
                    total += 0.0 if terminated[at, place] else weight * float(following[at, place])
                    break
                at += 1
                if begins[at, place]:
                    total += weight * (float(values[at, place]) + trace * later[at])
                    break
            later[step] = total - float(values[step, place])
            assert float(found[step, place]) == pytest.approx(later[step], abs=1e-4)


LENGTH, DISCOUNT, LASTS = 6, 0.9, 2


def walk(place: int, way: int) -> tuple[list[float], int]:
    """A choice in a chain of places 0 … 5: `LASTS` steps on or back, each costs 1; going on from 5 ends it."""
    costs: list[float] = []
    for _ in range(LASTS):
        place = max(place + way, 0)
        costs.append(-1.0)
        if place == LENGTH:
            break
    return costs, place


def closed_form() -> np.ndarray:
    """The values [LENGTH] of choosing at random: of V = R + P V with P of g^n, one system of equations."""
    rewards, onward = np.zeros(LENGTH), np.zeros((LENGTH, LENGTH))
    for place in range(LENGTH):
        for way in (1, -1):
            costs, end = walk(place, way)
            rewards[place] += 0.5 * sum(DISCOUNT**k * cost for k, cost in enumerate(costs))
            if end < LENGTH:
                onward[place, end] += 0.5 * DISCOUNT ** len(costs)
    return np.linalg.solve(np.eye(LENGTH) - onward, rewards)


def advantages(values: Tensor) -> Tensor:
    """Of both choices in each place, [LENGTH, 2], from a rollout of one choice each."""
    begins, terminated, ends = (torch.zeros(LASTS, 2 * LENGTH, dtype=torch.bool) for _ in range(3))
    rewards, here, following = (torch.zeros(LASTS, 2 * LENGTH, dtype=torch.float64) for _ in range(3))
    begins[0] = True
    for row, (place, way) in enumerate((place, way) for place in range(LENGTH) for way in (1, -1)):
        costs, end = walk(place, way)
        here[0, row] = values[place]
        rewards[: len(costs), row] = torch.tensor(costs, dtype=torch.float64)
        terminated[len(costs) - 1, row] = ends[len(costs) - 1, row] = end == LENGTH
        following[len(costs) - 1, row] = values[end] if end < LENGTH else 99.0
    made = semi_markov_advantages(rewards, here, following, begins, terminated, ends, discount=DISCOUNT)
    return made[0].view(LENGTH, 2)


def test_on_a_chain_the_values_that_returns_lead_to_are_those_in_closed_form() -> None:
    right = closed_form()
    np.testing.assert_allclose(advantages(torch.from_numpy(right)).mean(dim=1), 0, atol=1e-12)
    values = torch.zeros(LENGTH, dtype=torch.float64)
    for _ in range(200):
        values = values + advantages(values).mean(dim=1)
    np.testing.assert_allclose(values, right, atol=1e-8)


def test_shapes_that_differ_are_refused() -> None:
    rows = torch.zeros(3, 2)
    no = rows.bool()
    with pytest.raises(DataError, match=r"values \(3, 2, 1\)"):
        semi_markov_advantages(rows, rows[..., None], rows, no, no, no, discount=0.9)
