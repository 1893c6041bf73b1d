"""Running a search: ask, evaluate (in parallel), tell, keep; and searching the network for a task."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import torch

from crosstask.components import Context, Job
from crosstask.errors import OptionError, RunError, StoreError
from crosstask.graph import TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import metric_name
from crosstask.learning.spaces import ModelSpace, Parameter, Point, SearchSpace
from crosstask.learning.training import evaluate as score_of
from crosstask.learning.training import fit
from crosstask.learning.transferring import drawn, key_of, without_model
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.points.search import Search
from crosstask.records import Budget, LearningCurve, SearchResult, Trial, WarmStart
from crosstask.tasks import Task

__all__ = [
    "ModelSpace",
    "Parameter",
    "Point",
    "SearchResult",
    "SearchSpace",
    "Trial",
    "WarmStart",
    "run_model_search",
    "run_search",
    "warm_starts_for",
]


def run_search(
    context: Context,
    search: Search | Choice | str,
    space: SearchSpace,
    evaluate: Callable[[Point], float],
    evaluations: int,
    *,
    key: str | None = None,
    parallel: int | None = None,
    warm_starts: Sequence[WarmStart | Point] = (),
    task: Task | None = None,
    models: ModelSpace | None = None,
) -> SearchResult:
    """Let `search` (a component or its name) propose points, evaluate them, and tell it what they came to.

    `evaluate(point)` runs as a job (with a process pool it must be picklable) and returns a finite number, higher for
    better; one that raises or returns something else is recorded as a failed trial, and the search goes on. Up to
    `parallel` trials run at once (default: as many as the executor has workers). A point that was evaluated before is
    not evaluated again: the trial takes over its value. The search ends after `evaluations` trials, or when every
    point of the space has been evaluated.

    With a `key`, which must name what `evaluate` measures, every trial is remembered as soon as it has ended, and a
    search with the same key, space, component, options and seed goes on where an earlier one was stopped.

    `warm_starts` are tried first, those that the space does not contain left out. OptionError: a space without a valid
    point, a proposal that is not in the space.
    """
    if evaluations < 1:
        raise OptionError(f"evaluations must be at least 1, got {evaluations}")
    space.require_points()
    chosen = cast(Search, context.resolve("search", search))
    begun = _Running(context, chosen, space, evaluate, evaluations, key)
    begun.starts = [w for w in map(_warm, warm_starts) if space.contains(w.point)]
    context.call(chosen, "search_begins", space=space, task=task, models=models)
    begun.recall()
    started = time.perf_counter()
    for _, (number, value, error, seconds) in context.jobs(begun.jobs(), at_once=parallel or context.workers):
        begun.ended(number, value, error, seconds)
    return begun.result(time.perf_counter() - started)


def _warm(start: WarmStart | Point) -> WarmStart:
    return start if isinstance(start, WarmStart) else WarmStart(point=dict(start))


@attrs.define
class _Running:
    """A search under way: its trials by number, numbers as they ended, and by key what ended and what was tried."""

    context: Context
    search: Search
    space: SearchSpace
    evaluate: Callable[[Point], float]
    evaluations: int
    key: str | None
    starts: list[WarmStart] = attrs.field(factory=list)
    trials: dict[int, Trial] = attrs.field(factory=dict)
    ends: list[int] = attrs.field(factory=list)
    known: dict[tuple[Any, ...], Trial] = attrs.field(factory=dict)
    tried: set[tuple[Any, ...]] = attrs.field(factory=set)
    proposal_seconds: float = 0.0

    def _store_key(self, number: int) -> str:
        search = type(self.search)
        who = (f"{search.__module__}:{search.__qualname__}", self.search.options())
        return key_of("trial", self.key, self.space, who, self.context.seed, number)

    def recall(self) -> None:
        """Take up the trials of an earlier run of the same search."""
        for number in range(self.evaluations) if self.key is not None else ():
            stored = self.context.recall("trials", self._store_key(number))
            if stored is not None:
                try:
                    trial: Trial = structure(stored.payload, Trial, "stored trial")
                    trial = attrs.evolve(trial, point=self.space.check(trial.point, "stored trial"))
                except OptionError as error:
                    raise StoreError(f"a stored trial cannot be read: {error}") from None
                self._take(trial)

    def jobs(self) -> Iterator[Job]:
        """A job for each trial that must be evaluated; each is proposed when it can start."""
        count = self.space.count()
        for number in range(self.evaluations):
            if number in self.trials:
                continue
            if count is not None and len(self.tried) >= count:
                return
            point = self._propose()
            trial = self.trials[number] = Trial(number=number, point=point)
            self.tried.add(self.space.key(point))
            known = self.known.get(self.space.key(point))
            if known is not None:
                self._end(attrs.evolve(known, number=number, seconds=0.0))
            else:
                yield Job(_evaluate, (self.evaluate, number, trial.point), label=f"trial {number}")

    def _propose(self) -> Point:
        while self.starts:
            point = self.space.check(self.starts.pop(0).point)
            if self.space.key(point) not in self.tried:
                return point
        started = time.perf_counter()
        trials = [self.trials[number] for number in sorted(self.trials)]
        point = self.context.call(self.search, "propose", space=self.space, trials=trials)
        self.proposal_seconds += time.perf_counter() - started
        return self.space.check(point, f"{self.search.origin} proposed a point that is not in the space: it")

    def ended(self, number: int, value: float | None, error: str | None, seconds: float) -> None:
        point = self.trials[number].point
        status = "done" if error is None else "failed"
        self._end(Trial(number=number, point=point, status=status, value=value, error=error, seconds=seconds))

    def _end(self, trial: Trial) -> None:
        if self.key is not None:
            self.context.remember("trials", self._store_key(trial.number), trial)
        self._take(trial)
        told = f"{trial.value:.4g}" if trial.value is not None else f"failed: {trial.error}"
        self.context.tell("stage_progress", stage="search", detail=f"trial {trial.number}: {told}")

    def _take(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.tried.add(self.space.key(trial.point))
        self.ends.append(trial.number)
        self.known.setdefault(self.space.key(trial.point), trial)
        self.context.call(self.search, "observe", trial=trial)

    def result(self, seconds: float) -> SearchResult:
        trials = tuple(self.trials[number] for number in sorted(self.trials))
        return SearchResult(
            search=self.search.origin,
            trials=trials,
            best=best_of(trials),
            curve=_curve([self.trials[number] for number in self.ends]),
            evaluated=len(self.known),
            seconds=seconds,
            proposal_seconds=self.proposal_seconds,
            space=unstructure(self.space),
            seed=self.context.seed,
            options=self.search.options(),
        )


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the highest value, the first of equal ones; None if none is done."""
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda t: (t.value, -t.number), default=None)


