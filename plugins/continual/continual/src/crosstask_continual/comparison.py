"""A whole run: tasks learned in order, beside the same without strategies, all tasks at once and the majority class."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import attrs
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.errors import DataError
from crosstask.learning.checkpoint import pack, unpack
from crosstask.learning.models import ModelSpec
from crosstask.learning.transferring import key_of
from crosstask.logs import logger
from crosstask.options import structure, unstructure
from crosstask.points.adapter import Adapter
from crosstask.tasks import Task
from crosstask_continual.adapting import adapt
from crosstask_continual.contract import ContinualStrategy
from crosstask_continual.learner import ContinualLearner, writes
from crosstask_continual.model import ContinualModel
from crosstask_continual.records import ContinualResult
from crosstask_continual.scores import (
    chance_scores,
    continual_scores,
    interval,
    lower_bound,
    majority_scores,
    mean,
    means,
)


class NothingLearnedWarning(UserWarning):
    """A model is no better than one that always gives the same answer."""


def run_continual(
    context: Context,
    strategies: Sequence[Any],
    model: ModelSpec,
    tasks: Sequence[Task],
    scenario: str = "task",
    *,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    batch_size: int = 128,
    grow: bool = False,
    adapter: Any = None,
    split: str = "test",
    seeds: int = 1,
    baselines: bool = True,
) -> tuple[ContinualResult, nn.Module]:
    """Learn tasks in order with strategies that work together, beside the same without them and all tasks at once;
    returns what came out, and the network after the last task (of the first seed, in evaluation mode).

    `strategies`: what `ContinualLearner` takes; none is the naive baseline alone. `adapter` (a name, a table with `use`
    or a component) is put on the network and trained with the head, in all that is compared; the network's other
    weights stay as they were drawn. Each seed draws its own model and order of samples. What is finished is remembered
    after each task under everything that determines it: a run that was killed goes on after the last finished task.
    """
    fixed = {
        "scenario": scenario,
        "grow": grow,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "split": split,
    }
    job = Comparison(context, model, tasks, fixed, epochs, adapter)
    kinds = ["chosen", *(["naive", "joint"] if baselines else [])]
    context.tell("stage_started", stage="continual", total=len(kinds) * seeds)
    found: dict[str, list[Any]] = {kind: [] for kind in kinds}
    first: ContinualLearner | None = None
    for number in range(seeds):
        for kind in kinds:
            learner = job.learner(number, strategies if kind == "chosen" else ())
            learner.quiet = first is not None  # the tasks have as many steps for all
            first = first or learner
            found[kind].append(job.joint(learner, number) if kind == "joint" else job.sequence(learner, number))
            context.tell("stage_progress", stage="continual", detail=f"{kind}, seed {number + 1} of {seeds}")
    assert first is not None
    majority, chance = (of(first.model, job.tasks, split) for of in (majority_scores, chance_scores))
    scores = continual_scores(*zip(*found["chosen"], strict=True))
    samples = [len(task.data(split)) if task.has_data(split) else None for task in tasks]
    result = ContinualResult(
        tasks=tuple(t.task_id for t in tasks),
        scenario=scenario,
        strategies=tuple(s.origin for s in first.strategies),
        split=split,
        scores=scores,
        naive=continual_scores(*zip(*found["naive"], strict=True)) if baselines else None,
        joint=interval([mean(row) for row in found["joint"]], (0, 1)) if baselines else None,
        joint_scores=tuple(means(found["joint"])) if baselines else (),
        majority=mean(majority),
        majority_scores=tuple(majority),
        chance=mean(chance),
        chance_scores=tuple(chance),
        samples=tuple(samples),
        lower_bound=lower_bound(scores.matrix[-1], samples),
        warnings=tuple(first.warnings),
        adapter=None if job.adapter is None else job.adapter.origin,
        weights=sum(p.numel() for p in first.model.parameters()),
        trained_weights=first.trained_weights,
        outputs=first.model.outputs,
        epochs=epochs,
        seed=context.seed,
        seeds=seeds,
        options=job.options(first),
    )
    result = _warned(result)
    context.tell("stage_finished", stage="continual", result=result)
    return result, first.model.network.eval()


def _warned(result: ContinualResult) -> ContinualResult:
    """With a warning where nothing was learned."""
    if not result.learned_nothing:
        return result
    assert result.scores.accuracy is not None  # else nothing was measured
    accuracy = result.scores.accuracy.mean
    least = "" if result.lower_bound is None else f" (95 %: from {result.lower_bound:.3f})"
    told = (
        f"nothing was learned: after the last task the mean accuracy is {accuracy:.3f}{least}, no better than that of "
        f"always answering the majority class, {result.majority:.3f}; try more epochs, smaller batches, or another "
        "learning rate"
    )
    logger().warning("nothing learned", accuracy=accuracy, majority=result.majority, told=told)
    warnings.warn(told, NothingLearnedWarning, stacklevel=3)
    return attrs.evolve(result, warnings=(*result.warnings, told))


class Comparison:
    """What the trainings of one `run_continual` share. DataError if the tasks cannot be learned one after another."""

    def __init__(
        self,
        context: Context,
        model: ModelSpec,
        tasks: Sequence[Task],
        fixed: dict[str, Any],
        epochs: int,
        adapter: Any = None,
    ) -> None:
        if not tasks:
            raise DataError("a continual run needs tasks")
        if len({t.task_id for t in tasks}) < len(tasks):
            raise DataError(f"tasks of a continual run must have different ids, got {[t.task_id for t in tasks]}")
        for task in tasks:
            task.data("train")
        self.context, self.spec, self.tasks, self.fixed, self.epochs = context, model, list(tasks), fixed, epochs
        self.adapter = None if adapter is None else cast(Adapter, context.resolve("adapter", adapter))

    def network(self, number: int, outputs: int) -> nn.Module:
        """A new network with so many outputs, drawn for the seed of that number; its adapter is on it, if there is one.

        The same call gives the same network: weights of a finished run can be loaded into it.
        """
        descriptor = attrs.evolve(self.tasks[0].descriptor, classes=(), output_dim=outputs)
        seed = self.context.seed_for("continual", number, "model")
        made = self.spec.build(descriptor, seed).to(self.context.device)
        if self.adapter is not None:
            adapt(self.context, self.adapter, made, self.context.generator("continual", number, "adapter"))
        return made

    def learner(self, number: int, strategies: Sequence[Any]) -> ContinualLearner:
        """A learner with a model for the first task (with `grow`) or for all of them."""
        layout = ContinualModel(self.spec.build(self.tasks[0].descriptor, 0), self.fixed["scenario"], grow=True)
        for task in self.tasks[: 1 if self.fixed["grow"] else None]:
            layout.add(task, 0)
        network = self.network(number, layout.outputs)
        made = [copy.deepcopy(s) if isinstance(s, ContinualStrategy) else s for s in strategies]
        learner = ContinualLearner(network, made, context=self.context, repeat=number, **self.fixed)
        if self.adapter is not None:
            refuse_new_networks(self.adapter, learner.strategies)
        return learner

    def sequence(self, learner: ContinualLearner, number: int) -> tuple[Any, Any, Any]:
        """(matrix, accuracies before, accuracies of the untrained model) of tasks learned in order."""
        keys = [self._key(learner, number, done) for done in range(1, len(self.tasks) + 1)]
        known = next((r for key in reversed(keys) if (r := self.context.recall("models", key)) is not None), None)
        if known is not None:
            learner.load_state_dict(unpack(known.payload["state"], known.tensors.__getitem__))
        for place, task in enumerate(self.tasks):
            fresh = place >= len(learner.matrix)
            learner.train_task(task, num_epochs=self.epochs)
            if fresh:
                self._keep(keys[place], learner.state_dict(), {"tasks": [t.task_id for t in self.tasks[: place + 1]]})
        return learner.matrix, learner.before, learner.initial

    def joint(self, learner: ContinualLearner, number: int) -> list[float | None]:
        """Accuracies of one model that learned all tasks at once."""
        key = key_of("joint", self._key(learner, number, len(self.tasks)))
        known = self.context.recall("models", key)
        if known is None:
            found = learner.train_together(self.tasks, self.epochs)
            row = [found.get(t.task_id) for t in self.tasks]
            self.context.remember("models", key, {"what": "joint training of a continual run", "scores": row})
            return row
        row = structure(known.payload["scores"], list[float | None], "stored accuracies of joint training")
        return list(row)

    def options(self, learner: ContinualLearner) -> dict[str, Any]:
        """Everything that was chosen, for the record."""
        strategies = [{"strategy": s.origin, "options": s.options()} for s in learner.strategies]
        adapter = self.adapter and {"adapter": self.adapter.origin, "options": self.adapter.options()}
        return dict(unstructure({**self.fixed, "model": self.spec, "adapter": adapter, "strategies": strategies}))

    def _key(self, learner: ContinualLearner, number: int, done: int) -> str:
        strategies = [s.identity() for s in learner.strategies]
        adapter = None if self.adapter is None else self.adapter.identity()
        prints = [task.fingerprint() for task in self.tasks[:done]]
        wrappers: list[Any] = self.context.wrapping()
        return key_of(
            "continual",
            strategies,
            prints,
            self.spec,
            learner.model.outputs,
            self.fixed,
            self.epochs,
            self.context.seed,
            number,
            adapter,
            wrappers,
        )

    def _keep(self, key: str, state: dict[str, Any], told: dict[str, Any]) -> None:
        tensors: dict[str, Tensor] = {}
        packed = pack(state, "state", tensors)
        self.context.remember("models", key, {"what": "a continual run", **told, "state": packed}, tensors)


def refuse_new_networks(adapter: Adapter, strategies: Sequence[ContinualStrategy]) -> None:
    """DataError for a strategy that gives the model another network: the adapter would not be on it."""
    for strategy in strategies:
        if writes(strategy, "resumes"):
            raise DataError(
                f"{strategy.origin} changes the network itself: it cannot work beside {adapter.origin}, which leaves "
                "the network as it is"
            )
