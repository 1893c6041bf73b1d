"""The stage `routing`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.manifest import DEFAULT
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio, Task
from crosstask_routing.benchmark import TENTHS, by_tenth
from crosstask_routing.contract import Array, Router
from crosstask_routing.records import PolicyFigures, RoutingResult
from crosstask_routing.requests import Requests, alike


@component
class Routing(Stage):
    """Which model should answer a request, where nobody says of which task it is.

    The tools are the tasks' own models and, with `generalists`, networks trained on all tasks together. A request is a
    test sample of a task drawn at random. A router sees how near it lies to what training inputs of each task look
    like, chooses one tool, and learns whether its answer was right, less what the tool cost (its weights, as a part of
    the largest tool's). Beside the routers stand the best single tool and an oracle that is told the task.
    """

    Result: ClassVar[type] = RoutingResult
    needs_models: ClassVar[bool] = True

    routers: tuple[Part, ...] = part("router", (), help="what learns to choose; the default router where none is named")
    tasks: tuple[str, ...] = option((), help="tasks whose requests are mixed; by default all that are like the first")
    generalists: tuple[ModelSpec, ...] = option((), help="networks that are trained on all tasks together, as tools")
    requests: int = option(1500, ge=10, help="requests, one after another")
    cost_weight: float = option(0.1, ge=0, le=1, help="what the most expensive tool costs, where a right answer is 1")

    def check(self, portfolio: Portfolio) -> None:
        """The tasks can be mixed."""
        try:
            alike(portfolio, self.tasks)
        except DataError as error:
            raise RecipeError(f"tasks: {error}") from None

    def work(self, engine: Engine) -> Outcome:
        tasks = alike(engine.portfolio, self.tasks)
        routers: list[Router] = self.made_of("routers") or [self.context.resolve("router", DEFAULT)]
        names = [_short(router) for router in routers]
        names = [n if names.count(n) == 1 else f"{n} {names[: i + 1].count(n)}" for i, n in enumerate(names)]
        self.context.tell("stage_started", stage="routing", total=len(routers) * engine.seeds)
        asked = Requests.of(tasks, self._tools(engine, tasks))
        accuracy = asked.accuracy()
        value = accuracy - self.cost_weight * asked.costs
        best = int(value.mean(axis=0).argmax())
        streams = [asked.drawn(self.requests, self.context.seed_for("requests", n)) for n in range(engine.seeds)]
        fixed = {
            "oracle": [value.argmax(axis=1)[asked.task[stream]] for stream in streams],
            "best static": [np.full(len(stream), best) for stream in streams],
            "random": [np.random.default_rng([7, n]).integers(len(asked.tools), size=len(stream))
                       for n, stream in enumerate(streams)],
        }  # fmt: skip
        taken: dict[str, list[np.ndarray]] = {}
        explored: dict[str, list[Array]] = {}
        for name, router in zip(names, routers, strict=True):
            start = router.state_dict()
            for stream in streams:
                router.load_state_dict(start)
                picks, exploring = self._played(router, asked, stream)
                taken.setdefault(name, []).append(picks)
                explored.setdefault(name, []).append(exploring)
                self.context.tell("stage_progress", stage="routing", detail=name)
            router.load_state_dict(start)
        policies = [
            _figures(name, picks, streams, asked, value, explored.get(name, []))
            for name, picks in {**taken, **fixed}.items()
        ]
        result = RoutingResult(
            tools=asked.tools, tasks=asked.tasks,
            accuracy={tool: tuple(accuracy[:, k].tolist()) for k, tool in enumerate(asked.tools)},
            costs=dict(zip(asked.tools, asked.costs.tolist(), strict=True)),
            requests=self.requests, repeats=engine.seeds, cost_weight=self.cost_weight, policies=tuple(policies),
            chosen={name: _chosen(picks, streams, asked) for name, picks in taken.items()},
        )  # fmt: skip
        self.context.tell("stage_finished", stage="routing", result=result)
        return Outcome(result)

    def _tools(self, engine: Engine, tasks: list[Task]) -> dict[str, nn.Module]:
        tools: dict[str, nn.Module] = {}
        for task in tasks:
            assert task.model is not None  # needs_models
            tools[task.task_id] = task.model
        both = [task.data("train") for task in tasks]
        inputs = torch.cat([data.inputs for data in both])
        targets = torch.cat([data.targets for data in both])
        for number, spec in enumerate(self.generalists):
            name = f"all by {spec.kind.rpartition(':')[2]} {'-'.join(map(str, spec.hidden))}"
            whole = Task(descriptor=tasks[0].descriptor, train=(inputs, targets))
            model = spec.build(whole.descriptor, self.context.seed_for("generalist", number))
            generator = self.context.generator("generalist", number, "order")
            fit(model, whole, engine.train_budget, generator, curve_split=None)
            tools[name if name not in tools else f"{name} {number + 1}"] = model
        return tools

    def _played(self, router: Router, asked: Requests, stream: np.ndarray) -> tuple[np.ndarray, Array]:
        """(the tool taken for each request, how probable it was that it explored)."""
        picks, exploring = np.zeros(len(stream), dtype=np.int64), np.zeros(len(stream))
        places = {tool: place for place, tool in enumerate(asked.tools)}
        for step, place in enumerate(stream):
            context = asked.contexts[place]
            decision = self.context.call(router, "choose", context=context, tools=asked.tools)
            took = places[decision.tool]
            reward = float(asked.right[place, took] - self.cost_weight * asked.costs[took])
            self.context.call(router, "update", context=context, tool=decision.tool, reward=reward)
            picks[step], exploring[step] = took, decision.exploration
        return picks, exploring

    @classmethod
    def summary(cls, result: RoutingResult) -> dict[str, Any]:
        static = result.of("best static")
        rows: dict[str, Any] = {"routing": f"{len(result.tools)} tools, {result.requests} requests"}
        for name in result.routers:
            own = result.of(name)
            rows[f"routing_{name}"] = f"{own.success_rate:.3f} right; the best single tool {static.success_rate:.3f}"
        return rows

    @classmethod
    def sections(cls, result: RoutingResult, graph: TransferGraph) -> list[Section]:
        from crosstask_routing.report import section  # deferred: plotly is heavy

        return [section(result)]


def _short(router: Router) -> str:
    return router.name.rpartition(":")[2]


def _figures(
    name: str, picks: list[np.ndarray], streams: list[np.ndarray], asked: Requests, value: Array, explored: list[Array]
) -> PolicyFigures:
    rewards, rights, costs, curves = [], [], [], []
    for took, stream in zip(picks, streams, strict=True):
        of = value[asked.task[stream]]
        curves.append(np.cumsum(of.max(axis=1) - of[np.arange(len(took)), took]))
        rights.append(float(asked.right[stream, took].mean()))
        costs.append(float(asked.costs[took].mean()))
        rewards.append(float(of[np.arange(len(took)), took].mean()))
    count = len(streams[0])
    ends = [math.ceil(count * part / TENTHS) - 1 for part in range(1, TENTHS + 1)]
    cost = float(np.mean(costs))
    return PolicyFigures(
        name=name, reward=float(np.mean(rewards)), success_rate=float(np.mean(rights)), cost=cost,
        regret=confidence_interval([float(curve[-1]) for curve in curves], (0.0, math.inf)),
        efficiency=float(np.mean(rights)) / cost if cost > 0 else None,
        exploration=tuple(by_tenth(np.mean(explored, axis=0))) if explored else (),
        regrets=tuple(np.mean(curves, axis=0)[ends].tolist()),
    )  # fmt: skip


def _chosen(picks: list[np.ndarray], streams: list[np.ndarray], asked: Requests) -> dict[str, tuple[float, ...]]:
    """By task: how often each tool was used for it in the last fifth."""
    late = [(took[-len(took) // 5 :], stream[-len(stream) // 5 :]) for took, stream in zip(picks, streams, strict=True)]
    took, task = np.concatenate([t for t, _ in late]), asked.task[np.concatenate([s for _, s in late])]
    found = {}
    for place, name in enumerate(asked.tasks):
        counts = np.bincount(took[task == place], minlength=len(asked.tools))
        found[name] = tuple((counts / max(1, counts.sum())).tolist())
    return found
