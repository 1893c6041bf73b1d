"""Healing: a curriculum is trained on what a task is now, and its model replaces the old one only if it is better."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import attrs
import torch
from torch import nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, of_kind
from crosstask.graph import Evidence, TransferEdge
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.own_models import copied
from crosstask.learning.training import evaluate, predict
from crosstask.learning.transferring import key_of, weights_digest
from crosstask.points.stage import Engine
from crosstask.records import Curriculum
from crosstask.tasks import Task
from crosstask_monitoring.comparing import compare
from crosstask_monitoring.history import History
from crosstask_monitoring.records import Entry, Operation

LEAST = 0.05
"""The least that is predicted of what a model brings to its own task after a change: it is always worth a try."""
FEWEST = 10
"""Samples of each part, below which nothing is trained or judged."""
MODELS = "models"
"""The kind under which replaced models and their successors are kept in a store."""


@runtime_checkable
class CurriculumHealer(Protocol):
    """Whatever can be healed with a curriculum: ours is `Surgery`, a user's own object may do it in another way."""

    def heal_with_curriculum(self, curriculum: Curriculum) -> Any:
        """Train through the curriculum, and put what comes out in place if it is better."""


def parts(data: TensorData, generator: torch.Generator) -> dict[str, TensorData]:
    """Labelled samples in three parts, drawn at random: 60 % to train on, 20 % to choose by, 20 % to judge by, which
    decide whether a model is replaced and nothing else. DataError for too few.
    """
    count = len(data)
    if count < 5 * FEWEST:
        raise DataError(f"{count} labelled samples are too few to heal from: at least {5 * FEWEST} are needed")
    order = torch.randperm(count, generator=generator)
    one, two = 3 * count // 5, 4 * count // 5
    chosen = {"train": order[:one], "validation": order[one:two], "test": order[two:]}
    return {name: data.take(index) for name, index in chosen.items()}


