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
from crosstask.learning.fleets import Member, Phase, phases_of
from crosstask.learning.metrics import standard_error
from crosstask.learning.together import and_others, grouped, in_fleet
from crosstask.learning.transferring import (
    Receiver,
    drawn,
    fresh_model,
    fresh_text,
    key_of,
    outcome_of,
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

    Work runs as jobs. Trainings of one architecture go through a job together (`crosstask.learning.fleets`), with the
    figures that each would have alone up to rounding; what cannot goes alone, and the log says why. Every finished pair
    and control is remembered as soon as its job ends, and recalled by a later run; the result is the same in one
    process and in many. A pair whose training fails is left out like one that does not fit, and the others go on.
    DataError if no pair can be measured: no trained model, no data.
    """

    results_version: ClassVar[int] = 2  # trainings go in fleets, learning curves of pairs are an option
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
    curves: bool = option(
        False, help="measure the learning curve of every pair, too: how much faster it is than from scratch"
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
        sources = {source.task_id: _model(source) for source, _ in pairs}
        built = {name: fresh_text(model) for name, model in sources.items()}
        controls = self._controls(pairs, built)
        results: dict[int, TransferResult | Failed] = {}
        waiting: dict[int, str] = {}
        digests = {name: (weights_digest(model), built[name]) for name, model in sources.items()}
        for number, (source, target) in enumerate(pairs):
            failed = next((control for control in controls[number] if isinstance(control, Failed)), None)
            if failed is not None:  # from scratch there is no method that could be at fault
                told = f"{target.task_id!r} from scratch with the model of {source.task_id!r}"
                results[number] = Failed(f"{told}: {failed.reason}", failed.model)
                continue
            seeds, budget = scratch_seeds(self.context, target, self.repeats), self.budget(target)
            keep = same_classes(source.descriptor, target.descriptor)
            how = (method.identity(), digests[source.task_id], keep)
            what = "in fleets, with curves" if self.curves else "in fleets"
            key = key_of("probe", f"samples by seed, {what}", *how, target.fingerprint(), budget, seeds, self.split)
            known = self.context.recall("transfers", key)
            if known is not None:
                recalled: TransferResult = structure(known.payload, TransferResult, "stored probe")
                results[number] = recalled
                self._told(recalled)
            else:
                waiting[number] = key
        by_target = sorted(
            waiting, key=lambda number: pairs[number][1].task_id
        )  # a fleet's heads are then mostly alike
        jobs, numbers = self._jobs(method, {number: pairs[number] for number in by_target})
        for index, outcomes in self.context.jobs(jobs):
            for number, found in zip(numbers[index], outcomes, strict=True):
                (source, target), key = pairs[number], waiting[number]
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

    def _jobs(self, method: Transfer, pairs: dict[int, Pair]) -> tuple[list[Job], list[list[int]]]:
        """Jobs that measure these pairs, with the numbers of the pairs that each measures."""
        light = {t.task_id: self._drawn(t) for t in {t.task_id: t for _, t in pairs.values()}.values()}
        numbers = list(pairs)
        made, members = [], []
        for source, target in pairs.values():
            keep = same_classes(source.descriptor, target.descriptor)
            seeds, budget = scratch_seeds(self.context, target, self.repeats), self.budget(target)
            light_target = light[target.task_id]
            made.append(Measurement(_model(source), light_target, budget, seeds, self.split, keep, self.curves))
            phases = phases_of(method, budget) or ()
            members.append(Member(_model(source), light_target[0], budget, phases))
        labels = [f"{source.task_id} -> {target.task_id}" for source, target in pairs.values()]
        groups, reasons = grouped(members, self.context.workers, self.repeats, who=method.origin)
        self._tell_alone("pairs", reasons)
        jobs = [
            Job(
                measure_alone if group[0] in reasons else measure_together,
                (method, [made[place] for place in group]),
                label=and_others([labels[place] for place in group]),
            )
            for group in groups
        ]
        return jobs, [[numbers[place] for place in group] for group in groups]

    def _controls(self, pairs: list[Pair], built: dict[str, str]) -> list[list[Outcome | Failed]]:
        """From-scratch outcomes for each pair, one per seed; pairs of one target share them where by `built` (of each
        source, its `fresh_text`) one network is drawn.
        """
        keys: list[list[str]] = []
        found: dict[str, Outcome | Failed] = {}
        waiting: dict[str, tuple[Task, Member]] = {}
        told: dict[tuple[str, str], list[str]] = {}
        for source, target in pairs:
            model, budget = _model(source), self.budget(target)
            seeds = scratch_seeds(self.context, target, self.repeats)
            whose = built[source.task_id], target.task_id
            if whose not in told:
                told[whose] = [scratch_key(whose[0], target, budget, seed, self.split) for seed in seeds]
            keys.append(told[whose])
            for key, seed in zip(keys[-1], seeds, strict=True):
                if key in found or key in waiting:
                    continue
                known = self.context.recall("transfers", key)
                if known is not None:
                    found[key] = read_scratch(known.payload)
                else:
                    light = drawn(without_model(target, self._splits(budget)), budget.samples, seed)
                    waiting[key] = target, Member(model, light, budget, (Phase(budget.steps),), seed)
        members = [member for _, member in waiting.values()]
        groups, reasons = grouped(members, self.context.workers)
        self._tell_alone("controls", reasons)
        jobs = []
        for group in groups:
            own = [members[place] for place in group]
            label = and_others([f"{member.task.task_id} from scratch" for member in own])
            jobs.append(Job(scratch_alone if group[0] in reasons else scratch_together, (own, self.split), label=label))
        names = list(waiting)
        for index, outcomes in self.context.jobs(jobs):
            for place, outcome in zip(groups[index], outcomes, strict=True):
                key = names[place]
                found[key] = outcome
                if isinstance(outcome, Failed):
                    self.context.forgo("transfers", key)
                    continue
                (score, curve), (target, member) = outcome, waiting[key]
                payload = scratch_payload(target, member.budget, member.seed, self.split, score, curve)
                self.context.remember("transfers", key, payload)
        return [[found[key] for key in own] for own in keys]

    def _tell_alone(self, what: str, reasons: dict[int, str]) -> None:
        if reasons:
            told = sorted(set(reasons.values()))
            logger().info(f"{what} trained one by one", discoverer=self.origin, count=len(reasons), reasons=told)

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
        detail = f"{result.source} -> {result.target}: {result.coefficient:+}"
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
            score=result.score.mean,
            score_low=result.score.low,
            score_high=result.score.high,
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
        return _failed(error)


def _failed(error: Exception) -> Failed:
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


@attrs.frozen(eq=False)
class Measurement:
    """A pair, as a job needs it: the source's model, and the target as each seed sees it."""

    model: nn.Module
    targets: list[Task]
    budget: Budget
    seeds: list[int]
    split: str
    keep_head: bool
    curves: bool


Measured = tuple[list[Outcome], list[str], list[str]]
"""Of a pair: outcomes per seed, names of the weights kept and of those drawn anew."""


def measure_alone(method: Transfer, pairs: list[Measurement]) -> list[Measured | Failed]:
    """Pairs, as a job, one by one and seed by seed."""
    return [attempt(_measure_pair, method, pair) for pair in pairs]


def _measure_pair(method: Transfer, pair: Measurement) -> Measured:
    budget = pair.budget
    if not pair.curves and budget.patience is None:  # nobody looks at them: as few points as there can be
        budget = attrs.evolve(budget, evaluate_every=budget.steps)
    runs: list[Outcome] = []
    for target, seed in zip(pair.targets, pair.seeds, strict=True):
        where = (pair.model, target, budget, [seed], pair.split, pair.keep_head)
        ((score, curve),), copied, left = transfer_scores(method, *where)
        runs.append((score, curve if pair.curves else LearningCurve()))
    return runs, copied, left


def measure_together(method: Transfer, pairs: list[Measurement]) -> list[Measured | Failed]:
    """Several pairs, as a job, all trainings at once."""
    fresh: dict[Any, Receiver] = {}
    names: dict[int, tuple[list[str], list[str]]] = {}
    kinds = {number: fresh_text(model) for number, model in {id(p.model): p.model for p in pairs}.items()}
    places = [(number, seed) for number, pair in enumerate(pairs) for seed in range(len(pair.seeds))]

    def member(place: int) -> Member:
        number, at = places[place]
        pair = pairs[number]
        task, seed = pair.targets[at], pair.seeds[at]
        key = kinds[id(pair.model)], task.descriptor.output_dim, seed
        if key not in fresh:
            fresh[key] = Receiver(fresh_model(pair.model, task, seed))
        state, copied, left = fresh[key].begun(pair.model, task, pair.keep_head)
        names[number] = copied, left
        return Member(fresh[key].model, task, pair.budget, phases_of(method, pair.budget) or (), seed, state)

    curves, split = "validation" if pairs[0].curves else None, pairs[0].split
    trained = iter(in_fleet(len(places), member, outcome_of, _failed, curve_split=curves, score_split=split))
    results: list[Measured | Failed] = []
    for number, pair in enumerate(pairs):
        own = [next(trained) for _ in pair.seeds]
        wrong = next((each for each in own if isinstance(each, Failed)), None)
        runs = [each for each in own if each is not None and not isinstance(each, Failed)]
        if wrong is not None:
            results.append(wrong)
        else:
            results += [(runs, *names[number])] if len(runs) == len(own) else measure_alone(method, [pair])
    return results


def scratch_alone(members: list[Member], split: str) -> list[Outcome | Failed]:
    """Controls, as a job, one by one; their models are of the architecture."""
    return [attempt(scratch, each.model, each.task, each.budget, each.seed, split) for each in members]


def scratch_together(members: list[Member], split: str) -> list[Outcome | Failed]:
    """Controls, as a job, all at once."""

    def fresh(number: int) -> Member:
        each = members[number]
        return attrs.evolve(each, model=fresh_model(each.model, each.task, each.seed))

    found = in_fleet(len(members), fresh, outcome_of, _failed, curve_split="validation", score_split=split)
    return [outcome or scratch_alone([each], split)[0] for each, outcome in zip(members, found, strict=True)]


def _model(task: Task) -> nn.Module:
    assert task.model is not None  # `_choose` leaves out the others
    return task.model
