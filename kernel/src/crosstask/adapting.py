"""Models out: a user's model adapted to a target, as a module, with what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from torch import nn

from crosstask.components import Context, Job
from crosstask.curriculum_path import HELD_OUT, without_some
from crosstask.errors import CrosstaskError, DataError
from crosstask.learning.averaging import greedy, mean_weights
from crosstask.learning.fleets import Member, phases_of
from crosstask.learning.likeness import ALIKE, likeness
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.model_files import save_model
from crosstask.learning.modules import load_matching
from crosstask.learning.objectives import metric_of
from crosstask.learning.own_models import arrays_of, copied
from crosstask.learning.together import Kept, in_fleet, remembered
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import (
    Learns,
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch_seeds,
    source_digest,
    unfit_pair,
    without_model,
)
from crosstask.logs import logger
from crosstask.points.stage import Engine
from crosstask.points.transfer import Transfer, learner_for
from crosstask.records import Budget, CurriculumResult, Interval, SeveralResult, TransferResult
from crosstask.tasks import Task


@attrs.frozen(eq=False, repr=False)
class Adapted:
    """A model for a target, in evaluation mode, of its source's class, and what is known of how good it is.

    `result` is the measurement of the way that it was made, over several seeds; the model is that of the first.
    `sources` are the tasks that it has learned from: of a curriculum those whose steps were kept, none where the target
    was learned from scratch. `notes` say what was chosen, and by what. Of a mean of several models `score` is its own,
    one value on the test data, and `result` the measurement of the best of them alone.
    """

    model: nn.Module
    target: str
    sources: tuple[str, ...]
    strategy: str
    metric: str
    score: Interval
    scratch_score: Interval
    result: TransferResult | CurriculumResult | SeveralResult
    notes: tuple[str, ...] = ()
    samples: tuple[int, int] = (0, 0)
    """From how many of the target's training samples it was learned, and how many there are; (0, 0): not said."""

    def __repr__(self) -> str:
        what = f"Adapted({type(self.model).__name__} for {self.target!r}"
        taken, there = self.samples
        few = f"; learned from {taken} of {there} training samples" if taken < there else ""
        if not self.sources:
            return f"{what} from scratch: {self.metric} {self.score}{few})"
        score = self.score if len(self.score.values) != 1 else f"{self.score.mean:.3f}"
        return (
            f"{what} from {' and '.join(self.sources)} by {self.strategy}: {self.metric} {score}, "
            f"{self.scratch_score.mean:.3f} from scratch{few})"
        )

    def save(self, path: str | Path) -> Path:
        """Write the model (`crosstask.load_model` reads it)."""
        return save_model(self.model, path)


def with_samples(found: Adapted, target: Task, budget: Budget) -> Adapted:
    """The same, with how many of the target's training samples the budget takes; a note says if that is not all."""
    data = target.data("train")
    taken, there = len(data.head(budget.samples)), len(data)
    told = f"learned from {taken} of its {there} training samples, as the budget says: for more "
    more = (f"{told}TransferEngine(budget=Budget(steps=..., samples=None))",) if taken < there else ()
    return attrs.evolve(found, samples=(taken, there), notes=(*more, *found.notes))


def of_transfer(
    context: Context, method: Transfer, source: Task, target: Task, budget: Budget, result: TransferResult
) -> Adapted:
    """The module of a measured transfer, of its first seed: what was measured, learned once more if it is not kept."""
    (model,) = _learned(context, method, [(source, target, scratch_seeds(context, target, 1)[0])], budget)
    return Adapted(
        model=model,
        target=target.task_id,
        sources=(source.task_id,),
        strategy=result.strategy,
        metric=result.metric,
        score=result.score,
        scratch_score=result.scratch_score,
        result=result,
        notes=(f"of {result.seeds} measured models the first",) if result.seeds > 1 else (),
    )


def of_curriculum(done: CurriculumResult) -> Adapted:
    """The module of a curriculum that was run."""
    last = done.steps[-1]
    return Adapted(
        model=done.model,
        target=last.task_id,
        sources=done.sources,
        strategy=done.strategy,
        metric=done.metric,
        score=last.score,
        scratch_score=last.scratch_score,
        result=done,
        notes=(f"of {done.seeds} measured models the first",) if done.seeds > 1 else (),
    )


