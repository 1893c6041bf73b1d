"""Agents that learn to act in several tasks at once, and the worlds that they act in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, PluginError, of_kind
from crosstask.learning.modules import seeded

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

# --- Tasks


@attrs.frozen
class TaskSpace:
    """What an agent must know of a task to act in it: the length of its observations, and how many actions there are.

    An agent of several tasks sees all observations with as many numbers as the longest has: the runner adds zeros.
    """

    task_id: str
    state_dim: int
    actions: int


@attrs.frozen(eq=False)
class Environment:
    """A task that is learned by acting.

    `make` makes one of gymnasium's environments, time limit (`limit` steps) included; observations are vectors
    (`descriptor.input_shape` is (S,)), actions are discrete (`descriptor.output_dim` of them). `solved` is the mean
    return from which it counts as solved. `copies` makes many at once: a function of environments and how many of each;
    environments that have the same function are stepped in one call. Without it gymnasium's are stepped one by one.
    `parameters` are plain data that make the task what it is, for fingerprints and for `copies`.
    """

    descriptor: TaskDescriptor
    make: Callable[[], gymnasium.Env[Any, Any]]
    limit: int
    solved: float | None = None
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    copies: Callable[[Sequence[Environment], Sequence[int]], Copies] | None = None

    def __attrs_post_init__(self) -> None:
        shape, actions = self.descriptor.input_shape, self.descriptor.output_dim
        if len(shape) != 1 or actions is None:
            raise DataError(
                f"environment {self.descriptor.task_id!r}: observations must be vectors and actions discrete, got "
                f"shape {shape} and {actions} actions"
            )
        if self.limit < 1:
            raise DataError(f"environment {self.descriptor.task_id!r}: limit must be at least 1, got {self.limit}")

    @property
    def task_id(self) -> str:
        """The descriptor's."""
        return self.descriptor.task_id

    @property
    def space(self) -> TaskSpace:
        """What an agent must know of it."""
        actions = self.descriptor.output_dim
        assert actions is not None
        return TaskSpace(self.task_id, self.descriptor.input_shape[0], actions)


@attrs.frozen(eq=False)
class Stepped:
    """One step of N copies, numpy arrays.

    `following` [N, S] is what the action led to; `observations` [N, S] is what the next action is chosen by: the same,
    but where an episode ended the first observation of the next one. `terminated` [N]: the task itself ended;
    `truncated` [N]: it was only cut off, so what follows still has a value. `valid` [N] is False where nothing was
    done: gymnasium's NEXT_STEP mode spends a step on beginning anew, whatever the action.
    """

    observations: np.ndarray
    following: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class Copies(ABC):
    """N copies of one or more environments, stepped together. An episode that ends is followed by the next at once."""

    count: int
    """How many copies there are."""
    state_dim: int
    """Numbers in an observation."""

    @abstractmethod
    def reset(self, seed: int) -> np.ndarray:
        """First observations [N, S], float32. The same seed gives the same episodes for the same actions."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> Stepped:
        """One step by these actions [N]."""

    def state_dict(self) -> dict[str, Any]:
        """Where each copy is, so that a training goes on as if it had not stopped. DataError if nobody can say."""
        raise DataError(f"{type(self).__name__} cannot say where its environments are: a training cannot be resumed")

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Go back there, and return the observations."""
        raise DataError(f"{type(self).__name__} cannot go back to a state")


class World(Component):
    """Environments that are tasks of one portfolio."""

    point: ClassVar[str] = "world"

    @abstractmethod
    @hook(first=True, returns=dict)
    def environments(self) -> dict[str, Environment]:
        """By task id, in the order of the portfolio. Nothing random; what is written in `parameters` makes a task."""


# --- Acting and learning


@attrs.frozen(eq=False)
class Situation:
    """B places (copies of environments, of any tasks) in which an agent acts.

    `observations` [B, S] float; `tasks` [B] are numbers of the spaces that the agent was prepared for. `starts` [B]: an
    episode begins here. `memory`: what `Decision.memory` held one step before in the same places, {} at the very first
    step; it is not cleared where an episode begins, `starts` says so. `progress`: the part of the training done so far.
    """

    observations: Tensor
    tasks: Tensor
    starts: Tensor
    memory: Mapping[str, Tensor] = attrs.field(factory=dict)
    progress: float = 0.0

    def __len__(self) -> int:
        return len(self.tasks)


