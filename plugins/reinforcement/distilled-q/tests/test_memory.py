"""What is remembered, and what values are drawn to."""

from __future__ import annotations

import pytest
import torch

from crosstask.errors import DataError
from crosstask_distilled_q import Experience, ReplayMemory, experience, td_targets
from crosstask_reinforcement import Rollout


def rollout(steps: int = 12, places: int = 4, seed: int = 0) -> Rollout:
    """Random rewards, ends of both kinds, and after some of them a step that is none."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(steps, places, generator=generator) < 0.25
    terminated = ends & (torch.rand(steps, places, generator=generator) < 0.5)
    valid = torch.ones_like(ends)
    valid[1:] = ~(ends[:-1] & (torch.arange(places) % 2 == 0))
    terminated, truncated = terminated & valid, ends & ~terminated & valid
    observations = torch.randn(steps, places, 3, generator=generator)
    return Rollout(
        observations=observations,
        actions=torch.randint(2, (steps, places), generator=generator),
        rewards=torch.randn(steps, places, generator=generator),
        terminated=terminated,
        truncated=truncated,
        following=torch.randn(steps, places, 3, generator=generator),
        valid=valid,
        starts=torch.zeros_like(ends),
        tasks=torch.arange(places) % 2,
    )


@pytest.mark.parametrize("n_steps", [1, 3, 20])
def test_rewards_are_summed_to_the_end_of_the_episode_and_cut_off_ones_keep_a_value(n_steps: int) -> None:
    made = rollout()
    found = experience(made, 0.9, n_steps)
    row = 0
    for step in range(12):
        for place in range(4):
            if not made.valid[step, place]:
                continue
            total, weight, at = 0.0, 1.0, step
            for ahead in range(step, min(step + n_steps, 12)):
                if not made.valid[ahead, place]:
                    break
                total, weight, at = total + weight * float(made.rewards[ahead, place]), weight * 0.9, ahead
                if made.ends[ahead, place]:
                    break
            assert float(found.rewards[row]) == pytest.approx(total, abs=1e-5)
            assert float(found.discounts[row]) == pytest.approx(0 if made.terminated[at, place] else weight)
            assert torch.equal(found.following[row], made.following[at, place])
            assert torch.equal(found.observations[row], made.observations[step, place])
            assert (int(found.actions[row]), int(found.tasks[row])) == (int(made.actions[step, place]), place % 2)
            row += 1
    assert row == len(found) == made.steps


def pieces(numbers: range) -> Experience:
    values = torch.tensor(numbers, dtype=torch.float32)
    whole = values.long()
    return Experience(values[:, None], whole, values, values[:, None] + 1, torch.full_like(values, 0.9), whole * 0)


def test_a_memory_forgets_the_oldest_and_draws_from_all_that_is_left() -> None:
    memory = ReplayMemory(5, task=0)
    with pytest.raises(DataError, match="nothing is remembered of task 0"):
        memory.sample(1, torch.Generator())
    memory.add(pieces(range(3)))
    assert len(memory) == 3
    memory.add(pieces(range(3, 7)))
    memory.add(pieces(range(0)))
    drawn = memory.sample(500, torch.Generator().manual_seed(0))
    assert len(memory) == 5
    assert set(drawn.actions.tolist()) == {2, 3, 4, 5, 6}
    assert torch.equal(drawn.following[:, 0], drawn.observations[:, 0] + 1)
    memory.add(pieces(range(20)))
    assert set(memory.sample(500, torch.Generator().manual_seed(0)).actions.tolist()) == set(range(15, 20))
    again = ReplayMemory(5, task=0)
    again.load_state_dict(memory.state_dict())
    for one in (memory, again):
        one.add(pieces(range(30, 32)))
    assert torch.equal(
        memory.sample(50, torch.Generator().manual_seed(1)).actions,
        again.sample(50, torch.Generator().manual_seed(1)).actions,
    )


def test_double_targets_take_the_value_of_the_action_that_the_learning_network_chooses() -> None:
    """van Hasselt et al. (2016), equations 1 and 4; an action that a task lacks is never chosen."""
    target = torch.tensor([[1.0, 5.0, -torch.inf], [2.0, 3.0, 4.0]])
    online = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 9.0, 1.0]])
    rewards, discounts = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    assert td_targets(rewards, discounts, target).tolist() == pytest.approx([1 + 0.9 * 5, 2.0])
    assert td_targets(rewards, discounts, target, online).tolist() == pytest.approx([1 + 0.9 * 1, 2.0])
    assert not td_targets(rewards, discounts, target.requires_grad_()).requires_grad
