"""A curriculum on its way: the networks of every seed, what each step gives the target, and which of them are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Job, Remembered
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.own_models import Architecture, arrays_of, copied, network_like, restored
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import (
    architecture,
    drawn,
    fresh_model,
    key_of,
    mean_curve,
    read_scratch,
    receive,
    same_classes,
    scratch,
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
        self.state = self.best = self.nothing
        self.models: list[nn.Module] = []

    def go(self, task: Task, needed: Collection[str] = ()) -> None:
        """Learn the next task. `needed` are tasks that a later one builds on: they are not undone before it came."""
        begun = not self.done and task.task_id in self.given and task.model is not None
        self.done.append(task.task_id)
        if begun:  # the user's own trained model: its training is not repeated
            assert task.model is not None
            self.nothing.like = task.model
        found = self._jobs(_step_job, self.state, task, self.engine.train_budget, (begun,), ("step", begun))
        self.spent += 0 if begun else self.engine.train_budget.steps
        new = self._state(f"step {len(self.done)}: {task.task_id}", self.state, task, self.engine.train_budget, found)
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
            self._reach(self.nothing)
            for source in sources:
                alone = self._alone(source)
                if alone is not None:
                    self._reach(alone)
                    self.best = max(self.best, alone, key=lambda state: state.worth)
        if self.gate and self.held_out:
            self.best.reached, self.nothing.reached = [], []  # learned again, from all of its samples
        elif self.gate and self.best is not self.nothing:
            self.tried -= self.budget.steps  # what was tried is the answer
        self.done.append(self.target.task_id)
        for state in (self.nothing, self.best):
            self._reach(state, final=True)
        self.spent += self.budget.steps
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
        self._reach(self.nothing)
        before, metric = self.best, metric_of(self.target)
        for state in (new, alone):
            if state is not None:
                self._reach(state)
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

    def _reach(self, state: State, *, final: bool = False) -> None:
        """Learn the target from a state, once."""
        if state.reached:
            return
        held_out = self.held_out and self.gate and not final
        state.reached = self._jobs(_reach_job, state, self.target, self.budget, (held_out,), ("reach", held_out))
        if not final and state is not self.nothing:
            self.tried += self.budget.steps

    def _alone(self, task: Task) -> State | None:
        """The task's own model, where it can be given to the target."""
        known = task.model
        if known is None or unfit_pair(task, self.target, self.engine.portfolio) is not None:
            return None
        trail = ("alone", weights_digest(known))
        return State(f"{task.task_id} alone", known, [known] * len(self.seeds), trail, task)

    def _state(self, name: str, before: State, task: Task, budget: Budget, found: list[Found]) -> State:
        trail = (*before.trail, task.fingerprint(), budget)
        return State(name, before.like, self._restored(before.like, task, found), trail, task)

    def _restored(self, like: Architecture, task: Task, found: Sequence[Found]) -> list[nn.Module]:
        device = self.engine.run.device
        return [restored(like, task, seed, tensors, device) for seed, (_, tensors) in
                zip(self.seeds, found, strict=True)]  # fmt: skip

    def _jobs(
        self, work: Any, state: State, task: Task, budget: Budget, more: tuple[Any, ...], how: tuple[Any, ...]
    ) -> list[Found]:
        """The answers of a job for every seed, from the store where they are known."""
        run, light, last = self.engine.run, without_model(task), state.last
        keep = last is not None and same_classes(last.descriptor, task.descriptor)
        made = state.like if isinstance(state.like, ModelSpec) else architecture(state.like)
        given = self.given.get(task.task_id) if True in more and how[0] == "step" else None
        parts = ("path", how, self.method.identity(), made, given, keep, state.trail, task.fingerprint(), budget)
        outcomes: dict[int, Found] = {}
        jobs, waiting, keys = [], [], [key_of(*parts, seed) for seed in self.seeds]
        for number, (key, seed) in enumerate(zip(keys, self.seeds, strict=True)):
            known = run.recall("models", key, claim=False)
            if known is not None:
                outcomes[number] = (known.payload, known.tensors)
                continue
            before = state.models[number] if state.models else None
            args = (self.method, before, state.like, light, budget, seed, keep, *more, run.device)
            jobs.append(Job(work, args, label=task.task_id, key=("models", key)))
            waiting.append(number)
        for index, found in run.jobs(jobs):
            if isinstance(found, Remembered):  # another run of this store has done it meanwhile
                outcomes[waiting[index]] = (found.payload, found.tensors)
                continue
            payload, arrays = found
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            run.remember("models", keys[waiting[index]], payload, tensors)
            outcomes[waiting[index]] = (unstructure(payload), tensors)
        return [outcomes[number] for number in range(len(self.seeds))]


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