def _curve(trials: Sequence[Trial]) -> LearningCurve:
    """Best value so far; trials that failed before the first value are passed over."""
    best, steps, values = -math.inf, [], []
    for count, trial in enumerate(trials, start=1):
        best = max(best, trial.value if trial.value is not None else -math.inf)
        if math.isfinite(best):
            steps.append(count)
            values.append(best)
    return LearningCurve(steps=tuple(steps), values=tuple(values))


def _evaluate(
    evaluate: Callable[[Point], float], number: int, point: Point
) -> tuple[int, float | None, str | None, float]:
    """(number, value, error, seconds) of one trial: a failure is a result."""
    started = time.perf_counter()
    value, error = None, None
    try:
        value = float(evaluate(dict(point)))
        if not math.isfinite(value):
            value, error = None, f"the objective is {value}"
    except Exception as raised:  # the objective is not ours: whatever it raises is what became of this trial
        value, error = None, f"{type(raised).__name__}: {raised}"
    return number, value, error, time.perf_counter() - started


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
    and remembered. DataError if the task lacks a split; RunError if every trial failed.
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
    scores, controls = _judged(context, [chosen, plain], task, seeds, split)
    result = attrs.evolve(
        result,
        warm_starts=tuple(w for w in starts if space.contains(w.point)),
        task_id=task.task_id,
        metric=metric_name(task),
        split=split,
        model=unstructure(chosen[0]),
        default_model=unstructure(plain[0]),
        budget=chosen[1],
        score=confidence_interval(scores, (0, 1)),
        default_score=confidence_interval(controls, (0, 1)),
        gain=confidence_interval([a - b for a, b in zip(scores, controls, strict=True)], (-1, 1)),
    )
    _keep(context, models, result)
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


