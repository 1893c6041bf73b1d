"""One training loop and one evaluation, for every plugin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.data import batches
from crosstask.learning.models import optimizer_for
from crosstask.learning.objectives import loss_of, metric_of
from crosstask.records import Budget, LearningCurve
from crosstask.tasks import Task


@attrs.define
class History:
    """How a training went: losses per step, and the metric every `budget.evaluate_every` steps."""

    losses: list[float] = attrs.field(factory=list)
    steps: list[int] = attrs.field(factory=list)
    values: list[float] = attrs.field(factory=list)

    def curve(self) -> LearningCurve:
        """As a record."""
        return LearningCurve(steps=tuple(self.steps), values=tuple(self.values))

    def extend(self, later: History) -> History:
        """This training followed by another: step numbers go on (the later one's step 0 is this one's end)."""
        offset = len(self.losses)
        self.losses += later.losses
        for step, value in zip(later.steps, later.values, strict=True):
            if not self.steps or step + offset > self.steps[-1]:
                self.steps.append(step + offset)
                self.values.append(value)
        return self


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter lives (the CPU if it has none)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, batch_size: int = 4096) -> Tensor:
    """Outputs for all inputs in evaluation mode, on the inputs' device; the model's mode is restored."""
    device, mode = device_of(model), model.training
    model.eval()
    try:
        return torch.cat([model(part.to(device)).to(inputs.device) for part in torch.split(inputs, batch_size)])
    finally:
        model.train(mode)


def evaluate(model: nn.Module, task: Task, split: str = "test") -> float:
    """The task's metric on a split. RunError if it is not finite."""
    data = task.data(split)
    value = float(metric_of(task)(predict(model, data.inputs), data.targets))
    if not math.isfinite(value):
        raise RunError(f"task {task.task_id!r}: the metric on the {split} data is {value}")
    return value


def fit(
    model: nn.Module,
    task: Task,
    budget: Budget,
    generator: torch.Generator,
    *,
    steps: int | None = None,
    parameters: Iterable[nn.Parameter] | None = None,
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
    curve_split: str | None = "validation",
) -> History:
    """Train in place on the task's training data and return the history.

    `steps` overrides the budget's; `parameters` are those to train (by default all that need a gradient);
    `penalty(inputs, outputs)` is added to the loss; the learning curve is measured on `curve_split` (None: not at all).
    RunError names the task and the step where a loss is not finite; DataError says that nothing can be trained.
    """
    train = task.data("train").head(budget.samples)
    if curve_split is not None and not task.has_data(curve_split):
        curve_split = None
    count, device = budget.steps if steps is None else steps, device_of(model)
    chosen = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    if not chosen:
        raise DataError(f"task {task.task_id!r}: no parameter of {type(model).__name__} is trainable (requires_grad)")
    optimizer = optimizer_for(budget.optimizer, chosen, budget.learning_rate, budget.weight_decay)
    loss_function = loss_of(task)
    data = TensorData(train.inputs.to(device), train.targets.to(device))
    history = History()

    def measure(step: int) -> None:
        if curve_split is not None:
            history.steps.append(step)
            history.values.append(evaluate(model, task, curve_split))

    measure(0)
    losses: list[Tensor] = []
    model.train()
    stream = batches(len(data), budget.batch_size, generator)
    for step in range(1, count + 1):
        index = next(stream).to(device)
        inputs, targets = data.inputs[index], data.targets[index]
        outputs = model(inputs)
        loss = loss_function(outputs, targets)
        if penalty is not None:
            loss = loss + penalty(inputs, outputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        if step % budget.evaluate_every == 0 or step == count:
            history.losses += _checked(losses, task, step)  # one synchronisation per evaluation, not per step
            losses = []
            measure(step)
    return history


def _checked(losses: list[Tensor], task: Task, step: int) -> list[float]:
    values = [float(v) for v in torch.stack(losses).tolist()]
    for number, value in enumerate(values):
        if not math.isfinite(value):
            at = step - len(values) + number + 1
            raise RunError(
                f"task {task.task_id!r}: the training loss is {value} at step {at}; try a smaller learning rate"
            )
    return values
