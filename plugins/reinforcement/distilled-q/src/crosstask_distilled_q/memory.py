"""What an agent remembers of each task, and targets of its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask_reinforcement.contract import Rollout


@attrs.frozen(eq=False)
class Experience:
    """N times one or a few steps of the same episode: `observations` [N, S] and the `actions` [N] chosen there, the
    discounted sum of the `rewards` [N] that followed, `following` [N, S], the state after them, and `discounts` [N],
    what its value counts: gamma to the number of steps, 0 where the task ended. `tasks` [N].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    discounts: Tensor
    tasks: Tensor

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Experience:
        return Experience(**{name: tensor[index] for name, tensor in self.tensors()})

    @classmethod
    def joined(cls, parts: Sequence[Experience]) -> Experience:
        """One after another."""
        names = [field.name for field in attrs.fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each with its name."""
        for field in attrs.fields(type(self)):
            yield field.name, getattr(self, field.name)


def experience(rollout: Rollout, gamma: float, n_steps: int = 1) -> Experience:
    """What a rollout tells: each valid step with up to `n_steps` rewards from there on.

    The sum stops at the end of the episode, at the end of the rollout and before a step that is none. A truncated
    episode still has a value after its last step, that of its final observation; only a terminated one has none.
    """
    steps, places = rollout.actions.shape
    rewards = torch.zeros_like(rollout.rewards)
    discounts = torch.ones_like(rollout.rewards)
    last = torch.arange(steps, device=rewards.device)[:, None].expand(steps, places).clone()
    going = rollout.valid.clone()
    for ahead in range(min(n_steps, steps)):
        at = torch.arange(ahead, steps, device=rewards.device)
        here = going[: steps - ahead] & rollout.valid[at]
        rewards[: steps - ahead] += torch.where(here, discounts[: steps - ahead] * rollout.rewards[at], 0)
        discounts[: steps - ahead] = torch.where(here, discounts[: steps - ahead] * gamma, discounts[: steps - ahead])
        last[: steps - ahead] = torch.where(here, at[:, None], last[: steps - ahead])
        going[: steps - ahead] = here & ~rollout.ends[at]
    place = torch.arange(places, device=rewards.device).expand(steps, places)
    terminated = rollout.terminated[last, place]
    where = rollout.valid
    return Experience(
        observations=rollout.observations[where],
        actions=rollout.actions[where],
        rewards=rewards[where],
        following=rollout.following[last, place][where],
        discounts=discounts.masked_fill(terminated, 0)[where],
        tasks=rollout.tasks.expand(steps, places)[where],
    )


class ReplayMemory:
    """The newest experience of one task, `capacity` pieces at most."""

    def __init__(self, capacity: int, task: int) -> None:
        self.capacity, self.task = capacity, task
        self.count = 0
        self._at = 0
        self._kept: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return self.count

    def add(self, new: Experience) -> None:
        """Remember these; the oldest are forgotten where there is no place."""
        kept = new[-self.capacity :]
        if not len(kept):
            return
        for name, tensor in kept.tensors():
            if name not in self._kept:
                self._kept[name] = tensor.new_empty((self.capacity, *tensor.shape[1:]))
        where = (self._at + torch.arange(len(kept))) % self.capacity
        for name, tensor in kept.tensors():
            self._kept[name][where] = tensor.detach()
        self._at = int(self._at + len(kept)) % self.capacity
        self.count = min(self.capacity, self.count + len(kept))

    def sample(self, size: int, generator: torch.Generator) -> Experience:
        """`size` pieces, each drawn from all that are remembered. DataError if that is nothing."""
        if not self.count:
            raise DataError(f"nothing is remembered of task {self.task} yet")
        where = torch.randint(self.count, (size,), generator=generator)
        return Experience(**{name: tensor[where] for name, tensor in self._kept.items()})

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, and where the next piece goes."""
        return {
            "at": self._at,
            "count": self.count,
            "kept": {k: v[: self.count].clone() for k, v in self._kept.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what `state_dict` said, and nothing else."""
        self._at, self.count = state["at"], state["count"]
        self._kept = {}
        for name, tensor in state["kept"].items():
            self._kept[name] = tensor.new_empty((self.capacity, *tensor.shape[1:]))
            self._kept[name][: self.count] = tensor


def td_targets(rewards: Tensor, discounts: Tensor, target_values: Tensor, chosen_by: Tensor | None = None) -> Tensor:
    """What values are drawn to: r + discount * Q'(s', a') [N]; nothing flows through it.

    `target_values` [N, A] are Q'(s', .) of the target network. a' is the best by them, or by `chosen_by` [N, A], the
    values of the network that learns (double Q-learning, van Hasselt et al. 2016). Actions that a task lacks are worth
    minus infinity.
    """
    best = (target_values if chosen_by is None else chosen_by).argmax(dim=1, keepdim=True)
    value = target_values.gather(1, best)[:, 0]
    return (rewards + discounts * value).detach()
