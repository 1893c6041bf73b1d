"""A curriculum on its way: the networks of every seed, what each step gives the target, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Job
from crosstask.errors import DataError
from crosstask.learning.fleets import Member, Phase, Trained, phases_of
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.own_models import Architecture, arrays_of, copied, network_like, restored
from crosstask.learning.together import Kept, in_fleet, remembered
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    fresh_text,
    key_of,
    mean_curve,
    read_scratch,
    receive,
    same_classes,
    unfit_pair,
    weights_digest,
    without_model,
)
from crosstask.options import unstructure
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, CurriculumStep, LearningCurve
from crosstask.tasks import Task

if TYPE_CHECKING:
    from crosstask.points.stage import Engine

HELD_OUT = 5
"""A target without validation data is judged on every so many-th of its training samples, drawn by the seed."""
Result = TypeVar("Result")
LEAST = 6
"""Trainings of a curriculum are few: they are divided among workers only where each has so many."""
Found = tuple[dict[str, Any], dict[str, Tensor]]
"""What a job came to: a payload, and the weights it ended with."""


@attrs.define(eq=False)
class State:
    """Where a learner may stand: a network for each seed (none: nothing was learned), what determines it, and what the
    target made of it.
    """

    name: str
    like: Architecture
    models: Sequence[nn.Module] = ()
    trail: tuple[Any, ...] = ()
    last: Task | None = None
    sources: tuple[str, ...] = ()
    """The tasks that the networks have learned, in their order."""
    reached: list[Found] = attrs.field(factory=list)
    """The target learned from it, for each seed."""

    @property
    def judged(self) -> list[float]:
        """The target's scores on the data that decide."""
        return [float(payload["judged"]) for payload, _ in self.reached]

    @property
    def worth(self) -> float:
        return sum(self.judged) / len(self.judged)


