"""What is still to come: discounted returns, and advantages by generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.errors import DataError


def gae(
    rewards: Tensor,
    values: Tensor,
    following: Tensor,
    terminated: Tensor,
    ends: Tensor,
    *,
    discount: float,
    trace: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Advantages [T, B] (Schulman et al. 2016, equation 16); `advantages + values` are the returns to learn values by.

    All are [T, B], time first. `values` are those of the observations, `following` those of what each action led to: at
    the end of an episode its final observation, which counts unless the task `terminated` there. `ends` (terminated or
    cut off) stop the sum. `trace` is lambda: 1 gives discounted returns less the values, 0 one step's error. What is
    not `valid` has advantage 0. DataError for shapes that differ: a column [B, 1] beside rows [B] would broadcast.
    """
    given = {"values": values, "following": following, "terminated": terminated, "ends": ends}
    if valid is not None:
        given["valid"] = valid
    for name, tensor in given.items():
        if tensor.shape != rewards.shape or rewards.ndim != 2:
            raise DataError(f"gae: all are [T, B]; rewards are {tuple(rewards.shape)}, {name} {tuple(tensor.shape)}")
    errors = rewards + discount * following * ~terminated - values
    carried = discount * trace * (~ends).to(errors.dtype)
    if valid is not None:
        errors, carried = errors * valid, carried * valid
    advantages = torch.empty_like(errors)
    last = torch.zeros_like(errors[0])
    for step in range(len(errors) - 1, -1, -1):
        last = errors[step] + carried[step] * last
        advantages[step] = last
    return advantages


def discounted_returns(
    rewards: Tensor, following: Tensor, terminated: Tensor, ends: Tensor, *, discount: float
) -> Tensor:
    """Returns [T, B]: rewards to come up to the end of the episode or of the rollout, and there, unless the task
    terminated, the value of what followed. Shapes as for `gae`.
    """
    zeros = torch.zeros_like(rewards)
    tail = following * ~terminated
    # no value is subtracted, and none but the last is added: what follows counts where the sum stops
    stops = ends.clone()
    stops[-1] = True
    return gae(rewards, zeros, torch.where(stops, tail, zeros), terminated, ends, discount=discount, trace=1.0)