def from_several(engine: Engine, method: Transfer, target: str, names: Sequence[str] | None = None) -> SeveralResult:
    """The target learned from several sources at once: those named, the best first, or the best of all tasks by
    the graph, none that it knows to hurt. DataError if none of them fits.
    """
    portfolio, goal = engine.portfolio, engine.portfolio[target]
    held = [t for t in portfolio if t is not goal] if names is None else [portfolio[n] for n in dict.fromkeys(names)]
    if any(task is goal for task in held):
        raise DataError(f"task {target!r} is both source and target")
    engine.train([t.task_id for t in held if t.has_data()])
    reasons = {t.task_id: unfit_pair(t, goal, portfolio, ("train", "test")) for t in held}
    fitting = [t for t in held if reasons[t.task_id] is None]
    if not fitting:
        why = "; ".join(filter(None, reasons.values())) or "there is no other task"
        raise DataError(f"no source fits {target!r}: {why}")
    done: SeveralResult = engine.run.call(
        method,
        "transfer_several",
        sources=fitting,
        target=goal,
        graph=engine.graph if names is None else None,
        train=engine.train_budget,
        budget=engine.budget,
        seeds=engine.seeds,
        split="test",
    )
    unfit = tuple(f"{name} does not fit: {why}" for name, why in reasons.items() if why is not None)
    for name, reason in reasons.items():
        if reason is not None and names is not None:  # who named it counts on it
            logger().warning("source left out", source=name, target=target, reason=reason)
    return attrs.evolve(done, notes=(*done.notes, *unfit)).with_model(done.model)


def of_sources(done: SeveralResult) -> Adapted:
    """The module of a method that learns from several sources at once."""
    first = (f"of {done.seeds} measured models the first",) if done.seeds > 1 else ()
    return Adapted(
        model=done.model,
        target=done.target,
        sources=done.sources,
        strategy=done.strategy,
        metric=done.metric,
        score=done.score,
        scratch_score=done.scratch_score,
        result=done,
        notes=(*first, *done.notes),
    )


ENOUGH = 30
"""Fewer samples than these, over all trials, do not decide on a mean: by one of them its score moves too far."""

Trial = tuple[Sequence[nn.Module], Task]
"""A model from each source, and the task by whose validation data they are compared."""


def of_several(found: Sequence[Adapted], target: Task, trials: Sequence[Trial] | str = "no validation data") -> Adapted:
    """One model from those of several sources: the best on the data that decide, and averaged with it whatever makes it
    no worse there (`greedy_mean`), where the architectures are the same, the weights began as the same, and `ENOUGH`
    samples or more decide.

    These are the target's validation data, or without any what `held_back` gives. Where there is nothing to compare by
    (a string says why) it is the one whose transfer scored best, as it was measured: on the data that its score is of,
    and a note says so.
    """
    judge = "the validation data"
    if target.has_data("validation"):
        trials = [([each.model for each in found], target)]
    elif isinstance(trials, str):
        best = max(found, key=lambda each: each.score.mean)
        note = f"{trials}: of the sources the one that scored best on the test data, too good by this choice"
        return attrs.evolve(best, notes=(*best.notes, note if len(found) > 1 else trials))
    else:
        judge = f"a {HELD_OUT}th of the training samples, held back for the choice"
    taken = greedy([each.model for each in found], lambda numbers: _worth(trials, numbers))
    best, mixture = found[taken[0]], mean_weights([found[number].model for number in taken])
    names = tuple(source for n in taken for source in found[n].sources)
    note = f"best on {judge}: {names[0]}"
    if len(taken) > 1:
        note = (
            f"mean of the weights from {', '.join(names)}, chosen by {judge}; the score is its own, of one model: "
            f"from {names[0]} alone it was {best.score}"
        )
        scored = confidence_interval([evaluate(mixture, target, "test")], metric_of(target).range)
        best = attrs.evolve(best, score=scored)
    return attrs.evolve(best, model=copied(mixture), sources=names, notes=(*best.notes, note))


def _worth(trials: Sequence[Trial], numbers: Sequence[int]) -> float:
    """The mean over the trials of what the mean of some sources' models scores; of several -inf where they are not to
    be averaged.
    """
    if len(numbers) > 1 and sum(len(task.data("validation")) for _, task in trials) < ENOUGH:
        return -math.inf
    if any(likeness(models[numbers[0]], models[n]) < ALIKE for models, _ in trials for n in numbers[1:]):
        return -math.inf
    scores = [evaluate(mean_weights([models[n] for n in numbers]), task, "validation") for models, task in trials]
    return sum(scores) / len(scores)


