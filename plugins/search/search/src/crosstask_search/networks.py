"""Searching the network for a task: each trial is a training, and the winner is judged beside the default."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import attrs
import torch

from crosstask.components import Context, Job
from crosstask.errors import RunError
from crosstask.graph import TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import metric_name
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
from crosstask_search.objective import is_interrupt, measured, what_failed
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
    to one, the gain over those in which both did, and None where none did (`judgement_errors` says why). DataError if
    the task lacks a split; RunError if every trial failed.
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
    result = attrs.evolve(
        result,
        warm_starts=tuple(w for w in starts if space.contains(w.point)),
        task_id=task.task_id,
        metric=metric_name(task),
        split=split,
        model=unstructure(chosen[0]),
        default_model=unstructure(plain[0]),
        budget=chosen[1],
        score=_interval(scores, (0, 1)),
        default_score=_interval(controls, (0, 1)),
        gain=_interval(both, (-1, 1)),
        judgement_errors=tuple(errors),
    )
    remember_search(context, models, result)
    context.tell("stage_finished", stage="search", result=result)
    return result


@attrs.frozen
class _ModelTrial:
    """Trains the network of a point: what a process pool gets."""

    models: ModelSpace
    task: Task
    budget: Budget
    seed: int
    device: str

    def __call__(self, point: Point) -> float:
        spec, budget = self.models.model(point), self.models.budget(point, self.budget)
        return _trained_score(spec, self.task, budget, self.seed, "validation", self.device)


def _trained_score(spec: ModelSpec, task: Task, budget: Budget, seed: int, split: str, device: str) -> float:
    task = drawn(task, budget.samples, seed)
    model = spec.build(task.descriptor, seed).to(device)
    fit(model, task, budget, torch.Generator().manual_seed(seed), curve_split=None)
    return score_of(model, task, split)


def _interval(scores: Sequence[float], limits: tuple[float, float]) -> Interval | None:
    """Of those that there are."""
    found = [score for score in scores if math.isfinite(score)]
    return confidence_interval(found, limits) if found else None


def _judgement(
    spec: ModelSpec, task: Task, budget: Budget, seed: int, split: str, device: str
) -> tuple[float | None, str | None]:
    """(score, None), or (None, what failed)."""
    try:
        return measured(_trained_score, spec, task, budget, seed, split, device), None
    except BaseException as raised:
        if is_interrupt(raised):
            raise
        return None, what_failed(raised)


def _judged(
    context: Context, candidates: Sequence[tuple[ModelSpec, Budget]], task: Task, seeds: int, split: str
) -> tuple[list[list[float]], list[str]]:
    """Scores of each candidate, one per seed, NaN where it failed, and why. Remembered: a later search need not train
    the default again.
    """
    judged = without_model(task, ("train", split))
    scores, errors = [[math.nan] * seeds for _ in candidates], []
    jobs, waiting = [], []
    for (row, (spec, budget)), number in itertools.product(enumerate(candidates), range(seeds)):
        seed = context.seed_for("judge", task.task_id, number)
        key = key_of("judged", spec, judged.fingerprint(), budget, seed, split)
        known = context.recall("trials", key)
        if known is None:
            jobs.append(Job(_judgement, (spec, judged, budget, seed, split, context.device), label=task.task_id))
            waiting.append((row, number, key))
        else:
            scores[row][number] = float(known.payload["score"])
    for index, (score, error) in context.jobs(jobs):
        row, number, key = waiting[index]
        if score is None:
            errors.append(f"{('the best', 'the default')[row]}, seed {number}: {error}")
            continue
        scores[row][number] = score
        context.remember("trials", key, {"task": task.task_id, "split": split, "score": score})
    return scores, errors
