"""Less trust in what is uncertain."""

from __future__ import annotations

from collections.abc import Generator

import attrs

from crosstask.components import hookimpl
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.options import component, option
from crosstask.points.wrapper import Wrapper
from crosstask.tasks import Portfolio


@component
class ExampleWrapper(Wrapper):
    """Multiplies the coefficient c of an edge by 1 / (1 + `doubt` * uncertainty); its interval shrinks with it.

    An edge without an uncertainty counts as one with uncertainty `unknown`.
    """

    doubt: float = option(1.0, ge=0, help="0: nothing changes")
    unknown: float = option(0.5, ge=0, help="uncertainty of an edge that states none")

    @hookimpl(wrapper=True)
    def discover(
        self, portfolio: Portfolio, graph: TransferGraph
    ) -> Generator[None, list[TransferEdge], list[TransferEdge]]:
        edges = yield
        return [self._shrunk(edge) for edge in edges]

    def _shrunk(self, edge: TransferEdge) -> TransferEdge:
        factor = 1 / (1 + self.doubt * (self.unknown if edge.uncertainty is None else edge.uncertainty))
        low, high = (None if bound is None else bound * factor for bound in (edge.low, edge.high))
        return attrs.evolve(edge, transfer_coefficient=edge.transfer_coefficient * factor, low=low, high=high)
