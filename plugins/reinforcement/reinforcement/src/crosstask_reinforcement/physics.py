"""Gymnasium's classic control problems, many copies of them in one call, with physics of their own for each.

A row is stepped as the single environment of gymnasium is, in the same order of operations and in double precision;
observations are rounded to single precision, as there. Each row draws its starts from a generator of its own, so that
an episode does not depend on what happens in the other rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.errors import DataError, nearest
from crosstask_reinforcement.contract import Copies, Environment, Stepped

Array = np.ndarray[Any, Any]


class Physics(Copies):
    """Rows of one kind of environment. `defaults` are gymnasium's constants, which an environment's `parameters` change
    for its rows: each becomes an array [N] in `constants`.
    """

    defaults: ClassVar[dict[str, float]]
    """gymnasium's constants by name."""
    size: ClassVar[int]
    """Numbers in the state of a row."""

    def __init__(self, environments: Sequence[Environment], counts: Sequence[int]) -> None:
        rows = [environment for environment, count in zip(environments, counts, strict=True) for _ in range(count)]
        self.count = len(rows)
        for environment in environments:
            for name in environment.parameters:
                if name not in self.defaults:
                    raise DataError(
                        f"environment {environment.task_id!r}: {type(self).__name__} has no {name!r}"
                        f"{nearest(name, self.defaults)}"
                    )
        self.constants = {
            name: np.array([float(row.parameters.get(name, usual)) for row in rows])
            for name, usual in self.defaults.items()
        }
        self.limits = np.array([row.limit for row in rows])
        self.state = np.zeros((self.count, self.size))
        self.age = np.zeros(self.count, dtype=np.int64)
        self._generators: list[np.random.Generator] = []

    @abstractmethod
    def start(self, generator: np.random.Generator, row: int) -> Array:
        """The state [size] in which an episode of that row begins."""

    @abstractmethod
    def move(self, actions: Array) -> tuple[Array, Array]:
        """Move `state` on in place of itself; (rewards [N], terminated [N])."""

    @abstractmethod
    def seen(self, state: Array) -> Array:
        """What is observed of states [N, size]: float32 [N, S]."""

    def reset(self, seed: int) -> Array:
        self._generators = [np.random.default_rng([seed, row]) for row in range(self.count)]
        self.state = np.stack([self.start(generator, row) for row, generator in enumerate(self._generators)])
        self.age[:] = 0
        return self.seen(self.state)

    def step(self, actions: Array) -> Stepped:
        rewards, terminated = self.move(actions)
        self.age += 1
        truncated = (self.age >= self.limits) & ~terminated
        following = observations = self.seen(self.state)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            for row in ended:
                self.state[row] = self.start(self._generators[row], int(row))
            self.age[ended] = 0
            observations = following.copy()
            observations[ended] = self.seen(self.state)[ended]
        return Stepped(observations, following, rewards, terminated, truncated, np.ones(self.count, dtype=bool))

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.copy(),
            "age": self.age.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        self.state, self.age = state["state"].copy(), state["age"].copy()
        self._generators = [np.random.default_rng() for _ in range(self.count)]
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        return self.seen(self.state)


class CartPoles(Physics):
    """A pole on a cart (Barto, Sutton and Anderson 1983), as `CartPole-v1`: Euler's method, 0.02 s a step. Each number
    of the state starts within its `start_` on both sides of 0.
    """

    defaults = {
        "gravity": 9.8, "masscart": 1.0, "masspole": 0.1, "length": 0.5, "force_mag": 10.0,
        "start_x": 0.05, "start_x_dot": 0.05, "start_theta": 0.05, "start_theta_dot": 0.05,
    }  # fmt: skip
    size = state_dim = 4

    def __init__(self, environments: Sequence[Environment], counts: Sequence[int]) -> None:
        super().__init__(environments, counts)
        c = self.constants
        self.total_mass = c["masspole"] + c["masscart"]
        self.polemass_length = c["masspole"] * c["length"]
        self.widths = np.stack([c[name] for name in CartPoles.defaults if name.startswith("start_")], axis=1)

    def start(self, generator: np.random.Generator, row: int) -> Array:
        found: Array = generator.uniform(-self.widths[row], self.widths[row])
        return found

    def move(self, actions: Array) -> tuple[Array, Array]:
        c, tau = self.constants, 0.02
        x, x_dot, theta, theta_dot = self.state.T
        force = np.where(actions == 1, c["force_mag"], -c["force_mag"])
        cos, sin = np.cos(theta), np.sin(theta)
        temp = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        thetaacc = (c["gravity"] * sin - cos * temp) / (
            c["length"] * (4.0 / 3.0 - c["masspole"] * np.square(cos) / self.total_mass)
        )
        xacc = temp - self.polemass_length * thetaacc * cos / self.total_mass
        moved = (x + tau * x_dot, x_dot + tau * xacc, theta + tau * theta_dot, theta_dot + tau * thetaacc)
        self.state = np.stack(moved, axis=1)
        fallen = (np.abs(moved[0]) > 2.4) | (np.abs(moved[2]) > 12 * 2 * np.pi / 360)
        return np.ones(self.count), fallen

    def seen(self, state: Array) -> Array:
        return state.astype(np.float32)


