"""Corridors as environments of gymnasium, and as tasks."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.options import component, option
from crosstask_reinforcement import Environment, World


class Walk(gymnasium.Env[Any, Any]):
    """So many steps to the right from the left end; actions 0 and 1 lead left and right. The right end pays 1."""

    def __init__(self, length: int) -> None:
        self.length, self.place = length, 0
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def _seen(self) -> Any:
        return np.array([self.place / self.length, 1.0], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = max(0, self.place + (1 if action == 1 else -1))
        there = self.place == self.length
        return self._seen(), float(there), there, False, {}


def walk(length: int, limit: int) -> gymnasium.Env[Any, Any]:
    """One, with its time limit."""
    return gymnasium.wrappers.TimeLimit(Walk(length), limit)


@component
class ExampleWorld(World):
    """Corridors of these lengths: tasks `walk 3`, `walk 6`, …"""

    lengths: tuple[int, ...] = option((3, 6), ge=1, help="steps from the left end to the right")

    def environments(self) -> dict[str, Environment]:
        return {f"walk {length}": self._one(length) for length in self.lengths}

    def _one(self, length: int) -> Environment:
        limit = 4 * length
        descriptor = TaskDescriptor(
            task_id=f"walk {length}", task_type="control", domain="walk", input_shape=(2,), output_dim=2
        )
        return Environment(
            descriptor=descriptor,
            make=functools.partial(walk, length, limit),
            limit=limit,
            solved=1.0,
            parameters={"length": length},
        )