def _split(task: Task) -> str:
    return next(s for s in ("test", "validation", "train") if task.has_data(s))


def _learned(
    method: Transfer,
    model: nn.Module | None,
    like: Architecture,
    task: Task,
    budget: Budget,
    seed: int,
    keep: bool,
    device: str,
) -> tuple[nn.Module, LearningCurve]:
    """The task learned from a model, or from scratch: (a model, its curve)."""
    generator = torch.Generator().manual_seed(seed)
    if model is None:
        learner = fresh_model(network_like(like, task, seed).to(device), task, seed)
        return learner, fit(learner, task, budget, generator).curve()
    learner, _, _ = receive(model, task, seed, keep)
    return learner, method.learn(learner, model, task, budget, generator).curve()


def _step_job(
    method: Transfer, model: nn.Module | None, like: Architecture, task: Task, budget: Budget, seed: int, keep: bool,
    ready: bool, device: str,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """One step of a curriculum for one seed, with its control, judged on test data, or on what there is. The first step
    is training from scratch itself, or no training at all where the user's own model is `ready`.
    """
    task = drawn(task, budget.samples, seed)
    split = _split(task)
    plain_score, plain_curve = scratch(network_like(like, task, seed).to(device), task, budget, seed, split)
    if ready:
        assert isinstance(like, nn.Module)
        learner, curve = copied(like), LearningCurve()
        if task.has_data("validation"):
            curve = LearningCurve(steps=(0,), values=(evaluate(learner, task, "validation"),))
    else:
        learner, curve = _learned(method, model, like, task, budget, seed, keep, device)
    payload = {
        "task": task.task_id,
        "score": evaluate(learner, task, split),
        "curve": curve,
        "scratch": {"score": plain_score, "curve": plain_curve},
        "seed": seed,
        "budget": budget,
    }
    return unstructure(payload), arrays_of(learner)


def _reach_job(
    method: Transfer, model: nn.Module | None, like: Architecture, task: Task, budget: Budget, seed: int, keep: bool,
    held_out: bool, device: str,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The target learned from a state for one seed: its score, and that on the data that decide."""
    task = drawn(task, budget.samples, seed)
    if held_out:
        task = _without_some(task, seed)
    learner, curve = _learned(method, model, like, task, budget, seed, keep, device)
    payload = {
        "task": task.task_id,
        "score": evaluate(learner, task, _split(task)),
        "judged": evaluate(learner, task, "validation") if task.has_data("validation") else None,
        "curve": curve,
        "seed": seed,
        "budget": budget,
    }
    return unstructure(payload), arrays_of(learner)


def _without_some(task: Task, seed: int) -> Task:
    """The task with a part of its training samples, drawn by the seed, as its validation data."""
    data = task.data("train")
    generator = torch.Generator().manual_seed(int(key_of("held out", seed)[:15], 16))
    order = torch.randperm(len(data), generator=generator)
    count = len(data) // HELD_OUT
    parts = {"train": data.take(order[count:]), "validation": data.take(order[:count])}
    return task.over(**parts, **({"test": task.data("test")} if task.has_data("test") else {}))
