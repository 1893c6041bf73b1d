"""Copies of environments from gymnasium, and places: the copies of several tasks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
import numpy as np
import torch

from crosstask.errors import DataError, told
from crosstask_reinforcement.contract import Copies, Environment, Stepped

if TYPE_CHECKING:
    import gymnasium

Array = np.ndarray[Any, Any]


class VectorCopies(Copies):
    """The copies of a vector environment of gymnasium, in any of its autoreset modes.

    SAME_STEP gives the first observation of the next episode at once, and the final one beside it. NEXT_STEP gives the
    final one, and spends one more step, whose action is ignored, on beginning anew: those are not `valid`. With
    DISABLED episodes are begun here.
    """

    def __init__(self, vector: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        from gymnasium.vector import AutoresetMode

        shape = vector.single_observation_space.shape
        if shape is None or len(shape) != 1 or not hasattr(vector.single_action_space, "n"):
            raise DataError(
                f"{vector}: observations must be vectors and actions discrete, got {vector.single_observation_space} "
                f"and {vector.single_action_space}"
            )
        mode = vector.metadata.get("autoreset_mode")
        if mode is None:
            raise DataError(
                f"{vector}: its metadata do not say its autoreset_mode, without which ends of episodes blur"
            )
        self.vector, self.mode = vector, AutoresetMode(mode)
        self.count, self.state_dim = vector.num_envs, shape[0]
        self.least = int(getattr(vector.single_action_space, "start", 0))
        self._ended = np.zeros(self.count, dtype=bool)

    def reset(self, seed: int) -> Array:
        self._ended[:] = False
        return self._numbers(self.vector.reset(seed=seed % 2**31)[0])

    def step(self, actions: Array) -> Stepped:
        from gymnasium.vector import AutoresetMode

        valid = ~self._ended
        seen, rewards, terminated, truncated, infos = self.vector.step(actions + self.least)
        observations = self._numbers(seen)
        following = observations
        terminated, truncated = np.asarray(terminated, dtype=bool), np.asarray(truncated, dtype=bool) & ~terminated
        ended = terminated | truncated
        if ended.any() and self.mode is AutoresetMode.SAME_STEP:
            following = observations.copy()
            for row in np.flatnonzero(ended):
                following[row] = infos["final_obs"][row]
        elif ended.any() and self.mode is AutoresetMode.DISABLED:
            observations = self._numbers(self.vector.reset(options={"reset_mask": ended})[0])
        if self.mode is AutoresetMode.NEXT_STEP:
            self._ended = ended.copy()
        return Stepped(
            observations, following, np.asarray(rewards, dtype=np.float64), terminated & valid, truncated & valid, valid
        )

    def _numbers(self, observations: Any) -> Array:
        return np.array(observations, dtype=np.float32)


def gymnasium_copies(environments: Sequence[Environment], counts: Sequence[int]) -> Copies:
    """Copies of one environment, stepped one by one."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    ((environment,), (count,)) = environments, counts
    try:
        vector = SyncVectorEnv([environment.make] * count, autoreset_mode=AutoresetMode.SAME_STEP)
    except Exception as error:  # foreign code
        raise DataError(f"environment {environment.task_id!r} cannot be made: {told(error)}") from error
    return VectorCopies(cast("gymnasium.vector.VectorEnv[Any, Any, Any]", vector))


@attrs.define(eq=False)
class _Group:
    copies: Copies
    rows: Array
    """Which of all places are its own."""


class Places:
    """`counts` copies of each environment: rows in the order of the environments. Observations are filled with zeros to
    `state_dim` numbers, by default those of the longest.
    """

    def __init__(
        self, environments: Sequence[Environment], counts: Sequence[int], state_dim: int | None = None
    ) -> None:
        if not environments or len(environments) != len(counts) or min(counts) < 1:
            raise DataError(f"places for {len(environments)} environments, of each at least one: got {list(counts)}")
        longest = max(environment.space.state_dim for environment in environments)
        self.state_dim = longest if state_dim is None else state_dim
        if self.state_dim < longest:
            raise DataError(f"observations of {longest} numbers do not fit into {self.state_dim}")
        self.environments = tuple(environments)
        self.count = sum(counts)
        self.tasks = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        starts = np.concatenate([[0], np.cumsum(counts)])
        together: dict[Any, list[int]] = {}
        for number, environment in enumerate(environments):
            together.setdefault(environment.copies or number, []).append(number)
        self._groups = []
        for key, numbers in together.items():
            make = cast("Callable[..., Copies]", gymnasium_copies if isinstance(key, int) else key)
            copies = make([environments[n] for n in numbers], [counts[n] for n in numbers])
            rows = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in numbers])
            self._groups.append(_Group(copies, rows))

    def reset(self, seed: int) -> Array:
        """First observations [N, state_dim]."""
        return self._joined([group.copies.reset(seed + place) for place, group in enumerate(self._groups)])

    def step(self, actions: Array) -> Stepped:
        """One step of all by these actions [N]."""
        if len(self._groups) == 1 and self._groups[0].copies.state_dim == self.state_dim:
            return self._groups[0].copies.step(actions)
        parts = [group.copies.step(actions[group.rows]) for group in self._groups]
        whole = {}
        for name in ("rewards", "terminated", "truncated", "valid"):
            first = getattr(parts[0], name)
            whole[name] = np.empty(self.count, dtype=first.dtype)
            for group, part in zip(self._groups, parts, strict=True):
                whole[name][group.rows] = getattr(part, name)
        seen = {name: self._joined([getattr(p, name) for p in parts]) for name in ("observations", "following")}
        return Stepped(**seen, **whole)

    def state_dict(self) -> dict[str, Any]:
        """Where all of them are."""
        return {"groups": [group.copies.state_dict() for group in self._groups]}

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Go back there; observations."""
        return self._joined(
            [group.copies.load_state_dict(own) for group, own in zip(self._groups, state["groups"], strict=True)]
        )

    def _joined(self, parts: Sequence[Array]) -> Array:
        whole = np.zeros((self.count, self.state_dim), dtype=np.float32)
        for group, part in zip(self._groups, parts, strict=True):
            whole[group.rows, : part.shape[1]] = part
        return whole