class CurriculumPath:
    """Goes from task to task, each learned from what is kept. With a gate, the target is learned from the result of
    every step, and from the task's own model alone; what its validation data speak for is kept, and the rest undone.
    """

    def __init__(
        self, engine: Engine, method: Transfer, seeds: Sequence[int], target: Task, given: Mapping[str, str], gate: bool
    ) -> None:
        self.engine, self.method, self.seeds, self.target, self.given = engine, method, seeds, target, given
        self.budget, model = engine.budget, engine.model
        self.held_out = gate and not target.has_data("validation")
        samples = len(target.data("train").head(self.budget.samples)) if self.held_out else 0
        self.gate = gate and not (self.held_out and samples < 2 * HELD_OUT)
        """Whether steps are judged. Of fewer training samples none can be spared."""
        self.done: list[str] = []
        self.history: list[CurriculumStep] = []
        self.seen: list[CurriculumStep] = []
        """The same as a planner sees it: by the validation data, where a task has them."""
        self.spent = self.tried = 0
        self.nothing = State("from scratch", network_like(model, target, 0) if target.build is not None else model)
        """Where everything begins. Its architecture is the target's own, or that of the user's model that begins."""
        if target.task_id in given and target.model is not None:
            self.nothing.like = target.model
        self.begun = target.task_id
        """The task whose network the path has."""
        self.state = self.best = self.nothing
        self.models: list[nn.Module] = []

    def go(self, task: Task, needed: Collection[str] = ()) -> None:
        """Learn the next task. `needed` are tasks that a later one builds on: they are not undone before it came."""
        begun = not self.done and task.task_id in self.given and task.model is not None
        self.done.append(task.task_id)
        if begun:  # the user's own trained model: its training is not repeated
            assert task.model is not None
            self.nothing.like, self.begun = task.model, task.task_id
        (found,) = self._jobs(_Steps, [self.state], task, self.engine.train_budget, begun)
        self.spent += 0 if begun else _steps_taken(found, self.engine.train_budget)
        before, budget = self.state, self.engine.train_budget
        known = (self.given[task.task_id],) if begun else ()
        trail = (*before.trail, *known, task.fingerprint(), budget)
        models = self._restored(before.like, task, found)
        sources = (*before.sources, task.task_id)
        new = State(f"step {len(self.done)}: {task.task_id}", before.like, models, trail, task, sources)
        step = _step_of(task, len(self.done), [payload for payload, _ in found])
        seen = _step_of(task, len(self.done), [p for p, _ in found], validated=task.has_data("validation"))
        told: dict[str, Any] = {}
        if self.gate:
            alone = None if begun else self._alone(task)
            told = self._judged(new, alone)
            if told["kept"] == "undone" and task.task_id in needed:
                told["kept"] = "needed"
            self.state = new if told["kept"] == "needed" else self.best
        else:
            self.state = self.best = new
        self.history.append(attrs.evolve(step, **told))
        self.seen.append(attrs.evolve(seen, **told))

    def arrive(self, sources: Sequence[Task] = ()) -> None:
        """Learn the target from the best state. Of `sources`, too, the own models are looked at alone."""
        if self.gate:
            others = [alone for source in sources if (alone := self._alone(source)) is not None]
            self._reach(self.nothing, *others)
            for alone in others:
                self.best = max(self.best, alone, key=lambda state: state.worth)
        if self.gate and self.held_out:
            self.best.reached, self.nothing.reached = [], []  # learned again, from all of its samples
        elif self.gate and self.best is not self.nothing:
            self.tried -= _steps_taken(self.best.reached, self.budget)  # what was tried is the answer
        self.done.append(self.target.task_id)
        self._reach(self.nothing, self.best, final=True)
        self.spent += _steps_taken(self.best.reached, self.budget)
        payloads = [{**own, "scratch": plain} for (own, _), (plain, _) in
                    zip(self.best.reached, self.nothing.reached, strict=True)]  # fmt: skip
        number = len(self.done)
        self.history.append(_step_of(self.target, number, payloads))
        validated = self.target.has_data("validation")
        self.seen.append(_step_of(self.target, number, payloads, validated=validated))
        self.models = self._restored(self.best.like, self.target, self.best.reached)

    @property
    def judged_on(self) -> str:
        """What decided, in words; "" without a gate."""
        if not self.gate:
            return ""
        if self.held_out:
            return f"a {HELD_OUT}th of its training samples"
        return "its validation data" + ("" if self.target.has_data("test") else ", by which it is scored, too")

    def _judged(self, new: State, alone: State | None) -> dict[str, Any]:
        """Take the better of what there is; what the step's record says of it."""
        before, metric = self.best, metric_of(self.target)
        self._reach(self.nothing, new, *([] if alone is None else [alone]))
        found = new if alone is None or new.worth >= alone.worth else alone
        if found.worth > before.worth:
            self.best = found
        progress = [a - b for a, b in zip(found.judged, before.judged, strict=True)]
        return {
            "target_score": confidence_interval(new.judged, metric.range),
            "alone_score": None if alone is None else confidence_interval(alone.judged, metric.range),
            "progress": confidence_interval(progress, metric.gains),
            "kept": "undone" if self.best is before else "alone" if found is alone else "path",
        }

    def _reach(self, *states: State, final: bool = False) -> None:
        """Learn the target from these states, each once."""
        held_out = self.held_out and self.gate and not final
        missing = [state for state in dict.fromkeys(states) if not state.reached]
        for state, found in zip(
            missing, self._jobs(_Reaches, missing, self.target, self.budget, held_out), strict=True
        ):
            state.reached = found
            if not final and state is not self.nothing:
                self.tried += _steps_taken(found, self.budget)

    def _alone(self, task: Task) -> State | None:
        """The task's own model, where it can be given to the target."""
        known = task.model
        if known is None or unfit_pair(task, self.target, self.engine.portfolio) is not None:
            return None
        trail = ("alone", weights_digest(known))
        return State(f"{task.task_id} alone", known, [known] * len(self.seeds), trail, task, (task.task_id,))

    def _restored(self, like: Architecture, task: Task, found: Sequence[Found]) -> list[nn.Module]:
        device = self.engine.run.device
        return [restored(like, task, seed, tensors, device) for seed, (_, tensors) in
                zip(self.seeds, found, strict=True)]  # fmt: skip

    def _jobs(
        self, kind: type[_Steps | _Reaches], states: Sequence[State], task: Task, budget: Budget, special: bool
    ) -> list[list[Found]]:
        """The answers of trainings from these states, for every seed, from the store where they are known."""
        run, light = self.engine.run, without_model(task)
        given = self.given.get(task.task_id) if special and kind is _Steps else None
        starts, keys = [], []
        for state in states:
            last = state.last
            keep = last is not None and same_classes(last.descriptor, task.descriptor)
            if state.models and last is not None:
                _check_step(state.models[0], last, task, self.seeds[0], keep)
            made = state.like if isinstance(state.like, ModelSpec) else fresh_text(state.like)
            parts = ("path", (kind.what, special), self.method.identity(), made, given, keep, state.trail,
                     task.fingerprint(), budget, *run.wrapping())  # fmt: skip
            keys += [key_of(*parts, seed) for seed in self.seeds]
            models: Sequence[nn.Module | None] = state.models or [None] * len(self.seeds)
            starts += [_Start(model, state.like, keep, seed) for model, seed in zip(models, self.seeds, strict=True)]

        def of(numbers: Sequence[int]) -> _Steps | _Reaches:
            return kind(self.method, [starts[n] for n in numbers], light, budget, special, run.device)

        def planned(numbers: Sequence[int]) -> list[Member]:
            try:
                return of(numbers).planned()
            except DataError as error:  # of a user's model there may be no network for another task
                if isinstance(self.nothing.like, ModelSpec):
                    raise
                first = f"no curriculum for {self.target.task_id!r} can begin with the model of {self.begun!r}"
                raise DataError(f"{first}; leave it out: {error}") from None

        def job(numbers: Sequence[int], together: bool) -> Job:
            return Job(_together if together else _alone, (of(numbers),), label=task.task_id)

        found = dict(remembered(run, "models", keys, planned, job, least=LEAST))
        each = [(found[n].payload, found[n].tensors) for n in range(len(keys))]
        return [each[start : start + len(self.seeds)] for start in range(0, len(each), len(self.seeds))]


