"""Searching the network for a task: each trial is a training, and the winner is judged beside the default."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from crosstask.components import Context, Job
from crosstask.errors import RunError
from crosstask.graph import TransferGraph
from crosstask.learning.fleets import Member, Phase, Trained
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import metric_name, metric_of
from crosstask.learning.together import and_others, grouped, in_fleet
from crosstask.learning.training import evaluate as score_of
from crosstask.learning.training import fit
from crosstask.learning.transferring import drawn, key_of, without_model
from crosstask.options import unstructure
from crosstask.parts import Choice
from crosstask.records import Budget, Interval
from crosstask.tasks import Task
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.models import ModelSpace
from crosstask_search.objective import Judgement, Several, is_interrupt, measured, what_failed
from crosstask_search.parameter import hashable
from crosstask_search.records import SearchResult
from crosstask_search.space import Point
from crosstask_search.warm_starts import remember_search, warm_starts_for


def run_model_search(
    context: Context,
    search: Search | Choice | str,
    models: ModelSpace,
    task: Task,
    budget: Budget,
    evaluations: int,
    *,
    default: ModelSpec | None = None,
    seeds: int = 3,
    split: str = "test",
    graph: TransferGraph | None = None,
    warm: int = 3,
    parallel: int | None = None,
) -> SearchResult:
    """Search the network (and what `models.tune` names of the budget) for a task, and judge the winner.

    Each trial trains with `budget` on the training data and is valued by the task's metric on the validation split;
    the search never sees `split`. The best then trains anew with `seeds` seeds, as does `default` (`ModelSpec()` if not
    given), and both are judged on `split`: `score`, `default_score`, `gain`. With a graph, up to `warm` networks that
    were best on related tasks in earlier searches are tried first (`warm_starts_for`). Trials and judgements are jobs,
    and remembered. A judgement that fails, like a trial, does not end the search: a score is over the seeds that came
    to one, the gain over those in which both did, and None where none did (`judgement_errors` says why). Trainings of
    one network go together where the search does not wait for what they come to (`run_search`): trials with learning
    rates of their own, and judgements. DataError if the task lacks a split; RunError if every trial failed.
    """
    seed = context.seed_for("search", task.task_id)
    for needed in ("train", "validation", split):
        task.data(needed)
    learned = without_model(task, ("train", "validation"))
    space = models.space(task.descriptor)
    starts = warm_starts_for(context, graph, task.task_id, models, warm) if graph is not None else []
    context.tell("stage_started", stage="search", total=evaluations)
    result = run_search(
        context,
        search,
        space,
        _ModelTrial(models, learned, budget, seed, context.device),
        evaluations,
        key=key_of("model search", models, learned.fingerprint(), budget, seed),
        parallel=parallel,
        warm_starts=starts,
        task=learned,
        models=models,
    )
    if result.best is None:
        first = result.trials[0].error
        raise RunError(
            f"task {task.task_id!r}: all {len(result.trials)} trials of the search failed; the first: {first}"
        )
    chosen = models.model(result.best.point), models.budget(result.best.point, budget)
    plain = default or ModelSpec(), budget
    (scores, controls), errors = _judged(context, [chosen, plain], task, seeds, split)
    both = [a - b for a, b in zip(scores, controls, strict=True) if math.isfinite(a - b)]
    metric = metric_of(task)
    result = attrs.evolve(
        result,
        warm_starts=tuple(w for w in starts if space.contains(w.point)),
        task_id=task.task_id,
        metric=metric_name(task),
        split=split,
        model=unstructure(chosen[0]),
        default_model=unstructure(plain[0]),
        budget=chosen[1],
        score=_interval(scores, metric.range),
        default_score=_interval(controls, metric.range),
        gain=_interval(both, metric.gains),
        judgement_errors=tuple(errors),
    )
    remember_search(context, models, result)
    context.tell("stage_finished", stage="search", result=result)
    return result


Wanted = tuple[ModelSpec, Task, Budget, int]
"""A network, what it learns, with what budget, from which seed."""


@attrs.frozen
class _ModelTrial(Several):
    """Trains the network of a point: what a process pool gets. Networks that are one but for the learning rate of their
    trainings can go together.
    """

    models: ModelSpace
    task: Task
    budget: Budget
    seed: int
    device: str

    def __call__(self, point: Point) -> float:
        return _trained_score(*self._wanted(point), "validation", self.device)

    def _wanted(self, point: Mapping[str, Any]) -> Wanted:
        return self.models.model(point), self.task, self.models.budget(point, self.budget), self.seed

    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        alike: dict[Any, list[int]] = {}
        for place, point in enumerate(points):
            rest = {name: v for name, v in point.items() if name != "learning_rate" or name not in self.models.tune}
            alike.setdefault(tuple((name, hashable(rest[name])) for name in sorted(rest)), []).append(place)
        found: list[list[int]] = []
        for places in (several for several in alike.values() if len(several) > 1):
            wanted, able = [], []
            for place in places:
                with _not_interrupted():  # a budget that there is not says so when it is tried
                    wanted.append(self._wanted(points[place]))
                    able.append(place)
            parts = _groups(wanted, self.device)  # of one network at a time, which may be large
            found += [[able[number] for number in group] for group, together in parts if together]
        return found

    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        return _judgements([self._wanted(point) for point in points], "validation", self.device, True)


def _trained_score(spec: ModelSpec, task: Task, budget: Budget, seed: int, split: str, device: str) -> float:
    member = _member(spec, task, budget, seed, device)
    fit(member.model, member.task, budget, torch.Generator().manual_seed(seed), curve_split=None)
    return score_of(member.model, member.task, split)


def _member(spec: ModelSpec, task: Task, budget: Budget, seed: int, device: str) -> Member:
    """The same training, as a member of a fleet."""
    task = drawn(task, budget.samples, seed)
    return Member(spec.build(task.descriptor, seed).to(device), task, budget, (Phase(budget.steps),), seed)


def _interval(scores: Sequence[float], limits: tuple[float, float]) -> Interval | None:
    """Of those that there are; `limits` are what the metric can give."""
    found = [score for score in scores if math.isfinite(score)]
    return confidence_interval(found, limits) if found else None


def _judgement(spec: ModelSpec, task: Task, budget: Budget, seed: int, split: str, device: str) -> Judgement:
    try:
        return measured(_trained_score, spec, task, budget, seed, split, device), None
    except BaseException as raised:
        if is_interrupt(raised):
            raise
        return None, what_failed(raised)


def _judgements(wanted: Sequence[Wanted], split: str, device: str, together: bool) -> list[Judgement]:
    """Some, as a job: in a fleet, or, where that is not right or fails, one by one."""
    found: list[Judgement | None] = [None] * len(wanted)
    if together:
        with _not_interrupted():
            found = in_fleet(len(wanted), lambda n: _member(*wanted[n], device), _scored, score_split=split)
    return [known or _judgement(*one, split, device) for known, one in zip(found, wanted, strict=True)]


def _scored(member: Member, trained: Trained) -> Judgement:
    return trained.score, None


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """Inside, networks of the user's own may even try to end the process."""
    try:
        yield
    except BaseException as raised:
        if is_interrupt(raised):
            raise


