"""One training loop and one evaluation, for every plugin."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, RunError
from crosstask.learning.data import batches
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import forward
from crosstask.learning.objectives import loss_of, metric_of, outputs_of
from crosstask.records import Budget, LearningCurve
from crosstask.steps import listener
from crosstask.tasks import Task


@attrs.define
class History:
    """How a training went: losses per step, and the metric every `budget.evaluate_every` steps. `stopped`: it ended
    before its budget did, and why.
    """

    losses: list[float] = attrs.field(factory=list)
    steps: list[int] = attrs.field(factory=list)
    values: list[float] = attrs.field(factory=list)
    stopped: str = ""

    def curve(self) -> LearningCurve:
        """As a record."""
        return LearningCurve(steps=tuple(self.steps), values=tuple(self.values))

    def extend(self, later: History) -> History:
        """This training followed by another: step numbers go on (the later one's step 0 is this one's end)."""
        offset = len(self.losses)
        self.losses += later.losses
        self.stopped = self.stopped or later.stopped
        for step, value in zip(later.steps, later.values, strict=True):
            if not self.steps or step + offset > self.steps[-1]:
                self.steps.append(step + offset)
                self.values.append(value)
        return self


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter lives (the CPU if it has none)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor | MultiInput, batch_size: int = 4096) -> Tensor:
    """Logits for all inputs in evaluation mode, on the inputs' device; the model's mode is restored."""
    device, mode = device_of(model), model.training
    model.eval()
    try:
        return torch.cat([forward(model, part.to(device)).to(inputs.device) for part in inputs.split(batch_size)])
    finally:
        model.train(mode)


def evaluate(model: nn.Module, task: Task, split: str = "test") -> float:
    """The task's score on a split. RunError if it is not finite, DataError if it is no number."""
    data, metric = task.data(split), metric_of(task)
    found = metric(predict(model, data.inputs), data.targets)
    if isinstance(found, Tensor) and found.numel() != 1:
        shape = tuple(found.shape)
        raise DataError(f"task {task.task_id!r}: metric {metric.told} must be one number, got shape {shape}")
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise DataError(f"task {task.task_id!r}: metric {metric.told} must be a number, got {found!r}") from None
    if not math.isfinite(value):
        raise RunError(f"task {task.task_id!r}: the metric {metric.told} on the {split} data is {value}")
    return value