def _check_step(model: nn.Module, source: Task, task: Task, seed: int, keep: bool) -> None:
    """DataError, with both tasks, if what was learned last cannot be given to the next."""
    try:
        receive(model, task, seed, keep)
    except DataError as error:
        step = f"{task.task_id!r} cannot be learned from {source.task_id!r} in a curriculum"
        raise DataError(f"{step}; leave {source.task_id!r} out of it: {error}") from None


def _step_of(task: Task, number: int, payloads: list[dict[str, Any]], *, validated: bool = False) -> CurriculumStep:
    """The record of one step from what its jobs found; `validated`: with the scores at the ends of the curves."""
    metric = metric_of(task)
    pairs = [(read_scratch(payload), read_scratch(payload["scratch"])) for payload in payloads]
    scores, plain = [own[0] for own, _ in pairs], [control[0] for _, control in pairs]
    if validated:
        scores, plain = [own[1].final for own, _ in pairs], [control[1].final for _, control in pairs]
    return CurriculumStep(
        step=number,
        task_id=task.task_id,
        score=confidence_interval(scores, metric.range),
        scratch_score=confidence_interval(plain, metric.range),
        gain=confidence_interval([a - b for a, b in zip(scores, plain, strict=True)], metric.gains),
        chance=chance(task, "test"),
        curve=mean_curve([own[1] for own, _ in pairs]),
        scratch_curve=mean_curve([control[1] for _, control in pairs]),
    )


