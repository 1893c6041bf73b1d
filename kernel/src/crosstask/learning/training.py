"""One training loop and one evaluation, for every plugin."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import CrosstaskError, DataError, RunError, of_kind, told
from crosstask.learning.data import batches
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import forward, seeded, uncompiled, without_values
from crosstask.learning.objectives import called, loss_of, metric_of, outputs_of
from crosstask.options import structure
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


def noise_of(generator: torch.Generator) -> int:
    """The seed of what layers draw in a training that begins with a generator in this state. It draws nothing."""
    return int.from_bytes(hashlib.sha256(generator.get_state().numpy().tobytes()).digest()[:7])


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter lives (the CPU if it has none)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating-point type of a model's first parameter that is no whole number, of a complex one that of its parts
    (torch's default if there is none).
    """
    kinds = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(kinds, torch.get_default_dtype()).to_real()


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor | MultiInput, batch_size: int = 4096) -> Tensor:
    """Logits for all inputs in evaluation mode, on the inputs' device; the model's mode is restored. DataError if the
    model cannot take them, or gives no row for each.
    """
    if not isinstance(inputs, Tensor | MultiInput) or (isinstance(inputs, Tensor) and not inputs.ndim):
        raise DataError(f"inputs must be a tensor [N, …] or a MultiInput, got a {type(inputs).__name__}")
    if structure(batch_size, int, "batch_size") < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    made = of_kind(model, nn.Module, "the model")
    device, mode, found = device_of(made), made.training, []
    made.eval()
    try:
        for part in inputs.split(batch_size):
            outputs = answer(made, part.to(device)).to(inputs.device)
            if outputs.ndim == 0 or len(outputs) != len(part):
                shape = tuple(outputs.shape)
                raise DataError(f"{type(made).__name__} gives outputs of shape {shape} for {len(part)} samples")
            found.append(outputs)
    finally:
        made.train(mode)
    return torch.cat(found)


