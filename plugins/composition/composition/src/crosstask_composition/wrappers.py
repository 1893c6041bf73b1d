"""Wrappers: they change the answer of whichever component answers a hook, without touching it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import attrs
import numpy as np
from torch import Tensor

from crosstask.components import hookimpl
from crosstask.graph import Evidence, TransferEdge, relation_type
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, with_kept
from crosstask.learning.gradients.solvers import to_array, to_tensor
from crosstask.options import component, option, state
from crosstask.points.balancer import Direction
from crosstask.points.wrapper import Wrapper


@component
class Cautious(Wrapper):
    """Multiplies every coefficient that was predicted or estimated, with its interval, by `factor`; measured ones stay.

    For portfolios in which descriptors promise more than transfer keeps: fewer pairs then reach the level from which a
    task counts as helping another.
    """

    factor: float = option(0.5, ge=0, le=1, help="what is left of a coefficient that was not measured")

    @hookimpl(wrapper=True)
    def discover(self) -> Generator[None, Any, Any]:
        edges: list[TransferEdge] = yield
        return [self._shrunk(edge) for edge in edges]

    def _shrunk(self, edge: TransferEdge) -> TransferEdge:
        if edge.evidence is Evidence.MEASURED:
            return edge
        coefficient = self.factor * edge.transfer_coefficient
        return attrs.evolve(
            edge,
            transfer_coefficient=coefficient,
            relation=relation_type(coefficient),
            uncertainty=None if edge.uncertainty is None else self.factor * edge.uncertainty,
            low=None if edge.low is None else self.factor * edge.low,
            high=None if edge.high is None else self.factor * edge.high,
        )


@component
class Smooth(Wrapper):
    """Exponential moving average of the weights that a balancer gives each task, over the task's steps; directions pass
    unchanged. The average starts with a task's first weight, and anew where tasks without names are not as many as
    before.
    """

    results_version: ClassVar[int] = 2

    momentum: float = option(0.9, ge=0, lt=1, help="share of the average that is kept at each step")
    average: Kept = state(factory=dict)

    @hookimpl(wrapper=True)
    def balance(self, gradients: TaskGradients) -> Generator[None, Any, Any]:
        answer: Tensor | Direction = yield
        if isinstance(answer, Direction):
            return answer
        names, weights = gradients.names, to_array(answer)
        if not gradients.named and set(self.average) != set(names):
            self.average = {}  # others than before, and nobody knows which
        known = np.array([name in self.average for name in names])
        mean = self.momentum * kept_of(self.average, names) + (1 - self.momentum) * weights
        mean = np.where(known, mean, weights)
        self.average = with_kept(self.average, names, mean)
        return to_tensor(mean, answer)
