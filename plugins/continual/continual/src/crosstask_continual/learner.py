"""Learning tasks one after another with strategies against forgetting."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context, hooks_of
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, RunError
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import seeded
from crosstask.reading import read_split
from crosstask.tasks import Task
from crosstask_continual.batch import Batch
from crosstask_continual.contract import ContinualStrategy
from crosstask_continual.model import SCENARIOS, ContinualModel
from crosstask_continual.records import ContinualScores
from crosstask_continual.scores import continual_scores


class ScenarioWarning(UserWarning):
    """A strategy is used in a scenario in which it cannot keep a model from forgetting."""


class ContinualLearner:
    """Trains one model on tasks as they come: `train_task` for each, `evaluate_all_tasks` at any time.

    `strategy`: a name, a component, a table with `use`, or a list of these, which work together; None for none.
    `buffer_size` is given to strategies named here that keep samples (default: their own). `scenario` (task, domain or
    class) and `grow`: see `ContinualModel`, which the learner makes of `model` and keeps as `learner.model`. What is
    random follows from the context's seed and from `repeat`.

    Every task gets a fresh optimiser for what needs a gradient: a frozen network under an adapter stays as it is. A
    step costs what plain training costs, and what the strategies do. `matrix` has one row for each task learned: the
    accuracy on it and all before it, on `split` (tasks without one: None); `before` the accuracy on each task when it
    came, `initial` that of the untrained model on it. `trained`: names of the weights that some task has trained.

    `state_dict` is taken between tasks. To go on from one: a learner made alike, `load_state_dict`, and the same
    `train_task` calls from the first task on; those that were done return at once, and other tasks, or another order,
    are a DataError.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Any = None,
        buffer_size: int | None = None,
        *,
        scenario: str = "task",
        grow: bool = False,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 128,
        split: str = "test",
        context: Context | None = None,
        repeat: int = 0,
    ) -> None:
        if learning_rate <= 0 or batch_size < 1:
            raise OptionError(f"learning_rate must be > 0 and batch_size >= 1, got {learning_rate} and {batch_size}")
        self.context = context or LocalContext()
        self.model = ContinualModel(model, scenario, grow=grow)
        self.strategies = self._resolve(strategy, buffer_size)
        self.batch_size, self.split, self.repeat = batch_size, split, repeat
        self.learning_rate, self._optimizer, self._decay = learning_rate, optimizer, weight_decay
        self._asked = {hook: [s for s in self.strategies if writes(s, hook)] for hook in hooks_of(ContinualStrategy)}
        self._initial = ContinualModel(copy.deepcopy(model), scenario, grow=grow)
        self._tasks: list[Task] = []
        self._stored: list[list[str]] = []
        self.matrix: list[list[float | None]] = []
        self.before: list[float | None] = []
        self.initial: list[float | None] = []
        self.steps = 0
        self.trained: set[str] = set()
        self.warnings = [told for s in self.strategies if (told := _unsuited(s, scenario))]
        for told in self.warnings:
            warnings.warn(told, ScenarioWarning, stacklevel=2)

    def _resolve(self, strategy: Any, buffer_size: int | None) -> list[ContinualStrategy]:
        chosen = [] if strategy is None else list(strategy) if isinstance(strategy, list | tuple) else [strategy]
        found = [cast(ContinualStrategy, self.context.resolve("continual", choice)) for choice in chosen]
        if buffer_size is not None:
            keeping = [s for s, c in zip(found, chosen, strict=True) if s is not c and hasattr(s, "buffer_size")]
            if not keeping:
                names = ", ".join(s.origin for s in found) or "none"
                raise OptionError(f"buffer_size = {buffer_size}: no strategy named here keeps samples ({names})")
            for each in keeping:
                each.buffer_size = buffer_size
        return found

    @property
    def scenario(self) -> str:
        """Of the model: `task`, `domain` or `class`."""
        return self.model.scenario

    # --- Learning

    def train_task(self, task_data: Any, task_id: str | int | None = None, num_epochs: int = 1) -> dict[str, float]:
        """Learn one more task and return the accuracy on every task so far.

        `task_data`: a `Task`, or what its training split may be (a pair of tensors, a Dataset, a loader factory), with
        labels 0 to C-1; `task_id` names it then (default: its number). RunError where a loss is not finite.
        """
        if num_epochs < 1:
            raise OptionError(f"num_epochs must be at least 1, got {num_epochs}")
        task = self._task(task_data, task_id)
        if len(self._tasks) < len(self._stored):
            return self._known(task)
        if task.task_id in self.model.tasks:
            raise DataError(f"task {task.task_id!r} was learned already: give what comes again another task_id")
        self._check_inputs(task)
        seed = self._seed(task.task_id, "head")
        self.model.add(task, seed)
        self._initial.add(task, seed)
        self._tasks.append(task)
        self.initial.append(self._score(self._initial, task))
        self.before.append(self._score(self.model, task))
        with seeded(self._seed(task.task_id, "noise")):
            self._learn(task, num_epochs)
        self.matrix.append([self._score(self.model, t) for t in self._tasks])
        self._stored.append([task.task_id, task.fingerprint()])
        return self._named(self.matrix[-1])

    def train_together(self, tasks: Sequence[Task], num_epochs: int = 1) -> dict[str, float]:
        """Learn all tasks at once from their joined data (no strategy is asked): what sequences are compared with."""
        if self._tasks or not tasks:
            raise DataError("train_together needs tasks, and a learner that has not learned any")
        for task in tasks:
            self._check_inputs(task)
            self.model.add(task, self._seed(task.task_id, "head"))
            self._tasks.append(task)
        data = Batch.joined([self.model.data(task) for task in tasks])
        with seeded(self._seed("joint", "noise")):
            self._epochs(attrs.evolve(data, replayed=0), num_epochs, "joint", {hook: [] for hook in self._asked})
        return self.evaluate_all_tasks()

    def evaluate_all_tasks(self, split: str | None = None) -> dict[str, float]:
        """Accuracy on each task so far, on `split` (default: the learner's); tasks without that split are left out."""
        chosen = split or self.split
        return {t.task_id: self.model.accuracy(t, chosen) for t in self._tasks if t.has_data(chosen)}

    @property
    def trained_weights(self) -> int:
        """How many of the network's weights were trained so far, in one task or several."""
        return sum(p.numel() for name, p in self.model.named_parameters() if name in self.trained)

    def scores(self) -> ContinualScores:
        """What the accuracies so far say of forgetting and transfer; see `continual_scores`."""
        return continual_scores([self.matrix], [self.before], [self.initial])

    def _learn(self, task: Task, epochs: int) -> None:
        self.model.learning_rate = self.learning_rate
        self.model.generator = torch.Generator().manual_seed(self._seed(task.task_id, "strategies"))
        self._tell("task_begins", task)
        self._epochs(self.model.data(task), epochs, task.task_id, self._asked)
        self._tell("task_ends", task)

    def _tell(self, hook: str, task: Task) -> None:
        for strategy in self.strategies:
            self.context.call(strategy, hook, model=self.model, task=task)

    def _epochs(self, data: Batch, epochs: int, name: str, asked: dict[str, list[ContinualStrategy]]) -> None:
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.trained.update(parameters)
        optimizer = optimizer_for(self._optimizer, list(parameters.values()), self.learning_rate, self._decay)
        generator = torch.Generator().manual_seed(self._seed(name, "order"))
        self.model.train()
        for epoch in range(epochs):
            losses = []
            for index in _parts(len(data), self.batch_size, generator):
                batch = data.part(index.to(data.targets.device))
                losses.append(self._step(batch if epoch == 0 else attrs.evolve(batch, fresh=False), optimizer, asked))
            self.steps += len(losses)
            loss = float(torch.stack(losses).mean())  # one synchronisation for each epoch, not for each step
            if not math.isfinite(loss):
                raise RunError(
                    f"task {name!r}: the training loss is {loss} in epoch {epoch + 1}; try a smaller learning rate, or "
                    "a weaker penalty"
                )
            self.context.tell("training_step", stage="continual", step=self.steps, metrics={"losses": {name: loss}})

    def _step(
        self, batch: Batch, optimizer: torch.optim.Optimizer, asked: dict[str, list[ContinualStrategy]]
    ) -> Tensor:
        model, call = self.model, self.context.call
        for strategy in asked["replay"]:
            more = call(strategy, "replay", batch=batch)
            if more is not None:
                batch = Batch.joined([batch, more])
        outputs = model(batch.inputs, batch.task_ids)
        loss = model.loss(outputs, batch)
        for strategy in asked["penalty"]:
            term = call(strategy, "penalty", model=model, batch=batch, outputs=outputs)
            if term is not None:
                loss = loss + term
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for strategy in asked["after_backward"]:
            call(strategy, "after_backward", model=model)
        optimizer.step()
        for strategy in asked["after_step"]:
            call(strategy, "after_step", model=model)
        return loss.detach()

    def _seed(self, name: str, what: str) -> int:
        return self.context.seed_for("continual", self.repeat, name, what)

    # --- Tasks

    def _task(self, given: Any, task_id: str | int | None) -> Task:
        if isinstance(given, Task):
            if task_id is not None and str(task_id) != given.task_id:
                raise DataError(f"task_id {task_id!r} is given for a task that is called {given.task_id!r}")
            return given
        name = str(len(self._tasks) if task_id is None else task_id)
        data = read_split(given, TaskDescriptor(task_id=name), "train")
        outputs = self.model.outputs if self.scenario == "domain" else int(data.targets.max()) + 1
        shape = tuple(data.inputs.shape[1:])
        descriptor = TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs, sample_count=len(data))
        return Task(descriptor=descriptor, train=(data.inputs, data.targets))

    def _check_inputs(self, task: Task) -> None:
        if self._tasks:
            first, shape = self._tasks[0], tuple(task.data("train").inputs.shape[1:])
            wanted = tuple(first.data("train").inputs.shape[1:])
            if shape != wanted:
                raise DataError(f"task {task.task_id!r} has inputs {shape}, task {first.task_id!r} had {wanted}")

    def _score(self, model: ContinualModel, task: Task) -> float | None:
        return model.accuracy(task, self.split) if task.has_data(self.split) else None

    def _named(self, row: list[float | None]) -> dict[str, float]:
        return {t.task_id: v for t, v in zip(self._tasks, row, strict=True) if v is not None}

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next task depends on, and what was measured so far."""
        return {
            "scenario": self.scenario,
            "tasks": [list(t) for t in self._stored],
            "layout": self.model.layout(),
            "outputs": self.model.outputs,
            "network": {k: v.detach().clone() for k, v in self.model.network.state_dict().items()},
            "initial_network": {k: v.detach().clone() for k, v in self._initial.network.state_dict().items()},
            "strategies": [[s.name, s.state_dict()] for s in self.strategies],
            "matrix": [list(row) for row in self.matrix],
            "before": list(self.before),
            "initial": list(self.initial),
            "steps": self.steps,
            "trained": sorted(self.trained),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. DataError if this learner has learned already, or was made otherwise."""
        if self._tasks:
            raise DataError("load_state_dict needs a learner that has not learned a task yet")
        made = [s.name for s in self.strategies]
        if state["scenario"] != self.scenario or [name for name, _ in state["strategies"]] != made:
            told = f"{state['scenario']}, {[name for name, _ in state['strategies']]}"
            raise DataError(f"the state is of another run ({told}); this learner has {self.scenario}, {made}")
        for model in (self.model, self._initial):
            model.lay_out(state["layout"], state["outputs"], 0)
        for strategy, (_, own) in zip(self.strategies, state["strategies"], strict=True):
            strategy.load_state_dict(copy.deepcopy(own))
        for strategy in self.strategies:
            self.context.call(strategy, "resumes", model=self.model)
        self.model.network.load_state_dict(state["network"])
        self._initial.network.load_state_dict(state["initial_network"])
        self._stored = [list(t) for t in state["tasks"]]
        self.matrix = [list(row) for row in state["matrix"]]
        self.before, self.initial = list(state["before"]), list(state["initial"])
        self.steps, self.trained = state["steps"], set(state["trained"])

    def _known(self, task: Task) -> dict[str, float]:
        """A task that the loaded state has learned: take its data, train nothing."""
        place = len(self._tasks)
        name, fingerprint = self._stored[place]
        if task.task_id != name:
            order = ", ".join(t for t, _ in self._stored)
            raise DataError(
                f"this run goes on from one that learned {order} in this order; its task {place + 1} is {name!r}, got "
                f"{task.task_id!r}: give the tasks in the same order, or start a new run"
            )
        if task.fingerprint() != fingerprint:
            raise DataError(f"task {name!r} has other data than when this run learned it: start a new run")
        self._tasks.append(task)
        return self._named(self.matrix[place])


def writes(strategy: ContinualStrategy, hook: str) -> bool:
    """Whether a strategy has written a hook, instead of the contract's that does nothing."""
    return getattr(type(strategy), hook) is not getattr(ContinualStrategy, hook)


def _unsuited(strategy: ContinualStrategy, scenario: str) -> str | None:
    if scenario in strategy.capabilities:
        return None
    able = ", ".join(s for s in SCENARIOS if s in strategy.capabilities) or "none"
    why = strategy.unsuited.get(scenario, "it does not say why")
    return f"{strategy.origin} does not keep a model from forgetting in scenario {scenario!r}: {why} (suited: {able})"


def _parts(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All samples once, in random order; a last one alone joins those before it (batch statistics need two)."""
    parts = list(torch.split(torch.randperm(count, generator=generator), size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts
