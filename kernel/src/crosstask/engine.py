"""The engine: tasks in; transfer graph, curricula, transfers, knowledge and models for unseen tasks out."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import attrs
import torch
from torch import nn

from crosstask.adapting import (
    Adapted,
    from_several,
    held_back,
    of_curriculum,
    of_several,
    of_sources,
    of_transfer,
    with_samples,
)
from crosstask.advising import advise
from crosstask.components import Component
from crosstask.curriculum_path import CurriculumPath
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.engine_files import open_engine, save_engine
from crosstask.errors import DataError, of_kind
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.devices import resolve_device
from crosstask.learning.metrics import confidence_interval, moved
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import TASK_TYPES, loss_of, metric_of
from crosstask.learning.own_models import (
    copied,
    doubted,
    own_network,
    prepare_model,
    train_models,
)
from crosstask.learning.transferring import (
    key_of,
    scratch_scores,
    scratch_seeds,
    source_digest,
    unfit_pair,
    weights_digest,
)
from crosstask.manifest import DEFAULT
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.discovery import Discoverer
from crosstask.points.distillation import Distilled, Distiller
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.points.store import Store
from crosstask.points.strategist import Strategist
from crosstask.points.synthesis import Synthesizer
from crosstask.points.transfer import Transfer
from crosstask.points.wrapper import Wrapper
from crosstask.reading import odd_labels
from crosstask.records import (
    Adjustment,
    Advice,
    Budget,
    Curriculum,
    CurriculumResult,
    CurriculumStep,
    Interval,
    Provenance,
    TransferResult,
)
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.showing import table
from crosstask.stages import Finished, check_stage, run_stage
from crosstask.store import open_store
from crosstask.tasks import SPLITS, Portfolio, Task

C = TypeVar("C", bound=Component)
Strategy = str | enum.Enum | Choice | Component | None
"""A component: by name, by a member of the strategy enums, as a `Choice`, or an object; None: the one that a manifest
marks as the default of its point.
"""


STRATEGIES = ("transfer", "balancer", "synthesis")
"""The points whose strategies `advise` has a strategist recommend."""


class TransferEngine(Engine):
    """Finds out which tasks help which, and uses it.

    Strategies are named by string or enum member, or given as objects. Everything measured is kept in the store, under
    a key made of all that determines it, and not measured again. `auto_discover` runs the discoverers that need only
    descriptors whenever a task is registered, for that task's pairs: O(n) for the n-th task. Without `discoverers` they
    are those that the installed plugins mark as default. What is no method here is a stage: `run_stage`.
    """

    def __init__(
        self,
        *,
        model: ModelSpec | None = None,
        train: Budget | None = None,
        budget: Budget | None = None,
        discoverers: Sequence[Strategy] | None = None,
        transfer: Strategy = None,
        auto_discover: bool = True,
        seed: int = 0,
        seeds: int = 3,
        device: str = "cpu",
        store: Store | str | Path | None = None,
        registry: Registry | None = None,
        executor: Executor | None = None,
        observers: Iterable[Observer | Wrapper] = (),
        run_id: str = "",
        trace: Any = None,
    ) -> None:
        self.model = ModelSpec() if model is None else structure(model, ModelSpec, "model")
        self.train_budget = Budget(steps=400) if train is None else structure(train, Budget, "train")
        self.budget = Budget(steps=100, samples=50) if budget is None else structure(budget, Budget, "budget")
        seed, seeds = structure(seed, int, "seed"), structure(seeds, int, "seeds")
        if seeds < 1:
            raise DataError(f"seeds must be at least 1, got {seeds}")
        run_id = structure(run_id, str, "run_id")
        if trace is not None and not callable(trace):
            raise DataError(f"trace must be a function, got a {type(trace).__name__}")
        self.seed, self.seeds = seed, seeds
        self.auto_discover = structure(auto_discover, bool, "auto_discover")
        if discoverers is not None:
            discoverers = structure(discoverers, tuple[Any, ...], "discoverers")
        self.registry = Registry.installed() if registry is None else of_kind(registry, Registry, "registry")
        if not isinstance(store, str | Path | None):
            of_kind(store, Store, "store")  # type: ignore[type-abstract]
        if executor is not None:
            of_kind(executor, Executor, "executor")  # type: ignore[type-abstract]
        observers = structure(observers, tuple[Any, ...], "observers")
        for observer in observers:
            given: object = observer
            if not isinstance(given, Observer | Wrapper):
                raise DataError(f"observers must be observers or wrappers, got a {type(given).__name__}")
        opened = open_store(str(store), registry=self.registry) if isinstance(store, str | Path) else store
        self.store = opened
        self.run: Run = Run(
            self.registry,
            seed=seed,
            run_id=run_id,
            device=resolve_device(device),
            store=opened,
            executor=executor,
            observers=observers,
            trace=trace,
        )
        self.run.budget, self.run.seeds = self.budget, seeds
        self.portfolio = Portfolio()
        self.graph = TransferGraph()
        self._usual: Strategy = transfer
        self._wanted = discoverers
        self.discoverers_named = discoverers is not None
        """Whether the user chose the discoverers; of the default ones those that cannot work are left out."""
        self.transfer_history: list[TransferResult] = []
        """Every transfer that `transfer_knowledge` has given, in order."""
        self._measured: dict[str, TransferResult] = {}
        self.curricula: list[Curriculum] = []
        """Every curriculum that was planned."""
        self.meta_knowledge: list[Distilled] = []
        """Everything that was distilled."""
        self.given_models: dict[str, str] = {}
        """Digests of the models that users registered, by task; others are trained by this engine."""
        self.brought: dict[str, str | None] = {}
        """What the models are as sources with which tasks came, once somebody has asked. Besides those that users
        registered these are such as an engine that was saved had trained in another way than this one would.
        """
        self.notes: list[str] = []
        """What the log was told of tasks as they were registered: models that seem to have learned nothing."""
        self._finished = Finished()
        self._described: dict[Discoverer, dict[tuple[str, str], _Described]] = {}

    def __repr__(self) -> str:
        held = [*self.portfolio, *self.portfolio.unseen]
        models = sum(task.model is not None for task in held)
        return f"{type(self).__name__}({len(held)} tasks, {models} of them with a model; {self.graph!r})"

    def __enter__(self) -> TransferEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Stop the executor and let go of the store. Components that wait for it hear of the error that ended the work,
        if one did.
        """
        try:
            self.run.closed(error)
        finally:
            self.run.executor.shutdown()
            if self.store is not None:
                self.store.close()

    def component(self, kind: type[C], point: str, strategy: Strategy, options: Mapping[str, Any] | None = None) -> C:
        """A strategy as a component of this run."""
        if isinstance(strategy, Component):
            if not isinstance(strategy, kind):
                raise TypeError(f"expected a {kind.__name__}, got {strategy.origin}")
            return cast(C, self.run.add(strategy))
        if isinstance(strategy, Choice):
            return cast(C, self.run.component(point, strategy.use, {**strategy.options, **(options or {})}))
        name = DEFAULT if strategy is None else strategy.value if isinstance(strategy, enum.Enum) else strategy
        if not isinstance(name, str):
            raise DataError(f"a {point} is a name, a Choice or a {kind.__name__}, got a {type(name).__name__}")
        return cast(C, self.run.component(point, name, options))

    @functools.cached_property
    def discoverers(self) -> list[Discoverer]:
        """The discoverers of this engine, in order."""
        wanted = self.registry.defaults("discovery") if self._wanted is None else self._wanted
        return [self.component(Discoverer, "discovery", name) for name in wanted]  # type: ignore[type-abstract]

    def method(self, strategy: Strategy = None) -> Transfer:
        """A transfer method; by default that of this engine."""
        chosen = self._usual if strategy is None else strategy
        return self.component(Transfer, "transfer", chosen)  # type: ignore[type-abstract]

    # Stages -----------------------------------------------------------------------------------------------------------

    def run_stage(self, name: str, **options: Any) -> Outcome:
        """Run a stage by name, with the options of its recipe's table as keyword arguments: `Outcome.record` is its
        result, `Outcome.artifacts` what it provides. A reference (`model={"from": "search"}`) takes what a stage that
        this engine has run before provides; in Python the object itself can be given, too.

        RecipeError if the options do not fit the tasks. A stage that has finished before with all that determines it is
        taken from the store.
        """
        stage = self.component(Stage, "stage", name, options)  # type: ignore[type-abstract]
        check_stage(stage, self, name)
        return run_stage(self, stage, name, self._finished)

    def fingerprint(self) -> list[Any]:
        tasks = {t.task_id: t.fingerprint() for t in (*self.portfolio, *self.portfolio.unseen)}
        known = _graph_key(self.graph)
        how = [self.model, self.train_budget, self.budget, self.seed, self.seeds]
        method = self.method().identity() if self._transfers() else None
        order = [self.portfolio.ids, [t.task_id for t in self.portfolio.unseen]]
        for task in (*self.portfolio, *self.portfolio.unseen):
            if task.model is not None and self.brought.get(task.task_id, "") is None:
                # Once: of a factory that nobody knows it is another at every look
                self.brought[task.task_id] = source_digest(task.model)
        return [tasks, order, self.given_models, self.brought, known, how, method, self.run.wrapping()]

    def _transfers(self) -> bool:
        """Whether there is a usual transfer method: without one, stages that transfer nothing still work."""
        usual = self._usual.use if isinstance(self._usual, Choice) else self._usual
        return usual not in (None, DEFAULT) or bool(self.registry.defaults("transfer"))

    # Tasks ------------------------------------------------------------------------------------------------------------

    def register_task(
        self,
        task_or_descriptor: Task | TaskDescriptor,
        trained_model: nn.Module | None = None,
        *,
        unseen: bool = False,
    ) -> None:
        """Add a task, or just what is known of one. Its data are read and checked now, and two samples go through its
        model, so that what is wrong is found before anything is computed.

        With `unseen` it can be synthesised for but is not learned from. DataError for a taken id, bad data, or a model
        that does not fit them; nothing is registered then. A model that is hardly better than chance on the task's data
        is a source all the same: the log says so, and `notes` keep it.
        """
        given: Any = task_or_descriptor
        if not isinstance(given, Task | TaskDescriptor):
            raise DataError(f"register_task takes a Task or a TaskDescriptor, got a {type(given).__name__}")
        task = Task(descriptor=given) if isinstance(given, TaskDescriptor) else given
        before = task.model
        task.model = before if trained_model is None else trained_model
        told = task.descriptor.output_dim is not None or task.descriptor.classes
        try:
            _known_type(task)
            fingerprint = task.fingerprint()
            if task.loss is not None:
                loss_of(task)  # a name that nobody knows is said now
            if task.metric is not None:
                metric_of(task)
            prepare_model(task)
            self.portfolio.add(task, unseen=unseen)
        except BaseException:
            task.model = before
            raise
        try:
            self.graph.add_task(task.descriptor, task.content())
            if task.model is not None:
                self.given_models[task.task_id] = weights_digest(task.model)
                self.brought[task.task_id] = None
            self.run.log.debug("task registered", task=task.task_id, fingerprint=fingerprint)
            if self.store is not None:
                self.store.put("tasks", fingerprint, task.descriptor.to_json(), run_id=self.run.run_id)
            self.run.tell("task_registered", task=task)
            if self.auto_discover:
                for discoverer in self.discoverers:
                    if "descriptors_only" in discoverer.capabilities:
                        self._describe(discoverer, self.portfolio.focused(task.task_id))
        except BaseException:
            self.portfolio.remove(task.task_id)
            self.graph.remove_task(task.task_id)
            self.given_models.pop(task.task_id, None)
            self.brought.pop(task.task_id, None)
            task.model = before
            raise
        doubts = [] if unseen else [doubted(task)]
        plain = task.descriptor.task_type == "classification" and not (told or task.descriptor.classes)
        if plain and task.has_data():
            odd = odd_labels(task.data().targets)
            doubts.append(odd and f"task {task.task_id!r}: {odd}")
        for doubt in filter(None, doubts):
            self.run.log.warning(doubt)
            self.notes.append(doubt)

    def register(self, portfolio: Portfolio) -> None:
        """Add every task of a portfolio, unseen ones as unseen, and check prerequisites."""
        given: object = portfolio
        if not isinstance(given, Portfolio):
            told = f"register takes a Portfolio, got a {type(given).__name__}"
            raise DataError(f"{told}: write Portfolio([...]), or register_task for a single task")
        portfolio.check()
        if not len(self.portfolio):
            self.portfolio.name = portfolio.name  # messages about its tasks say so
        for task in portfolio:
            self.register_task(task)
        for task in portfolio.unseen:
            self.register_task(task, unseen=True)

    def train(self, tasks: Iterable[str] | None = None) -> None:
        """Train the tasks' own models (all with data, by default) with the training budget; those trained before are
        read from the store.
        """
        if tasks is not None:
            tasks = structure(tasks, tuple[str, ...], "the tasks to train")
        chosen = list(self.portfolio) if tasks is None else [self.portfolio[t] for t in tasks]
        self.run.tell("stage_started", stage="train", total=sum(t.model is None and t.has_data() for t in chosen))
        train_models(self.run, self.model, chosen, self.train_budget)
        self.run.tell("stage_finished", stage="train", result=None)

    # Discovery --------------------------------------------------------------------------------------------------------

    def discover(self, discoverers: Iterable[Strategy] | None = None, *, target: str | None = None) -> TransferGraph:
        """Run discoverers (the engine's own, by default) over all pairs, in order; each sees what the ones before
        found. Of those that nobody named, one that cannot work on these tasks is left out, and the log says why. With
        `target` only pairs of that task are looked at. DataError for a target that is unknown.
        """
        self.portfolio.check()
        portfolio = self.portfolio if target is None else self.portfolio.focused(target)
        chosen: list[Discoverer]
        if discoverers is None:
            chosen = self.discoverers
        else:  # the engine's own are not made for it: the record would name them among what was used
            discoverers = structure(discoverers, tuple[Any, ...], "the discoverers")
            chosen = [self.component(Discoverer, "discovery", each) for each in discoverers]  # type: ignore[type-abstract]
        if any("descriptors_only" not in d.capabilities for d in chosen):
            self.train()
        for pair in [p for p in self.graph.impossible if portfolio.has_pair(*p)]:
            self.graph.rule_out(*pair, None)  # found out anew: by the discoverers, where a model fails
        named = discoverers is not None or self.discoverers_named
        failed: list[DataError] = []
        for discoverer in chosen:
            try:
                known = self._described.get(discoverer, {})
                if target is None:
                    self._described.pop(discoverer, None)
                self._discover_with(discoverer, portfolio, known)
            except DataError as error:
                if named or len(failed) + 1 == len(chosen):
                    raise
                failed.append(error)
                self.run.log.warning("discoverer left out", discoverer=discoverer.origin, reason=str(error))
        self._embed(chosen)
        for source, goal in portfolio.pairs():
            may_have_a_model = source.model is None and source.has_data()
            if not may_have_a_model and (reason := unfit_pair(source, goal, self.portfolio)):
                self.graph.rule_out(source.task_id, goal.task_id, reason)
        return self.graph

    def _embed(self, discoverers: Iterable[Discoverer]) -> None:
        """Write what a discoverer made of each task (its `task_embeddings`) into the tasks' descriptors."""
        for discoverer in discoverers:
            made: Mapping[str, tuple[float, ...]] = getattr(discoverer, "task_embeddings", dict)()
            for task in (*self.portfolio, *self.portfolio.unseen):
                if task.task_id in made:
                    task.descriptor = attrs.evolve(task.descriptor, embedding=made[task.task_id])
                    self.graph.add_task(task.descriptor)

    def _describe(self, discoverer: Discoverer, portfolio: Portfolio) -> None:
        """Discover by descriptors alone, and remember which: `discover` does not ask again while they are the same."""
        told: dict[tuple[str, str], list[TransferEdge]] = {}
        for edge in self._discover_with(discoverer, portfolio):
            told.setdefault((edge.source, edge.target), []).append(edge)
        known = self._described.setdefault(discoverer, {})
        for source, target in portfolio.pairs():
            ends = source.task_id, target.task_id
            known[ends] = source.descriptor, target.descriptor, told.get(ends, [])

    def _discover_with(
        self, discoverer: Discoverer, portfolio: Portfolio, known: Mapping[tuple[str, str], _Described] | None = None
    ) -> list[TransferEdge]:
        """What a discoverer finds, into the graph; of pairs whose descriptors are still what they were when `known`
        was found, that.
        """
        pairs = [(s.task_id, t.task_id, (s.descriptor, t.descriptor)) for s, t in portfolio.pairs()] if known else []
        kept = {(s, t): known[s, t][2] for s, t, now in pairs if known and (s, t) in known and known[s, t][:2] == now}
        edges: list[TransferEdge] = []
        if not kept or len(kept) < len(pairs):
            open_ = portfolio.restricted((s, t) for s, t, _ in pairs if (s, t) not in kept) if kept else portfolio
            edges = self.run.call(discoverer, "discover", portfolio=open_, graph=self.graph)
        if kept:  # in the order in which all of them would have been found
            place = {(s, t): number for number, (s, t, _) in enumerate(pairs)}
            edges = [*(edge for told in kept.values() for edge in told), *edges]
            edges.sort(key=lambda edge: place.get((edge.source, edge.target), len(place)))
        for edge in edges:
            self.graph.add(edge)
        self.run.tell("edges_discovered", edges=edges, discoverer=discoverer.origin)
        return edges

    def get_transfer_graph_metrics(self) -> dict[str, Any]:
        """See `TransferGraph.metrics`."""
        return self.graph.metrics()

    def export_transfer_graph(self, output_path: str | Path) -> Path:
        """Write the graph as .json, .graphml or .gexf."""
        return self.graph.export(output_path)

    # Transfer ---------------------------------------------------------------------------------------------------------

    def transfer_knowledge(
        self,
        source_task: str,
        target_task: str,
        transfer_strategy: Strategy = None,
        *,
        samples: bool = False,
    ) -> TransferResult:
        """Transfer between two tasks, judged on the test split against scratch with the same budget and seeds.

        With `samples`, the sample efficiency gain is measured too: the same with 1/2, 1/4, 1/8 of the samples.
        """
        source, target = self.portfolio[source_task], self.portfolio[target_task]
        if source is target:
            raise DataError(f"task {source_task!r} is both source and target: a transfer needs two")
        method = self.method(transfer_strategy)
        self.train([source_task])
        if source.model is None:
            raise DataError(f"task {source_task!r} has neither a trained model nor training data to transfer from")
        if reason := unfit_pair(source, target, self.portfolio, ("train", "test")):
            raise DataError(f"no transfer from {source_task!r} to {target_task!r}: {reason}")
        key = self._transfer_key(method, source, target, self.budget)
        result = self._transfer(method, source, target, self.budget, key)
        if samples:
            gain, capped = self._sample_gain(method, source, target, result)
            result = attrs.evolve(result, sample_efficiency_gain=gain, sample_efficiency_capped=capped)
        target.descriptor = attrs.evolve(
            target.descriptor,
            transfer_efficiency={
                **target.descriptor.transfer_efficiency,
                source_task: result.coefficient.mean,
            },
        ).with_performance(result.metric, result.score.mean)
        self.transfer_history.append(result)
        self._measured[key] = result
        if result.learned_nothing:
            self.run.log.warning("nothing was learned", source=source_task, target=target_task, score=result.score.mean,
                                 metric=result.metric, chance=result.chance)  # fmt: skip
        return result

    def _transfer_key(self, method: Transfer, source: Task, target: Task, budget: Budget) -> str:
        """What the measurement of a transfer follows from."""
        assert source.model is not None  # who asks has seen to it
        # The model itself: one that the user registered follows from no seed and no budget, and has its own factory.
        made = source_digest(source.model)
        return key_of(
            "transfer", "samples by seed", method.identity(), made, source.fingerprint(),
            target.fingerprint(), budget, self.seeds, self.seed, *self.run.wrapping(),
        )  # fmt: skip

    def _transfer(self, method: Transfer, source: Task, target: Task, budget: Budget, key: str) -> TransferResult:
        known = self.run.recall("transfers", key)
        if known is not None:
            found: TransferResult = structure(known.payload, TransferResult, "stored transfer")
            return found
        result: TransferResult = self.run.call(
            method, "transfer", source=source, target=target, budget=budget, seeds=self.seeds, split="test"
        )
        self.run.remember("transfers", key, result)
        return result

    def _sample_gain(
        self, method: Transfer, source: Task, target: Task, full: TransferResult
    ) -> tuple[float | None, bool]:
        """(gain, whether fewer samples still were not tried)."""
        available = len(target.data("train").head(self.budget.samples))
        gain = 1.0 if full.score.mean >= full.scratch_score.mean else None
        for divisor in (2, 4, 8):
            if gain is None or available // divisor < 2:
                break
            fewer = attrs.evolve(self.budget, samples=available // divisor)
            key = self._transfer_key(method, source, target, fewer)
            if self._transfer(method, source, target, fewer, key).score.mean < full.scratch_score.mean:
                return gain, False
            gain = float(divisor)
        return gain, gain is not None

    def adapt(
        self, source: str | Sequence[str] | Curriculum, target: str | None = None, strategy: Strategy = None
    ) -> Adapted:
        """A model for the target: `.model`, of its source's class, with what was measured of the way it was made.

        `source` is a task; several, of whose models the best on the target's validation data is taken, averaged with
        others where that is no worse there; or a curriculum, which is run. Without validation data a fifth of the
        training samples decides, without which the target is learned from each source once more; the answer has
        learned from all of them. A strategy with the capability `several` makes one model of several sources
        (`crosstask plugins list transfer`): `adapt(target, strategy=...)` takes the best by the graph, none that it
        knows to hurt. The target is learned from as many of its training samples as `budget` says, without one from 50:
        `Adapted.samples`. DataError if none of the sources fits.
        """
        found = self._adapted(source, target, strategy)
        return with_samples(found, self.portfolio[found.target], self.budget)

    def _adapted(self, source: str | Sequence[str] | Curriculum, target: str | None, strategy: Strategy) -> Adapted:
        if isinstance(source, Curriculum):
            return of_curriculum(self.run_curriculum(source, strategy))
        if target is None and isinstance(source, str) and "several" in self.method(strategy).capabilities:
            return of_sources(from_several(self, self.method(strategy), source))
        if target is None:
            raise DataError(
                "adapt needs a target: adapt(source, target); or a curriculum; or a strategy that learns from several "
                "sources, for which the graph finds them"
            )
        names = [source] if isinstance(source, str) else structure(source, list[str], "the sources to adapt")
        if not names:
            raise DataError("adapt needs at least one source")
        if len(names) > 1 and "several" in self.method(strategy).capabilities:
            return of_sources(from_several(self, self.method(strategy), target, names))
        found: list[Adapted] = []
        fitting: list[Task] = []
        method, goal = self.method(strategy), self.portfolio[target]
        sources = [self.portfolio[name] for name in dict.fromkeys(names)]  # a wrong name is said before any is learned
        if any(given is goal for given in sources):
            raise DataError(f"task {target!r} is both source and target: a transfer needs two")
        reasons = []
        for given in sources:
            try:
                result = self.transfer_knowledge(given.task_id, target, method)
            except DataError as error:
                if len(names) == 1:
                    raise
                reasons.append(str(error))
                self.run.log.warning("source left out", source=given.task_id, target=target, reason=str(error))
                continue
            fitting.append(given)
            found.append(of_transfer(self.run, method, given, goal, self.budget, result))
        if not found:
            raise DataError(f"no source fits {target!r}: {'; '.join(reasons)}")
        if len(names) == 1:
            return found[0]
        chosen = of_several(found, goal, held_back(self.run, method, fitting, goal, self.budget, self.seeds))
        return attrs.evolve(chosen, notes=(*chosen.notes, *reasons))

    def advise(self, target: str, transfer_strategy: Strategy = None, *, share: float = 0.25) -> Advice:
        """Which task's model to learn the target from: a paragraph (`.text`), a table (`.rows`), what to avoid.

        Every source is looked at without training, the best few are tried on folds of the target's own samples; that
        spends at most `share` of what learning from every source over all seeds would. Transfers that were measured
        before count as they are; else the test split is not looked at. Where a strategist is installed it adds which
        strategies earlier runs of the store speak for (`.strategies`). DataError for an unknown target.
        """
        goal, method = self.portfolio[target], self.method(transfer_strategy)
        share = structure(share, float, "share")
        if not 0 <= share <= 1:
            raise DataError(f"share must be between 0 and 1, got {share}")
        self.train([t.task_id for t in self.portfolio if t is not goal and t.has_data()])
        candidates: list[tuple[Task, TransferResult | None, TransferEdge | None]] = []
        avoid, controls = {}, []
        self.run.tell("stage_started", stage="advise", total=None)
        for source in self.portfolio:
            if source is goal:
                continue
            reason = unfit_pair(source, goal, self.portfolio, ("train",) if goal.has_data("train") else ())
            if reason is not None:
                avoid[source.task_id] = reason
            else:
                # Not by its name: budget, options, data or model may be others than what was measured with.
                measured = self._measured
                known = measured.get(self._transfer_key(method, source, goal, self.budget)) if measured else None
                candidates.append((source, known, self.graph.edge(source.task_id, target)))
                if source.task_id not in self.given_models and doubted(source):  # the user's own is a source
                    controls.append(source.task_id)
        advice = advise(self.run, method, goal, candidates, avoid, self.budget, self.seeds, share, controls)
        if self.registry.defaults("strategist"):
            asked = self.component(Strategist, "strategist", None)  # type: ignore[type-abstract]
            usual = {point: names[0] for point in STRATEGIES if (names := self.registry.defaults(point))}
            usual["transfer"] = method.name
            found = self.run.call(asked, "suggest", task=goal, portfolio=self.portfolio, usual=usual)
            said = [each.text for each in found if each.kind == "transfer" or each.evidence]
            advice = attrs.evolve(advice, strategies=tuple(found), text=" ".join([advice.text, *said]))
        self.run.tell("stage_finished", stage="advise", result=advice)
        return advice

    # Files ------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, data: bool = False) -> Path:
        """Write tasks, graph and models (weights as safetensors) into a folder that `open` reads; with `data`, also the
        tasks' data.
        """
        return save_engine(self, folder, data=data)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        tasks: Mapping[str, Task] | None = None,
        models: Mapping[str, nn.Module] | None = None,
        trust: bool = False,
        **options: Any,
    ) -> TransferEngine:
        """An engine that was saved: its tasks, graph and models.

        `tasks` bring data again where none were saved. A model whose class is neither ours nor of transformers needs a
        fresh module in `models`, or `trust`, with which its factory or class is imported and called; otherwise it is
        left out with a warning. `options` are the engine's own. StoreError if the folder cannot be read.
        """
        return open_engine(cls, folder, tasks=tasks, models=models, trust=trust, **options)

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, TaskDescriptor]:
        """Every task's descriptor by id, as it is now: the graph's has the embedding that discovery gives."""
        held = {t.task_id: t.descriptor for t in (*self.portfolio, *self.portfolio.unseen)}
        found = {}
        for task_id, own in held.items():
            embedding = self.graph.task(task_id).embedding
            found[task_id] = own if own.embedding is not None else attrs.evolve(own, embedding=embedding)
        return found

    @property
    def transfer_edges(self) -> list[TransferEdge]:
        """Every edge of the graph."""
        return list(self.graph.all_edges())

    @property
    def knowledge_distiller(self) -> KnowledgeDistiller:
        """Distillation of models in hand."""
        return KnowledgeDistiller(self)

    def get_best_transfer_strategy(self, source: str, target: str) -> str:
        """The registered transfer method with the highest mean coefficient from source to target; measures those that
        were not measured yet.
        """
        results = {}
        for name in self.registry.names("transfer"):
            if "several" in self.registry.component_class("transfer", name).capabilities:
                continue  # with one source it does what the methods that it is made of do
            try:
                results[name] = self.transfer_knowledge(source, target, name).coefficient.mean
            except DataError as error:  # a method may not fit this pair; the others may
                self.run.log.info("strategy left out", strategy=name, reason=str(error))
        if not results:
            raise DataError(f"no transfer strategy works from {source!r} to {target!r}")
        usual = self.method().name if self._transfers() else None
        return max(results, key=lambda name: (results[name], name == usual))

    # Curricula --------------------------------------------------------------------------------------------------------

    def generate_curriculum(self, target_task: str, strategy: Strategy = None, max_tasks: int = 5) -> Curriculum:
        """An order of tasks that ends with the target; kept in the curriculum library."""
        self.portfolio[target_task]
        if structure(max_tasks, int, "max_tasks") < 1:
            raise DataError(f"max_tasks must be at least 1 (the target itself), got {max_tasks}")
        planner = self.component(CurriculumPlanner, "curriculum", strategy)  # type: ignore[type-abstract]
        curriculum: Curriculum = self.run.call(
            planner,
            "plan",
            portfolio=self.portfolio,
            graph=self.graph,
            target=target_task,
            max_tasks=max_tasks,
        )
        expected = self._expected(curriculum)
        if expected is not None:
            curriculum = attrs.evolve(curriculum, expected_performance=expected.mean, expected_interval=expected)
        self.run.remember("curricula", key_of("curriculum", curriculum), curriculum)
        self.curricula.append(curriculum)
        return curriculum

    def _expected(self, curriculum: Curriculum) -> Interval | None:
        """The target's expected score at the end of a path: that from scratch, measured, moved by the coefficient of
        the source that is known to help most, a measured one before a predicted one.
        """
        target = self.portfolio[curriculum.target]
        split = next((s for s in ("validation", "test") if target.has_data(s)), None)
        if split is None or not target.has_data("train"):
            return None
        network = self._network_for(target)
        controls = scratch_scores(self.run, network, target, self.budget, self.seeds, split)
        plain = [score for score, _ in controls]
        edges = [self.graph.edge(source, target.task_id) for source in curriculum.task_sequence[:-1]]
        known = [e for e in edges if e is not None]
        known = [e for e in known if e.measured] or known
        metric = metric_of(target)
        base = confidence_interval(plain, metric.range)
        if not known:
            return base
        edge = max(known, key=lambda e: e.transfer_coefficient)
        middle = edge.transfer_coefficient
        ends = [middle if c is None else c for c in (edge.low, middle, edge.high)]
        low, mean, high = (moved(base.mean, c, metric.best) for c in ends)
        spread = max(base.high - base.mean, base.mean - base.low)
        least, most = metric.range
        return Interval(mean=mean, low=max(least, min(low, mean) - spread), high=min(most, max(high, mean) + spread))

    def _network_for(self, task: Task) -> nn.Module:
        """A network of the architecture that a path to this task has."""
        if task.task_id in self.given_models and task.model is not None:
            return task.model
        return own_network(self.model, task, self.run.seed_for("model", task.task_id)).to(self.run.device)

    def run_curriculum(
        self,
        curriculum: Curriculum,
        transfer_strategy: Strategy = None,
        *,
        planner: Strategy | None = None,
        gate: bool = True,
    ) -> CurriculumResult:
        """Train through a curriculum, each step starting from what is kept of the steps before, for every seed.

        With the `gate`, the target is learned after every step, and from the step's own model alone, on top of training
        it from scratch and from the source that the graph knows to help it most: what its validation data speak for is
        kept, a step that does not help is undone, and the best of all is the answer (a target without validation data
        is judged on a part of its training samples). Without, every step is kept.

        Steps before the target get the training budget, the target its own; each is compared with scratch under the
        same budget and seeds, on the test split. A `planner` that adapts chooses the next task from the results so far,
        on the validation data of tasks that have them.
        """
        for planned_id in of_kind(curriculum, Curriculum, "the curriculum").task_sequence:
            self.portfolio[planned_id]
        self.portfolio[curriculum.target]
        order = curriculum.task_sequence
        if planner is None and (curriculum.target not in order[-1:] or order.count(curriculum.target) > 1):
            told = ", ".join(order) or "no task at all"
            raise DataError(f"the target of a curriculum comes last, and once: {curriculum.target!r} in {told}")
        gate = structure(gate, bool, "gate")
        method = self.method(transfer_strategy)
        chooser = None
        if planner is not None:
            chooser = self.component(CurriculumPlanner, "curriculum", planner)  # type: ignore[type-abstract]
        self.run.tell("stage_started", stage="curriculum", total=len(curriculum.task_sequence))
        target = self.portfolio[curriculum.target]
        seeds = scratch_seeds(self.run, target, self.seeds)  # as of transfers into it: the same samples and starts
        path = CurriculumPath(self, method, seeds, target, self.given_models, gate)
        adjustments: list[Adjustment] = []
        while (task_id := self._next(curriculum, path.seen, chooser)) is not None:
            if target.task_id in path.done:
                break  # a planner went to the target early: with it the curriculum ends
            planned = next(t for t in (*curriculum.task_sequence, None) if t not in path.done)
            if task_id != planned:
                reason = f"chosen by {chooser.origin if chooser else ''} where {planned or 'the end'} was planned"
                adjustments.append(Adjustment(step=len(path.done) + 1, task_id=task_id, reason=reason))
            if task_id == target.task_id:
                path.arrive(self._known_to_help(target, path.done))
            else:
                left = set(curriculum.task_sequence) - {task_id, target.task_id, *path.done}
                needed = {n for t in left for n in self.portfolio[t].descriptor.prerequisites}
                path.go(self.portfolio[task_id], needed)
            self.run.tell("stage_progress", stage="curriculum", detail=task_id)
        if target.task_id not in path.done:
            raise DataError(f"{chooser.origin if chooser else 'the curriculum'} ended before {curriculum.target!r}")
        done = CurriculumResult(
            curriculum=attrs.evolve(curriculum, task_sequence=tuple(path.done), adjustments=tuple(adjustments)),
            strategy=method.origin,
            metric=metric_of(target).told,
            steps=tuple(path.history),
            total_steps=path.spent,
            trial_steps=path.tried,
            reached_from=path.best.name if path.gate else "",
            judged_on=path.judged_on,
            sources=path.best.sources,
            seed=self.seed,
            seeds=self.seeds,
            options=method.options(),
        ).with_model(copied(path.models[0]))
        self.run.tell("stage_finished", stage="curriculum", result=done)
        return done

    def _known_to_help(self, target: Task, seen: Collection[str]) -> list[Task]:
        """The source that was measured to help a target most, where no step has looked at it."""
        into = [e for e in self.graph.edges_into(target.task_id) if e.measured and e.transfer_coefficient > 0]
        best = max(into, key=lambda e: e.transfer_coefficient, default=None)
        found = best is not None and best.source in self.portfolio and best.source not in seen
        return [self.portfolio[best.source]] if best is not None and found else []

    def _next(
        self, curriculum: Curriculum, history: list[CurriculumStep], chooser: CurriculumPlanner | None
    ) -> str | None:
        done = {step.task_id for step in history}
        if chooser is None:
            return next((t for t in curriculum.task_sequence if t not in done), None)
        task_id: str | None = self.run.call(chooser, "next_task", curriculum=curriculum, history=history)
        if task_id is not None and (task_id in done or task_id not in self.portfolio):
            raise DataError(f"{chooser.origin} chose {task_id!r} as next task, which is done already or unknown")
        return task_id

    # Distillation and synthesis ---------------------------------------------------------------------------------------

    def distill(
        self, tasks: Sequence[str], strategy: Strategy = None, samples: torch.Tensor | None = None
    ) -> Distilled:
        """What several tasks have in common, by a registered distiller; kept in the knowledge repository."""
        tasks = structure(tasks, tuple[str, ...], "the tasks to distill")
        self.train(tasks)
        return self._distilled([self.portfolio[t] for t in tasks], strategy, samples)

    def _distilled(self, tasks: list[Task], strategy: Strategy, samples: torch.Tensor | None) -> Distilled:
        _check_unlabelled(samples, "samples")
        distiller = self.component(Distiller, "distillation", strategy)  # type: ignore[type-abstract]
        found: Distilled = self.run.call(distiller, "distill", tasks=tasks, samples=samples)
        self.run.remember("knowledge", key_of("knowledge", found.knowledge), found.knowledge, found.tensors)
        self.meta_knowledge.append(found)
        return found

    def synthesize_zero_shot_model(
        self,
        new_task: str | Task | TaskDescriptor,
        synthesis_strategy: Strategy = None,
        inputs: torch.Tensor | None = None,
        *,
        expect: bool = True,
    ) -> nn.Module:
        """A model for an unseen task (by id, or a new one), made from the others without its labels. Its `provenance`
        says from what, and with `expect` what it can be expected to score, which takes about one more synthesis per
        known task. A new task is registered as unseen where the synthesis succeeds.
        """
        _check_unlabelled(inputs, "inputs")
        maker = self.component(Synthesizer, "synthesis", synthesis_strategy)  # type: ignore[type-abstract]
        known = set(self.portfolio.ids) | {t.task_id for t in self.portfolio.unseen}
        task = self._unseen(new_task)
        try:
            return self._synthesized(maker, task, inputs, expect)
        except BaseException:
            if task.task_id not in known:
                self.portfolio.remove(task.task_id)
                self.graph.remove_task(task.task_id)
                self.given_models.pop(task.task_id, None)
                self.brought.pop(task.task_id, None)
            raise

    def _synthesized(self, maker: Synthesizer, task: Task, inputs: torch.Tensor | None, expect: bool) -> nn.Module:
        self.train()
        sources = [t for t in self.portfolio if t.model is not None and t is not task]
        if not sources:
            raise DataError(f"no task has a trained model to synthesise {task.task_id!r} from")

        def make(
            wanted: TaskDescriptor, known: list[Task], graph: TransferGraph, seen: torch.Tensor | None
        ) -> nn.Module:
            made: nn.Module = self.run.call(
                maker, "synthesize", new_task=wanted, sources=known, graph=graph, inputs=seen
            )
            return made

        model = make(task.descriptor, sources, self.graph, inputs)
        told = getattr(model, "provenance", None)
        if not isinstance(told, Provenance):
            raise DataError(f"{maker.origin} made a model that does not say from what: it needs a `provenance`")
        if expect and told.expected is None:
            found = maker.expect(make, model, task.descriptor, sources, self.graph, inputs)
            if found is not None:
                expected, how = found
                model.provenance = attrs.evolve(told, expected=expected, notes=(*told.notes, how))  # type: ignore[assignment]
        return model

    def _unseen(self, new_task: str | Task | TaskDescriptor) -> Task:
        if isinstance(new_task, TaskDescriptor):
            new_task = Task(descriptor=new_task)
        if isinstance(new_task, Task):
            if new_task.task_id not in [t.task_id for t in self.portfolio.unseen]:
                self.register_task(new_task, unseen=True)
            return new_task
        return self.portfolio[new_task]

    def _repr_html_(self) -> str:
        """For notebooks: the tasks, and which measured source helps each most."""
        helping: dict[str, TransferEdge] = {}
        for edge in sorted(self.graph.measured_edges(), key=lambda e: e.transfer_coefficient):
            helping[edge.target] = edge
        rows = []
        for task in (*self.portfolio, *self.portfolio.unseen):
            best = helping.get(task.task_id)
            source = None if best is None or best.transfer_coefficient <= 0 else best
            told = None if source is None else f"{source.source} ({source.transfer_coefficient:+.3f})"
            kind, samples = task.descriptor.task_type, task.descriptor.sample_count
            rows.append((task.task_id, kind, samples, task.model is not None, told))
        edges, measured = sum(1 for _ in self.graph.edges()), len(self.graph.measured_edges())
        title = f"{type(self).__name__}: {len(rows)} tasks, {edges} pairs in the graph, {measured} of them measured"
        return table(title, ("Task", "Type", "Samples", "Model", "Best measured source"), rows)


