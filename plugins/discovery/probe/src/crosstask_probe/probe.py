"""The `probe` discoverer: transfer as it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from crosstask.context import Job
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.learning.metrics import standard_error
from crosstask.learning.transferring import (
    key_of,
    read_scratch,
    same_classes,
    scratch,
    scratch_key,
    scratch_payload,
    scratch_seeds,
    summarise,
    transfer_scores,
    weights_digest,
    without_model,
)
from crosstask.logs import logger
from crosstask.options import component, option, state, structure, unstructure
from crosstask.points.discovery import Discoverer
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, LearningCurve, TransferResult
from crosstask.tasks import Portfolio, Task, TaskDescriptor

Pair = tuple[Task, Task]
Outcome = tuple[float, LearningCurve]


@component
class Probe(Discoverer):
    """Measures each pair: a transfer method from the source's model to a few samples of the target, against training
    from scratch with the same samples, steps and seeds, judged on the target's validation data.

    The coefficient is the mean over `seeds` of `crosstask.learning.metrics.relative_gain`, its interval Student's.
    With `max_pairs`, the pairs that the graph so far finds most promising are measured: the best source of each
    target first, then each second best, and so on. What was left out, and why, is in `skipped`.

    Work runs as jobs. Every finished pair and control is remembered at once and recalled by a later run; the result
    is the same in one process and in many. DataError if no pair can be measured: no trained model, no data.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    method: str = option("lp_ft", help="name of the transfer method")
    method_options: dict[str, Any] = option(factory=dict, help="its options")
    max_pairs: int | None = option(None, ge=1, help="measure at most so many pairs (default: all)")
    seeds: int = option(3, ge=1, help="repeats of each pair; two or more give an interval")
    steps: int = option(60, ge=1, help="optimiser steps of one training")
    samples: int | None = option(50, ge=1, help="training samples of the target (all, if none)")
    batch_size: int = option(25, ge=1, help="samples per step")
    learning_rate: float = option(3e-3, gt=0, help="step size")
    optimizer: str = option("adam", choices=("adam", "adamw", "sgd"), help="torch.optim optimiser")
    evaluate_every: int = option(10, ge=1, help="steps between two points of the learning curves")
    split: str = option("validation", choices=("validation", "test"), help="data to judge on")
    skipped: list[tuple[str, str, str]] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        method = cast(Transfer, self.context.component("transfer", self.method, self.method_options))
        pairs = self._choose(portfolio, graph)
        self.context.tell("stage_started", stage="probe", total=len(pairs))
        if self.skipped:
            reasons = sorted({reason for *_, reason in self.skipped})
            logger().info("pairs left out", discoverer=self.origin, count=len(self.skipped), reasons=reasons)
        results = self._measure(method, pairs)
        edges = [self._edge(s.descriptor, t.descriptor, r) for (s, t), r in zip(pairs, results, strict=True)]
        self.context.tell("stage_finished", stage="probe", result=None)
        return edges

    @property
    def budget(self) -> Budget:
        """What one training may spend."""
        return Budget(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            samples=self.samples,
            evaluate_every=self.evaluate_every,
        )

    def _choose(self, portfolio: Portfolio, graph: TransferGraph) -> list[Pair]:
        self.skipped = []
        fit: list[Pair] = []
        for source, target in portfolio.pairs():
            if reason := self._unfit(source, target, portfolio):
                self.skipped.append((source.task_id, target.task_id, reason))
            else:
                fit.append((source, target))
        if self.skipped and not fit:
            reasons = "; ".join(dict.fromkeys(reason for _, _, reason in self.skipped))
            raise DataError(f"no pair of portfolio {portfolio.name!r} can be measured: {reasons}")
        if self.max_pairs is None or len(fit) <= self.max_pairs:
            return fit
        order = most_promising(fit, graph)
        late = {(s.task_id, t.task_id) for s, t in order[self.max_pairs :]}
        self.skipped += [(*pair, f"more than max_pairs = {self.max_pairs}") for pair in sorted(late)]
        return [(s, t) for s, t in fit if (s.task_id, t.task_id) not in late]

    def _unfit(self, source: Task, target: Task, portfolio: Portfolio) -> str | None:
        ours, theirs = source.descriptor.input_shape, target.descriptor.input_shape
        if source.model is None:
            return f"task {source.task_id!r} has no trained model"
        if target.task_id not in portfolio:
            return f"task {target.task_id!r} is held back as unseen"
        for split in ("train", self.split):
            if not target.has_data(split):
                return f"task {target.task_id!r} has no {split} data"
        if target.descriptor.output_dim is None:
            return f"task {target.task_id!r} does not say its output_dim"
        if ours and theirs and ours != theirs:
            return f"the model of {source.task_id!r} takes inputs {ours}, {target.task_id!r} has {theirs}"
        return None

    def _measure(self, method: Transfer, pairs: list[Pair]) -> list[TransferResult]:
        """One result per pair, those remembered from before included."""
        controls = self._controls(pairs)
        budget, results, jobs, waiting = self.budget, {}, [], []
        digests = {s.task_id: weights_digest(_model(s)) for s, _ in pairs}
        light = {t.task_id: without_model(t, ("train", self.split), self.samples) for _, t in pairs}
        for number, (source, target) in enumerate(pairs):
            seeds = scratch_seeds(self.context, target, self.seeds)
            keep = same_classes(source.descriptor, target.descriptor)
            how = (method.origin, method.options(), digests[source.task_id], keep)
            key = key_of("probe", *how, target.fingerprint(), budget, seeds, self.split)
            known = self.context.recall("transfers", key)
            if known is not None:
                results[number] = structure(known.payload, TransferResult, "stored probe")
                self._told(results[number])
            else:
                args = (method, _model(source), light[target.task_id], budget, seeds, self.split, keep)
                jobs.append(Job(measure_pair, args, label=f"{source.task_id} -> {target.task_id}"))
                waiting.append((number, key))
        for index, (runs, copied, left) in self.context.jobs(jobs):
            number, key = waiting[index]
            source, target = pairs[number]
            control = controls[number]
            where = (source.task_id, target, budget, self.split)
            result = summarise(method, *where, runs, control, copied, left, self.context.seed)
            self.context.remember("transfers", key, unstructure(result))
            results[number] = result
            self._told(result)
        return [results[number] for number in range(len(pairs))]

    def _controls(self, pairs: list[Pair]) -> list[list[Outcome]]:
        """From-scratch outcomes for each pair, one per seed; pairs of one target and architecture share them."""
        keys: list[list[str]] = []
        found: dict[str, Outcome] = {}
        jobs: dict[str, Job] = {}
        made: dict[str, tuple[Task, int]] = {}
        budget = self.budget
        for source, target in pairs:
            model, seeds = _model(source), scratch_seeds(self.context, target, self.seeds)
            keys.append([scratch_key(model, target, budget, seed, self.split) for seed in seeds])
            for key, seed in zip(keys[-1], seeds, strict=True):
                if key in found or key in jobs:
                    continue
                known = self.context.recall("transfers", key)
                if known is not None:
                    found[key] = read_scratch(known.payload)
                else:
                    light = without_model(target, ("train", self.split), self.samples)
                    label = f"{target.task_id} from scratch"
                    jobs[key] = Job(scratch, (model, light, budget, seed, self.split), label=label)
                    made[key] = (target, seed)
        order = list(jobs)
        for index, (score, curve) in self.context.jobs(jobs.values()):
            key = order[index]
            target, seed = made[key]
            payload = scratch_payload(target, budget, seed, self.split, score, curve)
            self.context.remember("transfers", key, payload)
            found[key] = (score, curve)
        return [[found[key] for key in own] for own in keys]

    def _told(self, result: TransferResult) -> None:
        detail = f"{result.source} -> {result.target}: {result.coefficient}"
        self.context.tell("stage_progress", stage="probe", detail=detail)

    def _edge(self, source: TaskDescriptor, target: TaskDescriptor, result: TransferResult) -> TransferEdge:
        coefficient = result.coefficient
        return TransferEdge(
            source=result.source,
            target=result.target,
            transfer_coefficient=coefficient.mean,
            evidence=Evidence.MEASURED,
            found_by="probe",
            relation=relation_type(coefficient.mean, source, target),
            uncertainty=standard_error(coefficient),
            low=coefficient.low,
            high=coefficient.high,
            accuracy_gain=result.performance_gain.mean,
            convergence_speed_gain=result.convergence_speed_gain,
            best_strategy=self.method,
        )


def most_promising(pairs: Sequence[Pair], graph: TransferGraph) -> list[Pair]:
    """The pairs in the order in which to measure them: every target's best source by the graph, every second best, …"""
    ranked = []
    into: dict[str, list[Task]] = {}
    for source, target in pairs:
        into.setdefault(target.task_id, []).append(source)
    targets = {target.task_id: target for _, target in pairs}
    for target_id, sources in into.items():
        sources.sort(key=lambda s: (-graph.coefficient(s.task_id, target_id), s.task_id))
        for place, source in enumerate(sources):
            sort_key = (place, -graph.coefficient(source.task_id, target_id), source.task_id, target_id)
            ranked.append((sort_key, (source, targets[target_id])))
    return [pair for _, pair in sorted(ranked, key=lambda item: item[0])]


def measure_pair(
    method: Transfer, model: nn.Module, target: Task, budget: Budget, seeds: list[int], split: str, keep_head: bool
) -> tuple[list[Outcome], list[str], list[str]]:
    """One pair, as a job: outcomes per seed, names of the weights kept and of those drawn anew."""
    return transfer_scores(method, model, target, budget, seeds, split, keep_head)


def _model(task: Task) -> nn.Module:
    assert task.model is not None  # `_choose` leaves out the others
    return task.model
