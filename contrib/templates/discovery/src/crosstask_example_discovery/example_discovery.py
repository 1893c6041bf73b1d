"""Tasks that name the same classes help each other."""

from __future__ import annotations

from typing import ClassVar

from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import component, option
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio


@component
class ExampleDiscovery(Discoverer):
    """The coefficient of an edge is `strength` times the share of the target's classes that the source has too.

    Only `portfolio.pairs()` are looked at, and pairs without a common class are left out.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"descriptors_only"})

    strength: float = option(0.5, gt=0, le=1, help="coefficient of tasks with the same classes")

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        edges = []
        for source, target in portfolio.pairs():
            wanted = set(target.descriptor.classes)
            common = wanted & set(source.descriptor.classes)
            if common:
                edges.append(
                    TransferEdge(
                        source=source.task_id,
                        target=target.task_id,
                        transfer_coefficient=self.strength * len(common) / len(wanted),
                        evidence=Evidence.PREDICTED,
                        found_by="example_discovery",
                    )
                )
        return edges
