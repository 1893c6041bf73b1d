"""A small parameter for each task that the model's optimiser trains, and that exists before the tasks are known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import names_of
from crosstask.logs import logger
from crosstask.points.balancer import Balancer

PREPARED = 32
"""So many parameters without elements are there from the beginning: an optimiser can be made before the first step, and
has those of the tasks that come."""


def _prepared() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(0)) for _ in range(PREPARED)]


@component
class TrainedScales(Balancer):
    """Base of those that train a log scale of each task with the model. State: the scales, by task.

    `parameters()` belongs into the model's optimiser (`MultiTaskTrainer` puts it there). They are one for each task, so
    that an optimiser leaves alone what is not in a step: empty until the task's first step, which fills it, and more
    than there were for the tasks beyond the first 32. Nobody trains one that no optimiser has been given: a warning
    says so.
    """

    sign: ClassVar[float]
    """Of the scales in the objective."""

    initial: float = option(0.0, help="log scale at the start")

    scales: dict[str, nn.Parameter] = state(factory=dict)
    _slots: list[nn.Parameter] = attrs.field(factory=_prepared, init=False, repr=False)
    _given: int = attrs.field(default=0, init=False, repr=False)  # how many of them somebody has taken

    def parameters(self) -> list[nn.Parameter]:
        self._given = len(self._slots)
        return list(self._slots)

    def prepare(self, names: Sequence[str], like: Tensor) -> None:
        """Make the parameters of these tasks now, with the dtype and on the device of `like`."""
        for name in names:
            if name not in self.scales:
                self._fill(name, torch.full((1,), self.initial, dtype=like.dtype, device=like.device))

    @abstractmethod
    def weigh(self, scales: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [T] for these scales, and the gradient [T] that trains the scales."""

    def penalty(self, names: Sequence[str]) -> float:
        """What the objective adds to the weighted losses of these tasks: their scales, with their sign."""
        return self.sign * sum(float(self.scales[name].detach()) for name in names)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        weights, slopes = self.weigh(self._values(losses, gradients), losses)
        for name, slope in zip(gradients.names, slopes.split(1), strict=True):
            parameter = self.scales[name]
            parameter.grad = slope.clone() if parameter.grad is None else parameter.grad + slope
        return weights

    def _values(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        if self._slots and len(self.scales) > self._given > 0:
            self._warn()
        names = names_of(self.origin, gradients, self.scales)
        self.prepare(names, losses)
        found = [self.scales[name] for name in names]
        for parameter in found:
            if parameter.dtype != losses.dtype or parameter.device != losses.device:
                parameter.data = parameter.data.to(losses)
        return torch.cat([parameter.data for parameter in found])

    def _fill(self, name: str, value: Tensor) -> None:
        if len(self.scales) == len(self._slots):
            self._slots.append(nn.Parameter(torch.zeros(0)))
        parameter = self._slots[len(self.scales)]
        parameter.data = value
        self.scales = {**self.scales, name: parameter}

    def _warn(self) -> None:
        left = list(self.scales)[self._given :]
        self._given = len(self._slots)  # said once
        logger().warning(
            "scales_not_trained", balancer=self.origin, tasks=left, why="no optimiser was given their `parameters()`"
        )

    def state_dict(self) -> dict[str, Any]:
        scales = {name: parameter.detach().clone() for name, parameter in self.scales.items()}
        return {**super().state_dict(), "scales": scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.scales = {}
        for name, value in state["scales"].items():
            self._fill(name, value.detach().clone())
