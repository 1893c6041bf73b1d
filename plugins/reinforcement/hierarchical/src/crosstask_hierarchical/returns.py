"""Returns of choices that last several steps."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.errors import DataError


def semi_markov_advantages(
    rewards: Tensor,
    values: Tensor,
    following: Tensor,
    begins: Tensor,
    terminated: Tensor,
    ends: Tensor,
    *,
    discount: float,
    trace: float = 1.0,
) -> Tensor:
    """Advantages [T, B] of choices, in the steps in which they were made (`begins`), 0 elsewhere.

    A choice that lasts n steps is worth R = r_0 + g r_1 + … + g^(n-1) r_(n-1) + g^n V, with the value V of the state in
    which the next one is made: `values` there, `following` where the episode was cut off or the rollout stops, nothing
    where it `terminated` (Sutton, Precup and Singh 1999, section 3). R less `values` is the advantage, and `advantages
    + values` the return to learn values by. With a `trace` lambda above 0 it goes on as generalised advantages do:
    A = R - V(s) + lambda g^n A', with A' of the next choice.

    All are [T, B], time first. A choice that lasts beyond the rollout is taken to end with it, and the first step of a
    rollout may belong to one made before it. DataError for shapes that differ.
    """
    named = {"values": values, "following": following, "begins": begins, "terminated": terminated, "ends": ends}
    for name, tensor in named.items():
        if tensor.shape != rewards.shape or rewards.ndim != 2:
            raise DataError(
                f"semi_markov_advantages: all are [T, B]; rewards are {tuple(rewards.shape)}, {name} "
                f"{tuple(tensor.shape)}"
            )
    advantages = torch.zeros_like(rewards)
    stops = ends.clone()
    stops[-1] = True
    cut = following * ~terminated
    later = torch.zeros_like(rewards[0])  # what the choice that goes on in the next step is worth from there
    for step in range(len(rewards) - 1, -1, -1):
        if step + 1 < len(rewards):
            anew = values[step + 1] + trace * advantages[step + 1]
            later = torch.where(begins[step + 1], anew, later)
        later = rewards[step] + discount * torch.where(stops[step], cut[step], later)
        advantages[step] = torch.where(begins[step], later - values[step], 0.0)
    return advantages