@attrs.define(eq=False)
class Surgery:
    """Replaces models of an engine's tasks by better ones, and keeps the old.

    `alpha` is the probability with which a candidate that is no better replaces a model, `least` by how much it must be
    better at least. Old models are kept by digest, in the engine's store where it has one.
    """

    engine: Engine
    alpha: float = attrs.field(default=0.05)
    least: float = 0.0
    history: History = attrs.field(default=attrs.Factory(lambda self: History(self.engine), takes_self=True))
    kept: dict[str, nn.Module] = attrs.field(factory=dict, init=False)
    """Models that were in place in this process, by digest."""

    def __attrs_post_init__(self) -> None:
        of_kind(self.engine, Engine, "Surgery: engine")  # type: ignore[type-abstract]
        if not 0 < self.alpha < 1:
            raise DataError(f"Surgery: alpha must be > 0 and < 1, got {self.alpha}")

    def heal_with_curriculum(self, curriculum: Curriculum, *, transfer: Any = None) -> Operation:
        """Train through a curriculum and put its model in place of the target's own, if that is better.

        The target's validation data are halved: one half is what the curriculum sees, the other judges. DataError where
        the target has no model or too few validation data.
        """
        task = self.engine.portfolio[of_kind(curriculum, Curriculum, "the curriculum").target]
        if not task.has_data("validation") or len(task.data("validation")) < 2 * FEWEST:
            raise DataError(f"task {task.task_id!r}: at least {2 * FEWEST} validation samples are needed to judge by")
        held = task.data("validation")
        order = torch.randperm(len(held), generator=self.engine.run.generator("surgery", task.task_id))
        half = len(held) // 2
        splits = {
            "train": task.data("train"), "validation": held.take(order[:half]), "test": held.take(order[half:]),
        }  # fmt: skip

        def planned(name: str) -> Curriculum:
            order = tuple(name if each == task.task_id else each for each in curriculum.task_sequence)
            return attrs.evolve(curriculum, target=name, task_sequence=order)

        return self.operate(task, splits, planned, transfer=transfer)

    def operate(
        self, task: Task, splits: Mapping[str, TensorData], plan: Callable[[str], Curriculum], *, transfer: Any = None
    ) -> Operation:
        """Heal a task: `plan(name)` gives a curriculum for the task as it is now, which the engine holds under this
        name for as long as it takes. `splits` are its samples now, of which `test` judge.
        """
        old = self._model(task)
        metric = metric_of(task).told
        with self._visiting(task, splits) as name:
            curriculum = plan(name)
            done = self.engine.run_curriculum(curriculum, transfer)
        candidate, judge = copied(done.model), splits["test"]
        before, after = weights_digest(old), weights_digest(candidate)
        found = compare(
            task, predict(old, judge.inputs), predict(candidate, judge.inputs), judge.targets,
            self.engine.run.generator("comparison", task.task_id, after), alpha=self.alpha, least=self.least,
        )  # fmt: skip
        told = f"{metric} {found.old:.3f} to {found.new:.3f} on {found.samples} samples, p = {found.p_value:.2g}"
        reason = f"better beyond noise: {told}" if found.better else f"not better beyond noise: {told}"
        entry = Entry(task=task.task_id, model=before, kind="kept", metric=metric, note=reason)
        if found.better:
            self._keep(task, old, before)
            self._put(task, candidate, after)
            entry = attrs.evolve(entry, kind="replaced", after=after)
        self.history.add(entry)
        if found.better:  # what judged it, and it has not seen, is what it scores while it is healthy
            self.history.add(
                Entry(task=task.task_id, model=after, kind="reference", metric=metric, score=found.new,
                      samples=found.samples, note="on the samples that judged it")
            )  # fmt: skip
        return Operation(
            task=task.task_id, outcome=entry.kind, metric=metric, reason=reason, comparison=found,
            curriculum=done.curriculum, reached_from=getattr(done, "reached_from", ""), steps=done.total_steps,
            samples={split: len(data) for split, data in splits.items()}, old=before, new=after,
        )  # fmt: skip

    def roll_back(self, task_id: str) -> str:
        """Put the model in place that was there before the last replacement that stands; its digest. DataError where
        nothing was replaced, or the old model is not kept any more.
        """
        task = self.engine.portfolio[task_id]
        now = weights_digest(self._model(task))
        standing: list[Entry] = []
        for entry in self.history.of(task_id, "replaced", "rolled_back"):
            if entry.kind == "replaced":
                standing.append(entry)
            elif standing:
                standing.pop()
        if not standing or standing[-1].after != now:
            raise DataError(f"task {task_id!r}: its model has replaced none: there is nothing to roll back to")
        before = standing[-1].model
        self._put(task, self.restored(task, before), before)
        self.history.add(Entry(task=task_id, model=now, kind="rolled_back", metric=metric_of(task).told, after=before))
        return before

    def restored(self, task: Task, digest: str) -> nn.Module:
        """A model that is kept, by digest: of this process or of the store. DataError if it is not."""
        if digest in self.kept:
            return self.kept[digest]
        known = self.engine.run.recall(MODELS, _key(task, digest), claim=False)
        if known is None:
            raise DataError(f"task {task.task_id!r}: the model {digest[:12]} is not kept in this store")
        made = copied(self._model(task))
        try:
            made.load_state_dict(known.tensors)
        except RuntimeError as error:
            told = (
                f"task {task.task_id!r}: the model {digest[:12]} in the store is no {type(made).__name__} of this kind"
            )
            raise DataError(
                f"{told}: put the network in place that it was of, or use another store ({error})"
            ) from None
        return made

    def resume(self, task: Task) -> None:
        """Put in place what the history says is in place of the task's model, as an earlier process has left it."""
        if task.model is None:
            return
        first = weights_digest(task.model)
        last = self.history.current(task.task_id, first)
        if last != first:
            self._keep(task, task.model, first)
            self._put(task, self.restored(task, last), last)

    # Parts ------------------------------------------------------------------------------------------------------------

    def _model(self, task: Task) -> nn.Module:
        if task.model is None:
            self.engine.train([task.task_id])
        if task.model is None:
            raise DataError(f"task {task.task_id!r} has no model to heal")
        return task.model

    def _keep(self, task: Task, model: nn.Module, digest: str) -> None:
        if digest not in self.kept:
            self.kept[digest] = copied(model)
            self.engine.run.remember(MODELS, _key(task, digest), {"what": "monitored", "task": task.task_id},
                                     dict(model.state_dict()))  # fmt: skip

    def _put(self, task: Task, model: nn.Module, digest: str) -> None:
        """In place from now on, for the engine's fingerprint as a model that was given."""
        given: dict[str, str] = getattr(self.engine, "given_models", {})
        self._keep(task, model, digest)
        task.model = copied(model)
        given[task.task_id] = digest

    @contextlib.contextmanager
    def _visiting(self, task: Task, splits: Mapping[str, TensorData]) -> Iterator[str]:
        """The task as it is now, as a task of its own: the old one and its model are a source among others."""
        engine = self.engine
        now = task.over(**splits)
        taken = {*engine.portfolio.ids, *(each.task_id for each in engine.portfolio.unseen)}
        name = f"{task.task_id} now"
        while name in taken:
            name += "+"
        now.descriptor = attrs.evolve(
            task.descriptor, task_id=name, prerequisites=(), performance_history=(), transfer_efficiency={},
            sample_count=len(splits["train"]),
        )  # fmt: skip
        given: dict[str, str] = getattr(engine, "given_models", {})
        now.model = None
        engine.portfolio.add(now)
        engine.graph.add_task(now.descriptor)
        try:
            if task.task_id in given:  # a path begins with networks of the user's own kind
                now.model, given[name] = copied(self._model(task)), given[task.task_id]
            for edge in engine.graph.edges_into(task.task_id):
                engine.graph.add(
                    TransferEdge(
                        source=edge.source, target=name, transfer_coefficient=edge.transfer_coefficient,
                        evidence=Evidence.PREDICTED, found_by="monitoring: before the change",
                    )
                )  # fmt: skip
            if task.task_id in engine.portfolio:
                engine.graph.add(
                    TransferEdge(
                        source=task.task_id, target=name, transfer_coefficient=self._left(task, splits["train"]),
                        evidence=Evidence.PREDICTED, found_by="monitoring: what is left of its score",
                    )
                )  # fmt: skip
            yield name
        finally:
            given.pop(name, None)
            engine.portfolio.remove(name)
            engine.graph.remove_task(name)

    def _left(self, task: Task, data: TensorData) -> float:
        """The share of its score above chance that a model still has, between `LEAST` and 1: what its weights can be
        expected to bring to the task as it is now.
        """
        now = task.over(train=data)
        score, nothing, best = evaluate(self._model(task), now, "train"), chance(now, "train"), metric_of(task).best
        if nothing is None or best == float("inf") or best <= nothing:
            return LEAST
        return min(1.0, max(LEAST, (score - nothing) / (best - nothing)))


def _key(task: Task, digest: str) -> str:
    return key_of("monitored", task.task_id, digest)
