"""The stage `reinforcement`: tasks learned together by acting, and transfer between them measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Job, Remembered
from crosstask.errors import CrosstaskError, RecipeError, RunError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.transferring import key_of, weights_digest
from crosstask.options import component, option, structure, unstructure
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_reinforcement.contract import Agent, Environment
from crosstask_reinforcement.records import MeasuredTransfer, ReinforcementResult
from crosstask_reinforcement.tasks import ControlTask, control_tasks
from crosstask_reinforcement.training import Trained, train
from crosstask_reinforcement.transfer import edge_of, measured_transfer

KIND = "reinforcement"
"""Where finished trainings are kept in a store."""


@attrs.frozen(eq=False)
class Plan:
    """One training: of these tasks, perhaps from a source's weights."""

    label: str
    tasks: tuple[ControlTask, ...]
    seed: int
    settings: Mapping[str, Any]
    start: Mapping[str, Tensor] | None = None


@attrs.frozen(eq=False)
class Made:
    """What a plan came to."""

    trained: Trained
    weights: Mapping[str, Tensor]


@component
class Reinforcement(Stage):
    """Tasks of environments (source `environments`) learned together by one agent, over seeds; then, where `sources`
    and `targets` are named, transfer between tasks that are learned alone: how many steps a target takes to a given
    return from a source's weights, and from none. That goes into the transfer graph as measured edges.

    Every training is remembered as soon as it has ended. Evaluations are greedy, and their steps do not count. Later
    stages may refer to the network of the first seed, `model`.
    """

    Result: ClassVar[type] = ReinforcementResult
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}
    keeps: ClassVar[bool] = False  # it adds to the graph; its trainings are remembered

    agent: Part = part("agent", help="what learns")
    tasks: tuple[str, ...] = option((), help="tasks that are learned together; all of environments by default")
    steps: int = option(150_000, ge=1, help="environment steps of a training, of all tasks together, at most")
    copies: int = option(8, ge=1, help="copies of each environment, side by side")
    evaluate_every: int = option(10_000, ge=1, help="steps between two evaluations")
    episodes: int = option(20, ge=1, help="greedy episodes of each task in an evaluation")
    stop: bool = option(True, help="end a training where all its tasks are solved")
    solved: float | None = option(None, help="mean return from which a task is; what its environment says, by default")
    sources: tuple[str, ...] = option((), help="tasks to transfer from: each is learned alone")
    targets: tuple[str, ...] = option((), help="tasks to transfer to; all the others, where sources are named")
    transferred: str = option(
        "shared", choices=("shared", "network"), help="what is taken over: what tasks share, or all that fits"
    )
    transfer_steps: int = option(30_000, ge=1, help="environment steps of a training of one task alone, at most")
    transfer_every: int = option(1_000, ge=1, help="steps between two evaluations in those")
    transfer_return: float | None = option(
        None, help="mean return to reach; from which the target is solved, by default"
    )

    # --- Before any work

    def check(self, portfolio: Portfolio) -> None:
        chosen = self._chosen(portfolio)
        if self.copies * len(chosen) > self.steps:
            raise RecipeError(
                f"steps: {self.steps} do not suffice for one in each of {self.copies} copies of each task"
            )
        if self.copies > self.transfer_steps:
            raise RecipeError(
                f"transfer_steps: {self.transfer_steps} do not suffice for one in each of {self.copies} copies"
            )
        for _, target in self._pairs(portfolio):
            if self._level(target) is None:
                raise RecipeError(
                    f"transfer_return: task {target.task_id!r} does not say from which return it is solved"
                )
        agent = self._agent()
        try:
            agent.all_parts()  # what is wrong with them is said before any work
        except CrosstaskError as error:
            raise RecipeError(f"agent: {error}") from None

    def _chosen(self, portfolio: Portfolio) -> list[ControlTask]:
        known = {task.task_id: task for task in control_tasks(portfolio)}
        for name in ("tasks", "sources", "targets"):
            for task_id in getattr(self, name):
                if task_id not in known:
                    raise RecipeError(f"{name}: no task {task_id!r} with an environment{nearest(task_id, known)}")
        if not known:
            raise RecipeError("there is no task with an environment; source 'environments' loads some")
        return [known[task_id] for task_id in self.tasks or known]

    def _pairs(self, portfolio: Portfolio) -> list[tuple[ControlTask, ControlTask]]:
        known = {task.task_id: task for task in control_tasks(portfolio)}
        if self.targets and not self.sources:
            sources: Sequence[str] = list(known)
        else:
            sources = self.sources
        targets = self.targets or list(known)
        return [(known[s], known[t]) for t in targets for s in sources if s != t]

    def _level(self, task: ControlTask) -> float | None:
        return next((at for at in (self.transfer_return, self.solved, task.environment.solved) if at is not None), None)

    def _agent(self) -> Agent:
        return cast(Agent, self.made_of("agent")[0])

    # --- Work

    def work(self, engine: Engine) -> Outcome:
        chosen, pairs = self._chosen(engine.portfolio), self._pairs(engine.portfolio)
        alone = {task.task_id: task for pair in pairs for task in pair}
        seeds = [self.context.seed_for("reinforcement", number) % 2**62 for number in range(engine.seeds)]
        self.context.tell("stage_started", stage="reinforcement", total=len(seeds) * (1 + len(alone) + len(pairs)))
        names = [task.task_id for task in chosen]
        together = [
            Plan(f"{', '.join(names)}, seed {n + 1}", tuple(chosen), seed, self._together())
            for n, seed in enumerate(seeds)
        ]
        singles = [
            Plan(f"{task.task_id} alone, seed {n + 1}", (task,), seed, self._alone(task))
            for task in alone.values()
            for n, seed in enumerate(seeds)
        ]
        made = self._made([*together, *singles])
        trained, rest = made[: len(seeds)], iter(made[len(seeds) :])
        own = {task_id: [next(rest) for _ in seeds] for task_id in alone}
        transfers = self._transfers(pairs, own, seeds)
        for measured in transfers:
            engine.graph.add(edge_of(measured, self.name.rpartition(":")[2]))
        result = self._result(engine, chosen, [each.trained for each in trained], transfers)
        self.context.tell("stage_finished", stage="reinforcement", result=result)
        return Outcome(result, {"model": self._network(chosen, seeds[0], trained[0].weights)})

    def _together(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "copies": self.copies, "evaluate_every": self.evaluate_every,
            "episodes": self.episodes, "stop": self.stop, "levels": self.solved,
        }  # fmt: skip

    def _alone(self, task: ControlTask) -> dict[str, Any]:
        return {
            "steps": self.transfer_steps, "copies": self.copies, "evaluate_every": self.transfer_every,
            "episodes": self.episodes, "stop": True, "levels": self._level(task),
        }  # fmt: skip

    def _transfers(
        self, pairs: Sequence[tuple[ControlTask, ControlTask]], own: Mapping[str, Sequence[Made]], seeds: Sequence[int]
    ) -> list[MeasuredTransfer]:
        heads = self.transferred == "network"
        plans = [
            Plan(
                f"{source.task_id} -> {target.task_id}, seed {number + 1}",
                (target,),
                seed,
                {**self._alone(target), "heads": heads},
                own[source.task_id][number].weights,
            )
            for source, target in pairs
            for number, seed in enumerate(seeds)
        ]
        rest, found = iter(self._made(plans)), []
        for source, target in pairs:
            level = self._level(target)
            assert level is not None  # `check`
            agent = copy.deepcopy(self._agent()).prepare([target.environment.space])
            taken = agent.take_over(own[source.task_id][0].weights, heads=heads)
            measured = measured_transfer(
                source.task_id,
                target.task_id,
                level,
                self.transfer_steps,
                [next(rest).trained for _ in seeds],
                [each.trained for each in own[target.task_id]],
                taken,
            )
            found.append(measured)
        return found

    def _network(self, chosen: Sequence[ControlTask], seed: int, weights: Mapping[str, Tensor]) -> nn.Module:
        agent = copy.deepcopy(self._agent())
        network = agent.prepare([task.environment.space for task in chosen], seed=seed).network
        network.load_state_dict(weights)
        return network.eval()

    def _made(self, plans: Sequence[Plan]) -> list[Made]:
        """What the plans came to, in their order. Each goes as a job or, where wrappers are to see it, through the run;
        what is remembered is not done again.
        """
        agent = self._agent()
        agent.all_parts()  # made here: another process may know no registry
        keys = [self._key(plan) for plan in plans]
        found: dict[int, Made] = {}
        for number, (trained, weights) in self._done(agent, plans, keys):
            plan = plans[number]
            if trained is not None:
                told = {"what": "reinforcement", "label": plan.label, "trained": unstructure(trained)}
                self.context.remember(KIND, keys[number], told, weights)
                found[number] = Made(trained, weights)
            else:
                known = self.context.recall(KIND, keys[number], claim=False)
                assert known is not None
                found[number] = Made(structure(known.payload["trained"], Trained, "stored training"), known.tensors)
            self.context.tell("stage_progress", stage="reinforcement", detail=plan.label)
        return [found[number] for number in range(len(plans))]

    def _done(
        self, agent: Agent, plans: Sequence[Plan], keys: Sequence[str]
    ) -> Iterator[tuple[int, tuple[Trained | None, dict[str, Tensor]]]]:
        """(number, (training, weights)) as each is done; None for one that is remembered."""
        environments = [[task.environment for task in plan.tasks] for plan in plans]
        if self.context.wrapping():
            for number, plan in enumerate(plans):
                if self.context.recall(KIND, keys[number]) is not None:
                    yield number, (None, {})
                else:
                    yield number, _learn(agent, environments[number], plan.seed, plan.settings, plan.start)
            return
        jobs = [
            Job(
                _learn_copy,
                (agent, environments[number], plan.seed, plan.settings, plan.start),
                label=plan.label,
                key=(KIND, keys[number]),
            )
            for number, plan in enumerate(plans)
        ]
        for number, answer in self.context.jobs(jobs):
            yield number, (None, {}) if isinstance(answer, Remembered) else answer

    def _key(self, plan: Plan) -> str:
        return key_of(
            "reinforcement",
            self.results_version,
            self._agent().identity(),
            [task.fingerprint() for task in plan.tasks],
            dict(plan.settings),
            plan.seed,
            None if plan.start is None else weights_digest(plan.start),
            self.context.wrapping(),
        )

    # --- What came of it

    def _result(
        self,
        engine: Engine,
        chosen: Sequence[ControlTask],
        trained: Sequence[Trained],
        transfers: Sequence[MeasuredTransfer],
    ) -> ReinforcementResult:
        names = [task.task_id for task in chosen]
        said = {task.task_id: task.environment.solved if self.solved is None else self.solved for task in chosen}
        at = {name: [each.solved_at[name] for each in trained] for name in names}
        notes = []
        never = [name for name in names if said[name] is not None and all(each is None for each in at[name])]
        if never:
            notes.append(f"In no seed was solved at the end: {', '.join(never)}.")
        notes += [
            f"From {m.source} to {m.target} the return was reached in no seed, with or without the source."
            for m in transfers
            if m.speed_gain is None
        ]
        notes += [f"Negative transfer from {m.source} to {m.target}." for m in transfers if m.coefficient.high < 0]
        agent = self._agent()
        return ReinforcementResult(
            tasks=tuple(names),
            agent=agent.name.rpartition(":")[2],
            returns={name: confidence_interval([each.curves[name].final for each in trained]) for name in names},
            levels={name: level for name, level in said.items() if level is not None},
            solved={name: sum(each is not None for each in at[name]) for name in names},
            steps_to_solve={name: _mean(at[name]) for name in names},
            trained=tuple(trained),
            transfers=tuple(transfers),
            transferred=self.transferred,
            steps=self.steps,
            episodes=self.episodes,
            notes=tuple(notes),
            seed=engine.seed,
            seeds=len(trained),
            options={"agent": agent.options(), **{k: v for k, v in self.options().items() if k != "agent"}},
        )

    @classmethod
    def summary(cls, result: ReinforcementResult) -> dict[str, Any]:
        at = [each.all_solved_at for each in result.trained]
        rows: dict[str, Any] = {"all_tasks_solved": f"in {result.all_solved} of {result.seeds} seeds"}
        if all(each is not None for each in at):
            rows["steps_until_all_solved"] = _mean(at)
        worst = min(result.tasks, key=lambda task: result.returns[task].mean)
        rows["worst_task"], rows["its_return"] = worst, result.returns[worst]
        if result.transfers:
            best = max(result.transfers, key=lambda each: each.coefficient.mean)
            rows["best_transfer"] = f"{best.source} -> {best.target}"
            rows["its_coefficient"] = best.coefficient
        return rows

    @classmethod
    def sections(cls, result: ReinforcementResult, graph: TransferGraph) -> list[Section]:
        from crosstask_reinforcement.report import sections  # deferred: plotly is heavy

        return sections(result)


def _mean(found: Sequence[int | None]) -> float | None:
    known = [each for each in found if each is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def _learn_copy(
    agent: Agent,
    environments: Sequence[Environment],
    seed: int,
    settings: Mapping[str, Any],
    start: Mapping[str, Tensor] | None,
) -> tuple[Trained, dict[str, Tensor]]:
    """As a job: on a copy, which hears nothing of the run."""
    return _learn(copy.deepcopy(agent), environments, seed, settings, start)


def _learn(
    agent: Agent,
    environments: Sequence[Environment],
    seed: int,
    settings: Mapping[str, Any],
    start: Mapping[str, Tensor] | None,
) -> tuple[Trained, dict[str, Tensor]]:
    given = dict(settings)
    level = given.pop("levels")
    levels = {} if level is None else {each.task_id: level for each in environments}
    with torch.random.fork_rng(devices=[]):
        trained = train(agent, environments, seed=seed, start=start, levels=levels, **given)
    weights = agent.network.state_dict()
    if not math.isfinite(sum(float(value.double().sum()) for value in weights.values() if value.is_floating_point())):
        raise RunError(f"{agent.origin}: weights are not finite after training")
    return trained, {name: value.detach().clone() for name, value in weights.items()}