@attrs.frozen(eq=False)
class Decision:
    """What an agent does: `actions` [B]. `extras` [B, …] by name are kept in the rollout for `learn` (values, the
    option that was followed); `memory` [B, …] by name comes back in the next situation. All detached.
    """

    actions: Tensor
    extras: Mapping[str, Tensor] = attrs.field(factory=dict)
    memory: Mapping[str, Tensor] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Rollout:
    """T steps in B places, time first.

    `observations` [T, B, S] and the `actions` [T, B] chosen there; `following` [T, B, S] is what each action led to: at
    the end of an episode its *final* observation, never that with which the next episode began. A value is bootstrapped
    from `following` unless `terminated` [T, B]; `truncated` [T, B] only cuts the episode. `valid` [T, B]: False is no
    transition, and must change nothing. `starts` [T, B]: the observation is the first of an episode. `tasks` [B].
    `extras` [T, B, …]: what `act` gave. `progress`: the part of the training that is done, this rollout included.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    following: Tensor
    valid: Tensor
    starts: Tensor
    tasks: Tensor
    extras: Mapping[str, Tensor] = attrs.field(factory=dict)
    progress: float = 0.0

    @property
    def ends(self) -> Tensor:
        """[T, B]: no later step belongs to the same episode."""
        return self.terminated | self.truncated

    @property
    def steps(self) -> int:
        """How many transitions there are."""
        return int(self.valid.sum())

    def transitions(self) -> Transitions:
        """All valid ones, without their order, for a replay memory."""
        where = self.valid
        return Transitions(
            observations=self.observations[where],
            actions=self.actions[where],
            rewards=self.rewards[where],
            terminated=self.terminated[where],
            following=self.following[where],
            tasks=self.tasks.expand_as(self.actions)[where],
        )


@attrs.frozen(eq=False)
class Transitions:
    """N single steps: observations [N, S], actions, rewards, terminated [N], following [N, S], tasks [N]."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    following: Tensor
    tasks: Tensor

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Transitions:
        return Transitions(**{name: tensor[index] for name, tensor in self.tensors()})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each with its name."""
        for field in attrs.fields(type(self)):
            yield field.name, getattr(self, field.name)


class Agent(Component):
    """Learns to act in several tasks at once. Write `network_for`, `act`, `learn`, and `optimizers` if there is one.

        agent = PPO().prepare([TaskSpace("pole", 4, 2), TaskSpace("long pole", 4, 2)], seed=0)
        decision = agent.act(situation, explore=True, generator=generator)
        agent.learn(rollout, generator=generator)

    `crosstask_reinforcement.train` runs it; a run calls the hooks through its wrappers. The parameters that all tasks
    share lie in the children of the network that `shared_modules` names: they are what transfer takes from one agent to
    another, and what balancers balance. Parameters of single tasks are stacked or numbered in the order of the spaces,
    not named after tasks, so that those of one agent's only task fit another's.

    Capabilities: `on_policy` (it learns from the newest rollout alone), `off_policy` (it keeps a memory of its own),
    `options` (it follows options for several steps, and needs `Situation.memory`), `task_blind` (a control that is not
    told which task it acts in).
    """

    point: ClassVar[str] = "agent"

    shared_modules: ClassVar[tuple[str, ...]] = ("shared",)
    """Children (or parameters) of the network that all tasks share."""

    spaces: tuple[TaskSpace, ...] = ()
    """The tasks that it was prepared for."""
    _network: nn.Module | None = None

    # --- What an agent writes

    @abstractmethod
    @hook(first=True, returns=nn.Module)
    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        """A network for these tasks, on observations of the longest one's length. Draw its weights from torch's global
        random numbers, which are seeded here.
        """

    @abstractmethod
    @hook(first=True, returns=Decision)
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        """One action for each place, each by its own task and nothing of the others. With `explore` as in training,
        drawn from `generator`; without, the best known action, and nothing random. Changes nothing of the agent.
        """

    @abstractmethod
    @hook(first=True, returns=dict)
    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        """Learn from what was collected, in place: metrics by name, finite numbers. Tasks of the agent may be absent.

        Everything random comes from `generator`. RunError if a loss is not finite.
        """

    def rollout_steps(self) -> int:
        """How many steps it wants to see of each place before it learns."""
        return 32

    def start(self) -> None:
        """Make what else learning needs (optimisers, memories, copies of the network), afresh: `network` has just been
        built, or has just taken over weights.
        """

    def own_state(self) -> dict[str, Any]:
        """What `start` has made, as tensors and plain data; with it and the network, learning goes on bit for bit."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restore what `own_state` returned; `start` has been called."""

    # --- What its users call

    @property
    def network(self) -> nn.Module:
        """What `network_for` has made. DataError before `prepare`."""
        if self._network is None:
            raise DataError(f"{self.origin} knows no tasks yet: call prepare(spaces, seed=…) first")
        return self._network

    @final
    def prepare(self, spaces: Sequence[TaskSpace], seed: int = 0) -> Self:
        """Say in which tasks it acts; makes its network and what learning needs, afresh. Returns itself.

        DataError for no task, two of one name, and sizes below 1.
        """
        spaces = tuple(of_kind(space, TaskSpace, f"{self.origin}: a task's space") for space in spaces)
        if not spaces:
            raise DataError(f"{self.origin}: prepare needs at least one task")
        names = [space.task_id for space in spaces]
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{self.origin}: two tasks are called {twice[0]!r}")
        for space in spaces:
            if space.state_dim < 1 or space.actions < 1:
                raise DataError(f"{self.origin}: task {space.task_id!r} needs observations and actions, got {space}")
        self.spaces = spaces
        with seeded(seed):
            self._network = self.context.call(self, "network_for", spaces=spaces)
        self.start()
        return self

    @property
    def state_dim(self) -> int:
        """The length of observations: that of the task with the longest."""
        return max(space.state_dim for space in self.spaces)

    def shared_names(self) -> list[str]:
        """Names of the network's parameters and buffers that all tasks share."""
        return [name for name in self.network.state_dict() if name.partition(".")[0] in self.shared_modules]

    def take_over(self, weights: Mapping[str, Tensor], heads: bool = False) -> tuple[str, ...]:
        """Begin from another agent's weights (`network.state_dict()`): those that all tasks share; with `heads` also
        those of single tasks, by their number. What differs in shape is left as it is. Names of what was taken over;
        DataError if that is nothing.
        """
        own = self.network.state_dict()
        wanted = own if heads else self.shared_names()
        taken = tuple(name for name in wanted if name in weights and weights[name].shape == own[name].shape)
        if not taken:
            raise DataError(
                f"{self.origin}: none of its {len(own)} tensors has the name and shape of one of the source's"
            )
        with torch.no_grad():
            for name in taken:
                own[name].copy_(weights[name])
        self.start()
        return taken

    # --- What survives

    def state_dict(self) -> dict[str, Any]:
        """Tasks, weights, and what learning keeps, beside what other components keep."""
        own: dict[str, Any] = {"spaces": [attrs.astuple(space) for space in self.spaces], "network": {}, "own": {}}
        if self._network is not None:
            own["network"] = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
            own["own"] = self.own_state()
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Networks are made again for the tasks in it."""
        if missing := {"spaces", "network", "own"} - set(state):
            raise PluginError(f"{self.origin}: state lacks {', '.join(sorted(missing))}")
        if state["spaces"]:
            self.prepare([TaskSpace(*space) for space in state["spaces"]])
            self.network.load_state_dict(state["network"])
        else:
            self.spaces, self._network = (), None
        super().load_state_dict({k: v for k, v in state.items() if k not in ("spaces", "network", "own")})
        if self.spaces:
            self.load_own_state(state["own"])
