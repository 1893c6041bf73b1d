"""The `probe` discoverer: transfer as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import attrs
from torch import nn

from crosstask.components import Job
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.learning.metrics import standard_error
from crosstask.learning.transferring import (
    drawn,
    key_of,
    read_scratch,
    same_classes,
    scratch,
    scratch_key,
    scratch_payload,
    scratch_seeds,
    summarise,
    transfer_scores,
    unfit_pair,
    weights_digest,
    without_model,
)
from crosstask.logs import logger
from crosstask.options import component, option, state, structure, unstructure
from crosstask.points.discovery import Discoverer
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, LearningCurve, TransferResult
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.pairs import LeftOut, in_a_line, refuse_none, rule_out, samples_of, tell_left_out

Pair = tuple[Task, Task]
Outcome = tuple[float, LearningCurve]

SHORT_NAMES = {"linear_probe": "feature_extraction", "fine_tune": "fine_tuning"}
"""What a probe is called, and the transfer method that it is."""

BUDGET = Budget(steps=60, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=10)
"""What one training may spend where neither an option nor an engine says so."""
SEEDS = 3
"""Repeats, likewise."""


@component
class Probe(Discoverer):
    """Measures each pair: a transfer method from the source's model to a few samples of the target, against training
    from scratch with the same samples, steps and seeds, judged on the target's validation data.

    `method` says what counts as the truth: `lp_ft` (the head first, then everything), `linear_probe` (the head alone)
    or `fine_tune` (everything at once), or any other transfer method by name. Each seed draws its own samples of the
    target, stratified by class, and its control learns from the same ones: the interval covers the choice of the
    samples as well as the training. With `shots`, a classification target with C classes gives `shots` * C samples.

    The coefficient is the mean over `seeds` of `crosstask.learning.metrics.relative_gain`, its interval Student's;
    negative transfer, an interval that lies below zero as a whole, is logged (`TransferEdge.hurts`).
    With `max_pairs`, the pairs that the graph so far finds most promising are measured: the best source of each
    target first, then each second best, and so on. What was left out, and why, is in `skipped`.

    What the options leave open is the engine's: its budget, and its seeds. Outside of an engine it is `BUDGET` and
    `SEEDS`.

    Work runs as jobs. Every finished pair and control is remembered at once and recalled by a later run; the result
    is the same in one process and in many. A pair whose training fails is left out like one that does not fit, and the
    others go on. DataError if no pair can be measured: no trained model, no data.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    method: str = option("lp_ft", help="lp_ft, linear_probe, fine_tune, or another transfer method")
    method_options: dict[str, Any] = option(factory=dict, help="its options")
    max_pairs: int | None = option(None, ge=1, help="measure at most so many pairs (default: all)")
    seeds: int | None = option(
        None, ge=1, help="repeats of each pair; two or more give an interval (default: the engine's, else 3)"
    )
    steps: int | None = option(None, ge=1, help="optimiser steps of one training (default: the engine's, else 60)")
    samples: int | None = option(
        None, ge=0, help="training samples of the target; 0: all (default: the engine's, else 50)"
    )
    shots: int | None = option(
        None, ge=1, help="samples per class of a classification target, on average; instead of samples"
    )
    batch_size: int | None = option(None, ge=1, help="samples per step (default: the engine's, else 25)")
    learning_rate: float | None = option(None, gt=0, help="step size (default: the engine's, else 0.003)")
    optimizer: str = option(
        "usual",
        choices=("usual", "adam", "adamw", "sgd"),
        help="torch.optim optimiser; usual: the engine's, else adam",
    )
    evaluate_every: int | None = option(
        None, ge=1, help="steps between two points of the learning curves (default: the engine's, else 10)"
    )
    split: str = option("validation", choices=("validation", "test"), help="data to judge on")
    skipped: list[LeftOut] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        name = SHORT_NAMES.get(self.method, self.method)
        method = cast(Transfer, self.context.component("transfer", name, self.method_options))
        pairs = self._choose(portfolio, graph)
        self.context.tell("stage_started", stage="probe", total=len(pairs))
        results = self._measure(method, pairs)
        edges = []
        for (source, target), result in zip(pairs, results, strict=True):
            if isinstance(result, TransferResult):
                edges.append(self._edge(source.descriptor, target.descriptor, result))
                continue
            self.skipped.append((source.task_id, target.task_id, result.reason))
            if result.model:
                rule_out(graph, source, target, result.reason)
        tell_left_out(self, self.skipped)
        if self.skipped and not edges:
            refuse_none(portfolio, self.skipped, "measured")
        if hurt := [f"{e.source} -> {e.target}" for e in edges if e.hurts]:
            logger().info("negative transfer", discoverer=self.origin, count=len(hurt), pairs=hurt)
        self.context.tell("stage_finished", stage="probe", result=None)
        return edges

    def budget(self, target: Task) -> Budget:
        """What one training on `target` may spend."""
        usual = self.context.budget or BUDGET
        names = ("steps", "batch_size", "learning_rate", "evaluate_every")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.optimizer != "usual":
            said["optimizer"] = self.optimizer
        samples = usual.samples if self.samples is None else self.samples or None
        return attrs.evolve(usual, **said, samples=samples_of(target.descriptor, samples, self.shots))

    @property
    def repeats(self) -> int:
        """How often each pair is measured."""
        return self.seeds or self.context.seeds or SEEDS

    def _choose(self, portfolio: Portfolio, graph: TransferGraph) -> list[Pair]:
        self.skipped = []
        fit: list[Pair] = []
        for source, target in portfolio.pairs():
            if reason := self._unfit(source, target, portfolio):
                self.skipped.append((source.task_id, target.task_id, reason))
            else:
                fit.append((source, target))
        if self.skipped and not fit:
            refuse_none(portfolio, self.skipped, "measured")
        if self.max_pairs is None or len(fit) <= self.max_pairs:
            return fit
        order = most_promising(fit, graph)
        late = {(s.task_id, t.task_id) for s, t in order[self.max_pairs :]}
        self.skipped += [(*pair, f"more than max_pairs = {self.max_pairs}") for pair in sorted(late)]
        return [(s, t) for s, t in fit if (s.task_id, t.task_id) not in late]

    def _unfit(self, source: Task, target: Task, portfolio: Portfolio) -> str | None:
        if reason := unfit_pair(source, target, portfolio, ("train", self.split)):
            return reason
        if target.descriptor.output_dim is None:
            return f"task {target.task_id!r} does not say its output_dim"
        return None

    def _measure(self, method: Transfer, pairs: list[Pair]) -> list[TransferResult | Failed]:
        """One result per pair, those remembered from before included, or why there is none."""
        controls = self._controls(pairs)
        results: dict[int, TransferResult | Failed] = {}
        jobs, waiting = [], []
        digests = {s.task_id: weights_digest(_model(s)) for s, _ in pairs}
        light = {t.task_id: self._drawn(t) for t in {t.task_id: t for _, t in pairs}.values()}
        for number, (source, target) in enumerate(pairs):
            failed = next((control for control in controls[number] if isinstance(control, Failed)), None)
            if failed is not None:  # from scratch there is no method that could be at fault
                told = f"{target.task_id!r} from scratch with the model of {source.task_id!r}"
                results[number] = Failed(f"{told}: {failed.reason}", failed.model)
                continue
            seeds, budget = scratch_seeds(self.context, target, self.repeats), self.budget(target)
            keep = same_classes(source.descriptor, target.descriptor)
            how = (method.identity(), digests[source.task_id], keep)
            key = key_of("probe", "samples by seed", *how, target.fingerprint(), budget, seeds, self.split)
            known = self.context.recall("transfers", key)
            if known is not None:
                recalled: TransferResult = structure(known.payload, TransferResult, "stored probe")
                results[number] = recalled
                self._told(recalled)
            else:
                args = (method, _model(source), light[target.task_id], budget, seeds, self.split, keep)
                jobs.append(Job(attempt, (measure_pair, *args), label=f"{source.task_id} -> {target.task_id}"))
                waiting.append((number, key))
        for index, found in self.context.jobs(jobs):
            number, key = waiting[index]
            source, target = pairs[number]
            if isinstance(found, Failed):
                results[number] = Failed(f"{source.task_id!r} to {target.task_id!r}: {found.reason}", False)
                self.context.forgo("transfers", key)
                continue
            runs, copied, left = found
            control = cast(list[Outcome], controls[number])
            where = (source.task_id, target, self.budget(target), self.split)
            result = summarise(method, *where, runs, control, copied, left, self.context.seed)
            self.context.remember("transfers", key, unstructure(result))
            results[number] = result
            self._told(result)
        return [results[number] for number in range(len(pairs))]

    def _controls(self, pairs: list[Pair]) -> list[list[Outcome | Failed]]:
        """From-scratch outcomes for each pair, one per seed; pairs of one target and architecture share them."""
        keys: list[list[str]] = []
        found: dict[str, Outcome | Failed] = {}
        jobs: dict[str, Job] = {}
        made: dict[str, tuple[Task, int]] = {}
        for source, target in pairs:
            model, seeds, budget = (
                _model(source),
                scratch_seeds(self.context, target, self.repeats),
                self.budget(target),
            )
            keys.append([scratch_key(model, target, budget, seed, self.split) for seed in seeds])
            for key, seed in zip(keys[-1], seeds, strict=True):
                if key in found or key in jobs:
                    continue
                known = self.context.recall("transfers", key)
                if known is not None:
                    found[key] = read_scratch(known.payload)
                else:
                    light = drawn(without_model(target, self._splits(budget)), budget.samples, seed)
                    label = f"{target.task_id} from scratch"
                    jobs[key] = Job(attempt, (scratch, model, light, budget, seed, self.split), label=label)
                    made[key] = (target, seed)
        order = list(jobs)
        for index, outcome in self.context.jobs(jobs.values()):
            key = order[index]
            if isinstance(outcome, Failed):
                found[key] = outcome
                self.context.forgo("transfers", key)
                continue
            (score, curve), (target, seed) = outcome, made[key]
            payload = scratch_payload(target, self.budget(target), seed, self.split, score, curve)
            self.context.remember("transfers", key, payload)
            found[key] = (score, curve)
        return [[found[key] for key in own] for own in keys]

    def _drawn(self, target: Task) -> list[Task]:
        """What a job needs of a target: for every seed its samples, and the data to judge on."""
        budget = self.budget(target)
        whole = without_model(target, self._splits(budget))
        return [drawn(whole, budget.samples, seed) for seed in scratch_seeds(self.context, target, self.repeats)]

    def _splits(self, budget: Budget) -> tuple[str, ...]:
        """What a job needs of a target's data: patience looks at the validation data."""
        wanted = ("train", self.split)
        return wanted if budget.patience is None or self.split == "validation" else (*wanted, "validation")

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
            accuracy_gain_low=result.performance_gain.low,
            accuracy_gain_high=result.performance_gain.high,
            convergence_speed_gain=result.convergence_speed_gain,
            speed_capped=result.speed_capped,
            best_strategy=SHORT_NAMES.get(self.method, self.method),
        )


@attrs.frozen
class Failed:
    """Why a training gave nothing, and whether that is for the model and the data (not for a loss that diverged)."""

    reason: str
    model: bool


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """As a job: what the function gives, or a `Failed`. One pair that fails does not end the others."""
    try:
        return function(*args)
    except Exception as error:  # a user's model, or a method, may raise anything
        return Failed(in_a_line(error), isinstance(error, DataError) or not isinstance(error, CrosstaskError))


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
    method: Transfer,
    model: nn.Module,
    targets: list[Task],
    budget: Budget,
    seeds: list[int],
    split: str,
    keep_head: bool,
) -> tuple[list[Outcome], list[str], list[str]]:
    """One pair, as a job: outcomes per seed, names of the weights kept and of those drawn anew. `targets` holds the
    target as each seed sees it.
    """
    runs: list[Outcome] = []
    for target, seed in zip(targets, seeds, strict=True):
        outcome, copied, left = transfer_scores(method, model, target, budget, [seed], split, keep_head)
        runs += outcome
    return runs, copied, left


def _model(task: Task) -> nn.Module:
    assert task.model is not None  # `_choose` leaves out the others
    return task.model