def _groups(wanted: Sequence[Wanted], device: str) -> Iterator[tuple[list[int], bool]]:
    """Numbers of those that one job judges, and whether in a fleet: seeds of a network, and budgets of one rate each.

    They are the same whatever the executor, and so are the scores.
    """
    members: list[Member] = []
    built: dict[str, Member] = {}
    able = []
    for number, (spec, task, budget, seed) in enumerate(wanted):
        with _not_interrupted():  # what cannot be built says so when it is judged
            name = key_of(spec, task.task_id)
            if name not in built:
                built[name] = _member(spec, task, budget, seed, device)
            given = drawn(task, budget.samples, seed)
            members.append(attrs.evolve(built[name], task=given, budget=budget, seed=seed))
            able.append(number)
    groups, reasons = grouped(members)
    yield from (([number], False) for number in range(len(wanted)) if number not in able)
    for group in groups:
        yield [able[place] for place in group], group[0] not in reasons


def _judged(
    context: Context, candidates: Sequence[tuple[ModelSpec, Budget]], task: Task, seeds: int, split: str
) -> tuple[list[list[float]], list[str]]:
    """Scores of each candidate, one per seed, NaN where it failed, and why. Remembered: a later search need not train
    the default again.
    """
    scores, errors = [[math.nan] * seeds for _ in candidates], {}
    wanted: list[Wanted] = []
    waiting: list[tuple[int, int, str]] = []
    for (row, (spec, budget)), number in itertools.product(enumerate(candidates), range(seeds)):
        needed = ("train", split, *(("validation",) if budget.patience is not None else ()))
        judged = without_model(task, tuple(dict.fromkeys(needed)))
        seed = context.seed_for("judge", task.task_id, number)
        key = key_of("judged", "in fleets", spec, judged.fingerprint(), budget, seed, split)
        known = context.recall("trials", key)
        if known is None:
            wanted.append((spec, judged, budget, seed))
            waiting.append((row, number, key))
        else:
            scores[row][number] = float(known.payload["score"])
    groups = list(_groups(wanted, context.device))
    jobs = [
        Job(_judgements, ([wanted[place] for place in group], split, context.device, together),
            label=and_others([task.task_id] * len(group)))
        for group, together in groups
    ]  # fmt: skip
    for index, found in context.jobs(jobs):
        for place, (score, error) in zip(groups[index][0], found, strict=True):
            row, number, key = waiting[place]
            if score is None:
                errors[row, number] = f"{('the best', 'the default')[row]}, seed {number}: {error}"
                continue
            scores[row][number] = score
            context.remember("trials", key, {"task": task.task_id, "split": split, "score": score})
    return scores, [errors[place] for place in sorted(errors)]
