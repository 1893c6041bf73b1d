"""The stage `shared_edges`: sites measure transfers from published models, and share nothing but the figures."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import nn

from crosstask.components import Job
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, RecipeError, RunError, nearest, told
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.learning.metrics import standard_error
from crosstask.learning.modules import copy_of
from crosstask.learning.transferring import without_model
from crosstask.logs import logger
from crosstask.options import component, option, unstructure
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, TransferResult
from crosstask.tasks import Portfolio, Task
from crosstask_federation.records import SharedEdge, SharedEdgesResult
from crosstask_federation.splits import Split, split_task


@component
class SharedEdges(Stage):
    """Each site measures on its own data how much published models of source tasks help it, against training from
    scratch; only the edges leave it, and are merged into one graph (`TransferGraph.merge`), which goes into the run's.

    Sites are tasks, or parts of one: then each pair is measured as often as there are sites, and the merged edge is
    pooled by their uncertainty. What an earlier such stage measured of a pair stays: the run's edge is pooled of both.
    """

    Result: ClassVar[type] = SharedEdgesResult
    keeps: ClassVar[bool] = False  # its edges go into the engine's graph

    sources: tuple[str, ...] = option(help="tasks whose own models are published to all sites")
    tasks: tuple[str, ...] = option((), help="the sites, or the one task that is split; all that are no sources")
    split: Split | None = option(None, help="how the one task becomes sites")
    method: Part | None = part("transfer", None, help="how a site learns from a model; the recipe's by default")

    def check(self, portfolio: Portfolio) -> None:
        self._chosen(portfolio)

    def _chosen(self, portfolio: Portfolio) -> list[Task]:
        for name, ids in (("sources", self.sources), ("tasks", self.tasks)):
            for task_id in ids:
                if task_id not in portfolio:
                    raise RecipeError(f"{name}: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
        if not self.sources:
            raise RecipeError("sources: name at least one task whose model is published")
        if both := [task_id for task_id in self.tasks if task_id in self.sources]:
            raise RecipeError(f"tasks: {both[0]!r} is a source; a task does not help itself")
        names = list(self.tasks) or [task_id for task_id in portfolio.ids if task_id not in self.sources]
        if not names or (self.split is not None and len(names) != 1):
            wanted = "one task to split" if self.split is not None else "at least one site"
            raise RecipeError(f"tasks: {wanted} is needed, got {', '.join(names) or 'none'}")
        for task_id in names:
            for split in ("train", "test"):
                if not portfolio[task_id].has_data(split):
                    raise RecipeError(f"task {task_id!r} has no {split} data")
        return [portfolio[task_id] for task_id in names]

    def work(self, engine: Engine) -> Outcome:
        tasks = self._chosen(engine.portfolio)
        engine.train(self.sources)
        method = cast(Transfer, self.made_of("method")[0]) if self.method is not None else engine.method()
        method.all_parts()  # made here: a site's process has no run to find them in
        sites = self._sites(tasks)
        self.context.tell("stage_started", stage="shared_edges", total=len(sites) * len(self.sources))
        jobs, of = [], []
        for site, (target, task) in sites.items():
            for source in self.sources:
                model = engine.portfolio[source].model
                assert model is not None  # it was trained
                descriptor = engine.portfolio[source].descriptor
                seed = self.context.seed_for("shared edges", site)
                args = (method, descriptor, model, task, engine.budget, engine.seeds, seed, self.context.device)
                jobs.append(Job(measure_at, args, label=f"{source} at site {site}"))
                of.append((site, source, target))
        found: dict[int, TransferResult | str] = {}
        for place, answer in self.context.jobs(jobs):
            found[place] = answer
            self.context.tell("stage_progress", stage="shared_edges", detail=f"{of[place][1]} at site {of[place][0]}")
        result, graph = self._merged(engine, method.origin, sites, of, [found[place] for place in range(len(of))])
        for edge in _with_earlier(graph, engine.graph).all_edges():
            engine.graph.add(edge)
        self.context.tell("stage_finished", stage="shared_edges", result=result)
        return Outcome(result)

    def _sites(self, tasks: list[Task]) -> dict[str, tuple[str, Task]]:
        """By the site's name: the task that it is a part of, and its data."""
        for task in tasks:
            task.data("train")
        if self.split is None:
            return {task.task_id: (task.task_id, without_model(task)) for task in tasks}
        (task,) = tasks
        made = split_task(task, self.split, self.context.generator("federated", "sites", task.task_id))
        return {each.task_id: (task.task_id, without_model(each)) for each in made}

    def _merged(
        self, engine: Engine, method: str, sites: Mapping[str, tuple[str, Task]], of: list[tuple[str, str, str]],
        found: list[TransferResult | str],
    ) -> tuple[SharedEdgesResult, TransferGraph]:  # fmt: skip
        ends = {t: engine.portfolio[t].descriptor for t in (*self.sources, *(target for target, _ in sites.values()))}
        graph = TransferGraph(ends.values())
        edges, lost, size = [], {}, 0
        for (site, source, target), answer in zip(of, found, strict=True):
            if isinstance(answer, str):
                lost[site] = answer
                logger().warning("site_lost", site=site, source=source, why=answer)
                continue
            edge = _edge(answer, ends[source], ends[target], site)
            size += len(json.dumps(unstructure(edge)))
            one = TransferGraph([ends[source], ends[target]])
            one.add(edge)
            graph = graph.merge(one).graph
            samples = len(sites[site][1].data("train").head(engine.budget.samples))
            edges.append(
                SharedEdge(
                    site=site, source=source, target=target, coefficient=answer.coefficient, score=answer.score,
                    scratch_score=answer.scratch_score, samples=samples,
                )
            )  # fmt: skip
        if not edges:
            site, why = next(iter(lost.items()))
            raise RunError(f"no site could measure a transfer; {site!r}: {why}")
        merged = {f"{e.source} -> {e.target}": e for e in graph.edges()}
        result = SharedEdgesResult(
            method=method, sites=tuple(sites), sources=self.sources, edges=tuple(edges),
            merged={pair: e.transfer_coefficient for pair, e in merged.items()},
            uncertainty={pair: e.uncertainty for pair, e in merged.items()}, bytes=size, lost=lost, seed=engine.seed,
            seeds=engine.seeds,
        )  # fmt: skip
        return result, graph

    @classmethod
    def summary(cls, result: SharedEdgesResult) -> dict[str, Any]:
        best = max(result.merged, key=lambda pair: result.merged[pair])
        rows: dict[str, Any] = {
            "shared_edges": f"{len(result.edges)} measured at {len(result.sites)} sites",
            "best_shared_edge": f"{best}: {result.merged[best]:+.3f}",
        }
        return rows | ({"sites_lost": len(result.lost)} if result.lost else {})

    @classmethod
    def sections(cls, result: SharedEdgesResult, graph: TransferGraph) -> list[Section]:
        from crosstask_federation.report import edges_section  # deferred: it needs plotly

        return [edges_section(result)]