def _steps_taken(found: Sequence[Found], budget: Budget) -> int:
    """By a seed, on average: where patience ran out, fewer than the budget's, as the curve says."""
    ends = [payload["curve"]["steps"] for payload, _ in found]
    return round(sum(steps[-1] if steps else budget.steps for steps in ends) / len(ends))


def _split(task: Task) -> str:
    return next(s for s in ("test", "validation", "train") if task.has_data(s))


@attrs.frozen(eq=False)
class _Start:
    """What a learner begins with for one seed: a model, of which the head may be kept, or from scratch."""

    model: nn.Module | None
    like: Architecture
    keep: bool
    seed: int


@attrs.frozen(eq=False)
class _Trainings:
    """Trainings on one task, as a job needs them."""

    method: Transfer
    starts: list[_Start]
    task: Task
    budget: Budget
    special: bool
    device: str

    def planned(self) -> list[Member]:
        """Members by which is seen whose learners can go together."""
        made: dict[int, nn.Module] = {}
        members = []
        for start in self.starts:
            model = start.model
            if model is None:
                if id(start.like) not in made:
                    made[id(start.like)] = network_like(start.like, self.task, start.seed)
                model = made[id(start.like)]
            members.append(Member(model, self.task, self.budget, self.phases(start)))
        return members

    def phases(self, start: _Start) -> tuple[Phase, ...]:
        """Of the method, or of training from scratch."""
        if self.from_scratch(start):
            return (Phase(self.budget.steps),)
        return phases_of(self.method, self.budget) or ()

    def from_scratch(self, start: _Start) -> bool:
        return start.model is None

    def drawn(self, seed: int) -> Task:
        """What a seed learns from."""
        return drawn(self.task, self.budget.samples, seed)

    def control(self, start: _Start) -> Member:
        """The network from scratch."""
        task, phases = self.drawn(start.seed), (Phase(self.budget.steps),)
        fresh = fresh_model(network_like(start.like, task, start.seed).to(self.device), task, start.seed)
        return Member(fresh, task, self.budget, phases, start.seed)

    def learner(self, start: _Start) -> Member:
        """The learner, which from scratch is the control."""
        if start.model is None:
            return self.control(start)
        task = self.drawn(start.seed)
        learner, _, _ = receive(start.model, task, start.seed, start.keep)
        return Member(learner, task, self.budget, self.phases(start), start.seed)

    def trained(self, start: _Start, *, control: bool = False) -> tuple[Member, LearningCurve]:
        """(the learner, or the control, trained alone; its curve)."""
        generator = torch.Generator().manual_seed(start.seed)
        if control or start.model is None:
            member = self.control(start)
            return member, fit(member.model, member.task, self.budget, generator).curve()
        member = self.learner(start)
        return member, self.method.learn(member.model, start.model, member.task, self.budget, generator).curve()

    def fleet(
        self, count: int, member: Callable[[int], Member], found: Callable[[Member, Trained], Result]
    ) -> list[Result | None]:
        """`in_fleet`, with what is judged on a curriculum."""
        return in_fleet(count, member, found, curve_split="validation", score_split=_split(self.task))

    def payload(self, member: Member, score: float, curve: LearningCurve, **more: Any) -> dict[str, Any]:
        made = {"task": self.task.task_id, "score": score, "curve": curve, **more}
        plain: dict[str, Any] = unstructure({**made, "seed": member.seed, "budget": self.budget})
        return plain


Outcome = tuple[Member, float, LearningCurve]
"""A member that was trained, its score, its curve."""


def _outcome(member: Member, trained: Trained) -> Outcome:
    assert trained.score is not None  # a split was named
    return member, trained.score, trained.history.curve()


