"""Running a search: ask, evaluate (in parallel), tell, keep."""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import attrs

from crosstask.components import Context, Job
from crosstask.errors import CrosstaskError, OptionError, StoreError
from crosstask.learning.fleets import AT_ONCE
from crosstask.learning.together import and_others
from crosstask.learning.transferring import key_of
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.records import LearningCurve
from crosstask.tasks import Task
from crosstask_search.contract import Search, blind_of
from crosstask_search.models import ModelSpace
from crosstask_search.objective import Several, is_interrupt, measured, what_failed
from crosstask_search.records import SearchResult, Trial, WarmStart
from crosstask_search.space import Point, SearchSpace

Outcome = tuple[int, float | None, str | None, float]
"""(number, value, error, seconds) of a trial that has ended."""

ENOUGH = 9
"""Trials in a fleet that are not divided among workers: fewer gain clearly less."""


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
    trials: Iterable[Trial] = (),
    task: Task | None = None,
    models: ModelSpace | None = None,
) -> SearchResult:
    """Let `search` (a component or its name) propose points, evaluate them, and tell it what they came to.

    `evaluate(point)` runs as a job (with a process pool it must be picklable) and returns a finite number, higher for
    better (see `measured`). One that raises anything but KeyboardInterrupt, SystemExit included, that returns something
    else, or that takes the process of a pool with it, is recorded as a failed trial with its reason, and the search
    goes on. Up to `parallel` trials run at once (default: as many as the executor has workers). A point that was
    evaluated before is not evaluated again: the trial takes over what it came to. The search ends after `evaluations`
    trials, or when every point of the space has been evaluated.

    With one worker trials are proposed in rounds: first those that do not depend on what others come to
    (`Search.blind`), then `parallel` at a time, with the others of the round shown as running. Where `evaluate` is a
    `crosstask_search.objective.Several`, the trials of a round are evaluated in groups, with those of one after the
    other; with several workers the blind ones are.

    With a `key`, which must name what `evaluate` measures, every trial is remembered as soon as it has ended, in such
    rounds with those before it, and a search with the same key, space, component, options and seed goes on where an
    earlier one was stopped. With one worker and the same `parallel` it comes to what it would have come to without the
    stop, also where the earlier one was for fewer `evaluations`. With several workers a proposal that is not blind
    depends on which trials happened to end first: a search goes on from all that had ended, and its later points may be
    others. Its trials that are not blind are taken up by searches with several workers, however many, which also take
    up what one at a time came to.

    `trials` are those of an earlier search (`SearchResult.trials`), taken over as the first of the `evaluations`; those
    that had not ended are left out.

    `warm_starts` are tried first, those that the space does not contain left out. OptionError: a space without a valid
    point, a proposal or an earlier trial that is not in the space, an `evaluate` that cannot be sent to the processes
    that are to call it.
    """
    for name, count in (("evaluations", evaluations), ("parallel", parallel)):
        if count is not None and structure(count, int, name) < 1:
            raise OptionError(f"{name} must be at least 1, got {count}")
    if not callable(evaluate):
        raise OptionError(f"evaluate must be a function of a point, got {evaluate!r}")
    space.require_points()
    chosen = cast(Search, context.resolve("search", search))
    workers = context.workers
    at_once = int(parallel or workers)  # may be a number of numpy, which no key takes
    begun = _Running(context, chosen, space, evaluate, evaluations, key, at_once, 1 in (workers, at_once))
    begun.starts = [w for w in map(_warm, warm_starts) if space.contains(w.point)]
    context.call(chosen, "search_begins", space=space, task=task, models=models)
    begun.blind = 0.0 if context.wrapping() else blind_of(chosen)  # wrappers may look at what trials say
    begun.take_up(trials)
    started = time.perf_counter()
    begun.work()
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
    at_once: int
    in_turn: bool
    """Whether what has ended when a trial is proposed does not hang on which of several workers is quicker."""
    blind: float = 0.0
    """How many of the first proposals do not depend on what trials come to."""
    starts: list[WarmStart] = attrs.field(factory=list)
    trials: dict[int, Trial] = attrs.field(factory=dict)
    outcomes: dict[int, Trial] = attrs.field(factory=dict)
    """What ended before others of its round that come before it, or in an earlier search that did not end the round."""
    earlier: set[int] = attrs.field(factory=set)
    """Numbers of those that an earlier search came to."""
    rounds: dict[int, deque[int]] = attrs.field(factory=dict)
    """By number of a trial: those of its round that are not told yet, in their order."""
    sent: set[int] = attrs.field(factory=set)
    """Numbers of those that are evaluated, or were."""
    ends: list[int] = attrs.field(factory=list)
    known: dict[tuple[Any, ...], Trial] = attrs.field(factory=dict)
    tried: set[tuple[Any, ...]] = attrs.field(factory=set)
    proposal_seconds: float = 0.0
    refused: Exception | None = None
    """What proposing a point has raised."""
    telling: bool = False
    """Whether an outcome is being kept and told, not waited for."""

    def _store_keys(self, number: int) -> list[str]:
        """Where a trial is looked for; the last is where it is remembered.

        A point that is proposed blindly, or with all before it known, is the same however many trials run at once.
        """
        wrappers: list[Any] = self.context.wrapping()  # they may change what is proposed
        parts = ("trial", self.key, self.space, self.search.identity(), self.context.seed, number, wrappers)
        plain = key_of(*parts)
        if number < self.blind or self.at_once == 1:
            return [plain]
        if self.in_turn:
            return [key_of(*parts, self.at_once)]
        return [plain, key_of(*parts, "as they end")]

    def take_up(self, trials: Iterable[Trial]) -> None:
        """Take up the trials of an earlier run of the same search, and those that are given, under numbers from 0 in
        their order.

        Those of a round that is not whole count as running until the rest of it is proposed, as they would in a search
        that was not stopped.
        """
        found = self._recalled()
        for number, trial in enumerate(t for t in trials if t.status != "running"):
            if number not in found and number < self.evaluations:
                point = self.space.check(trial.point, f"trials: trial {trial.number}")
                found[number] = attrs.evolve(trial, number=number, point=point)
        self.earlier.update(found)
        for own in self._rounds():
            known = [found[number] for number in own if number in found]
            for trial in known:
                if len(known) == len(own):
                    self._take(trial)
                else:
                    self._begin(trial.number, trial.point)
                    self.sent.add(trial.number)
                    self.outcomes[trial.number] = trial

    def _recalled(self) -> dict[int, Trial]:
        found: dict[int, Trial] = {}
        for number in range(self.evaluations) if self.key is not None else ():
            *elsewhere, own = self._store_keys(number)
            looked = [self.context.recall("trials", key, claim=False) for key in elsewhere]
            stored = next(filter(None, looked), None) or self.context.recall("trials", own)
            if stored is not None:
                try:
                    trial: Trial = structure(stored.payload, Trial, "stored trial")
                    found[number] = attrs.evolve(trial, point=self.space.check(trial.point, "stored trial"))
                except OptionError as error:
                    raise StoreError(f"a stored trial cannot be read: {error}") from None
        return found

    def work(self) -> None:
        """Evaluate what is to be evaluated, whatever becomes of the processes that do it."""
        while True:
            outcomes = iter(self.context.jobs(self.jobs(), at_once=1 if self.in_turn else self.at_once))
            try:
                while (outcome := next(outcomes, None)) is not None:
                    for each in outcome[1]:
                        self.ended(*each)
                return
            except Exception as error:
                # Of a job: the trial ended without an outcome, because its process was lost, or was never reached.
                # All else (a wrong proposal, a store that is full) is not the objective's fault.
                if self.telling or error is self.refused:
                    raise
                self._after_a_loss(error)

    def _after_a_loss(self, error: Exception) -> None:
        """A job was lost, and with it all that were under way: each is tried once more alone, to see whose fault it
        was. Where only one was, that is known.
        """
        ended = [*self.trials.values(), *self.outcomes.values()]
        if not any(trial.seconds for trial in ended) and not _can_be_sent(self.evaluate):
            raise OptionError(
                f"the objective cannot be sent to another process ({error}): define it with `def` at the top of a "
                "module that can be imported, with functools.partial for what it needs besides, or use executor "
                "'serial'"
            ) from error
        lost = [trial for trial in self.trials.values() if trial.status == "running" and trial.number in self.sent]
        lost = [trial for trial in lost if trial.number not in self.outcomes]
        if not lost:
            raise error
        for trial in lost:
            started, outcome = time.perf_counter(), None
            if len(lost) > 1:
                try:
                    ((_, (outcome,)),) = self.context.jobs([self._job([trial.number])], at_once=1)
                except Exception as again:  # whatever an executor raises for a job that it could not do
                    error = again
            told = str(error) if isinstance(error, CrosstaskError) else what_failed(error)
            self.ended(*(outcome or (trial.number, None, told, time.perf_counter() - started)))

    def _job(self, numbers: Sequence[int], together: bool = False) -> Job:
        points = [self.trials[number].point for number in numbers]
        label = and_others([f"trial {number}" for number in numbers])
        return Job(_together if together else _alone, (self.evaluate, numbers, points), label=label)

    def jobs(self) -> Iterator[Job]:
        """A job for each trial that must be evaluated; each is proposed when it can start."""
        try:
            yield from self._jobs()
        except Exception as error:
            self.refused = error
            raise

    def _jobs(self) -> Iterator[Job]:
        count = self.space.count()
        for own in self._rounds():
            for number in own:
                if number not in self.trials and (count is None or len(self.tried) < count):
                    self._begin(number, self._propose(number))
            own = [number for number in own if number in self.trials]
            waiting = deque(number for number in own if self.trials[number].status == "running")
            self.rounds |= dict.fromkeys(waiting, waiting)
            self._tell(waiting)
            for numbers, together in self._parts(own, waiting):
                self.sent.update(numbers)
                yield self._job(numbers, together)

    def _rounds(self) -> Iterator[list[int]]:
        """Numbers of trials that are proposed before one of them is evaluated. Nothing depends on where a search was
        stopped, nor on how many evaluations there are.
        """
        ahead = self.blind if self.in_turn or isinstance(self.evaluate, Several) else 0.0
        start = 0
        while start < self.evaluations:
            stop = int(min(start + AT_ONCE, ahead)) if start < ahead else start + (self.at_once if self.in_turn else 1)
            yield list(range(start, min(stop, self.evaluations)))
            start = stop

    def _begin(self, number: int, point: Point) -> None:
        self.trials[number] = Trial(number=number, point=point)
        self.tried.add(self.space.key(point))

    def _parts(self, own: Sequence[int], waiting: Iterable[int]) -> list[tuple[list[int], bool]]:
        """(numbers of a round that a job evaluates, whether together), in the order of their first.

        The groups are those of the whole round, whatever of it is known, so that a trial comes to the same in a search
        that was stopped.
        """
        first: dict[Any, int] = {}
        for number in waiting:
            first.setdefault(self.space.key(self.trials[number].point), number)
        todo = {n for key, n in first.items() if key not in self.known} - self.sent
        groups: list[list[int]] = []
        if len(own) > 1 and todo and isinstance(self.evaluate, Several):
            groups = self.evaluate.groups([self.trials[number].point for number in own])
        parts: list[tuple[list[int], bool]] = []
        for group in groups:
            left = [number for number in sorted(own[place] for place in group) if number in todo]
            todo.difference_update(left)
            size = max(ENOUGH, -(-len(left) // self.context.workers))
            parts += [(left[start : start + size], True) for start in range(0, len(left), size)]
        return sorted([*parts, *(([number], False) for number in todo)])

    def _propose(self, number: int) -> Point:
        while self.starts:
            point = self.space.check(self.starts.pop(0).point)
            if self.space.key(point) not in self.tried:
                return point
        started = time.perf_counter()
        # Only a proposal that hangs on what has ended anyway is to know of those behind a gap of an earlier search.
        shown = sorted(self.trials)
        if self.in_turn or number < self.blind:
            shown = [other for other in shown if other < number]
        trials = [self.trials[other] for other in shown]
        point = self.context.call(self.search, "propose", space=self.space, trials=trials)
        self.proposal_seconds += time.perf_counter() - started
        return self.space.check(point, f"{self.search.origin} proposed a point that is not in the space: it")

    def ended(self, number: int, value: float | None, error: str | None, seconds: float) -> None:
        self.telling = True
        point = self.trials[number].point
        status = "done" if error is None else "failed"
        trial = Trial(number=number, point=point, status=status, value=value, error=error, seconds=seconds)
        self.outcomes[number] = trial
        self._tell(self.rounds[number])
        self.telling = False

    def _tell(self, waiting: deque[int]) -> None:
        """What is known of a round, in the order of its trials: none is kept before those that were proposed before it.
        One whose point has been evaluated takes over what it came to.
        """
        while waiting:
            number = waiting[0]
            trial = self.outcomes.pop(number, None)
            if trial is None:
                known = self.known.get(self.space.key(self.trials[number].point))
                if known is None or number in self.sent:
                    return
                trial = attrs.evolve(known, number=number, seconds=0.0)
            waiting.popleft()
            if number in self.earlier:
                self._take(trial)
            else:
                self._end(trial)

    def _end(self, trial: Trial) -> None:
        if self.key is not None:
            self.context.remember("trials", self._store_keys(trial.number)[-1], trial)
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


def _together(evaluate: Several, numbers: Sequence[int], points: Sequence[Point]) -> list[Outcome]:
    """Outcomes of a group."""
    started = time.perf_counter()
    found = evaluate.together([dict(point) for point in points])
    each = (time.perf_counter() - started) / len(numbers)
    return [(number, value, error, each) for number, (value, error) in zip(numbers, found, strict=True)]


def _alone(evaluate: Callable[[Point], float], numbers: Sequence[int], points: Sequence[Point]) -> list[Outcome]:
    """The outcome of one trial: a failure is a result."""
    ((number, point),) = zip(numbers, points, strict=True)
    started = time.perf_counter()
    value, error = None, None
    try:
        value = measured(evaluate, dict(point))
    except BaseException as raised:  # the objective is not ours: whatever it raises is what became of this trial
        if is_interrupt(raised):
            raise KeyboardInterrupt from raised
        error = what_failed(raised)
    return [(number, value, error, time.perf_counter() - started)]


def _can_be_sent(evaluate: Callable[[Point], float]) -> bool:
    try:
        pickle.dumps(evaluate)
    except Exception:  # whatever stops pickle is what stops the pool
        return False
    return True
