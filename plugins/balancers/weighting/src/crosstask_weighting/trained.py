"""A small parameter that the model's optimiser trains, and that exists before the number of tasks is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.learning.gradients.solvers import check_tasks


def empty_parameter() -> nn.Parameter:
    """A parameter without elements: it can be given to an optimiser, and filled before its first step."""
    return nn.Parameter(torch.zeros(0))


def filled(parameter: nn.Parameter, saved: Tensor | None, start: float, losses: Tensor, origin: str) -> Tensor:
    """Give the parameter one element for each loss: from `saved` (state, perhaps just loaded), else `start`.

    Returns its values, which stay the parameter's own memory, so that they always show what the optimiser made of it.
    """
    if saved is None:
        parameter.data = torch.full_like(losses.detach(), start)
    elif saved.data_ptr() != parameter.data_ptr() or saved.numel() != parameter.numel():
        parameter.data = saved.detach().to(losses, copy=True)
    check_tasks(origin, parameter.numel(), len(losses))
    return parameter.data


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to the parameter's `.grad`, as a backward pass would."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
