"""For tests of agents and worlds: two corridors that are learned in a second, and the smallest right agent."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.tasks import Portfolio
from crosstask_reinforcement.contract import Agent, Decision, Environment, Rollout, Situation, TaskSpace, World
from crosstask_reinforcement.physics import Physics
from crosstask_reinforcement.plugin import PLUGIN
from crosstask_reinforcement.returns import discounted_returns
from crosstask_reinforcement.tasks import ControlTask

LENGTH, LIMIT = 4, 12


class Corridor(gymnasium.Env[Any, Any]):
    """Places -4 … 4, from near the middle; actions 0 and 1 lead left and right. One end pays 1, the other nothing.

    Of `towards` 1 that is the right one. With `wide` there is one more number to see, and one more action, which stays.
    """

    def __init__(self, towards: int = 1, wide: bool = False) -> None:
        self.towards, self.wide = towards, wide
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (3 if wide else 2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3 if wide else 2)
        self.place = 0

    def _seen(self) -> Any:
        return np.array([self.place / LENGTH, 1.0, *([0.5] if self.wide else [])], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(-1, 2))
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += (-1, 1, 0)[int(action)]
        ended = abs(self.place) == LENGTH
        return self._seen(), float(ended and self.place * self.towards > 0), ended, False, {}


def corridor(towards: int = 1, wide: bool = False) -> gymnasium.Env[Any, Any]:
    """One, with its time limit."""
    return gymnasium.wrappers.TimeLimit(Corridor(towards, wide), LIMIT)


class Corridors(Physics):
    """Many of them."""

    defaults: ClassVar[dict[str, float]] = {"towards": 1.0, "wide": 0.0}
    size = 1

    def __init__(self, environments: Sequence[Environment], counts: Sequence[int]) -> None:
        super().__init__(environments, counts)
        self.state_dim = max(environment.space.state_dim for environment in environments)

    def start(self, generator: np.random.Generator, row: int) -> Any:
        return generator.integers(-1, 2, size=1).astype(np.float64)

    def move(self, actions: Any) -> tuple[Any, Any]:
        self.state = self.state + np.array([-1.0, 1.0, 0.0])[actions][:, None]
        place = self.state[:, 0]
        ended = np.abs(place) == LENGTH
        return (ended & (place * self.constants["towards"] > 0)).astype(np.float64), ended

    def seen(self, state: Any) -> Any:
        wide = self.constants["wide"] / 2
        parts = [state[:, 0] / LENGTH, np.ones(len(state)), wide]
        return np.stack(parts[: self.state_dim], axis=1).astype(np.float32)


def corridors() -> dict[str, Environment]:
    """`right`, `left`, which must be told apart, and `wide`, which has other sizes."""
    found = {}
    for name, towards, wide in (("right", 1, False), ("left", -1, False), ("wide", 1, True)):
        descriptor = TaskDescriptor(
            task_id=name, task_type="control", domain="corridor", input_shape=(2 + wide,), output_dim=2 + wide
        )
        found[name] = Environment(
            descriptor=descriptor,
            make=functools.partial(corridor, towards, wide),
            limit=LIMIT,
            solved=0.9,
            parameters={"towards": towards, "wide": wide},
            copies=Corridors,
        )
    return found


def corridor_portfolio() -> Portfolio:
    """`right` and `left` as tasks."""
    found = corridors()
    return Portfolio([ControlTask.of(found["right"]), ControlTask.of(found["left"])], name="corridors")


@component
class ReferenceWorld(World):
    """The corridors."""

    def environments(self) -> dict[str, Environment]:
        return corridors()


class ReferenceNetwork(nn.Module):
    """A trunk of one layer, and for each task a layer of logits: weights [T, 8, A]."""

    def __init__(self, spaces: Sequence[TaskSpace]) -> None:
        super().__init__()
        self.shared = nn.Linear(max(space.state_dim for space in spaces), 8)
        most = max(space.actions for space in spaces)
        self.heads = nn.Parameter(torch.zeros(len(spaces), 8, most))
        allowed = torch.arange(most) < torch.tensor([space.actions for space in spaces])[:, None]
        self.register_buffer("allowed", allowed)

    def forward(self, states: Tensor, tasks: Tensor) -> Tensor:
        """Logits [N, A]."""
        logits = torch.einsum("nf,nfa->na", torch.tanh(self.shared(states)), self.heads[tasks])
        return logits.masked_fill(~self.get_buffer("allowed")[tasks], -1e8)


@component
class ReferenceAgent(Agent):
    """REINFORCE: what was done before a large return becomes more probable (Williams 1992)."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"on_policy"})

    learning_rate: float = option(1.0, gt=0, help="step size")
    discount: float = option(0.9, ge=0, le=1, help="of a reward one step later")
    friction: float = option(0.5, gt=0, le=1, help="share of its speed that each step loses")

    _speed: list[Tensor] = attrs.field(factory=list, init=False, repr=False)

    def rollout_steps(self) -> int:
        return 12

    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        return ReferenceNetwork(spaces)

    def start(self) -> None:
        self._speed = [torch.zeros_like(parameter) for parameter in self.network.parameters()]

    def own_state(self) -> dict[str, Any]:
        return {"speed": [speed.clone() for speed in self._speed]}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self._speed = [speed.clone() for speed in state["speed"]]

    @torch.no_grad()
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        logits = self.network(situation.observations, situation.tasks)
        if explore:
            return Decision(torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0])
        return Decision(logits.argmax(1))

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        returns = discounted_returns(
            rollout.rewards * rollout.valid,
            torch.zeros_like(rollout.rewards),
            rollout.terminated,
            rollout.ends | ~rollout.valid,
            discount=self.discount,
        )
        where = rollout.valid
        tasks = rollout.tasks.expand_as(rollout.actions)[where]
        logs = self.network(rollout.observations[where], tasks).log_softmax(1)
        chosen = logs.gather(1, rollout.actions[where][:, None])[:, 0]
        own = returns[where]
        own = own - own.mean()
        loss = -(chosen * own).mean()
        parameters = list(self.network.parameters())
        with torch.no_grad():
            for parameter, speed, slope in zip(
                parameters, self._speed, torch.autograd.grad(loss, parameters), strict=True
            ):
                parameter.sub_(self.learning_rate * speed.mul_(1 - self.friction).add_(slope))
        return {"loss": float(loss.detach())}


REFERENCE = Plugin(
    "reference-reinforcement",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *(offer for offer in PLUGIN.extensions if offer.point in ("stage", "source")),
        Extension("agent", "reference", f"{__name__}:ReferenceAgent", summary="For checks.", default=True),
        Extension("world", "corridors", f"{__name__}:ReferenceWorld", summary="For checks.", default=True),
    ],
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