def _with_earlier(found: TransferGraph, known: TransferGraph) -> TransferGraph:
    """What was found, pooled with what sites had measured of the same pairs before."""
    before = TransferGraph(found.task(task_id) for task_id in found.task_ids)
    for edge in found.edges():
        for each in known.evidence(edge.source, edge.target):
            if each.measured and each.found_by == edge.found_by:
                before.add(each)
    return before.merge(found).graph


def measure_at(
    method: Transfer, descriptor: TaskDescriptor, model: nn.Module, task: Task, budget: Budget, seeds: int, seed: int,
    device: str,
) -> TransferResult | str:  # fmt: skip
    """One transfer at a site, as a job, with its own data and a published model; or why it failed."""
    try:
        own = copy.copy(method)
        own.bind(LocalContext(seed=seed, device=device))
        source = Task(descriptor=descriptor, model=copy_of(model))
        return own.transfer(source, task, budget, seeds, "test")
    except Exception as error:  # also of a user's network, or a method
        return str(error) if isinstance(error, CrosstaskError) else told(error)


def _edge(result: TransferResult, source: TaskDescriptor, target: TaskDescriptor, site: str) -> TransferEdge:
    """What leaves the site."""
    coefficient, gain = result.coefficient, result.performance_gain
    return TransferEdge(
        source=source.task_id, target=target.task_id, transfer_coefficient=coefficient.mean,
        evidence=Evidence.MEASURED, found_by="shared_edges", origin=site, site=site,
        relation=relation_type(coefficient.mean, source, target), uncertainty=standard_error(coefficient),
        low=coefficient.low, high=coefficient.high, accuracy_gain=gain.mean, accuracy_gain_low=gain.low,
        accuracy_gain_high=gain.high, score=result.score.mean, score_low=result.score.low, score_high=result.score.high,
        convergence_speed_gain=result.convergence_speed_gain,
        speed_capped=result.speed_capped,
    )  # fmt: skip
