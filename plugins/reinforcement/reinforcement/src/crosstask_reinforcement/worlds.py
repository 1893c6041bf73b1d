"""The worlds built in: CartPoles of different physics, swing-ups, and whatever gymnasium knows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, nearest, told
from crosstask.options import component, option, record
from crosstask_reinforcement.contract import Environment, World
from crosstask_reinforcement.physics import Acrobots, CartPoles, MountainCars, Physics

if TYPE_CHECKING:
    import gymnasium

CARTPOLES: dict[str, dict[str, float]] = {
    "usual": {},
    "long": {"length": 1.0},
    "heavy": {"masspole": 0.5, "length": 0.7},
    "weak": {"force_mag": 6.0},
    "moon": {"gravity": 1.62, "masscart": 0.6},
    "reversed": {"force_mag": -10.0},
}
"""Six CartPoles. What is right in one is right in the others, but for the one whose force acts the other way round: an
agent that does not know in which it acts cannot balance both from the same states.
"""

SPREAD: dict[str, float] = {"start_x": 1.2, "start_x_dot": 0.3, "start_theta": 0.08, "start_theta_dot": 0.3}
"""Starts so wide that the same states are met in all six CartPoles: from gymnasium's, which are nearly one state, where
the cart has gone tells which it is.
"""

SWING_UPS: dict[str, tuple[type[Physics], dict[str, float]]] = {
    "acrobot": (Acrobots, {}),
    "acrobot-heavy": (Acrobots, {"LINK_MASS_1": 1.3, "LINK_MASS_2": 0.8}),
    "acrobot-reversed": (Acrobots, {"torque": -1.0}),
    "car": (MountainCars, {"force": 0.0018}),
    "car-weak": (MountainCars, {"force": 0.0017}),
    "car-reversed": (MountainCars, {"force": -0.0018}),
}
"""Two kinds of things that must gather momentum before they get up, of which each has one that is the other way round.
"""

_SWING_LIMITS = {Acrobots: (500, -100.0), MountainCars: (1000, -120.0)}  # steps of an episode, solved from
_IDS = {CartPoles: "CartPole-v1", Acrobots: "Acrobot-v1", MountainCars: "MountainCar-v0"}
_SIZES = {CartPoles: (4, 2), Acrobots: (6, 3), MountainCars: (2, 3)}


def with_physics(id: str, parameters: Mapping[str, float], limit: int) -> gymnasium.Env[Any, Any]:
    """Gymnasium's environment with other constants, and what follows from them."""
    import gymnasium

    made = gymnasium.make(id, max_episode_steps=limit)
    inside: Any = made.unwrapped
    for name, value in parameters.items():
        if name == "torque":
            inside.AVAIL_TORQUE = [-value, 0.0, value]
        elif not name.startswith("start_"):
            setattr(inside, name, value)
    if id.startswith("CartPole"):
        inside.total_mass = inside.masspole + inside.masscart
        inside.polemass_length = inside.masspole * inside.length
        widths = [
            parameters.get(name, usual) for name, usual in CartPoles.defaults.items() if name.startswith("start_")
        ]
        if any(width != 0.05 for width in widths):
            return starting(made, np.array(widths))
    return made


