"""What learners that adapt by gradient steps share: their gradients, the mode of a model while it adapts, the adapted
copy of it, the report of a loop that diverges.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, RunError
from crosstask.learning.batched import forget_statistics
from crosstask.learning.functional import kept_buffers
from crosstask.learning.modules import copy_of


def gradients(
    losses: Tensor, wanted: Sequence[Tensor], who: str, *, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradients of the summed losses; None for a tensor that has no part in them.

    DataError where none has any, and where torch lacks the second derivative that is asked for.
    """
    found: tuple[Tensor | None, ...] = ()
    if losses.requires_grad:
        try:
            found = torch.autograd.grad(losses.sum(), list(wanted), create_graph=create_graph, allow_unused=True)
        except RuntimeError as error:
            if "derivative for" not in str(error) or "not implemented" not in str(error):
                raise
            raise DataError(
                f"{who}: torch has no second derivative of one of the model's layers ({str(error).splitlines()[0]}); "
                "take a learner of first order (maml_first_order, reptile, or first_order = true)"
            ) from None
    if all(gradient is None for gradient in found):
        raise DataError(
            f"{who}: the outputs depend on none of the parameters that are to be trained: is the forward pass detached "
            "from them, or are those that it uses frozen?"
        )
    return found


@contextlib.contextmanager
def adapting(module: nn.Module, dropout: bool = False) -> Iterator[None]:
    """Inside, a module is as it is while it adapts: in evaluation mode, so that the same support set gives the same
    model, but for its dropout, if that is asked for. Outside, modes and buffers are as they were.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for part, _ in modes:
        if dropout and isinstance(part, nn.modules.dropout._DropoutNd):
            part.train()
    try:
        with kept_buffers(module):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def with_parameters(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with other values of these parameters, in evaluation mode, as an adaptation leaves it.

    Its batch normalisation goes by the batch that it is given, as it did while the copy was adapted.
    """
    made = copy_of(model).eval()
    made.zero_grad(set_to_none=True)
    forget_statistics(made)
    own = dict(made.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
    return made


def report_divergence(who: str, option: str, rate: float, support: Tensor, query: Tensor) -> None:
    """RunError if an adaptation broke down; a RuntimeWarning if it made the support loss ten times worse, not better.

    `support` [steps, B] are the support losses before each inner step (and after the last, where they are known),
    `query` [B] other losses after the last; `option` is the name of the inner step size and `rate` its value, which
    the message names beside the step and the losses.
    """
    losses = torch.cat([support, query[None]])
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        step = int((~finite).any(1).nonzero()[0])
        task = int((~finite[step]).nonzero()[0])
        value, before = float(losses[step, task]), float(losses[0, task])
        if step == 0:
            raise RunError(
                f"{who}: the support loss of episode {task} is {value} before the first inner step: inputs, targets or "
                "weights are not finite"
            )
        raise RunError(
            f"{who}: the loss of episode {task} is {value} after {step} inner steps with {option} = {rate:g} (it was "
            f"{before:.4g} before): the inner loop diverges; try a smaller {option}"
        )
    along = support.mean(1)
    if len(support) > 1 and float(along[-1]) > 10 * max(float(along[0]), 1e-3):
        warnings.warn(
            f"{who}: the support loss rises from {float(along[0]):.4g} to {float(along[-1]):.4g} over "
            f"{len(support) - 1} inner steps with {option} = {rate:g}: the inner loop diverges; try a smaller {option}",
            RuntimeWarning,
            stacklevel=3,
        )
