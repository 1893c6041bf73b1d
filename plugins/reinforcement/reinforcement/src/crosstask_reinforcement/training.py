"""Runs an agent in environments: collecting, learning, greedy evaluation, and all of a training as one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError, PluginError, of_kind
from crosstask.options import record, structure
from crosstask.records import LearningCurve
from crosstask_reinforcement.contract import Agent, Decision, Environment, Rollout, Situation
from crosstask_reinforcement.copies import Places

Array = np.ndarray[Any, Any]


class Runner:
    """An agent in `copies` copies of each environment, whose episodes go on from one `collect` to the next.

    The agent was prepared for the environments' spaces, in their order. `finished` holds, by task, (step, return) of
    each episode that has ended: the steps are those of all places together. Hooks are called through `agent.context`.
    """

    def __init__(self, agent: Agent, environments: Sequence[Environment], copies: int, seed: int) -> None:
        _fits(agent, environments)
        self.agent = agent
        self.places = Places(environments, [copies] * len(environments), agent.state_dim)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        """Transitions so far, of all tasks together."""
        self.finished: dict[str, list[tuple[int, float]]] = {e.task_id: [] for e in environments}
        self._observations = self.places.reset(seed % 2**62)
        self._starts = np.ones(self.places.count, dtype=bool)
        self._memory: Mapping[str, Tensor] = {}
        self._returns = np.zeros(self.places.count)

    def collect(self, steps: int, progress: float = 0.0, learned: float | None = None) -> Rollout:
        """So many steps in every place. `learned` is the progress that the rollout is told (`progress` by default)."""
        count, size, places = self.places.count, self.places.state_dim, self.places
        observations = np.empty((steps, count, size), dtype=np.float32)
        following = np.empty_like(observations)
        actions = np.empty((steps, count), dtype=np.int64)
        rewards = np.empty((steps, count), dtype=np.float32)
        terminated, truncated, valid, starts = (np.empty((steps, count), dtype=bool) for _ in range(4))
        extras: dict[str, list[Tensor]] = {}
        for step in range(steps):
            decision = self._decide(progress)
            observations[step], starts[step] = self._observations, self._starts
            actions[step] = decision.actions.numpy()
            stepped = places.step(actions[step])
            following[step], rewards[step] = stepped.following, stepped.rewards
            terminated[step], truncated[step], valid[step] = stepped.terminated, stepped.truncated, stepped.valid
            for name, value in decision.extras.items():
                extras.setdefault(name, []).append(value)
            self._memory = decision.memory
            self._observations = stepped.observations
            self._count(stepped.rewards, terminated[step] | truncated[step], valid[step])
        return Rollout(
            observations=torch.from_numpy(observations),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            following=torch.from_numpy(following),
            valid=torch.from_numpy(valid),
            starts=torch.from_numpy(starts),
            tasks=places.tasks,
            extras={name: torch.stack(values) for name, values in extras.items()},
            progress=progress if learned is None else learned,
        )

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """The agent learns from it."""
        found: dict[str, float] = self.agent.context.call(
            self.agent, "learn", rollout=rollout, generator=self.generator
        )
        return found

    def _decide(self, progress: float) -> Decision:
        situation = Situation(
            observations=torch.from_numpy(self._observations),
            tasks=self.places.tasks,
            starts=torch.from_numpy(self._starts),
            memory=self._memory,
            progress=progress,
        )
        return decide(self.agent, situation, True, self.generator)

    def _count(self, rewards: Array, ended: Array, valid: Array) -> None:
        self.steps += int(valid.sum())
        self._returns += rewards * valid
        begun = ended | ~valid  # what followed a step in which nothing was done is a first observation
        if begun.any():
            for row in np.flatnonzero(ended):
                task = self.places.environments[int(self.places.tasks[row])].task_id
                self.finished[task].append((self.steps, float(self._returns[row])))
            self._returns[begun] = 0.0
        self._starts = begun

    def state_dict(self) -> dict[str, Any]:
        """Where everything is: with the agent's own state, a training goes on from here bit for bit. DataError for
        environments of gymnasium, which cannot say where they are.
        """
        return {
            "places": self.places.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "finished": {task: list(found) for task, found in self.finished.items()},
            "starts": self._starts.copy(),
            "memory": {name: value.clone() for name, value in self._memory.items()},
            "returns": self._returns.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back there."""
        self._observations = self.places.load_state_dict(state["places"])
        self.generator.set_state(state["generator"])
        self.steps = state["steps"]
        self.finished = {task: list(found) for task, found in state["finished"].items()}
        self._starts, self._returns = state["starts"].copy(), state["returns"].copy()
        self._memory = {name: value.clone() for name, value in state["memory"].items()}