@attrs.frozen(eq=False)
class _Steps(_Trainings):
    """One step of a curriculum for each of some seeds, with its control, judged on test data, or on what there is. The
    first step is training from scratch itself, or no training at all where the user's own model is ready (`special`).
    """

    what: ClassVar[str] = "step"

    def from_scratch(self, start: _Start) -> bool:
        return self.special or start.model is None

    def together(self) -> list[Kept | None]:
        count = len(self.starts)

        def member(number: int) -> Member:
            start = self.starts[number % count]
            return self.control(start) if number < count else self.learner(start)

        controls: list[Outcome | None]
        learners: Sequence[Outcome | None]
        if all(self.from_scratch(start) for start in self.starts):
            controls = learners = self.fleet(count, member, _outcome)
        elif self.phases(self.starts[0]) == (Phase(self.budget.steps),):
            both = self.fleet(2 * count, member, _outcome)
            controls, learners = both[:count], both[count:]
        else:
            controls = self.fleet(count, member, _outcome)
            learners = self.fleet(count, lambda number: member(count + number), _outcome)
        return [
            None if control is None or learner is None else self._kept(start, control, learner)
            for start, control, learner in zip(self.starts, controls, learners, strict=True)
        ]

    def alone(self) -> Kept:
        (start,) = self.starts
        control = self._scored(*self.trained(start, control=True))
        learner = control if self.from_scratch(start) else self._scored(*self.trained(start))
        return self._kept(start, control, learner)

    def _scored(self, member: Member, curve: LearningCurve) -> Outcome:
        return member, evaluate(member.model, member.task, _split(member.task)), curve

    def _kept(self, start: _Start, control: Outcome, learner: Outcome) -> Kept:
        member, score, curve = self._ready(start) if self.special else learner
        _, plain_score, plain_curve = control
        plain = {"score": plain_score, "curve": plain_curve}
        return self.payload(member, score, curve, scratch=plain), arrays_of(member.model)

    def _ready(self, start: _Start) -> Outcome:
        """The user's own model, as it is."""
        assert isinstance(start.like, nn.Module)
        task, curve = self.drawn(start.seed), LearningCurve()
        member = Member(copied(start.like), task, self.budget, (), start.seed)
        if task.has_data("validation"):
            curve = LearningCurve(steps=(0,), values=(evaluate(member.model, task, "validation"),))
        return self._scored(member, curve)


@attrs.frozen(eq=False)
class _Reaches(_Trainings):
    """The target learned from a state, for each of some seeds: its score, and that on the data that decide. These are
    a part of its training samples (`special`) where it has no validation data.
    """

    what: ClassVar[str] = "reach"

    def drawn(self, seed: int) -> Task:
        task = super().drawn(seed)
        return without_some(task, seed) if self.special else task

    def together(self) -> list[Kept | None]:
        def kept(member: Member, trained: Trained) -> Kept:
            return self._kept(*_outcome(member, trained))

        return self.fleet(len(self.starts), lambda number: self.learner(self.starts[number]), kept)

    def alone(self) -> Kept:
        member, curve = self.trained(self.starts[0])
        return self._kept(member, evaluate(member.model, member.task, _split(member.task)), curve)

    def _kept(self, member: Member, score: float, curve: LearningCurve) -> Kept:
        task = member.task
        judged = evaluate(member.model, task, "validation") if task.has_data("validation") else None
        return self.payload(member, score, curve, judged=judged), arrays_of(member.model)


def _together(trainings: _Steps | _Reaches) -> list[Kept | None]:
    """As a job: all at once."""
    return trainings.together()


def _alone(trainings: _Steps | _Reaches) -> list[Kept]:
    """As a job: the only one."""
    return [trainings.alone()]


def without_some(task: Task, seed: int) -> Task:
    """The task with a part of its training samples, drawn by the seed, as its validation data."""
    data = task.data("train")
    generator = torch.Generator().manual_seed(int(key_of("held out", seed)[:15], 16))
    order = torch.randperm(len(data), generator=generator)
    count = len(data) // HELD_OUT
    parts = {"train": data.take(order[count:]), "validation": data.take(order[:count])}
    return task.over(**parts, **({"test": task.data("test")} if task.has_data("test") else {}))