def answer(model: nn.Module, inputs: Tensor | MultiInput) -> Tensor:
    """`forward`, whose failures are DataErrors that say with what; memory that ran out is told as it is."""
    try:
        outputs = forward(model, inputs)
    except (CrosstaskError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code, or torch's
        parts = getattr(inputs, "shapes", None) or tuple(inputs.shape[1:])
        why = f"{type(model).__name__} cannot take inputs of shape {parts} ({inputs.dtype}): {_line(error)}"
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        if inputs.is_floating_point() and kinds and inputs.dtype not in kinds:
            why += f"; its weights are {', '.join(sorted(map(str, kinds)))}: model.to({inputs.dtype}) makes them alike"
        raise DataError(why) from error
    if outputs.layout != torch.strided:
        raise DataError(f"{type(model).__name__} gives outputs of layout {outputs.layout}: logits are a dense tensor")
    if outputs.is_meta:
        raise DataError(f"{type(model).__name__} gives outputs on the meta device, which have no values")
    return outputs


def _line(error: Exception) -> str:
    """The first line of a message."""
    text = told(error).partition(": ")[2].strip()
    return text.splitlines()[0] if text else type(error).__name__


def evaluate(model: nn.Module, task: Task, split: str = "test") -> float:
    """The task's score on a split. RunError if it is not finite, DataError if it is no number."""
    return judged(predict(model, of_kind(task, Task, "the task").data(split).inputs), task, split)


def judged(outputs: Tensor, task: Task, split: str) -> float:
    """The score of a model that gives these outputs for the split; see `evaluate`."""
    metric = metric_of(task)
    found = called("metric", metric, task, outputs, task.data(split).targets)
    if isinstance(found, Tensor) and found.numel() != 1:
        shape = tuple(found.shape)
        raise DataError(f"task {task.task_id!r}: metric {metric.told} must be one number, got shape {shape}")
    try:
        value = float(found)
    except (TypeError, ValueError, OverflowError, RuntimeError):
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
    if reason := without_values(model):
        return reason
    for name, module in model.named_modules():
        if not hasattr(module, "training"):
            who = f"{name!r} of {type(model).__name__}" if name else type(model).__name__
            return (
                f"{who} has neither a training mode nor parameters: torch.jit.freeze and torch.jit."
                "optimize_for_inference take them away; give what was frozen, and freeze what comes out"
            )
    data = task.data(split).take(slice(2))
    device, modes = device_of(model), [(m, m.training) for m in model.modules()]
    try:
        try:
            model.eval()
        except NotImplementedError as error:  # of torch.export
            return (
                f"{type(model).__name__} cannot be set to evaluation mode ({_line(error)}), as nothing can that "
                "torch.export has made: give the module that was exported, with its weights, and export what comes out"
            )
        # torch.compile writes pages of its own log about inputs that do not fit
        with torch.no_grad(), uncompiled():
            outputs = answer(model, data.inputs.to(device))
    except (DataError, MemoryError, torch.OutOfMemoryError) as error:
        return str(error) if isinstance(error, DataError) else told(error)
    finally:
        for module, training in modes:
            module.training = training
    return _unlike(outputs, data.targets, task, type(model).__name__)


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
        elif not fits and outputs.ndim == 1:
            wanted += " (of a single logit: unsqueeze(-1), and output_dim=1 in the descriptor)"
        elif kind == "classification" and not fits and outputs.ndim == 2 and count and outputs.shape[1] > count:
            wanted += f", or output_dim={outputs.shape[1]} in the descriptor, if the data lack classes,"
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
    `penalty(inputs, outputs)` is added to the loss; the learning curve is measured on `curve_split` (None: not at all,
    but for a budget's patience, which looks at the validation data then).
    What layers draw (dropout) follows from the generator, too, not from what the process drew before. Observers of the
    run hear every step and may ask to stop. RunError names the task and the step where a loss is not finite; DataError
    says that nothing can be trained.
    """
    of_kind(task, Task, "the task")
    of_kind(budget, Budget, "the budget")
    of_kind(generator, torch.Generator, "the generator")
    if reason := without_values(of_kind(model, nn.Module, "the model")):
        raise DataError(f"task {task.task_id!r}: {reason}")
    train = task.data("train").head(budget.samples)
    curve_split = looked_at(task, budget, curve_split)
    count, device = budget.steps if steps is None else steps, device_of(model)
    given = list(model.parameters()) if parameters is None else structure(parameters, list[Any], "parameters")
    for parameter in given:
        of_kind(parameter, Tensor, "each of parameters")
    chosen = [p for p in given if p.requires_grad]
    if not chosen:
        raise DataError(f"task {task.task_id!r}: no parameter of {type(model).__name__} is trainable (requires_grad)")
    optimizer = optimizer_for(budget.optimizer, chosen, budget.learning_rate, budget.weight_decay)
    schedule = schedule_for(optimizer, budget, count)
    half = budget.precision != "float32"
    autocast = torch.autocast(device.type, getattr(torch, budget.precision)) if half else contextlib.nullcontext()
    scaler = torch.amp.GradScaler(device.type, enabled=budget.precision == "float16")
    loss_function = loss_of(task)
    data = train.to(device)
    history, heard, noise = History(), listener(), noise_of(generator)
    best, best_state, since = -math.inf, None, 0

    def measure(step: int) -> None:
        if curve_split is not None:
            history.steps.append(step)
            history.values.append(evaluate(model, task, curve_split))

    measure(0)
    losses: list[Tensor] = []
    model.train()
    stream = batches(len(data), budget.batch_size, generator)
    with seeded(noise):
        for step in range(1, count + 1):
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=device)
            for _ in range(budget.accumulate):
                index = next(stream).to(device)
                inputs, targets = data.inputs[index], data.targets[index]
                with autocast:
                    outputs = _fitting(model, inputs, task)
                    loss = called("loss", loss_function, task, outputs.float() if half else outputs, targets)
                    check_loss(loss, task, device)
                    if penalty is not None:
                        loss = loss + penalty(inputs, outputs)
                if budget.accumulate > 1:
                    loss = loss / budget.accumulate
                scaler.scale(loss).backward()
                total = total + loss.detach().reshape(())
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
                # one synchronisation per evaluation, not per step
                history.losses += finite_losses(torch.stack(losses), task, step)
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


def looked_at(task: Task, budget: Budget, curve_split: str | None) -> str | None:
    """The split on which a training's curve is measured; None: there is none. DataError if patience needs one."""
    if curve_split is None and budget.patience is not None:
        curve_split = "validation"
    if curve_split is not None and not task.has_data(curve_split):
        curve_split = None
    if budget.patience is not None and curve_split is None:
        raise DataError(f"task {task.task_id!r}: patience looks at validation data, and there are none")
    return curve_split


def _fitting(model: nn.Module, inputs: Tensor | MultiInput, task: Task) -> Tensor:
    try:
        return answer(model, inputs)
    except DataError as error:
        raise DataError(f"task {task.task_id!r}: {error}") from error.__cause__


def check_loss(loss: object, task: Task, device: torch.device) -> None:
    """DataError for what is no loss that a model on this device can learn from."""
    who = f"task {task.task_id!r}: its loss"
    if not isinstance(loss, Tensor):
        raise DataError(f"{who} must be a tensor of one number, got a {type(loss).__name__}")
    if loss.numel() != 1 or not loss.is_floating_point():
        raise DataError(f"{who} must be one real number, got shape {tuple(loss.shape)} of {loss.dtype}")
    if not loss.requires_grad:
        raise DataError(f"{who} does not depend on the model's trainable parameters: nothing can be learned from it")
    if loss.device != device:
        raise DataError(f"{who} lies on {loss.device}, the model on {device}")


def schedule_for(
    optimizer: torch.optim.Optimizer, budget: Budget, count: int
) -> torch.optim.lr_scheduler.LambdaLR | None:
    """The learning rate's course: a linear warm-up, then constant, or to zero on a line or half a cosine."""
    factor = factor_of(budget, count)
    return None if factor is None else torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def factor_of(budget: Budget, count: int) -> Callable[[int], float] | None:
    """What the learning rate is multiplied with after so many steps of `count`; None: it stays as it is."""
    if budget.schedule == "constant" and not budget.warmup:
        return None

    def factor(step: int) -> float:
        if step < budget.warmup:
            return (step + 1) / (budget.warmup + 1)
        done = min(1.0, (step - budget.warmup) / max(1, count - budget.warmup))
        courses = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return courses[budget.schedule]

    return factor


def finite_losses(losses: Tensor, task: Task, step: int) -> list[float]:
    """The losses [N] of the steps up to `step`. RunError says where one is not finite."""
    values = [float(v) for v in losses.tolist()]
    for number, value in enumerate(values):
        if not math.isfinite(value):
            at = step - len(values) + number + 1
            raise RunError(
                f"task {task.task_id!r}: the training loss is {value} at step {at}; try a smaller learning rate"
            )
    return values
