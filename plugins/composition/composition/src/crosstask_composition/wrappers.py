"""Wrappers: they change the answer of whichever component answers a hook, without touching it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import attrs
from torch import Tensor

from crosstask.components import hookimpl
from crosstask.graph import Evidence, TransferEdge, relation_type
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
    """Exponential moving average of the weights that a balancer gives, over its steps; directions pass unchanged.

    The average starts with the first weights; it starts anew when the number of tasks changes.
    """

    momentum: float = option(0.9, ge=0, lt=1, help="share of the average that is kept at each step")
    average: Tensor | None = state(None)

    @hookimpl(wrapper=True)
    def balance(self) -> Generator[None, Any, Any]:
        answer: Tensor | Direction = yield
        if isinstance(answer, Direction):
            return answer
        if self.average is None or self.average.shape != answer.shape:
            self.average = answer.clone()
        else:
            self.average = self.momentum * self.average.to(answer) + (1 - self.momentum) * answer
        return self.average.clone()
