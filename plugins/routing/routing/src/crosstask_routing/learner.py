"""`ToolMetaLearner`: which tools for which task, planned and learned from what came of it.

learner = ToolMetaLearner({"search": ToolProfile("search", ToolType.SEARCH, cost_per_use=2.0), ...})
plan = learner.optimize_task_execution(TaskProfile("t1", "lookup", TaskComplexity.MODERATE))
learner.learn_from_execution(task, {plan.tools[0]: {"success": True, "cost": 1.8, "latency": 0.4}})
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, PluginError, StoreError, nearest
from crosstask.manifest import DEFAULT
from crosstask.options import build, structure, unstructure
from crosstask.parts import Choice
from crosstask.registry import Registry
from crosstask.store import Store, open_store
from crosstask_routing.contexts import LARGEST
from crosstask_routing.contract import Array, Router
from crosstask_routing.forecasts import KINDS, Forecast
from crosstask_routing.plans import PATHS, check_graph, ends_of, length, paths, together
from crosstask_routing.profiles import TaskProfile, ToolProfile
from crosstask_routing.records import ExecutionPlan, LearningResult, PlannedTool, ToolEfficiency, ToolOutcome

KIND = "routers"
"""Under which a store keeps learners."""
RECENT = 100

Results = Mapping[str, Any] | Iterable[Any]


class ToolMetaLearner:
    """Chooses tools for tasks, and learns from what came of it.

    A router (by name, as a table with `use`, or a component; by default the one that a manifest marks) chooses for a
    context made of the task: 1, its complexity from 0 to 1, its features, and its type as one of those seen so far. The
    reward of a use is success - `cost_weight` cost - `latency_weight` latency. Every tool begins with its profile as if
    that had been seen once. Beside the router regressions say what success, cost and latency to expect, with intervals.

    - `attempts`: how many tools a plan may hold, to be tried one after another until one succeeds.
    - `graph`: a networkx.DiGraph of tool names; then a plan is a *sequence* along its edges, the shortest path by
      -ln(success) and weighted cost and latency. It takes the upper ends of what success is expected to be, as in
      CombUCB1 (Kveton et al. 2015), which is its exploration: the router is not asked. TaskProfile.begin and .end say
      between which types of tools; else between those without predecessors and those without successors.
    - `cost_budget`, `latency_budget`: what a plan may be expected to take; each call may say its own.
    - `discount`: what a result still counts for forecasts one result of that tool later, for tools that change; let the
      router forget, too (`discounted_linucb`).

    Tools of reliability 0 are out of use. No tools are no error: they can be added later; planning then is one.
    DataError for what does not fit; nothing is learned from results that are refused.
    """

    def __init__(
        self,
        tools: Mapping[str, ToolProfile] | None = None,
        *,
        router: Router | Choice | Mapping[str, Any] | str | None = None,
        graph: nx.DiGraph | None = None,
        cost_weight: float = 0.1,
        latency_weight: float = 0.0,
        attempts: int = 1,
        cost_budget: float | None = None,
        latency_budget: float | None = None,
        ridge: float = 1.0,
        discount: float = 1.0,
        seed: int = 0,
        registry: Registry | None = None,
    ) -> None:
        self.cost_weight = _positive("cost_weight", cost_weight, zero=True)
        self.latency_weight = _positive("latency_weight", latency_weight, zero=True)
        self.attempts = structure(attempts, int, "attempts")
        if self.attempts < 1:
            raise OptionError(f"attempts must be at least 1, got {attempts}")
        self.cost_budget, self.latency_budget = _budget("cost", cost_budget), _budget("latency", latency_budget)
        self.ridge, self.discount = _positive("ridge", ridge), _positive("discount", discount)
        if self.discount > 1:
            raise OptionError(f"discount must be at most 1, got {discount}")
        resolved = LocalContext(seed=structure(seed, int, "seed"), registry=registry).resolve(
            "router", DEFAULT if router is None else router
        )
        assert isinstance(resolved, Router)
        self.router: Router = resolved
        self.tools: dict[str, ToolProfile] = {}
        self.types: list[str] = []
        """The types of tasks that were seen, in order: each has a place in the context."""
        self._count_of_features: int | None = None
        self._forecasts: dict[str, dict[str, Forecast]] = {}
        self._explored: deque[float] = deque(maxlen=RECENT)
        self.executions = self._successes = 0
        self._paid = self._waited = 0.0
        self._timed = 0
        for name, profile in _tools_of(tools):
            self.add_tool(profile, name)
        self.graph = None if graph is None else check_graph(graph, self.tools)

    # Tools come and go ------------------------------------------------------------------------------------------------

    def add_tool(self, profile: ToolProfile, name: str | None = None) -> None:
        """A tool more, from now on. DataError where there is one of that name."""
        if not isinstance(profile, ToolProfile):
            raise DataError(f"a tool is a ToolProfile, got a {type(profile).__name__}")
        if name is not None and name != profile.tool_id:
            raise DataError(f"the tool {profile.tool_id!r} stands under the name {name!r}")
        if profile.tool_id in self.tools:
            raise DataError(f"there is a tool {profile.tool_id!r} already; remove it first")
        for kind in ("cost_per_use", "latency"):
            if not self._small(getattr(profile, kind)):
                raise DataError(f"tool {profile.tool_id!r}: {kind} is too large, got {getattr(profile, kind)}")
        self.tools[profile.tool_id] = profile
        priors = (profile.reliability, profile.cost_per_use, profile.latency)
        self._forecasts[profile.tool_id] = {
            kind: Forecast(kind, prior, self.ridge, self.discount) for kind, prior in zip(KINDS, priors, strict=True)
        }
        expected = self._value(*priors)
        self.router.update(np.eye(1, self._width)[0], profile.tool_id, expected)

    def remove_tool(self, tool_id: str) -> None:
        """A tool is gone, with all that was learned of it, also from the tool graph."""
        self._known(tool_id)
        del self.tools[tool_id], self._forecasts[tool_id]
        self.router.forget(tool_id)
        if self.graph is not None and tool_id in self.graph:
            self.graph.remove_node(tool_id)

    def connect(self, one: str, two: str) -> None:
        """An edge more of the tool graph: what tool `one` gives may go into tool `two`."""
        self._known(one)
        self._known(two)
        self.graph = nx.DiGraph() if self.graph is None else self.graph
        self.graph.add_edge(one, two)

    def _known(self, tool_id: str) -> ToolProfile:
        if tool_id not in self.tools:
            raise DataError(f"unknown tool {tool_id!r}{nearest(tool_id, self.tools)}")
        return self.tools[tool_id]

    @property
    def usable(self) -> tuple[str, ...]:
        """The tools that are not out of use, in the order in which they came."""
        return tuple(name for name, profile in self.tools.items() if profile.reliability > 0)

    # Planning ---------------------------------------------------------------------------------------------------------

    def optimize_task_execution(
        self, task: TaskProfile, *, cost_budget: float | None = None, latency_budget: float | None = None
    ) -> ExecutionPlan:
        """The tools for a task, in order, with what to expect. DataError where no tool is usable, or none fits."""
        x = self._context(task)
        usable = self.usable
        if not usable:
            told = f"; out of use (reliability 0): {', '.join(self.tools)}" if self.tools else ": add one with add_tool"
            raise DataError(f"task {task.task_id!r}: there is no tool to use{told}")
        budgets = {
            "cost": self.cost_budget if cost_budget is None else _budget("cost", cost_budget),
            "latency": self.latency_budget if latency_budget is None else _budget("latency", latency_budget),
        }
        expected = {name: self._planned(name, x) for name in usable}
        if self.graph is None:
            plan = self._choice(task, x, expected, budgets)
        else:
            plan = self._sequence(task, x, expected, budgets, self.graph)
        self._explored.append(plan.exploration)
        return plan

    def _planned(self, name: str, x: Array) -> PlannedTool:
        found = {kind: forecast.interval(x) for kind, forecast in self._forecasts[name].items()}
        return PlannedTool(tool_id=name, uses=self._forecasts[name]["success"].uses, **found)

    def _choice(
        self, task: TaskProfile, x: Array, expected: Mapping[str, PlannedTool], budgets: Mapping[str, float | None]
    ) -> ExecutionPlan:
        steps: list[PlannedTool] = []
        stays = 1.0
        while len(steps) < self.attempts:
            left = [step for name, step in expected.items() if step not in steps]
            fitting = tuple(s.tool_id for s in left if not _over(together([*steps, s], "choice"), budgets))
            if not fitting:
                break
            decision = self.router.choose(x, fitting)
            steps.append(expected[decision.tool])
            stays *= 1 - decision.exploration
        if not steps:
            raise DataError(f"task {task.task_id!r}: {_unaffordable(expected.values(), budgets)}")
        return self._plan(task, "choice", steps, 1 - stays, x)

    def _sequence(
        self,
        task: TaskProfile,
        x: Array,
        expected: Mapping[str, PlannedTool],
        budgets: Mapping[str, float | None],
        whole: nx.DiGraph,
    ) -> ExecutionPlan:
        part, begins, ends = ends_of(whole, task, self.tools, self.usable)
        prices = {
            name: self.cost_weight * step.cost.mean + self.latency_weight * step.latency.mean
            for name, step in expected.items()
        }
        hopeful = {name: length(step.success.high, prices[name]) for name, step in expected.items()}
        likely = {name: length(step.success.mean, prices[name]) for name, step in expected.items()}
        taken = self._shortest(part, begins, ends, hopeful, expected, budgets)
        if taken is None:
            told = "no sequence of usable tools leads from its beginnings to its ends"
            if begins and ends and any(budget is not None for budget in budgets.values()):
                told += ", or none is expected to keep the budget"
            raise DataError(f"task {task.task_id!r}: {told}")
        best = self._shortest(part, begins, ends, likely, expected, budgets)
        return self._plan(task, "sequence", [expected[name] for name in taken], float(taken != best), x)

    def _shortest(
        self,
        graph: nx.DiGraph,
        begins: Sequence[str],
        ends: Sequence[str],
        lengths: Mapping[str, float],
        expected: Mapping[str, PlannedTool],
        budgets: Mapping[str, float | None],
    ) -> tuple[str, ...] | None:
        """The shortest sequence that keeps the budgets; None where none of the first 10,000 does."""
        for number, path in enumerate(paths(graph, begins, ends, lengths)):
            if number == PATHS:
                return None
            if not _over(together([expected[name] for name in path], "sequence"), budgets):
                return path
        return None

    def _plan(
        self, task: TaskProfile, kind: str, steps: Sequence[PlannedTool], exploration: float, x: Array
    ) -> ExecutionPlan:
        success, cost, latency = together(steps, kind)
        return ExecutionPlan(
            task_id=task.task_id, kind=kind, steps=tuple(steps), success=success, cost=cost, latency=latency,
            exploration=min(1.0, max(0.0, exploration)), context=tuple(x.tolist()),
        )  # fmt: skip

    def efficiency(self, task: TaskProfile) -> tuple[ToolEfficiency, ...]:
        """Every usable tool for a task, by expected reward, the best first: what it gives for what it costs."""
        x, found = self._context(task), []
        for name in self.usable:
            step = self._planned(name, x)
            value = self._value(step.success.mean, step.cost.mean, step.latency.mean)
            per_cost = step.success.mean / step.cost.mean if step.cost.mean > 0 else None
            found.append(
                ToolEfficiency(tool_id=name, success=step.success, cost=step.cost, latency=step.latency, value=value,
                               per_cost=per_cost, uses=step.uses)
            )  # fmt: skip
        return tuple(sorted(found, key=lambda each: -each.value))

    def _small(self, value: float) -> bool:
        """Whether a router and the forecasts take a cost or latency (or a reward with it) as a number."""
        return abs(value) * max(1.0, self.cost_weight, self.latency_weight) < LARGEST / 4

    def _value(self, success: float, cost: float, latency: float) -> float:
        return success - self.cost_weight * cost - self.latency_weight * latency

    # Learning ---------------------------------------------------------------------------------------------------------

    def learn_from_execution(self, task: TaskProfile, execution_results: Results) -> LearningResult:
        """Learn from what each tool that was used came to: by tool a `ToolOutcome` or a table with `success` and,
        where they are known, `cost` and `latency`; or a list of such with `tool_id`.

        A result whose cost is not given cost what the profile says; a latency that is not given is not learned from.
        The execution succeeded where all its tools did (in a sequence) or one of them did.
        """
        if not isinstance(task, TaskProfile):
            raise DataError(f"a task is a TaskProfile, got a {type(task).__name__}")
        outcomes = [self._outcome(entry) for entry in _entries(execution_results)]
        if not outcomes:
            raise DataError(f"task {task.task_id!r}: there are no results to learn from")
        x = self._context(task)  # takes note of the task's type and features
        rewards: dict[str, float] = {}
        surprises: dict[str, float] = {}
        for outcome in outcomes:
            name, profile = outcome.tool_id, self.tools[outcome.tool_id]
            cost = profile.cost_per_use if outcome.cost is None else outcome.cost
            waited = profile.latency if outcome.latency is None else outcome.latency
            reward = self._value(outcome.success, cost, waited)
            self.router.update(x, name, reward)
            forecasts = self._forecasts[name]
            surprises[name] = outcome.success - min(1.0, max(0.0, forecasts["success"].expected(x)[0]))
            forecasts["success"].learn(x, outcome.success)
            if outcome.cost is not None:
                forecasts["cost"].learn(x, cost)
            if outcome.latency is not None:
                forecasts["latency"].learn(x, waited)
                self._waited += waited
            rewards[name] = rewards.get(name, 0.0) + reward
            self._paid += cost
        self._timed += any(outcome.latency is not None for outcome in outcomes)
        succeeded = [outcome.success >= 0.5 for outcome in outcomes]
        success = any(succeeded) if self.graph is None else all(succeeded)
        self.executions += 1
        self._successes += success
        return LearningResult(
            task_id=task.task_id, success=success, reward=sum(rewards.values()), rewards=rewards, surprises=surprises,
            executions=self.executions, success_rate=self._successes / self.executions,
            mean_cost=self._paid / self.executions,
            mean_latency=self._waited / self._timed if self._timed else None,
            efficiency=self._successes / self._paid if self._paid > 0 else None,
            exploration=sum(self._explored) / len(self._explored) if self._explored else 0.0,
        )  # fmt: skip

    def _outcome(self, entry: Any) -> ToolOutcome:
        if isinstance(entry, ToolOutcome):
            found = entry
        elif isinstance(entry, Mapping):
            self._known(str(entry.get("tool_id")))
            table = dict(entry)
            if isinstance(table.get("success"), bool | np.bool_):
                table["success"] = float(table["success"])
            found = build(ToolOutcome, table, f"result of {entry.get('tool_id')!r}")
        else:
            raise DataError(f"a result is a table or a ToolOutcome, got a {type(entry).__name__}")
        self._known(found.tool_id)
        for name in KINDS:
            value = getattr(found, name)
            if value is not None and not math.isfinite(value):
                raise DataError(f"result of {found.tool_id!r}: {name} must be finite, got {value}")
            if value is not None and not self._small(value):
                raise DataError(f"result of {found.tool_id!r}: {name} is too large to learn from, got {value}")
        return found

    # The context ------------------------------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return 2 + (self._count_of_features or 0) + len(self.types)

    def _context(self, task: TaskProfile) -> Array:
        """1, complexity, features, and which of the types seen so far it is; a new one gets a place at the end."""
        if not isinstance(task, TaskProfile):
            raise DataError(f"a task is a TaskProfile, got a {type(task).__name__}")
        if self._count_of_features is None:
            self._count_of_features = len(task.features)
        if len(task.features) != self._count_of_features:
            told = f"{len(task.features)} features, those before had {self._count_of_features}"
            raise DataError(f"task {task.task_id!r} has {told}")
        if task.task_type not in self.types:
            self.types.append(task.task_type)
        which = [float(task.task_type == each) for each in self.types]
        return np.array([1.0, task.complexity.level, *task.features, *which])

    # State ------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain JSON: `load_state_dict` goes on from it to the last digit."""
        return {
            "tools": [unstructure(profile) for profile in self.tools.values()],
            "types": list(self.types),
            "features": self._count_of_features,
            "edges": None if self.graph is None else [list(self.graph.nodes), [list(e) for e in self.graph.edges]],
            "router": {"name": type(self.router).__qualname__, "state": self.router.state_dict()},
            "forecasts": {n: {k: f.state() for k, f in own.items()} for n, own in self._forecasts.items()},
            "explored": list(self._explored),
            "totals": [self.executions, self._successes, self._paid, self._waited, self._timed],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, tools included. PluginError for anything else, or another router."""
        try:
            named = str(state["router"]["name"])
            if named != type(self.router).__qualname__:
                raise PluginError(f"the state is of router {named}, this learner's is {type(self.router).__qualname__}")
            tools = {str(t["tool_id"]): structure(t, ToolProfile, "tool") for t in state["tools"]}
            forecasts = {
                name: {kind: Forecast.of(kind, state["forecasts"][name][kind], self.ridge, self.discount)
                       for kind in KINDS}
                for name in tools
            }  # fmt: skip
            executions, successes, paid, waited, timed = state["totals"]
            features, types = state["features"], [str(each) for each in state["types"]]
            graph = None
            if state["edges"] is not None:
                graph = nx.DiGraph()
                graph.add_nodes_from(state["edges"][0])
                graph.add_edges_from(map(tuple, state["edges"][1]))
                graph = check_graph(graph, tools)
            explored = [float(each) for each in state["explored"]]
            self.router.load_state_dict(state["router"]["state"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PluginError(f"this is not the state of a ToolMetaLearner: {error}") from None
        self.tools, self._forecasts, self.types, self.graph = tools, forecasts, types, graph
        self._count_of_features = None if features is None else int(features)
        self._explored = deque(explored, maxlen=RECENT)
        self.executions, self._successes, self._timed = int(executions), int(successes), int(timed)
        self._paid, self._waited = float(paid), float(waited)

    def save(self, store: Store | str | Path, name: str) -> None:
        """Keep its state in a store (or what opens one: a path, a URL) under a name, over what is there."""
        with _opened(store) as opened:
            opened.put(KIND, name, self.state_dict(), replace=True)

    def load(self, store: Store | str | Path, name: str) -> None:
        """Go on from what `save` kept. StoreError where there is nothing of that name."""
        with _opened(store) as opened:
            kept = opened.get(KIND, name)
            if kept is None:
                known = [key for key, _ in opened.entries(KIND)]
                raise StoreError(f"the store has no tool learner {name!r}{nearest(name, known)}")
        self.load_state_dict(kept.payload)


class _opened:  # noqa: N801 -- used as a function
    """A store, closed at the end if it was opened here."""

    def __init__(self, store: Store | str | Path) -> None:
        self._own = not isinstance(store, Store)
        self.store: Store = open_store(str(store)) if not isinstance(store, Store) else store

    def __enter__(self) -> Store:
        return self.store

    def __exit__(self, *error: object) -> None:
        if self._own:
            self.store.close()


def _tools_of(tools: Any) -> Iterable[tuple[str, ToolProfile]]:
    if tools is None:
        return ()
    if not isinstance(tools, Mapping):
        raise DataError(f"tools are a dict of ToolProfile by name, got a {type(tools).__name__}")
    return list(tools.items())


def _entries(results: Any) -> list[Any]:
    """A list of results from a table by tool, one result, or a list."""
    if isinstance(results, ToolOutcome):
        return [results]
    if not isinstance(results, Mapping):
        if isinstance(results, str) or not isinstance(results, Iterable):
            raise DataError(f"results are a table by tool or a list, got a {type(results).__name__}")
        return list(results)
    if "tool_id" in results:
        return [results]
    made: list[Any] = []
    for name, entry in results.items():
        if isinstance(entry, ToolOutcome):
            if entry.tool_id != name:
                raise DataError(f"the result of {entry.tool_id!r} stands under the name {name!r}")
            made.append(entry)
        elif isinstance(entry, Mapping):
            made.append({**entry, "tool_id": name})
        else:
            made.append({"tool_id": name, "success": entry})
    return made


def _over(whole: Sequence[Any], budgets: Mapping[str, float | None]) -> bool:
    """Whether a plan is expected to take more than a budget."""
    _, cost, latency = whole
    taken = {"cost": cost.mean, "latency": latency.mean}
    return any(budget is not None and taken[name] > budget * (1 + 1e-12) for name, budget in budgets.items())


def _unaffordable(steps: Iterable[PlannedTool], budgets: Mapping[str, float | None]) -> str:
    told = []
    for name, budget in budgets.items():
        if budget is not None:
            least = min(steps := list(steps), key=lambda step: getattr(step, name).mean)
            told.append(f"{name} {budget:g} (the least is {getattr(least, name).mean:.3g}, of {least.tool_id!r})")
    return f"no tool is expected to keep the budget: {', '.join(told)}"


def _positive(name: str, value: Any, *, zero: bool = False) -> float:
    number = structure(value, float, name)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise OptionError(f"{name} must be a finite number {'from 0 on' if zero else 'above 0'}, got {value}")
    return float(number)


def _budget(name: str, value: Any) -> float | None:
    return None if value is None else _positive(f"{name}_budget", value, zero=True)
