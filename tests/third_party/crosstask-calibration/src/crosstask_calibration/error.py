"""The expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence (Naeini et al. 2015), in 0..1."""
    confidence, answer = logits.softmax(1).max(1)
    right = (answer == labels).double()
    place = (confidence.double() * bins).long().clamp(max=bins - 1)
    total = 0.0
    for number in place.unique().tolist():
        inside = place == number
        total += float((confidence[inside].double().mean() - right[inside].mean()).abs() * inside.double().mean())
    return total


def minimise(parameters: list[Tensor], loss: object) -> None:
    """A few steps of L-BFGS: the losses are smooth and have few parameters."""
    optimizer = torch.optim.LBFGS(parameters, lr=0.5, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()  # type: ignore[operator]
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