def starting(made: gymnasium.Env[Any, Any], widths: np.ndarray[Any, Any]) -> gymnasium.Env[Any, Any]:
    """That environment, the numbers of whose state start within `widths` [size] on both sides of 0."""
    import gymnasium

    class Starting(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            _, info = self.env.reset(seed=seed, options=options)
            inside: Any = self.env.unwrapped
            inside.state = inside.np_random.uniform(-widths, widths)
            return inside.state.astype(np.float32), info

    return Starting(made)


def classic(
    task_id: str, kind: type[Physics], parameters: Mapping[str, float], *, limit: int, solved: float, domain: str
) -> Environment:
    """A classic control problem with constants of its own, stepped together with all others of its kind."""
    for name in parameters:
        if name not in kind.defaults:
            raise OptionError(f"task {task_id!r}: {kind.__name__} has no {name!r}{nearest(name, kind.defaults)}")
    state_dim, actions = _SIZES[kind]
    descriptor = TaskDescriptor(
        task_id=task_id, task_type="control", domain=domain, input_shape=(state_dim,), output_dim=actions
    )
    return Environment(
        descriptor=descriptor,
        make=functools.partial(with_physics, _IDS[kind], dict(parameters), limit),
        limit=limit,
        solved=solved,
        parameters=dict(parameters),
        copies=kind,
    )


@component
class CartPoleWorld(World):
    """CartPoles whose poles, masses, forces and gravity differ. By default six, of which one has its force reversed."""

    poles: dict[str, dict[str, float]] = option(
        factory=lambda: {name: dict(own) for name, own in CARTPOLES.items()},
        help="by task: gravity, masscart, masspole, length (half of the pole's), force_mag, where they differ",
    )
    starts: dict[str, float] = option(
        factory=dict,
        help="how far from 0 start_x, start_x_dot, start_theta and start_theta_dot may be; 0.05 each, as gymnasium",
    )
    limit: int = option(500, ge=1, help="steps of an episode at most")
    solved: float = option(475.0, help="mean return from which a task is solved")

    def environments(self) -> dict[str, Environment]:
        return {
            name: classic(
                name, CartPoles, {**self.starts, **own}, limit=self.limit, solved=self.solved, domain="cartpole"
            )
            for name, own in self.poles.items()
        }


@component
class SwingUpWorld(World):
    """Acrobots and mountain cars: momentum must be gathered. Cars have stronger motors than gymnasium's, though too
    weak to drive up from everywhere, and more time: of those that act at random one in ten gets up. With gymnasium's
    none does, and a learner that has never seen the goal has nothing to learn from.
    """

    tasks: tuple[str, ...] = option(tuple(SWING_UPS), help=f"of {', '.join(SWING_UPS)}")
    limit: int | None = option(
        None, ge=1, help="steps of an episode at most; 500 of acrobots, 1000 of cars, by default"
    )
    solved: float | None = option(None, help="mean return that solves a task; -100 and -120")

    def environments(self) -> dict[str, Environment]:
        found = {}
        for name in self.tasks:
            if name not in SWING_UPS:
                raise OptionError(f"{self.origin}: no task {name!r}{nearest(name, SWING_UPS)}")
            kind, own = SWING_UPS[name]
            limit, solved = _SWING_LIMITS[kind]
            limit = limit if self.limit is None else self.limit
            solved = solved if self.solved is None else self.solved
            found[name] = classic(name, kind, own, limit=limit, solved=solved, domain=name.partition("-")[0])
        return found


@record
class Named:
    """An environment that gymnasium knows: its id, the keyword arguments of `gymnasium.make`, attributes to set on it,
    and the mean return from which it counts as solved (its own `reward_threshold` by default).
    """

    id: str
    kwargs: dict[str, Any] = option(factory=dict, help="for gymnasium.make")
    attributes: dict[str, Any] = option(factory=dict, help="to set on the environment, e.g. gravity")
    solved: float | None = option(None, help="mean return from which it is solved")


@component
class GymnasiumWorld(World):
    """Environments by gymnasium's ids: observations must be vectors, actions discrete. They are stepped one by one."""

    tasks: dict[str, Named] = option(help="by task: id, kwargs, attributes, solved")
    limit: int | None = option(None, ge=1, help="steps of an episode at most; each environment's own by default")

    def environments(self) -> dict[str, Environment]:
        return {name: self._one(name, own) for name, own in self.tasks.items()}

    def _one(self, task_id: str, own: Named) -> Environment:
        make = functools.partial(named, own, self.limit)
        try:
            made = make()
        except Exception as error:  # foreign code: unknown ids, arguments, missing packages
            raise DataError(f"{self.origin}: task {task_id!r} cannot be made: {told(error)}") from error
        space, actions = made.observation_space, made.action_space
        shape = space.shape
        if shape is None or len(shape) != 1 or not hasattr(actions, "n"):
            raise DataError(
                f"{self.origin}: task {task_id!r} ({own.id}): observations must be vectors and actions discrete, got "
                f"{space} and {actions}"
            )
        spec = made.spec
        limit = self.limit or (spec.max_episode_steps if spec else None)
        if limit is None:
            raise DataError(f"{self.origin}: task {task_id!r} ({own.id}) has no end: say a limit")
        threshold = spec.reward_threshold if spec else None
        made.close()
        descriptor = TaskDescriptor(
            task_id=task_id,
            task_type="control",
            domain=own.id,
            input_shape=(int(shape[0]),),
            output_dim=int(actions.n),
        )
        return Environment(
            descriptor=descriptor,
            make=make,
            limit=limit,
            solved=own.solved if own.solved is not None else threshold,
            parameters={"id": own.id, "kwargs": own.kwargs, "attributes": own.attributes},
        )


def named(own: Named, limit: int | None) -> gymnasium.Env[Any, Any]:
    """One environment of that name, with its attributes set."""
    import gymnasium

    made = gymnasium.make(own.id, max_episode_steps=limit, **own.kwargs)
    for name, value in own.attributes.items():
        if not hasattr(made.unwrapped, name):
            raise DataError(f"{own.id} has no attribute {name!r}")
        setattr(made.unwrapped, name, value)
    return made