def misfit(model: nn.Module, task: Task, split: str = "train") -> str | None:
    """Why a model cannot be the task's, by a pass of two samples: not a module, other inputs, other outputs; None if it
    can.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        return f"its model is a {type(given).__name__}, not a torch module"
    data = task.data(split).take(slice(2))
    device, modes = device_of(model), [(m, m.training) for m in model.modules()]
    model.eval()
    who = type(model).__name__
    try:
        with torch.no_grad():
            outputs = forward(model, data.inputs.to(device))
    except DataError as error:
        return str(error)
    except Exception as error:  # the user's own code
        shape = task.descriptor.input_shape or task.descriptor.input_shapes
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"{who} cannot take inputs of shape {shape} ({data.inputs.dtype}): {told}"
    finally:
        for module, training in modes:
            module.training = training
    return _unlike(outputs, data.targets, task, who)


def _unlike(outputs: Tensor, targets: Tensor, task: Task, who: str) -> str | None:
    """Why outputs are none for these targets."""
    count, kind, wanted = task.descriptor.output_dim, task.descriptor.task_type, outputs_of(task.descriptor)
    have = f"{who} gives outputs of shape {tuple(outputs.shape)} for two samples"
    if not outputs.is_floating_point():
        return f"{have} and type {outputs.dtype}: logits are floating-point numbers"
    if outputs.ndim < 1 or len(outputs) != len(targets):
        return f"{have}: the first dimension is that of the samples; {wanted} is needed"
    if kind == "segmentation":
        fits = outputs.ndim == targets.ndim + 1 and outputs.shape[1] == count and outputs.shape[2:] == targets.shape[1:]
    elif kind == "token_classification":
        fits = outputs.ndim == 3 and outputs.shape[1] == targets.shape[1] and outputs.shape[2] == count
    elif kind == "regression":
        fits = outputs.numel() == targets.numel()
    elif kind in ("classification", "multilabel"):
        fits = outputs.ndim == 2 and outputs.shape[1] == count
        if kind == "classification" and not fits and outputs.ndim == 2 and outputs.shape[1] == 1 and count == 2:
            wanted += ", or output_dim=1 in the descriptor for a single logit of two classes,"
    else:
        return None  # its own loss knows
    return None if fits else f"{have}: {wanted} is needed"


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
    Observers of the run hear every step and may ask to stop. RunError names the task and the step where a loss is not
    finite; DataError says that nothing can be trained.
    """
    train = task.data("train").head(budget.samples)
    if curve_split is not None and not task.has_data(curve_split):
        curve_split = None
    if budget.patience is not None and curve_split is None:
        raise DataError(f"task {task.task_id!r}: patience looks at validation data, and there are none")
    count, device = budget.steps if steps is None else steps, device_of(model)
    chosen = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    if not chosen:
        raise DataError(f"task {task.task_id!r}: no parameter of {type(model).__name__} is trainable (requires_grad)")
    optimizer = optimizer_for(budget.optimizer, chosen, budget.learning_rate, budget.weight_decay)
    schedule = schedule_for(optimizer, budget, count)
    half = budget.precision != "float32"
    autocast = torch.autocast(device.type, getattr(torch, budget.precision)) if half else contextlib.nullcontext()
    scaler = torch.amp.GradScaler(device.type, enabled=budget.precision == "float16")
    loss_function = loss_of(task)
    data = train.to(device)
    history, heard = History(), listener()
    best, best_state, since = -math.inf, None, 0

    def measure(step: int) -> None:
        if curve_split is not None:
            history.steps.append(step)
            history.values.append(evaluate(model, task, curve_split))

    measure(0)
    losses: list[Tensor] = []
    model.train()
    stream = batches(len(data), budget.batch_size, generator)
    for step in range(1, count + 1):
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for _ in range(budget.accumulate):
            index = next(stream).to(device)
            inputs, targets = data.inputs[index], data.targets[index]
            with autocast:
                outputs = forward(model, inputs)
                loss = loss_function(outputs.float() if half else outputs, targets)
                if penalty is not None:
                    loss = loss + penalty(inputs, outputs)
            if budget.accumulate > 1:
                loss = loss / budget.accumulate
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        if budget.clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(chosen, budget.clip)
        scaler.step(optimizer)
        scaler.update()
        if schedule is not None:
            schedule.step()
        losses.append(total)
        if heard is not None and heard(step, {"task": task.task_id, "losses": {task.task_id: float(total)}}):
            history.stopped = f"an observer asked for it at step {step}"
        if step % budget.evaluate_every == 0 or step == count or history.stopped:
            history.losses += _checked(losses, task, step)  # one synchronisation per evaluation, not per step
            losses = []
            measure(step)
            if budget.patience is not None and not history.stopped:
                if history.values[-1] > best:
                    best, since = history.values[-1], 0
                    best_state = {name: t.detach().clone() for name, t in model.state_dict().items()}
                else:
                    since += 1
                if since >= budget.patience:
                    history.stopped = f"nothing better since step {history.steps[-1 - since]}"
        if history.stopped:
            break
    if best_state is not None and history.values and history.values[-1] < best:
        model.load_state_dict(best_state)
    return history


def schedule_for(
    optimizer: torch.optim.Optimizer, budget: Budget, count: int
) -> torch.optim.lr_scheduler.LambdaLR | None:
    """The learning rate's course: a linear warm-up, then constant, or to zero on a line or half a cosine."""
    if budget.schedule == "constant" and not budget.warmup:
        return None

    def factor(step: int) -> float:
        if step < budget.warmup:
            return (step + 1) / (budget.warmup + 1)
        done = min(1.0, (step - budget.warmup) / max(1, count - budget.warmup))
        courses = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return courses[budget.schedule]

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _checked(losses: list[Tensor], task: Task, step: int) -> list[float]:
    values = [float(v) for v in torch.stack(losses).tolist()]
    for number, value in enumerate(values):
        if not math.isfinite(value):
            at = step - len(values) + number + 1
            raise RunError(
                f"task {task.task_id!r}: the training loss is {value} at step {at}; try a smaller learning rate"
            )
    return values
