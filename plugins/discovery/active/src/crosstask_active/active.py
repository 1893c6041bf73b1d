"""The `active` discoverer: measures where it matters for the choice of sources."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from crosstask.components import Context
from crosstask.errors import DataError, PluginError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.logs import logger
from crosstask.options import component, option, state
from crosstask.parts import Part, part
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio
from crosstask_active.decision import next_pairs
from crosstask_discovery.pairs import LeftOut

UNKNOWN = 0.5
"""Standard error of a coefficient of which nobody said how sure he is."""

Pair = tuple[str, str]


@component
class Active(Discoverer):
    """Decides under a budget which pairs are worth measuring, measures them, and predicts the others from them.

    In every round `predictor` says what is believed of each pair and how surely; the pairs that promise to improve the
    choice of a source most (`crosstask_active.decision`) are measured by `probe`; then it predicts again. `estimators`
    are run first, unless the graph has estimates of every pair already. `per_task` * n measurements in all, n being the
    number of targets (1 with a focus), what the graph has measured before not counted.

    Without a `predictor`, that is `gnn` where it is installed, else the last estimator: its edges are calibrated by
    what was measured. Pairs that `probe` leaves out are not chosen again. `measured` lists what was measured, in order.
    DataError if nothing can be.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    per_task: float = option(3.0, gt=0, help="measurements per target, on average")
    rounds: int = option(3, ge=1, help="how often to decide anew")
    estimators: tuple[Part, ...] = part("discovery", ("mean_z",), help="say what is known before anything is measured")
    predictor: Part | None = part("discovery", None, help="predicts all pairs (default: gnn, else the last estimator)")
    probe: Part = part("discovery", "probe", help="measures the chosen pairs")
    measured: list[Pair] = state(factory=list)
    skipped: list[LeftOut] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        self.measured, self.skipped = [], []
        pairs = [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
        if not pairs:
            return []
        work = TransferGraph(task.descriptor for task in [*portfolio, *portfolio.unseen])
        for edge in graph.all_edges():
            if edge.source in work.networkx and edge.target in work.networkx:
                work.add(edge)
        found: list[TransferEdge] = []

        def keep(edges: list[TransferEdge]) -> None:
            for edge in edges:
                work.add(edge)
            found.extend(edges)

        if not all(work.estimates(*pair) for pair in pairs):
            for estimator in self.made_of("estimators"):
                keep(estimator.discover(portfolio, work))
        targets = 1 if portfolio.focus is not None else len({t for _, t in pairs})
        budget = max(1, round(self.per_task * targets))
        open_ = {pair for pair in pairs if not _measured(work, pair)}
        refusals: list[str] = []
        predictor, probe = self._predictor(), self.made_of("probe")[0]
        for round_ in range(self.rounds):
            if predictor is not None:
                for edge in predictor.discover(portfolio, work):
                    work.add(edge)
            # What is left of the budget is spread over the rounds that are left
            count = -(-(budget - len(self.measured)) // (self.rounds - round_))
            chosen = self._choose(work, pairs, open_, count)
            if not chosen:
                break
            open_ -= set(chosen)
            try:
                edges = probe.discover(portfolio.restricted(chosen), work)
            except DataError as error:  # none of these can be measured; others may be
                refusals.append(str(error))
                continue
            keep(edges)
            self.measured += [(edge.source, edge.target) for edge in edges]
            self.skipped += getattr(probe, "skipped", [])
            logger().info(
                "pairs measured", discoverer=self.origin, round=round_ + 1, pairs=self.measured[-len(edges) :]
            )
        if refusals and not self.measured and not any(_measured(work, pair) for pair in pairs):
            raise DataError(refusals[0])
        if predictor is not None:
            keep(predictor.discover(portfolio, work))
        for (source, target), reason in work.impossible.items():
            if source in graph.networkx and target in graph.networkx:
                graph.rule_out(source, target, reason)
        return _newest(found)

    def _choose(self, work: TransferGraph, pairs: list[Pair], open_: set[Pair], count: int) -> list[Pair]:
        sources = list(dict.fromkeys(s for s, _ in pairs))
        targets = list(dict.fromkeys(t for _, t in pairs))
        row, column = {s: i for i, s in enumerate(sources)}, {t: j for j, t in enumerate(targets)}
        shape = len(sources), len(targets)
        mean, spread, free = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=bool)
        noises = []
        for source, target in pairs:
            at = row[source], column[target]
            mean[at], spread[at] = belief(work.edge(source, target))
            free[at] = (source, target) in open_
            if _measured(work, (source, target)):
                noises.append(spread[at])
        noise = float(np.median(noises)) if noises else 0.05
        chosen = next_pairs(mean, spread, free, count, max(noise, 1e-3))
        return [(sources[i], targets[j]) for i, j in chosen]

    def _predictor(self) -> Discoverer | None:
        given: list[Discoverer] = self.made_of("predictor") or _installed(self.context) or self.made_of("estimators")
        return given[-1] if given else None


def belief(edge: TransferEdge | None) -> tuple[float, float]:
    """(coefficient, standard error) that an edge stands for."""
    if edge is None:
        return 0.0, UNKNOWN
    return edge.transfer_coefficient, UNKNOWN if edge.uncertainty is None else edge.uncertainty


def _measured(graph: TransferGraph, pair: Pair) -> bool:
    edge = graph.edge(*pair)
    return edge is not None and edge.evidence is Evidence.MEASURED


def _installed(context: Context) -> list[Discoverer]:
    try:
        return [context.component("discovery", "gnn")]  # type: ignore[list-item]
    except PluginError:
        return []


def _newest(edges: list[TransferEdge]) -> list[TransferEdge]:
    """One edge per pair, evidence and finder, in the order in which the last of each was found."""
    latest: dict[tuple[str, str, Evidence, str], TransferEdge] = {}
    for edge in edges:
        key = edge.source, edge.target, edge.evidence, edge.found_by
        latest.pop(key, None)
        latest[key] = edge
    return list(latest.values())