def _judged(
    context: Context, candidates: Sequence[tuple[ModelSpec, Budget]], task: Task, seeds: int, split: str
) -> list[list[float]]:
    """Scores of each candidate, one per seed; remembered: a later search need not train the default again."""
    judged = without_model(task, ("train", split))
    scores = [[math.nan] * seeds for _ in candidates]
    jobs, waiting = [], []
    for (row, (spec, budget)), number in itertools.product(enumerate(candidates), range(seeds)):
        seed = context.seed_for("judge", task.task_id, number)
        key = key_of("judged", spec, judged.fingerprint(), budget, seed, split)
        known = context.recall("trials", key)
        if known is None:
            jobs.append(Job(_trained_score, (spec, judged, budget, seed, split, context.device), label=task.task_id))
            waiting.append((row, number, key))
        else:
            scores[row][number] = float(known.payload["score"])
    for index, score in context.jobs(jobs):
        row, number, key = waiting[index]
        scores[row][number] = score
        context.remember("trials", key, {"task": task.task_id, "split": split, "score": score})
    return scores


def _found_key(task_id: str, models: ModelSpace, number: int) -> str:
    return key_of("searched", task_id, models, number)


def _keep(context: Context, models: ModelSpace, result: SearchResult) -> None:
    """Remember a search's result for warm starts, after those of earlier searches for the same task."""
    assert result.task_id is not None
    for number in itertools.count():
        key = _found_key(result.task_id, models, number)
        known = context.recall("trials", key)
        if known is None:
            context.remember("trials", key, result)
            return
        if known.payload["seed"] == result.seed and known.payload["search"] == result.search:
            return


def warm_starts_for(
    context: Context,
    graph: TransferGraph,
    task_id: str,
    models: ModelSpace,
    count: int = 3,
    results: Mapping[str, Sequence[SearchResult]] | None = None,
) -> list[WarmStart]:
    """The `count` most promising points from searches for related tasks, best first.

    A source's points are ranked by their values there, from 1 for its best to 0 for its worst; a point counts, over
    the sources that help `task_id` (transfer coefficient above 0), the sum of coefficient times rank. `results` are
    searches by task; by default those that `run_model_search` remembered for the same `models`.
    """
    weights: dict[str, WarmStart] = {}
    for edge in graph.best_sources(task_id):
        if results is not None:
            found = list(results.get(edge.source, ()))
        else:
            found = _searches(context, edge.source, models)
        done = [t for r in found for t in r.trials if t.value is not None]
        values = {key_of(t.point): t for t in sorted(done, key=lambda t: t.value or 0.0)}
        for rank, (key, trial) in enumerate(values.items()):
            worth = edge.transfer_coefficient * (rank / (len(values) - 1) if len(values) > 1 else 1.0)
            known = weights.get(key)
            if known is None:
                weights[key] = WarmStart(point=trial.point, source=edge.source, weight=worth)
            else:
                weights[key] = attrs.evolve(known, weight=known.weight + worth)
    return sorted(weights.values(), key=lambda w: -w.weight)[:count]


def _searches(context: Context, task_id: str, models: ModelSpace) -> list[SearchResult]:
    found: list[SearchResult] = []
    for number in itertools.count():
        known = context.recall("trials", _found_key(task_id, models, number))
        if known is None:
            return found
        found.append(structure(known.payload, SearchResult, "stored search"))
    raise AssertionError("not reached")
