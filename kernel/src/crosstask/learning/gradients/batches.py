"""Losses of several small batches as those of one large batch, for a balancer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.learning.gradients.checks import check_losses


class AccumulatedLosses:
    """Each task's loss and gradient, summed over small batches. What is kept is a gradient per task, no graph.

        kept = AccumulatedLosses(model.parameters())
        for batch in batches:
            kept.add({name: loss / len(batches) for name, loss in losses_of(batch).items()})
        balancer.backward(kept.losses())

    `losses()` are scalars whose value is the sum, and whose gradient on each parameter is the summed gradient: whatever
    is done with the losses of a large batch can be done with them, once.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(dict.fromkeys(p for p in parameters if p.requires_grad))  # twice would count twice
        self._values: dict[str, Tensor] = {}
        self._gradients: dict[str, list[Tensor | None]] = {}

    def add(self, losses: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Take the gradients of a small batch's losses (scalars with a graph, which is used up): one backward pass for
        each. `scale`: what losses are multiplied by in these passes, of mixed precision; it is divided out again.
        RunError for a loss that is not finite, or has no graph.
        """
        check_losses(list(losses.values()), list(map(str, losses)))
        left = len(losses)
        for name, loss in losses.items():
            left -= 1
            found: Sequence[Tensor | None] = torch.autograd.grad(
                loss * scale, self.parameters, retain_graph=left > 0, allow_unused=True
            )
            kept = self._gradients.setdefault(name, [None] * len(found))
            for place, gradient in enumerate(found):
                if gradient is None:
                    continue
                part = gradient.to_dense() if gradient.is_sparse else gradient
                exact = part if part.dtype.itemsize >= 4 else part.float()  # small parts must not get lost in a sum
                exact = exact / scale if scale != 1.0 else exact
                had = kept[place]
                kept[place] = exact if had is None else had + exact
            value = loss.detach()
            value = value if value.dtype.itemsize >= 4 else value.float()  # likewise
            self._values[name] = value if name not in self._values else self._values[name] + value

    def losses(self) -> dict[str, Tensor]:
        """The sums, with a graph to the parameters that each task's loss reached."""
        found = {}
        for name, value in self._values.items():
            pairs = [(p, g) for p, g in zip(self.parameters, self._gradients[name], strict=True) if g is not None]
            found[name] = _Known.apply(value, [g for _, g in pairs], *(p for p, _ in pairs))  # type: ignore[no-untyped-call]
        return found


class _Known(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: nn.Parameter) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> Any:
        return None, None, *(gradient * seed for gradient in ctx.gradients)
