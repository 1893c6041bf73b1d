"""The stage `discovery`: which task helps which."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from crosstask.components import Component
from crosstask.errors import RecipeError
from crosstask.graph import Evidence, TransferGraph
from crosstask.options import component
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_discovery.records import DiscoveryResult, MeasuredPair


@component
class Discovery(Stage):
    """Finds out which task helps which. The discoverers run in order, and what they find goes into the transfer graph,
    from which later stages choose.

    Put first what costs nothing (`skills` looks at descriptors, `mean_z` at features), then what measures (`probe`, or
    `active`, which measures only the pairs that decide something), then what predicts the rest from it (`gnn`).
    """

    Result: ClassVar[type] = DiscoveryResult
    keeps: ClassVar[bool] = False  # it fills the graph of the engine; what its discoverers measured they remember

    discoverers: tuple[Part, ...] = part(
        "discovery", (), help="in order; each sees what the ones before found (default: those that manifests mark)"
    )

    def check(self, portfolio: Portfolio) -> None:
        if len(portfolio) < 2:
            named = ", ".join(map(repr, portfolio.ids)) or "none"
            raise RecipeError(f"two tasks are needed to find out which helps which; there is {named}")

    def work(self, engine: Engine) -> Outcome:
        started = time.perf_counter()
        discoverers: Sequence[Any] = self.made_of("discoverers") or engine.discoverers
        self._consider_unseen(engine, discoverers)
        engine.discover(discoverers)
        measured = engine.graph.measured_edges()
        parts = [(each.name, getattr(each, "repeats", getattr(each, "seeds", None))) for each in _all(discoverers)]
        result = DiscoveryResult(
            tasks=len(engine.portfolio),
            unseen_tasks=len(engine.portfolio.unseen),
            metrics=engine.graph.metrics(),
            measured=tuple(
                MeasuredPair(source=e.source, target=e.target, mean=e.transfer_coefficient, low=e.low, high=e.high)
                for e in measured
            ),
            negative_transfer_pairs=sum(edge.hurts for edge in measured),
            impossible=tuple((*pair, reason) for pair, reason in engine.graph.impossible.items()),
            gives=_means((edge.source, edge.transfer_coefficient) for edge in measured),
            receives=_means((edge.target, edge.transfer_coefficient) for edge in measured),
            repeats={name: seeds for name, seeds in parts if isinstance(seeds, int)},
            skipped={d.origin: tuple(left_out) for d in discoverers if (left_out := getattr(d, "skipped", None))},
            seed=engine.seed,
            seconds=time.perf_counter() - started,
        )
        return Outcome(result)

    def _consider_unseen(self, engine: Engine, discoverers: Sequence[Any]) -> None:
        """Discoverers that need only descriptors say what could help each task that is held back, too: a model for it
        is made from those.
        """
        for discoverer in discoverers:
            for task in engine.portfolio.unseen if "descriptors_only" in discoverer.capabilities else ():
                view = engine.portfolio.focused(task.task_id)
                edges = self.context.call(discoverer, "discover", portfolio=view, graph=engine.graph)
                for edge in edges:
                    engine.graph.add(edge)
                self.context.tell("edges_discovered", edges=edges, discoverer=discoverer.origin)

    @classmethod
    def summary(cls, result: DiscoveryResult) -> dict[str, Any]:
        helper = max(result.gives, key=lambda task: (result.gives[task], task), default=None)
        return {
            "tasks": result.tasks,
            "unseen_tasks": result.unseen_tasks,
            "measured_pairs": len(result.measured),
            "pairs_only_predicted": sum(
                count for kind, count in result.metrics.get("evidence", {}).items() if kind != Evidence.MEASURED.value
            ),
            "pairs_left_out": sum(map(len, result.skipped.values())),
            "impossible_pairs": len(result.impossible),
            "mean_measured_coefficient": result.metrics.get("mean_measured_coefficient"),
            "strongest_helper": helper if helper is not None and result.gives[helper] > 0 else None,
            "negative_transfer_pairs": result.negative_transfer_pairs,
        }

    @classmethod
    def sections(cls, result: DiscoveryResult, graph: TransferGraph) -> list[Section]:
        from crosstask.report import graph_view  # deferred: plotly is slow to import
        from crosstask_discovery.report import matrix

        return [
            Section("Transfer graph", graph_view.render(graph, result.seed)),
            Section("Transfer matrix", matrix(result, graph)),
        ]


def _all(components: Iterable[Component]) -> Iterator[Component]:
    """The components and all that they are made of."""
    for each in components:
        yield each
        for parts in each.all_parts().values():
            yield from _all(parts)


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean coefficient per task."""
    by_task: dict[str, list[float]] = {}
    for task_id, value in values:
        by_task.setdefault(task_id, []).append(value)
    return {task_id: sum(known) / len(known) for task_id, known in by_task.items()}
