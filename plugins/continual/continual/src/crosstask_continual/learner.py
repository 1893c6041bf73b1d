"""Learning tasks one after another with strategies against forgetting."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context, hooks_of
from crosstask.context import LocalContext
from crosstask.descriptors import TensorData
from crosstask.errors import DataError, OptionError, RunError, UnknownComponentError, nearest
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import copy_of, seeded
from crosstask.logs import logger
from crosstask.tasks import SPLITS, Task
from crosstask_continual.batch import Batch
from crosstask_continual.contract import ContinualStrategy
from crosstask_continual.given import asked_for, task_from
from crosstask_continual.heads import Snapshot
from crosstask_continual.model import SCENARIOS, ContinualModel
from crosstask_continual.records import ContinualScores
from crosstask_continual.scores import continual_scores


class ScenarioWarning(UserWarning):
    """A strategy is used in a scenario in which it cannot keep a model from forgetting."""


class TrainingDataWarning(UserWarning):
    """Accuracies are of the data that a model was trained on: nothing else was given."""


FEW_STEPS = 5
"""With fewer steps in a task than this, a learner says that hardly anything can be learned."""


class ContinualLearner:
    """Trains one model on tasks as they come: `train_task` for each, `evaluate_all_tasks` at any time.

    `strategy`: a name, a component, a table with `use`, or a list of these, which work together; None for none.
    `buffer_size` is given to strategies named here that keep samples (default: their own); where none does, `replay`
    with that many is added to them, which the log and `added` say. `scenario` (task, domain or class) and `grow`: see
    `ContinualModel`, which the learner makes of `model` and keeps as `learner.model`. What is random follows from the
    context's seed and from `repeat`.

    Every task gets a fresh optimiser for what needs a gradient: a frozen network under an adapter stays as it is. A
    step costs what plain training costs, and what the strategies do. `matrix` has one row for each task learned: the
    accuracy on it and all before it, on `split` (tasks without one: None); `before` the accuracy on each task when it
    came, `initial` that of the untrained model on it. `trained`: names of the weights that some task has trained.
    `warnings`: what is to be known about the strategies, and about tasks with too few steps, which the log says of the
    first of them (with `quiet`, of none).

    A task that is refused, or whose training fails, leaves the learner, its model and its strategies as they were.

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
        self.added: list[ContinualStrategy] = []
        self.strategies = self._resolve(strategy, buffer_size)
        self.batch_size, self.split, self.repeat = batch_size, split, repeat
        self.learning_rate, self._optimizer, self._decay = learning_rate, optimizer, weight_decay
        self._asked = {hook: [s for s in self.strategies if writes(s, hook)] for hook in hooks_of(ContinualStrategy)}
        self._initial = ContinualModel(_copied(model), scenario, grow=grow)
        self._tasks: list[Task] = []
        self._stored: list[list[str]] = []
        self._named_labels: set[str] = set()
        self.matrix: list[list[float | None]] = []
        self.before: list[float | None] = []
        self.initial: list[float | None] = []
        self.steps = 0
        self.trained: set[str] = set()
        self.quiet = False
        self._unsuited = [told for s in self.strategies if (told := _unsuited(s, scenario))]
        self._few: list[tuple[str, str]] = []
        self._unseen: set[str] = set()
        for told in self._unsuited:
            warnings.warn(told, ScenarioWarning, stacklevel=2)

    def _resolve(self, strategy: Any, buffer_size: int | None) -> list[ContinualStrategy]:
        chosen = [] if strategy is None else list(strategy) if isinstance(strategy, list | tuple) else [strategy]
        found = [cast(ContinualStrategy, self.context.resolve("continual", choice)) for choice in chosen]
        if buffer_size is None:
            return found
        if buffer_size < 1:
            raise OptionError(f"buffer_size must be at least 1, got {buffer_size}")
        keeping = [s for s in found if hasattr(s, "buffer_size")]
        named = [s for s, c in zip(found, chosen, strict=True) if s is not c and s in keeping]
        if keeping and not named:
            told = ", ".join(s.origin for s in keeping)
            raise OptionError(
                f"buffer_size = {buffer_size}: {told} has its own; set it there, or give its name instead"
            )
        for each in named:
            each.buffer_size = buffer_size  # type: ignore[attr-defined]
        return found if keeping else [*found, self._replay(found, buffer_size)]

    def _replay(self, found: list[ContinualStrategy], buffer_size: int) -> ContinualStrategy:
        """Replay, where a buffer is asked for and no strategy has one."""
        names = ", ".join(s.origin for s in found) or "no strategy"
        try:
            made = self.context.resolve("continual", {"use": "replay", "buffer_size": buffer_size})
        except UnknownComponentError as error:
            raise OptionError(
                f"buffer_size = {buffer_size}: no strategy named here keeps samples ({names}), and there is no replay "
                f"to add: pip install crosstask-replay, or leave buffer_size out ({error})"
            ) from None
        logger().warning("replay added", because=f"buffer_size = {buffer_size}, and {names} keeps no samples")
        added = cast(ContinualStrategy, made)
        self.added.append(added)
        return added

    @property
    def scenario(self) -> str:
        """Of the model: `task`, `domain` or `class`."""
        return self.model.scenario

    # --- Learning

    def train_task(
        self,
        task_data: Any,
        task_id: str | int | None = None,
        num_epochs: int = 10,
        *,
        test_data: Any = None,
        inputs: str | Sequence[str] | None = None,
        target: str | None = None,
    ) -> dict[str, float]:
        """Learn one more task and return the accuracy on every task so far.

        `task_data`: a `Task`, or what its training split may be: a pair of tensors or arrays, a Dataset or a DataLoader
        whose samples are tuples or mappings; `inputs` and `target` name fields of these. `task_id` names the task then
        (default: its number), and `test_data` is its test split. Labels run from 0 to C-1, or are the names of classes.

        DataError says what does not fit, RunError that a loss is not finite; the learner is then as it was.
        """
        if num_epochs < 1:
            raise OptionError(f"num_epochs must be at least 1, got {num_epochs}")
        task = self._task(task_data, task_id, test_data, inputs, target)
        if len(self._tasks) < len(self._stored):
            found = self._known(task)
            self._check_steps(task, num_epochs)
            return found
        if task.task_id in self.model.tasks:
            raise DataError(f"task {task.task_id!r} was learned already: give what comes again another task_id")
        self._check_inputs(task)
        self.model.check_answers(task)
        with self._whole():
            self._learn_next(task, num_epochs)
        return self._named(self.matrix[-1])

    def _learn_next(self, task: Task, epochs: int) -> None:
        seed = self._seed(task.task_id, "head")
        for model in (self.model, self._initial):
            before = model.outputs
            model.add(task, seed)
            if model.outputs != before:
                model.check_answers(task)
        self._tasks.append(task)
        self.initial.append(self._score(self._initial, task))
        self.before.append(self._score(self.model, task))
        self._check_steps(task, epochs)
        with seeded(self._seed(task.task_id, "noise")):
            self._learn(task, epochs)
        self.matrix.append([self._score(self.model, t) for t in self._tasks])
        self._stored.append([task.task_id, task.fingerprint()])

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What fails inside has not happened: models, strategies and what was measured are as they were."""
        models = [(model, Snapshot(model), model.layout()) for model in (self.model, self._initial)]
        strategies = [(s, copy.deepcopy(s.state_dict())) for s in self.strategies]
        lists: list[list[Any]] = [self._tasks, self._stored, self.matrix, self.before, self.initial, self._few]
        lengths, steps, trained = [len(each) for each in lists], self.steps, self.trained.copy()
        try:
            yield
        except BaseException:
            for model, snapshot, layout in models:
                snapshot.restore()
                model.put_layout(layout)
            for strategy, state in strategies:
                strategy.load_state_dict(state)
            for each, length in zip(lists, lengths, strict=True):
                del each[length:]
            self.steps, self.trained = steps, trained
            raise

    @property
    def warnings(self) -> list[str]:
        """What is to be known about the strategies, and about the tasks with too few steps, all in one."""
        found = list(self._unsuited)
        if self._few:
            _, told = self._few[0]
            others = ", ".join(repr(name) for name, _ in self._few[1:])
            found.append(f"{told}; so for {others}" if others else told)
        return found

    def _check_steps(self, task: Task, epochs: int) -> None:
        count = len(task.data("train"))
        each = sum(1 for _ in _parts(count, self.batch_size, torch.Generator()))
        if each * epochs < FEW_STEPS:
            told = (
                f"task {task.task_id!r} has {each} steps in an epoch and {each * epochs} in all ({count} samples in "
                f"batches of {self.batch_size}, {epochs} epochs): hardly anything can be learned; take smaller batches "
                "or more epochs"
            )
            if not self._few and not self.quiet:
                logger().warning("few steps", task=task.task_id, steps=each * epochs, told=told)
            self._few.append((task.task_id, told))

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
        return self._named([self._score(self.model, task) for task in self._tasks])

    def evaluate_all_tasks(
        self, test_data: Any = None, *, inputs: str | Sequence[str] | None = None, target: str | None = None
    ) -> dict[str, float]:
        """Accuracy on each task so far, by its id.

        `test_data`: what to ask for, by task id: {id: pair, Dataset or DataLoader}, or `Task`s; tasks that it leaves
        out are left out. Or the name of a split: tasks without it are left out. By default the learner's split; tasks
        that came without any test data are asked for what they were trained on, with a `TrainingDataWarning`.
        """
        if isinstance(test_data, str):
            if test_data not in SPLITS:
                raise DataError(f"unknown split {test_data!r}{nearest(test_data, SPLITS)}")
            return {t.task_id: self.model.accuracy(t, test_data) for t in self._tasks if t.has_data(test_data)}
        if test_data is not None:
            asked = [self._asked_for(name, data, inputs, target) for name, data in self._by_task(test_data)]
            return {task.task_id: self.model.accuracy(task, "test") for task in asked}
        without = [t.task_id for t in self._tasks if not t.has_data(self.split) and t.task_id not in self._unseen]
        if without:
            self._unseen.update(without)  # said once
            warnings.warn(
                f"{', '.join(without)}: no {self.split} data came with the task, so that the accuracy is on what it "
                "was trained on; give test_data here, or to train_task",
                TrainingDataWarning,
                stacklevel=2,
            )
        splits = {t.task_id: self.split if t.has_data(self.split) else "train" for t in self._tasks}
        return {t.task_id: self.model.accuracy(t, splits[t.task_id]) for t in self._tasks}

    def _by_task(self, test_data: Any) -> list[tuple[str, Any]]:
        """Test data and the id of the task that they belong to."""
        if isinstance(test_data, Mapping):
            return [(str(name), data) for name, data in test_data.items()]
        if isinstance(test_data, Task):
            test_data = [test_data]
        if isinstance(test_data, Iterable) and not isinstance(test_data, Tensor) and not hasattr(test_data, "dataset"):
            found = list(test_data)
            if found and all(isinstance(task, Task) for task in found):
                return [(task.task_id, task) for task in found]
        raise DataError(
            f"test_data must say which task they belong to: {{task_id: data}}, Tasks, or the name of a split; got "
            f"{type(test_data).__name__}"
        )

    def _asked_for(self, name: str, data: Any, inputs: Any, target: Any) -> Task:
        """A task so far with other test data. DataError for one that has not come, or data that do not fit it."""
        known = next((task for task in self._tasks if task.task_id == name), None)
        if known is None:
            raise DataError(f"test_data: task {name!r} has not come yet{nearest(name, self.model.tasks)}")
        if isinstance(data, Task):
            data = next((data.data(split) for split in (self.split, "test") if data.has_data(split)), None)
            if data is None:
                raise DataError(f"test_data: task {name!r} has no {self.split} data")
        return Task(descriptor=known.descriptor, test=self._test(known, data, inputs, target))

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

    def _task(self, given: Any, task_id: str | int | None, test_data: Any, inputs: Any, target: Any) -> Task:
        if isinstance(given, Task):
            if task_id is not None and str(task_id) != given.task_id:
                raise DataError(f"task_id {task_id!r} is given for a task that is called {given.task_id!r}")
            if test_data is not None or inputs is not None or target is not None:
                raise DataError(f"task {given.task_id!r} has its own data: test_data, inputs and target are for others")
            given.data("train")
            return given
        name = str(len(self._tasks) if task_id is None else task_id)
        task = task_from(given, name, inputs, target, self.model.outputs if self.scenario == "domain" else None)
        if task.descriptor.classes:
            self._named_labels.add(name)
        if test_data is not None:
            setattr(task, self.split, self._test(task, test_data, inputs, target))
        return task

    def _test(self, task: Task, test_data: Any, inputs: Any, target: Any) -> TensorData:
        return asked_for(task, test_data, inputs, target, named=task.task_id in self._named_labels)

    def _check_inputs(self, task: Task) -> None:
        for split in ("train", self.split):
            if task.has_data(split):
                task.data(split)
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


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy_of(model)
    except (RuntimeError, TypeError) as error:
        what = type(model).__name__
        raise DataError(f"a {what} cannot be copied, and a learner keeps one as it was at first: {error}") from error


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