class Acrobots(Physics):
    """A double pendulum with a motor between its links (Sutton 1996), as `Acrobot-v1`: Runge-Kutta, 0.2 s a step.
    `torque` is what the motor gives: negative, the actions are the other way round.
    """

    defaults = {
        "LINK_LENGTH_1": 1.0, "LINK_LENGTH_2": 1.0, "LINK_MASS_1": 1.0, "LINK_MASS_2": 1.0, "LINK_COM_POS_1": 0.5,
        "LINK_COM_POS_2": 0.5, "LINK_MOI": 1.0, "torque": 1.0,
    }  # fmt: skip
    size = 4
    state_dim = 6

    def start(self, generator: np.random.Generator, row: int) -> Array:
        return generator.uniform(-0.1, 0.1, size=4).astype(np.float32).astype(np.float64)

    def move(self, actions: Array) -> tuple[Array, Array]:
        torque = (actions - 1.0) * self.constants["torque"]
        dt, y = 0.2, self.state.T
        k1 = self._slope(y, torque)
        k2 = self._slope(y + dt / 2.0 * k1, torque)
        k3 = self._slope(y + dt / 2.0 * k2, torque)
        k4 = self._slope(y + dt * k3, torque)
        moved = y + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        for angle in (0, 1):
            turns = np.where(moved[angle] > np.pi, np.ceil((moved[angle] - np.pi) / (2 * np.pi)), 0.0)
            turns = np.where(moved[angle] < -np.pi, -np.ceil((-np.pi - moved[angle]) / (2 * np.pi)), turns)
            moved[angle] = moved[angle] - turns * (2 * np.pi)
        moved[2] = np.clip(moved[2], -4 * np.pi, 4 * np.pi)
        moved[3] = np.clip(moved[3], -9 * np.pi, 9 * np.pi)
        self.state = moved.T.copy()
        up = -np.cos(moved[0]) - np.cos(moved[1] + moved[0]) > 1.0
        return np.where(up, 0.0, -1.0), up

    def _slope(self, y: Array, torque: Array) -> Array:
        c, g = self.constants, 9.8
        m1, m2, l1 = c["LINK_MASS_1"], c["LINK_MASS_2"], c["LINK_LENGTH_1"]
        lc1, lc2, moi = c["LINK_COM_POS_1"], c["LINK_COM_POS_2"], c["LINK_MOI"]
        theta1, theta2, dtheta1, dtheta2 = y
        cos2, sin2 = np.cos(theta2), np.sin(theta2)
        d1 = m1 * lc1**2 + m2 * (l1**2 + lc2**2 + 2 * l1 * lc2 * cos2) + moi + moi
        d2 = m2 * (lc2**2 + l1 * lc2 * cos2) + moi
        phi2 = m2 * lc2 * g * np.cos(theta1 + theta2 - np.pi / 2.0)
        phi1 = (
            -m2 * l1 * lc2 * dtheta2**2 * sin2
            - 2 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin2
            + (m1 * lc1 + m2 * l1) * g * np.cos(theta1 - np.pi / 2)
            + phi2
        )
        ddtheta2 = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * dtheta1**2 * sin2 - phi2) / (
            m2 * lc2**2 + moi - d2**2 / d1
        )
        return np.stack([dtheta1, dtheta2, -(d2 * ddtheta2 + phi1) / d1, ddtheta2])

    def seen(self, state: Array) -> Array:
        one, two = state[:, 0], state[:, 1]
        parts = (np.cos(one), np.sin(one), np.cos(two), np.sin(two), state[:, 2], state[:, 3])
        return np.stack(parts, axis=1).astype(np.float32)


class MountainCars(Physics):
    """A car too weak to drive up a hill at once (Moore 1990), as `MountainCar-v0`. `force` below zero: the actions are
    the other way round.
    """

    defaults = {"force": 0.001, "gravity": 0.0025, "goal_position": 0.5}
    size = state_dim = 2

    def start(self, generator: np.random.Generator, row: int) -> Array:
        return np.array([generator.uniform(-0.6, -0.4), 0.0])

    def move(self, actions: Array) -> tuple[Array, Array]:
        c = self.constants
        position, velocity = self.state.T
        velocity = velocity + ((actions - 1) * c["force"] + np.cos(3 * position) * (-c["gravity"]))
        velocity = np.clip(velocity, -0.07, 0.07)
        position = np.clip(position + velocity, -1.2, 0.6)
        velocity = np.where((position == -1.2) & (velocity < 0), 0.0, velocity)
        self.state = np.stack([position, velocity], axis=1)
        return np.full(self.count, -1.0), (position >= c["goal_position"]) & (velocity >= 0)

    def seen(self, state: Array) -> Array:
        return state.astype(np.float32)