def held_back(
    context: Context, method: Transfer, sources: Sequence[Task], target: Task, budget: Budget, seeds: int
) -> Sequence[Trial] | str:
    """What several sources are compared by for a target without validation data: for every seed a part of its training
    samples is held back, as by a curriculum's gate, and the target learned from each source without it. A string says
    why that cannot be done, or would decide nothing.
    """
    if target.has_data("validation") or len(sources) < 2:
        return "no validation data"
    count = len(target.data("train").head(budget.samples))
    if count < 2 * HELD_OUT:
        return f"no validation data, and {count} training samples, too few to hold some back"
    parts = [(without_some(drawn(target, budget.samples, n), n), n) for n in scratch_seeds(context, target, seeds)]
    try:
        made = _learned(context, method, [(source, *part) for part in parts for source in sources], budget)
        trials = [(made[n * len(sources) : (n + 1) * len(sources)], task) for n, (task, _) in enumerate(parts)]
        for number in range(len(sources)):  # a metric may have no value for a few samples
            _worth(trials, [number])
    except CrosstaskError as error:
        return f"no validation data, and training samples that are held back decide nothing ({error})"
    return trials


_Wanted = tuple[Task, Task, int]
"""A source, what is learned from it with the budget, and the seed."""


def _learned(context: Context, method: Transfer, wanted: Sequence[_Wanted], budget: Budget) -> list[nn.Module]:
    """What is learned from sources, in evaluation mode; in fleets where that is right, and each once."""
    learners = [learner_for(method, source, task) for source, task, _ in wanted]
    known = {id(source): source_digest(_model(source)) for source in {id(s): s for s, _, _ in wanted}.values()}
    keeps = [same_classes(source.descriptor, task.descriptor) for source, task, _ in wanted]
    keys = [
        key_of(
            "adapted", "in fleets", method.identity(), known[id(source)], task.fingerprint(), budget, seed, keep,
            *([] if learner is method else [source.fingerprint()]), *context.wrapping(),
        )
        for (source, task, seed), keep, learner in zip(wanted, keeps, learners, strict=True)
    ]  # fmt: skip

    def of(number: int) -> _Given:
        source, task, seed = wanted[number]
        light = without_model(task, ("train", "validation"))
        return _Given(learners[number], _model(source), source.task_id, light, seed, keeps[number])

    def planned(numbers: Sequence[int]) -> list[Member]:
        own = [(*wanted[number], phases_of(learners[number], budget) or ()) for number in numbers]
        return [Member(_model(source), task, budget, phases, seed) for source, task, seed, phases in own]

    def job(numbers: Sequence[int], together: bool) -> Job:
        args = ([of(number) for number in numbers], budget)
        return Job(_learn_together if together else _learn_alone, args, label=wanted[numbers[0]][1].task_id)

    made: dict[int, nn.Module] = {}
    for number, kept in remembered(context, "models", keys, planned, job):
        source, task, seed = wanted[number]
        model = fresh_model(_model(source), task, seed)
        load_matching(model, dict(kept.tensors))
        shapes = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        if shapes != {name: value.shape for name, value in kept.tensors.items()}:
            # The method has put layers of its own into the model, such as adapters, which weights do not tell: again
            given = of(number)
            model, own = given.begun(budget)
            given.method.learn(model, given.model, own, budget, torch.Generator().manual_seed(seed))
        made[number] = model.eval()
    return [made[number] for number in range(len(wanted))]


def _model(source: Task) -> nn.Module:
    assert source.model is not None  # whoever wants to learn from it has seen to it
    return source.model


@attrs.frozen(eq=False)
class _Given:
    """What learns a target from a source, and both, as a job needs them."""

    method: Learns
    model: nn.Module
    source: str
    task: Task
    seed: int
    keep: bool

    def begun(self, budget: Budget) -> tuple[nn.Module, Task]:
        """(the learner, with what it learns from)."""
        task = drawn(self.task, budget.samples, self.seed)
        learner, _, _ = receive(self.model, task, self.seed, self.keep)
        return learner, task

    def kept(self, learner: nn.Module) -> Kept:
        made = {"what": "adapted", "source": self.source, "target": self.task.task_id, "seed": self.seed}
        return made, arrays_of(learner)


def _learn_together(given: list[_Given], budget: Budget) -> list[Kept | None]:
    """Models learned from sources in a fleet, as a job."""

    def member(number: int) -> Member:
        learner, task = given[number].begun(budget)
        return Member(learner, task, budget, phases_of(given[number].method, budget) or (), given[number].seed)

    learned = in_fleet(len(given), member, lambda one, _: one.model)
    return [None if model is None else each.kept(model) for each, model in zip(given, learned, strict=True)]


def _learn_alone(given: list[_Given], budget: Budget) -> list[Kept]:
    """Models learned from sources one by one, as a job."""
    made: list[Kept] = []
    for each in given:
        learner, task = each.begun(budget)
        each.method.learn(learner, each.model, task, budget, torch.Generator().manual_seed(each.seed))
        made.append(each.kept(learner))
    return made