_Described = tuple[TaskDescriptor, TaskDescriptor, list[TransferEdge]]
"""A pair's descriptors, and the edges that were found of them."""


def _graph_key(graph: TransferGraph) -> str:
    """`key_of("graph", edges)` of what all edges say, sorted as text, which begins with the source. It is made of one
    source's edges at a time: all of a million are gigabytes.
    """
    digest, before = hashlib.sha256(b'["graph", ['), ""
    for source in sorted(graph.task_ids, key=lambda task: f"{task!r}, "):
        for told in sorted((_said(edge) for _, _, edge in graph.networkx.out_edges(source, data="edge")), key=str):
            digest.update((before + json.dumps(told, sort_keys=True)).encode())
            before = ", "
    digest.update(b"]]")
    return digest.hexdigest()[:32]


def _said(edge: TransferEdge) -> dict[str, Any]:
    """What an edge says, for keys of what is made of it: not when and in which run it was found."""
    told: dict[str, Any] = unstructure(edge)
    return {name: value for name, value in told.items() if name not in ("when", "origin", "measurements")}


def _known_type(task: Task) -> None:
    """DataError for a type that is misspelt: one of a user's own has its own loss and metric."""
    from difflib import get_close_matches  # deferred: only errors need it

    kind = task.descriptor.task_type
    if kind in TASK_TYPES or not task.has_data() or task.loss is not None or task.metric is not None:
        return
    if close := get_close_matches(kind, TASK_TYPES, n=1, cutoff=0.8):
        raise DataError(
            f"task {task.task_id!r}: no task_type {kind!r}; did you mean {close[0]!r}? (A type of your own needs "
            "its own loss and metric)"
        )


