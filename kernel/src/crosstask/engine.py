"""The engine: tasks in; transfer graph, curricula, transfers, models for unseen tasks and joint training out."""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import attrs
import torch
from torch import nn

from crosstask.components import Component
from crosstask.context import Job
from crosstask.errors import DataError
from crosstask.graph import HELPS, TransferEdge, TransferGraph
from crosstask.learning.attribution import attribute_layers
from crosstask.learning.expectation import expected_score
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.learning.multitask import MultiTaskTrainer
from crosstask.learning.objectives import metric_name
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import (
    drawn,
    key_of,
    mean_curve,
    read_scratch,
    receive,
    same_classes,
    scratch,
    scratch_scores,
    train_models,
    weights_digest,
    without_model,
)
from crosstask.options import structure, unstructure
from crosstask.points.balancer import Balancer
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.discovery import Discoverer
from crosstask.points.distillation import Distilled, Distiller
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.sampler import Sampler
from crosstask.points.sharing import MultiTaskModule, Sharing
from crosstask.points.store import Store
from crosstask.points.synthesis import Synthesizer
from crosstask.points.transfer import Transfer
from crosstask.points.wrapper import Wrapper
from crosstask.records import (
    Adjustment,
    Budget,
    Curriculum,
    CurriculumResult,
    LayerAttribution,
    MultiTaskResult,
    Provenance,
    StageResult,
    SynthesisResult,
    TransferResult,
)
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task, TaskDescriptor

C = TypeVar("C", bound=Component)
Strategy = str | enum.Enum | Component
"""A component: by name, by a member of the strategy enums, or an object."""


