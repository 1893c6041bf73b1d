import functools

import gymnasium
import numpy as np

from crosstask import TaskDescriptor, component, option
from crosstask_reinforcement import Environment, World


class Walk(gymnasium.Env):
    """From the left end to the right: actions 0 and 1 lead left and right, and the right end pays 1."""

    def __init__(self, length):
        self.length, self.place = length, 0
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        there = self.place == self.length
        return np.array([self.place / self.length], np.float32), float(there), there, False, {}


def walk(length):
    return gymnasium.wrappers.TimeLimit(Walk(length), 4 * length)


@component
class Walks(World):
    """Corridors: a task for each length."""

    lengths: tuple[int, ...] = option((3, 6), ge=1, help="steps from the left end to the right")

    def environments(self):
        return {f"walk {length}": self.one(length) for length in self.lengths}

    def one(self, length):
        told = TaskDescriptor(task_id=f"walk {length}", task_type="control", input_shape=(1,), output_dim=2)
        make = functools.partial(walk, length)
        return Environment(descriptor=told, make=make, limit=4 * length, solved=1.0, parameters={"length": length})


made = Walks(lengths=(3,)).environments()["walk 3"].make()
made.reset(seed=0)
assert [made.step(1)[2] for _ in range(3)] == [False, False, True]
