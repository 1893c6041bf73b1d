"""For tests of what stands on tasks that arrive: a discoverer that measures a known truth without training."""

from __future__ import annotations

import zlib
from typing import ClassVar

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio


def truth(source: str, target: str) -> float:
    """A coefficient in [-0.5, 0.5] that follows from the names."""
    return zlib.crc32(f"{source} {target}".encode()) / 2**32 - 0.5


@component
class Tries(Discoverer):
    """Measures `truth`, and remembers of which pairs."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    repeats: ClassVar[int] = 2
    refused: tuple[str, ...] = option((), help="sources that cannot be measured")
    estimates: bool = option(False, help="say it without measuring, with a standard error of 0.005")
    pairs: list[tuple[str, str]] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        wanted = [(s.task_id, t.task_id) for s, t in portfolio.pairs() if s.task_id not in self.refused]
        if not wanted:
            raise DataError(f"{', '.join(self.refused)} cannot be measured")
        self.pairs += wanted
        kind = Evidence.ESTIMATED if self.estimates else Evidence.MEASURED
        return [
            TransferEdge(
                source=s, target=t, transfer_coefficient=truth(s, t), evidence=kind, found_by=self.name,
                uncertainty=0.005, accuracy_gain=None if self.estimates else truth(s, t) / 2,
            )
            for s, t in wanted
        ]  # fmt: skip


REFERENCE = Plugin(
    "reference-lifelong",
    extensions=[Extension("discovery", "tries", "crosstask_lifelong.testing:Tries", summary="For checks.")],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
