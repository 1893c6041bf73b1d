"""What the gradient engine refuses, in words that say what to do instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import RunError


class GradientOverflowError(RunError):
    """Scaled gradients are not finite: the step is to be skipped and the scale to be lowered, by the GradScaler."""


def called(number: int, names: Sequence[str]) -> str:
    """A loss in messages: by its name if it has one, else by its place."""
    return f"loss {names[number]!r}" if names else f"loss {number}"


def check_losses(losses: list[Tensor], names: Sequence[str] = ()) -> None:
    """ValueError or RunError unless these are finite scalars with a graph."""
    if not losses:
        raise ValueError("no losses to balance")
    for number, loss in enumerate(losses):
        if loss.ndim != 0:
            raise ValueError(f"{called(number, names)} must be a scalar, got shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise RunError(f"{called(number, names)} has no graph: nothing to differentiate")
    values = torch.stack([loss.detach() for loss in losses])
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise RunError(f"{called(bad, names)} is {float(values[bad])}; gradients cannot be balanced")


def check_parameters(shared: list[nn.Parameter]) -> None:
    """ValueError unless these are real leaves on one device."""
    if not shared:
        raise ValueError("no shared parameters that need a gradient: nothing to balance")
    for parameter in shared:
        if not parameter.is_leaf:
            raise ValueError("shared parameters must be leaves of the graph; for shared features use `features`")
        if parameter.is_complex():
            raise ValueError("complex parameters cannot be balanced: balance real ones, as torch.view_as_real gives")
        if parameter.device != shared[0].device:
            raise ValueError(f"shared parameters are on {shared[0].device} and {parameter.device}, not on one device")


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """What torch says about graphs that cannot be differentiated like this, with what to do about it."""
    try:
        yield
    except RuntimeError as error:
        for sign, advice in _ADVICE.items():
            if sign in str(error):
                raise RunError(f"task gradients cannot be computed: {advice} (torch: {error})") from error
        raise


_ADVICE = {
    "heckpoint": "use torch.utils.checkpoint with use_reentrant=False",
    "donated buffer": "set torch._functorch.config.donated_buffer = False before compiling",
    "backward through the graph a second time": "the graph was used before; pass retain_graph=True to the first use",
}
