"""The worst case in a ball: inputs moved against a model within what nobody would notice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.modules import evaluating, forward
from crosstask.tasks import Task
from crosstask_shifted.ranges import Range


def losses_of(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each sample [N], by the task's type. DataError for one not of classes, values or labels."""
    kind = task.descriptor.task_type
    if kind == "classification" and outputs.ndim == 2 and targets.ndim == 1:
        if outputs.shape[1] == 1:
            return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs), reduction="none")
        return functional.cross_entropy(outputs, targets, reduction="none")
    rows = targets.reshape(len(targets), -1).to(outputs)
    if kind == "regression":
        return (outputs.reshape(rows.shape) - rows).square().mean(1)
    if kind == "multilabel":
        known = ~torch.isnan(rows)
        each = functional.binary_cross_entropy_with_logits(outputs, rows.nan_to_num(0.0), reduction="none")
        return torch.where(known, each, 0.0).mean(1)
    raise DataError(f"task {task.task_id!r} is a {kind}: attacks are on classes, labels and values")


def fgsm(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor, radius: Tensor | float, known: Range) -> Tensor:
    """One step to the ball's edge along the gradient's sign (Goodfellow et al. 2015): x + r sign ∇ loss, in range."""
    width = _width(inputs, radius)
    _, gradient = _gradient(model, task, inputs, targets)
    return _kept(inputs, inputs + width * gradient.sign(), known)


def pgd(
    model: nn.Module, task: Task, inputs: Tensor, targets: Tensor, radius: Tensor | float, known: Range,
    generator: torch.Generator, *, steps: int = 10, step: float = 0.25, restarts: int = 1, sure: bool = True,
) -> Tensor:  # fmt: skip
    """Inputs [N, …] within `radius` (a number, or one for each place of a sample) in every place, and within their
    range, at which the task's loss is as large as was found, sample by sample: projected gradient ascent (Madry et al.
    2018) from random points, steps of `step` times the radius along the gradient's sign, in evaluation mode.

    With `sure` the points compared are the inputs themselves, the random points, that of `fgsm` and all that ascent
    passes; else the last one is taken, as for training. The model and its gradients are left alone.
    """
    width = _width(inputs, radius)
    best, worst = inputs.clone(), torch.full((len(inputs),), -torch.inf, dtype=inputs.dtype, device=inputs.device)

    def inside(points: Tensor) -> Tensor:
        return _kept(inputs, torch.minimum(torch.maximum(points, inputs - width), inputs + width), known)

    def look(points: Tensor, losses: Tensor) -> None:
        nonlocal best, worst
        larger = losses > worst
        best = torch.where(larger.view(-1, *[1] * (inputs.ndim - 1)), points, best)
        worst = torch.where(larger, losses, worst)

    starts = [torch.rand(inputs.shape, generator=generator).to(inputs) * 2 - 1 for _ in range(restarts)]
    begun = [inside(inputs + width * start) for start in starts]
    if sure:
        losses, gradient = _gradient(model, task, inputs, targets)
        look(inputs, losses)
        begun.append(inside(inputs + width * gradient.sign()))
    for points in begun:
        losses, gradient = _gradient(model, task, points, targets)
        look(points, losses)
        for number in range(steps):
            points = inside(points + step * width * gradient.sign())
            if sure or number + 1 < steps:
                losses, gradient = _gradient(model, task, points, targets)
                look(points, losses)
        if not sure:
            return points
    return best


def _width(inputs: Tensor, radius: Tensor | float) -> Tensor:
    """The radius, checked. DataError for one that is no ball's, or inputs that cannot be moved a little."""
    if not inputs.is_floating_point():
        raise DataError(f"inputs are whole numbers ({inputs.dtype}): only real numbers can be moved a little")
    width = torch.as_tensor(radius).to(inputs)
    if not bool((torch.isfinite(width) & (width >= 0)).all()):
        odd = width[~(torch.isfinite(width) & (width >= 0))].flatten()[0]
        raise DataError(f"the radius of a ball must be a finite number, at least 0, got {float(odd):g}")
    return width


def _kept(inputs: Tensor, points: Tensor, known: Range) -> Tensor:
    """Points cut to the range, which is no reason to leave the ball: where an input lies outside, so may its point."""
    low, high = torch.minimum(known.low.to(inputs), inputs), torch.maximum(known.high.to(inputs), inputs)
    return torch.minimum(torch.maximum(points, low), high)


def _gradient(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(loss of each sample [N], its gradient by the sample's inputs), in evaluation mode."""
    points = inputs.detach().requires_grad_()
    with torch.enable_grad(), evaluating(model):
        losses = losses_of(task, forward(model, points), targets)
        (found,) = torch.autograd.grad(losses.sum(), points)
    return losses.detach(), found