def _check_unlabelled(given: Any, what: str) -> None:
    if not isinstance(given, torch.Tensor | MultiInput | None):
        raise DataError(f"{what} must be a tensor [N, …] or a MultiInput, got a {type(given).__name__}")


class KnowledgeDistiller:
    """The engine's distillation for models in hand, which need not be registered."""

    def __init__(self, engine: TransferEngine) -> None:
        self.engine = engine

    def distill_from_tasks(
        self,
        task_models: Mapping[str, nn.Module] | Sequence[nn.Module],
        task_descriptors: Mapping[str, TaskDescriptor] | Sequence[TaskDescriptor],
        distillation_samples: torch.Tensor | None = None,
        strategy: Strategy = None,
    ) -> Distilled:
        """What these models have in common, seen on unlabelled samples [N, …] where the distiller needs them. Models
        and descriptors by task id, or in the same order.
        """
        if isinstance(task_descriptors, Mapping):
            told = structure(task_descriptors, dict[str, TaskDescriptor], "the descriptors")
        else:
            each_told = structure(task_descriptors, tuple[TaskDescriptor, ...], "the descriptors")
            told = {each.task_id: each for each in each_told}
        if not isinstance(task_models, Mapping):
            task_models = structure(task_models, tuple[Any, ...], "the models")
        models = dict(task_models) if isinstance(task_models, Mapping) else dict(zip(told, task_models, strict=False))
        if set(models) != set(told) or (not isinstance(task_models, Mapping) and len(task_models) != len(told)):
            raise DataError(f"{len(models)} models for {len(told)} descriptors: one of each is needed for every task")
        tasks = []
        for task_id, model in models.items():
            task = Task(descriptor=told[task_id])
            if task_id in self.engine.portfolio:
                held = self.engine.portfolio[task_id]
                task = held.over(**{s: held.data(s) for s in SPLITS if held.has_data(s)})
            task.model = model
            prepare_model(task)
            tasks.append(task)
        return self.engine._distilled(tasks, strategy, distillation_samples)

    def apply_meta_knowledge(
        self, target_model: nn.Module, knowledge: Distilled, adaptation_rate: float = 0.1, strategy: Strategy = None
    ) -> nn.Module:
        """A changed copy of a model; the rate, from 0 to 1, is how far it goes towards the knowledge."""
        of_kind(target_model, nn.Module, "the target's model")
        of_kind(knowledge, Distilled, "the knowledge")
        adaptation_rate = structure(adaptation_rate, float, "adaptation_rate")
        if not 0 <= adaptation_rate <= 1:
            raise DataError(f"adaptation_rate must be between 0 and 1, got {adaptation_rate}")
        chosen = strategy if strategy is not None else knowledge.knowledge.kind
        distiller = self.engine.component(Distiller, "distillation", chosen)  # type: ignore[type-abstract]
        made: nn.Module = self.engine.run.call(
            distiller, "apply", model=target_model, knowledge=knowledge, rate=adaptation_rate
        )
        return made
