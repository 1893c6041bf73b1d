"""Simulated outcomes of tools, and a learner beside what it has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from crosstask.errors import DataError
from crosstask.learning.metrics import confidence_interval
from crosstask.options import structure
from crosstask_routing.learner import ToolMetaLearner
from crosstask_routing.profiles import TaskComplexity, TaskProfile, ToolProfile, ToolType
from crosstask_routing.records import PolicyFigures, ToolBenchmark

TENTHS = 10
AFFINITY = 0.3
"""How far a tool's success on a type of task lies from its reliability, as a standard deviation."""
HARDER = 0.2
"""How much less often a tool succeeds on the hardest tasks."""


@attrs.frozen(eq=False)
class SimulatedTools:
    """What tools come to on types of tasks, drawn once: success with a probability that differs by tool and type,
    around the tool's reliability and falling with complexity; cost and latency log-normal around the profile's.
    """

    tools: dict[str, ToolProfile]
    affinity: dict[tuple[str, str], float]

    @classmethod
    def drawn(cls, tools: Mapping[str, ToolProfile], types: Iterable[str], rng: np.random.Generator) -> SimulatedTools:
        """A world of these tools and types of tasks."""
        found = {(name, kind): float(rng.normal(0, AFFINITY)) for kind in dict.fromkeys(types) for name in tools}
        return cls(dict(tools), found)

    def success(self, name: str, task: TaskProfile) -> float:
        """The probability that a tool succeeds at a task. A tool of reliability 0 never does."""
        reliability = self.tools[name].reliability
        if reliability == 0:
            return 0.0
        return min(1.0, max(0.0, reliability + self.affinity[name, task.task_type] - HARDER * task.complexity.level))

    def use(self, name: str, task: TaskProfile, rng: np.random.Generator) -> dict[str, float]:
        """One use: success, cost and latency."""
        profile = self.tools[name]
        luck, cost, latency = rng.random(), rng.normal(), rng.normal()
        return {
            "success": float(luck < self.success(name, task)),
            "cost": profile.cost_per_use * math.exp(0.2 * cost - 0.02),
            "latency": profile.latency * math.exp(0.4 * latency - 0.08),
        }


def create_tool_optimization_benchmark(
    tools: Mapping[str, ToolProfile] | Sequence[ToolProfile],
    tasks: Sequence[TaskProfile],
    num_tasks: int = 100,
    *,
    repeats: int = 5,
    seed: int = 0,
    **options: Any,
) -> ToolBenchmark:
    """Give a new `ToolMetaLearner` (with `options`) `num_tasks` tasks, drawn from those given, of which it learns what
    came of its first choice, in `repeats` worlds; beside it an oracle, the best single tool, and chance.

    Regret is the expected reward (success less weighted cost and latency) of the best tool for a task less that of the
    tool chosen. DataError without tasks, or without a usable tool.
    """
    if not isinstance(tools, Mapping):
        tools = {profile.tool_id: profile for profile in tools}
    count, repeats = structure(num_tasks, int, "num_tasks"), structure(repeats, int, "repeats")
    if not tasks or count < 1 or repeats < 1:
        raise DataError(f"a benchmark needs tasks, num_tasks and repeats, got {len(tasks)}, {count} and {repeats}")
    names = ["learner", "best static", "random", "oracle"]
    sums: dict[str, list[list[float]]] = {name: [] for name in names}
    curves: dict[str, list[np.ndarray]] = {name: [] for name in names}
    explored, held = np.zeros(count), []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        world = SimulatedTools.drawn(tools, (task.task_type for task in tasks), rng)
        learner = ToolMetaLearner(tools, seed=seed + repeat, **options)
        usable = learner.usable
        if not usable:
            raise DataError("a benchmark needs a tool that is in use: reliability above 0")
        drawn = [tasks[place] for place in rng.integers(len(tasks), size=count)]
        success = np.array([[world.success(name, task) for name in usable] for task in drawn])
        price = np.array([learner.cost_weight * tools[n].cost_per_use + learner.latency_weight * tools[n].latency
                          for n in usable])  # fmt: skip
        value = success - price
        picks = {
            "oracle": value.argmax(axis=1),
            "best static": np.full(count, value.mean(axis=0).argmax()),
            "random": rng.integers(len(usable), size=count),
            "learner": np.zeros(count, dtype=np.int64),
        }
        for place, task in enumerate(drawn):
            plan = learner.optimize_task_execution(task)
            first = plan.steps[0]
            picks["learner"][place] = usable.index(first.tool_id)
            explored[place] += plan.exploration / repeats
            truth = world.success(first.tool_id, task)
            held.append(first.success.low - 1e-9 <= truth <= first.success.high + 1e-9)
            learner.learn_from_execution(task, {first.tool_id: world.use(first.tool_id, task, rng)})
        rows, paid = np.arange(count), np.array([tools[name].cost_per_use for name in usable])
        for name in names:
            took = picks[name]
            lost = value.max(axis=1) - value[rows, took]
            sums[name].append([float(value[rows, took].mean()), float(success[rows, took].mean()),
                               float(paid[took].mean()), float(lost.sum())])  # fmt: skip
            curves[name].append(np.cumsum(lost))
    ends = [max(0, math.ceil(count * part / TENTHS) - 1) for part in range(1, TENTHS + 1)]
    policies = []
    for name in names:
        reward, rate, cost, _ = np.mean(sums[name], axis=0).tolist()
        policies.append(
            PolicyFigures(
                name=name, reward=reward, success_rate=rate, cost=cost,
                regret=confidence_interval([row[3] for row in sums[name]], (0.0, math.inf)),
                efficiency=rate / cost if cost > 0 else None,
                exploration=tuple(by_tenth(explored)) if name == "learner" else (),
                regrets=tuple(np.mean(curves[name], axis=0)[ends].tolist()),
            )
        )  # fmt: skip
    return ToolBenchmark(tasks=count, repeats=repeats, policies=tuple(policies), covered=sum(held) / len(held))


def by_tenth(values: np.ndarray) -> list[float]:
    """The mean of each tenth of a run; of fewer than ten steps, each step."""
    return [float(part.mean()) for part in np.array_split(values, min(TENTHS, len(values)))]


def example_tools() -> dict[str, ToolProfile]:
    """Six tools of different cost and reliability, for trying things out."""
    rows = [
        ("keyword_search", ToolType.SEARCH, 0.2, 0.6, 0.1),
        ("semantic_search", ToolType.SEARCH, 1.0, 0.75, 0.5),
        ("statistics", ToolType.ANALYSIS, 0.5, 0.7, 0.2),
        ("small_model", ToolType.GENERATION, 1.0, 0.65, 0.6),
        ("large_model", ToolType.GENERATION, 4.0, 0.85, 3.0),
        ("checker", ToolType.VALIDATION, 0.3, 0.7, 0.1),
    ]
    return {name: ToolProfile(name, kind, cost, works, seconds) for name, kind, cost, works, seconds in rows}


def example_tasks() -> list[TaskProfile]:
    """Tasks of eight types and every complexity."""
    types = ("lookup", "summary", "comparison", "translation", "calculation", "review", "planning", "extraction")
    return [
        TaskProfile(f"{kind} {complexity.value}", kind, complexity) for kind in types for complexity in TaskComplexity
    ]
