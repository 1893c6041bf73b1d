"""Models out: a user's model adapted to a target, as a module, with what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from crosstask.components import Context, Job
from crosstask.errors import DataError
from crosstask.learning.averaging import greedy_mean
from crosstask.learning.model_files import save_model
from crosstask.learning.modules import load_matching
from crosstask.learning.own_models import arrays_of, copied
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch_seeds,
    unfit_pair,
    weights_digest,
    without_model,
)
from crosstask.points.stage import Engine
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, CurriculumResult, Interval, SeveralResult, TransferResult
from crosstask.tasks import Task


@attrs.frozen(eq=False, repr=False)
class Adapted:
    """A model for a target, in evaluation mode, of its source's class, and what is known of how good it is.

    `result` is the measurement of the way that it was made, over several seeds; the model is that of the first. `notes`
    say what was chosen, and by what.
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

    def __repr__(self) -> str:
        whence = " and ".join(self.sources)
        score = f"{self.score.mean:.3f} [{self.score.low:.3f}, {self.score.high:.3f}]"
        return (
            f"Adapted({type(self.model).__name__} for {self.target!r} from {whence} by {self.strategy}: {self.metric} "
            f"{score}, {self.scratch_score.mean:.3f} from scratch)"
        )

    def save(self, path: str | Path) -> Path:
        """Write the model (`crosstask.load_model` reads it)."""
        return save_model(self.model, path)


def of_transfer(
    context: Context, method: Transfer, source: Task, target: Task, budget: Budget, result: TransferResult
) -> Adapted:
    """The module of a measured transfer, of its first seed: what was measured, learned once more if it is not kept."""
    model = _learned(context, method, source, target, budget, scratch_seeds(context, target, 1)[0])
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
        sources=tuple(step.task_id for step in done.steps[:-1]),
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


def of_several(found: Sequence[Adapted], target: Task) -> Adapted:
    """One model from those of several sources: the best on the validation data, and averaged with it whatever makes it
    no worse there (`greedy_mean`), where the architectures are the same.

    Without validation data it is the one whose transfer scored best, as it was measured: on the data that its score is
    of, and a note says so.
    """
    if not target.has_data("validation"):
        best = max(found, key=lambda each: each.score.mean)
        note = "no validation data: of the sources the one that scored best on the test data, too good by this choice"
        return attrs.evolve(best, notes=(*best.notes, note if len(found) > 1 else "no validation data"))
    mixture, taken = greedy_mean([each.model for each in found], lambda made: evaluate(made, target, "validation"))
    best = found[taken[0]]
    names = tuple(source for n in taken for source in found[n].sources)
    note = f"best on the validation data: {names[0]}"
    if len(taken) > 1:
        scored = evaluate(mixture, target, "test")
        note = f"mean of the weights from {', '.join(names)}: {scored:.3f} on the test data, the score is {names[0]}'s"
    return attrs.evolve(best, model=copied(mixture), sources=names, notes=(*best.notes, note))


def _learned(context: Context, method: Transfer, source: Task, target: Task, budget: Budget, seed: int) -> nn.Module:
    assert source.model is not None
    keep = same_classes(source.descriptor, target.descriptor)
    key = key_of(
        "adapted", method.identity(), weights_digest(source.model), target.fingerprint(), budget, seed, keep,
        *context.wrapping(),
    )  # fmt: skip
    known = context.recall("models", key)
    if known is None:
        args = (method, source.model, without_model(target), budget, seed, keep)
        ((_, arrays),) = context.jobs([Job(_learn_job, args, label=target.task_id)])
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        made = {"what": "adapted", "source": source.task_id, "target": target.task_id, "seed": seed}
        context.remember("models", key, made, tensors)
    else:
        tensors = dict(known.tensors)
    model = fresh_model(source.model, target, seed)
    load_matching(model, tensors)
    return model.eval()


def _learn_job(
    method: Transfer, source: nn.Module, target: Task, budget: Budget, seed: int, keep: bool
) -> dict[str, Any]:
    task = drawn(target, budget.samples, seed)
    learner, _, _ = receive(source, task, seed, keep)
    method.learn(learner, source, task, budget, torch.Generator().manual_seed(seed))
    return arrays_of(learner)