class TransferEngine:
    """Finds out which tasks help which, and uses it.

    Strategies are named by string or enum member, or given as objects. Everything measured is kept in the store, under
    a key made of all that determines it, and not measured again. `auto_discover` runs the discoverers that need only
    descriptors whenever a task is registered, for that task's pairs: O(n) for the n-th task.
    """

    def __init__(
        self,
        *,
        model: ModelSpec | None = None,
        train: Budget | None = None,
        budget: Budget | None = None,
        discoverers: Sequence[Strategy] = ("skills", "probe"),
        auto_discover: bool = True,
        seed: int = 0,
        seeds: int = 3,
        device: str = "cpu",
        store: Store | str | Path | None = None,
        registry: Registry | None = None,
        executor: Executor | None = None,
        observers: Iterable[Observer | Wrapper] = (),
        run_id: str = "",
    ) -> None:
        self.model = model or ModelSpec()
        self.train_budget = train or Budget(steps=400)
        self.budget = budget or Budget(steps=100, samples=50)
        self.seed, self.seeds, self.auto_discover = seed, seeds, auto_discover
        self.registry = registry or Registry.installed()
        opened = open_store(str(store), registry=self.registry) if isinstance(store, str | Path) else store
        self.store = opened
        self.run = Run(
            self.registry,
            seed=seed,
            run_id=run_id,
            device=device,
            store=opened,
            executor=executor,
            observers=observers,
        )
        self.portfolio = Portfolio()
        self.graph = TransferGraph()
        self._wanted = list(discoverers)

    def __enter__(self) -> TransferEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the executor and let go of the store."""
        self.run.executor.shutdown()
        if self.store is not None:
            self.store.close()

    def component(self, kind: type[C], point: str, strategy: Strategy, options: Mapping[str, Any] | None = None) -> C:
        """A strategy as a component of this run."""
        if isinstance(strategy, Component):
            if not isinstance(strategy, kind):
                raise TypeError(f"expected a {kind.__name__}, got {strategy.origin}")
            return cast(C, self.run.add(strategy))
        name = strategy.value if isinstance(strategy, enum.Enum) else strategy
        return cast(C, self.run.component(point, name, options))

    @functools.cached_property
    def discoverers(self) -> list[Discoverer]:
        """The discoverers of this engine, in order."""
        return [self.component(Discoverer, "discovery", name) for name in self._wanted]  # type: ignore[type-abstract]

    # Tasks ------------------------------------------------------------------------------------------------------------

    def register_task(self, task: Task, trained_model: nn.Module | None = None, *, unseen: bool = False) -> None:
        """Add a task. Its data are read and checked now, so that bad data are found before anything is computed.

        With `unseen` it can be synthesised for but is not learned from. DataError for a taken id or bad data.
        """
        fingerprint = task.fingerprint()
        self.portfolio.add(task, unseen=unseen)
        self.graph.add_task(task.descriptor)
        if trained_model is not None:
            task.model = trained_model
        self.run.log.debug("task registered", task=task.task_id, fingerprint=fingerprint)
        if self.store is not None:
            self.store.put("tasks", fingerprint, task.descriptor.to_json(), run_id=self.run.run_id)
        self.run.tell("task_registered", task=task)
        if self.auto_discover:
            for discoverer in self.discoverers:
                if "descriptors_only" in discoverer.capabilities:
                    self._discover_with(discoverer, self.portfolio.focused(task.task_id))

    def register(self, portfolio: Portfolio) -> None:
        """Add every task of a portfolio, unseen ones as unseen, and check prerequisites."""
        portfolio.check()
        for task in portfolio:
            self.register_task(task)
        for task in portfolio.unseen:
            self.register_task(task, unseen=True)

    def train(self, tasks: Iterable[str] | None = None) -> None:
        """Train the tasks' own models (all with data, by default) with the training budget; those trained before are
        read from the store.
        """
        chosen = list(self.portfolio) if tasks is None else [self.portfolio[t] for t in tasks]
        self.run.tell("stage_started", stage="train", total=sum(t.model is None and t.has_data() for t in chosen))
        train_models(self.run, self.model, chosen, self.train_budget)
        self.run.tell("stage_finished", stage="train", result=None)

    # Discovery --------------------------------------------------------------------------------------------------------

    def discover(self) -> TransferGraph:
        """Run every discoverer over all pairs, in order; each sees what the ones before found."""
        self.portfolio.check()
        if any("descriptors_only" not in d.capabilities for d in self.discoverers):
            self.train()
        for discoverer in self.discoverers:
            self._discover_with(discoverer, self.portfolio)
        return self.graph

    def _discover_with(self, discoverer: Discoverer, portfolio: Portfolio) -> None:
        edges: list[TransferEdge] = self.run.call(discoverer, "discover", portfolio=portfolio, graph=self.graph)
        for edge in edges:
            self.graph.add(edge)
        self.run.tell("edges_discovered", edges=edges, discoverer=discoverer.origin)

    def get_transfer_graph_metrics(self) -> dict[str, Any]:
        """See `TransferGraph.metrics`."""
        return self.graph.metrics()

    def export_transfer_graph(self, path: str | Path) -> Path:
        """Write the graph as .json, .graphml or .gexf."""
        return self.graph.export(path)

    # Transfer ---------------------------------------------------------------------------------------------------------

    def transfer_knowledge(
        self,
        source_task: str,
        target_task: str,
        transfer_strategy: Strategy = "lp_ft",
        *,
        samples: bool = False,
    ) -> TransferResult:
        """Transfer between two tasks, judged on the test split against scratch with the same budget and seeds.

        With `samples`, the sample efficiency gain is measured too: the same with 1/2, 1/4, 1/8 of the samples.
        """
        source, target = self.portfolio[source_task], self.portfolio[target_task]
        method = self.component(Transfer, "transfer", transfer_strategy)  # type: ignore[type-abstract]
        self.train([source_task])
        if source.model is None:
            raise DataError(f"task {source_task!r} has neither a trained model nor training data to transfer from")
        result = self._transfer(method, source, target, self.budget)
        if samples:
            result = attrs.evolve(result, sample_efficiency_gain=self._sample_gain(method, source, target, result))
        target.descriptor = attrs.evolve(
            target.descriptor,
            transfer_efficiency={
                **target.descriptor.transfer_efficiency,
                source_task: result.coefficient.mean,
            },
        ).with_performance(result.metric, result.score.mean)
        return result

    def _transfer(self, method: Transfer, source: Task, target: Task, budget: Budget) -> TransferResult:
        assert source.model is not None  # `transfer_knowledge` has seen to it
        # The weights themselves: a model that the user registered follows from no seed and no budget.
        made = weights_digest(source.model)
        key = key_of(
            "transfer", "samples by seed", method.origin, method.options(), made, source.fingerprint(),
            target.fingerprint(), budget, self.seeds, self.seed, *self.run.wrapping(),
        )  # fmt: skip
        known = self.run.recall("transfers", key)
        if known is not None:
            found: TransferResult = structure(known.payload, TransferResult, "stored transfer")
            return found
        result: TransferResult = self.run.call(
            method, "transfer", source=source, target=target, budget=budget, seeds=self.seeds, split="test"
        )
        self.run.remember("transfers", key, result)
        return result

    def _sample_gain(self, method: Transfer, source: Task, target: Task, full: TransferResult) -> float | None:
        available = len(target.data("train").head(self.budget.samples))
        gain = 1.0 if full.score.mean >= full.scratch_score.mean else None
        for divisor in (2, 4, 8):
            if gain is None or available // divisor < 2:
                break
            fewer = attrs.evolve(self.budget, samples=available // divisor)
            if self._transfer(method, source, target, fewer).score.mean < full.scratch_score.mean:
                break
            gain = float(divisor)
        return gain

    def explain_transfer(
        self, source_task: str, target_task: str, transfer_strategy: Strategy = "lp_ft"
    ) -> LayerAttribution:
        """Which layers carried the transfer between two tasks: the transfer itself, then without each block of layers,
        with each alone and with each frozen, under the same budget and seeds.
        """
        method = self.component(Transfer, "transfer", transfer_strategy)  # type: ignore[type-abstract]
        result = self.transfer_knowledge(source_task, target_task, method)
        return attribute_layers(method, self.portfolio[source_task], self.portfolio[target_task], result)

    def get_best_transfer_strategy(self, source: str, target: str) -> str:
        """The registered transfer method with the highest mean coefficient from source to target; measures those that
        were not measured yet.
        """
        results = {}
        for name in self.registry.names("transfer"):
            try:
                results[name] = self.transfer_knowledge(source, target, name).coefficient.mean
            except DataError as error:  # a method may not fit this pair; the others may
                self.run.log.info("strategy left out", strategy=name, reason=str(error))
        if not results:
            raise DataError(f"no transfer strategy works from {source!r} to {target!r}")
        return max(results, key=lambda name: (results[name], name == "lp_ft"))

    # Curricula --------------------------------------------------------------------------------------------------------

    def generate_curriculum(
        self, target_task: str, strategy: Strategy = "transfer_potential", max_tasks: int = 5
    ) -> Curriculum:
        """An order of tasks that ends with the target; kept in the curriculum library."""
        self.portfolio[target_task]
        planner = self.component(CurriculumPlanner, "curriculum", strategy)  # type: ignore[type-abstract]
        curriculum: Curriculum = self.run.call(
            planner,
            "plan",
            portfolio=self.portfolio,
            graph=self.graph,
            target=target_task,
            max_tasks=max_tasks,
        )
        self.run.remember("curricula", key_of("curriculum", curriculum), curriculum)
        return curriculum

    def run_curriculum(
        self,
        curriculum: Curriculum,
        transfer_strategy: Strategy = "lp_ft",
        *,
        planner: Strategy | None = None,
    ) -> CurriculumResult:
        """Train through a curriculum, each stage starting from the model of the stage before, for every seed.

        Stages before the target get the training budget, the target its own; each is compared with scratch under the
        same budget and seeds, on the test split. A `planner` that adapts chooses the next task from the results so far.
        """
        method = self.component(Transfer, "transfer", transfer_strategy)  # type: ignore[type-abstract]
        chooser = self.component(CurriculumPlanner, "curriculum", planner) if planner else None  # type: ignore[type-abstract]
        self.run.tell("stage_started", stage="curriculum", total=len(curriculum.task_sequence))
        seeds = [self.run.seed_for("curriculum", number) for number in range(self.seeds)]
        models: list[nn.Module | None] = [None] * len(seeds)
        history: list[StageResult] = []
        path: list[str] = []
        adjustments: list[Adjustment] = []
        total = 0
        while (task_id := self._next(curriculum, history, chooser)) is not None:
            task, previous = self.portfolio[task_id], self.portfolio[path[-1]] if path else None
            budget = self.budget if task_id == curriculum.target else self.train_budget
            planned = next(t for t in (*curriculum.task_sequence, None) if t not in path)
            if task_id != planned:
                reason = f"chosen by {chooser.origin if chooser else ''} where {planned or 'the end'} was planned"
                adjustments.append(Adjustment(stage=len(path) + 1, task_id=task_id, reason=reason))
            path.append(task_id)
            total += budget.steps
            models, result = self._stage(method, models, previous, task, budget, seeds, path)
            history.append(result)
            self.run.tell("stage_progress", stage="curriculum", detail=task_id)
        if curriculum.target not in path:
            raise DataError(f"{chooser.origin if chooser else 'the curriculum'} ended before {curriculum.target!r}")
        done = CurriculumResult(
            curriculum=attrs.evolve(curriculum, task_sequence=tuple(path), adjustments=tuple(adjustments)),
            strategy=method.origin,
            metric=metric_name(self.portfolio[curriculum.target]),
            stages=tuple(history),
            total_steps=total,
            seed=self.seed,
            seeds=self.seeds,
            options=method.options(),
        )
        self.run.tell("stage_finished", stage="curriculum", result=done)
        return done

    def _next(
        self, curriculum: Curriculum, history: list[StageResult], chooser: CurriculumPlanner | None
    ) -> str | None:
        done = {stage.task_id for stage in history}
        if chooser is None:
            return next((t for t in curriculum.task_sequence if t not in done), None)
        task_id: str | None = self.run.call(chooser, "next_task", curriculum=curriculum, history=history)
        if task_id is not None and (task_id in done or task_id not in self.portfolio):
            raise DataError(f"{chooser.origin} chose {task_id!r} as next task, which is done already or unknown")
        return task_id

    def _stage(
        self,
        method: Transfer,
        models: list[nn.Module | None],
        previous: Task | None,
        task: Task,
        budget: Budget,
        seeds: list[int],
        path: list[str],
    ) -> tuple[list[nn.Module | None], StageResult]:
        keep = previous is not None and same_classes(previous.descriptor, task.descriptor)
        prints = [self.portfolio[t].fingerprint() for t in path]
        budgets = (self.train_budget, budget)
        how = ("stage", "samples by seed", method.origin, method.options(), self.model)
        keys = [key_of(*how, prints, budgets, seed) for seed in seeds]
        jobs, waiting = [], []
        outcomes: dict[int, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {}
        light = without_model(task)
        for number, (key, seed) in enumerate(zip(keys, seeds, strict=True)):
            known = self.run.recall("models", key)
            if known is not None:
                outcomes[number] = (known.payload, known.tensors)
            else:
                args = (method, models[number], self.model, light, budget, seed, keep, self.run.device)
                jobs.append(Job(_stage_job, args, label=task.task_id))
                waiting.append(number)
        for index, (payload, arrays) in self.run.jobs(jobs):
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            self.run.remember("models", keys[waiting[index]], payload, tensors)
            outcomes[waiting[index]] = (unstructure(payload), tensors)
        scores, plain, curves, plain_curves = [], [], [], []
        new_models: list[nn.Module | None] = []
        for number, seed in enumerate(seeds):
            payload, tensors = outcomes[number]
            model = self.model.build(task.descriptor, seed)
            model.load_state_dict(tensors)
            new_models.append(model.to(self.run.device))
            score, curve = read_scratch(payload)
            plain_score, plain_curve = read_scratch(payload["scratch"])
            scores.append(score)
            curves.append(curve)
            plain.append(plain_score)
            plain_curves.append(plain_curve)
        return new_models, StageResult(
            stage=len(path),
            task_id=task.task_id,
            score=confidence_interval(scores, (0, 1)),
            scratch_score=confidence_interval(plain, (0, 1)),
            gain=confidence_interval([a - b for a, b in zip(scores, plain, strict=True)], (-1, 1)),
            curve=mean_curve(curves),
            scratch_curve=mean_curve(plain_curves),
        )

    # Distillation and synthesis ---------------------------------------------------------------------------------------

    def distill(
        self, tasks: Sequence[str], strategy: Strategy = "representation", samples: torch.Tensor | None = None
    ) -> Distilled:
        """What several tasks have in common, by a registered distiller; kept in the knowledge repository."""
        distiller = self.component(Distiller, "distillation", strategy)  # type: ignore[type-abstract]
        self.train(tasks)
        found: Distilled = self.run.call(
            distiller, "distill", tasks=[self.portfolio[t] for t in tasks], samples=samples
        )
        self.run.remember("knowledge", key_of("knowledge", found.knowledge), found.knowledge, found.tensors)
        return found

    def synthesize_zero_shot_model(
        self,
        new_task: str | Task,
        synthesis_strategy: Strategy = "weighted_ensemble",
        inputs: torch.Tensor | None = None,
        *,
        expect: bool = True,
    ) -> nn.Module:
        """A model for an unseen task, made from the others without its labels. Its `provenance` says from what, and
        with `expect` what it can be expected to score, which takes about one more synthesis per known task.
        """
        maker = self.component(Synthesizer, "synthesis", synthesis_strategy)  # type: ignore[type-abstract]
        task = self._unseen(new_task)
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
            expected, how = expected_score(make, model, task.descriptor, sources, self.graph, inputs)
            model.provenance = attrs.evolve(told, expected=expected, notes=(*told.notes, how))  # type: ignore[assignment]
        return model

    def _unseen(self, new_task: str | Task) -> Task:
        if isinstance(new_task, Task):
            if new_task.task_id not in [t.task_id for t in self.portfolio.unseen]:
                self.register_task(new_task, unseen=True)
            return new_task
        return self.portfolio[new_task]

    def judge_synthesis(self, model: nn.Module, new_task: str) -> SynthesisResult:
        """A synthesised model's score on the task's test split, beside full training on all of the task's own data."""
        task = self.portfolio[new_task]
        own = self.model.build(task.descriptor, self.run.seed_for("model", task.task_id)).to(self.run.device)
        full = scratch_scores(self.run, own, task, self.train_budget, 1, "test")[0][0]
        provenance: Provenance = model.provenance  # type: ignore[assignment]
        return SynthesisResult(
            task_id=new_task,
            provenance=provenance,
            metric=metric_name(task),
            score=evaluate(model, task, "test"),
            full_training_score=full,
            seed=self.seed,
        )

    # Joint training ---------------------------------------------------------------------------------------------------

    def compatible_tasks(self, minimum: float = HELPS / 2) -> list[str]:
        """Tasks worth training together, by the transfer graph; in the portfolio's order.

        Among tasks with data of the commonest input shape, the group grows from the pair that helps one another most,
        always by the task whose mean coefficient from and to the group is highest, while that is at least `minimum`.
        """
        able = [t.task_id for t in self.portfolio if t.has_data()]
        shapes = [self.portfolio[t].descriptor.input_shape for t in able]
        common = max(shapes, key=shapes.count, default=())
        able = [t for t, shape in zip(able, shapes, strict=True) if shape == common]

        def mutual(task: str, group: Iterable[str]) -> float:
            between = [self.graph.coefficient(*pair) for other in group for pair in ((task, other), (other, task))]
            return sum(between) / len(between)

        pairs = [(mutual(a, [b]), [a, b]) for a, b in itertools.combinations(able, 2)]
        strength, group = max(pairs, default=(-1.0, []), key=lambda pair: pair[0])
        if strength < minimum:
            return []
        while rest := [(mutual(t, group), t) for t in able if t not in group]:
            strength, best = max(rest)
            if strength < minimum:
                break
            group.append(best)
        return [t for t in able if t in group]

    def train_together(
        self,
        tasks: Sequence[str] = (),
        balancer: Strategy = "equal",
        sharing: Strategy = "hard_parameter_sharing",
        sampler: Strategy | None = None,
        budget: Budget | None = None,
    ) -> tuple[MultiTaskModule, MultiTaskResult]:
        """Train tasks (by default the compatible ones) in one module under a balancer.

        Single-task scores are from scratch with as many samples per task as the joint training gives each.
        """
        budget = budget or self.train_budget
        ids = list(tasks) or self.compatible_tasks()
        if len(ids) < 2:
            raise DataError(f"joint training needs at least two tasks, got {ids or 'none that are compatible'}")
        chosen = [self.portfolio[t] for t in ids]
        shapes = {t.descriptor.input_shape for t in chosen}
        if len(shapes) > 1:
            raise DataError(f"tasks with different input shapes cannot share a trunk: {sorted(shapes)}")
        weigher = self.component(Balancer, "balancer", balancer)
        builder = self.component(Sharing, "sharing", sharing)  # type: ignore[type-abstract]
        picker = self.component(Sampler, "sampler", sampler) if sampler is not None else None  # type: ignore[type-abstract]
        trunk = Headless(self.model.build(chosen[0].descriptor, self.run.seed_for("multitask")))
        torch_seed = self.run.seed_for("multitask", "heads")
        module: MultiTaskModule = _seeded_build(self.run, builder, chosen, trunk, torch_seed)
        module.to(self.run.device)
        parts = [c.origin + str(c.options()) for c in (weigher, builder, picker) if c is not None]
        prints = [t.fingerprint() for t in chosen]
        key = key_of("multitask", parts, self.model, prints, budget, self.seed, *self.run.wrapping())
        known = self.run.recall("models", key)
        if known is not None:
            module.load_state_dict(known.tensors)
            return module, structure(known.payload, MultiTaskResult, "stored joint training")
        self.run.tell("stage_started", stage="multitask", total=budget.steps)
        trainer = MultiTaskTrainer(module, chosen, weigher, budget, self.run, picker)
        trainer.fit()
        alone = attrs.evolve(budget, batch_size=max(1, budget.batch_size // len(chosen)))
        single = {}
        for task in chosen:
            own = self.model.build(task.descriptor, self.seed).to(self.run.device)
            single[task.task_id] = scratch_scores(self.run, own, task, alone, 1, "test")[0][0]
        result = MultiTaskResult(
            tasks=tuple(ids),
            balancer=weigher.origin,
            sharing=builder.origin,
            scores=trainer.scores("test"),
            single_task_scores=single,
            steps=tuple(trainer.steps),
            losses={t: tuple(v[s - 1] for s in trainer.steps if s <= len(v)) for t, v in trainer.history.items()},
            weights={t: tuple(v) for t, v in trainer.weights.items()},
            conflicts={name: tuple(v) for name, v in trainer.conflicts.items()},
            seed=self.seed,
            options={
                "balancer": weigher.options(),
                "sharing": builder.options(),
                "budget": unstructure(budget),
            },
        )
        self.run.remember("models", key, result, module.state_dict())
        self.run.tell("stage_finished", stage="multitask", result=result)
        return module, result


def _seeded_build(run: Run, builder: Sharing, tasks: list[Task], trunk: nn.Module, seed: int) -> MultiTaskModule:
    from crosstask.learning.modules import seeded

    with seeded(seed):
        made: MultiTaskModule = run.call(builder, "build", tasks=tasks, trunk=trunk)
    return made


def _stage_job(
    method: Transfer,
    model: nn.Module | None,
    spec: ModelSpec,
    task: Task,
    budget: Budget,
    seed: int,
    keep_head: bool,
    device: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One stage of a curriculum for one seed, with its control. The first stage is training from scratch itself."""
    task = drawn(task, budget.samples, seed)
    generator = torch.Generator().manual_seed(seed)
    plain_score, plain_curve = scratch(spec.build(task.descriptor, seed).to(device), task, budget, seed, "test")
    if model is None:
        learner = spec.build(task.descriptor, seed).to(device)
        curve = fit(learner, task, budget, generator).curve()
    else:
        learner, _, _ = receive(model, task, seed, keep_head)
        curve = method.learn(learner, model, task, budget, generator).curve()
    payload = {
        "task": task.task_id,
        "score": evaluate(learner, task, "test"),
        "curve": curve,
        "scratch": {"score": plain_score, "curve": plain_curve},
        "seed": seed,
        "budget": budget,
    }
    return unstructure(payload), {name: t.cpu().numpy() for name, t in learner.state_dict().items()}