def decide(agent: Agent, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
    """The agent's `act`, through its run. PluginError for actions of another shape."""
    found: Decision = agent.context.call(agent, "act", situation=situation, explore=explore, generator=generator)
    if found.actions.shape != situation.tasks.shape or found.actions.is_floating_point():
        raise PluginError(
            f"{agent.origin}: act must give one whole number for each of {len(situation)} places, got "
            f"{found.actions.dtype} of shape {tuple(found.actions.shape)}"
        )
    return found


def evaluate(
    agent: Agent, environments: Sequence[Environment], episodes: int = 20, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """Returns of so many greedy episodes in each environment, by task; all run side by side, each once."""
    _fits(agent, environments)
    places = Places(environments, [episodes] * len(environments), agent.state_dim)
    observations, generator = places.reset(seed % 2**62), torch.Generator().manual_seed(seed)
    returns, running = np.zeros(places.count), np.ones(places.count, dtype=bool)
    starts = np.ones(places.count, dtype=bool)
    memory: Mapping[str, Tensor] = {}
    while running.any():
        situation = Situation(
            observations=torch.from_numpy(observations),
            tasks=places.tasks,
            starts=torch.from_numpy(starts),
            memory=memory,
            progress=1.0,
        )
        decision = decide(agent, situation, False, generator)
        stepped = places.step(decision.actions.numpy())
        returns += stepped.rewards * running * stepped.valid
        ended = stepped.terminated | stepped.truncated
        running &= ~ended
        observations, memory, starts = stepped.observations, decision.memory, ended | ~stepped.valid
    tasks = places.tasks.numpy()
    return {e.task_id: tuple(map(float, returns[tasks == n])) for n, e in enumerate(environments)}


def _fits(agent: Agent, environments: Sequence[Environment]) -> None:
    spaces = tuple(environment.space for environment in environments)
    if spaces != agent.spaces:
        ours, theirs = ([space.task_id for space in each] for each in (agent.spaces, spaces))
        raise DataError(f"{agent.origin} was prepared for the tasks {ours}, not for {theirs}, or for other sizes")


@record
class Trained:
    """One training. `curves` hold the mean return of greedy episodes, by task, at numbers of environment steps of all
    tasks together; `solved_at` the first from which on each stayed solved (None: it was not at the end);
    `collected` the mean returns of the episodes that ended in training between two such points.
    """

    curves: dict[str, LearningCurve]
    collected: dict[str, LearningCurve]
    solved_at: dict[str, int | None]
    steps: int
    seconds: float
    seed: int

    @property
    def solved(self) -> bool:
        """Whether every task was, at the end."""
        return all(at is not None for at in self.solved_at.values())

    @property
    def all_solved_at(self) -> int | None:
        """Steps after which all tasks were solved; None if one was not."""
        found = [at for at in self.solved_at.values() if at is not None]
        return max(found) if found and len(found) == len(self.solved_at) else None


def train(
    agent: Agent,
    environments: Sequence[Environment],
    *,
    steps: int,
    copies: int = 8,
    evaluate_every: int = 10_000,
    episodes: int = 20,
    stop: bool = True,
    levels: Mapping[str, float] | None = None,
    seed: int = 0,
    start: Mapping[str, Tensor] | None = None,
    heads: bool = False,
    told: Callable[[int, dict[str, float]], None] | None = None,
) -> Trained:
    """Train `agent` afresh for these environments, in place, for at most `steps` environment steps of all together.

    Every `evaluate_every` steps `episodes` greedy episodes are played in each, which do not count as steps; with `stop`
    training ends where all are solved, and the last evaluation is of other episodes than that which stopped it.
    `levels` say from which mean return a task is solved (by default what the environments say; without either it never
    is). `start` are weights to begin from (`Agent.take_over`, with `heads` whole); then what they can do before any
    step is the first point. `told` hears the mean returns of each evaluation. All that is random follows from `seed`.
    """
    of_kind(agent, Agent, "what is trained")  # type: ignore[type-abstract]
    for name, number in (("steps", steps), ("copies", copies), ("evaluate_every", evaluate_every)):
        if structure(number, int, name) < 1:
            raise DataError(f"{name} must be at least 1, got {number}")
    environments = list(environments)
    if steps < copies * len(environments):
        raise DataError(f"{steps} steps do not suffice for one in each of {copies} copies of {len(environments)} tasks")
    wanted = {e.task_id: (levels or {}).get(e.task_id, e.solved) for e in environments}
    began = time.process_time()
    agent.prepare([e.space for e in environments], seed=seed)
    if start is not None:
        agent.take_over(start, heads=heads)
    runner = Runner(agent, environments, copies, seed)
    horizon = agent.rollout_steps()
    points: list[int] = []
    scores: dict[str, list[float]] = {e.task_id: [] for e in environments}
    collected: dict[str, list[tuple[int, float]]] = {e.task_id: [] for e in environments}
    heard = dict.fromkeys(scores, 0)

    def look(again: bool = False) -> bool:
        place = len(points) - 1 if again else len(points)
        found = evaluate(agent, environments, episodes, seed=_seed(seed, 2 * place + again))
        means = {task: sum(values) / len(values) for task, values in found.items()}
        if not again:
            points.append(runner.steps)
        for task, mean in means.items():
            if again:
                scores[task][-1] = mean
                continue
            scores[task].append(mean)
            new = [value for _, value in runner.finished[task][heard[task] :]]
            heard[task] = len(runner.finished[task])
            if new:
                collected[task].append((runner.steps, sum(new) / len(new)))
        if told is not None:
            told(runner.steps, means)
        return all(level is not None and means[task] >= level for task, level in wanted.items())

    due, count = evaluate_every, runner.places.count
    done = start is not None and look() and stop and look(again=True)
    while not done and (room := (steps - runner.steps) // count):
        long, before = min(horizon, room), runner.steps  # the last rollout may be shorter, to spend no more than given
        runner.learn(runner.collect(long, progress=before / steps, learned=(before + long * count) / steps))
        if runner.steps >= due or runner.steps + count > steps:
            due = runner.steps + evaluate_every
            done = look() and stop and look(again=True)
    return Trained(
        curves={t: LearningCurve(steps=tuple(points), values=tuple(values)) for t, values in scores.items()},
        collected={
            t: LearningCurve(steps=tuple(s for s, _ in found), values=tuple(v for _, v in found))
            for t, found in collected.items()
        },
        solved_at={t: _stayed(points, values, wanted[t]) for t, values in scores.items()},
        steps=runner.steps,
        seconds=time.process_time() - began,
        seed=seed,
    )


def _stayed(points: Sequence[int], values: Sequence[float], level: float | None) -> int | None:
    """The first point from which on all values are at least `level`."""
    found = None
    for point, value in zip(points, values, strict=True):
        found = None if level is None or value < level else point if found is None else found
    return found


def _seed(seed: int, place: int) -> int:
    """Of the n-th evaluation: other episodes each time, and none that training sees."""
    return int(np.random.SeedSequence([seed % 2**64, 1, place]).generate_state(1, np.uint64)[0]) >> 2
