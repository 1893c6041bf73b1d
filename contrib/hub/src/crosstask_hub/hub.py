"""The discoverer `hub`: few sources for each target, and only these are looked at further."""

from __future__ import annotations

from typing import ClassVar

import attrs

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.logs import logger
from crosstask.options import component, option, state
from crosstask.parts import Part, part
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.calibration import calibrated
from crosstask_discovery.pairs import LeftOut, edge_between
from crosstask_hub.index import Found, HubIndex
from crosstask_hub.vectors import Card


@component
class Hub(Discoverer):
    """For each target (with a focus: that one) the `count` sources of the highest score in the index, as predicted
    edges; the discoverers of `then` see these pairs only, in a portfolio and a graph of the shortlist and its target,
    so that what they do takes as long however many sources there are. Their edges are returned, too.

    The score is in the edge's `estimates` as `hub`; the coefficient is calibrated by what was measured of the
    shortlist (`crosstask_discovery.calibration`). Sources of the index that the portfolio does not have are left out.
    Without `index`, one is made of the portfolio's descriptors. `skipped` lists what `then` left out.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    index: str = option("", help="folder of a saved HubIndex (default: made of the portfolio's descriptors)")
    count: int = option(50, ge=1, help="sources for each target")
    then: tuple[Part, ...] = part("discovery", (), help="look further, at the shortlist only (mean_z, active, gnn, …)")
    same_type: bool = option(False, help="only sources of the target's task type")
    same_input: bool = option(False, help="only sources of the target's input shape")
    licences: tuple[str, ...] = option((), help="only sources under these licences")
    modalities: tuple[str, ...] = option((), help="only sources of these modalities")
    scale: float = option(0.15, gt=0, le=1, help="coefficient of one standard deviation, if none is measured")
    skipped: list[LeftOut] = state(factory=list)
    _opened: HubIndex | None = attrs.field(default=None, init=False, repr=False)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        self.skipped = []
        if len(portfolio) + (portfolio.focus is not None and portfolio.focus not in portfolio) < 2:
            return []
        index = self._index(portfolio)
        targets = [portfolio[portfolio.focus]] if portfolio.focus is not None else list(portfolio)
        edges: list[TransferEdge] = []
        refusals: list[DataError] = []
        alone = []
        for target in targets:
            chosen = self._shortlist(index, target, portfolio)
            if not chosen:
                if any(portfolio.has_pair(source.task_id, target.task_id) for source in portfolio):
                    alone.append(target.task_id)
                continue
            small, work = _around(
                target, [portfolio[each.source] for each in chosen], graph, unseen=target.task_id not in portfolio
            )
            own = self._edges(chosen, target, small, work)
            for edge in own:
                work.add(edge)
            for each in self.made_of("then"):
                try:
                    found = each.discover(small, work)
                except DataError as error:  # not for this target; others may
                    refusals.append(error)
                    continue
                for edge in found:
                    work.add(edge)
                own += found
                self.skipped += getattr(each, "skipped", [])
            for pair, reason in work.impossible.items():
                if all(end in graph.networkx for end in pair):
                    graph.rule_out(*pair, reason)
            edges += own
        if alone:
            asked = [name for name in ("same_type", "same_input", "licences", "modalities") if getattr(self, name)]
            logger().warning("no source on the shortlist", targets=alone, index=self.index or None, filters=asked)
        if refusals and len(refusals) == len(targets) * len(self.then):
            raise refusals[0]
        return edges

    def _index(self, portfolio: Portfolio) -> HubIndex:
        if not self.index:
            return HubIndex.build(Card(descriptor=task.descriptor) for task in portfolio)
        if self._opened is None:
            self._opened = HubIndex.open(self.index)
        return self._opened

    def _shortlist(self, index: HubIndex, target: Task, portfolio: Portfolio) -> list[Found]:
        filters: dict[str, object] = {}
        if self.same_type:
            filters["task_type"] = target.descriptor.task_type
        if self.same_input:
            filters["input_shape"] = target.descriptor.input_shape
        if self.licences:
            filters["licence"] = self.licences
        if self.modalities:
            filters["modality"] = self.modalities
        known = index.card(target.task_id).statistics if target.task_id in index else None
        return index.shortlist(
            target.descriptor,
            self.count,
            statistics=known,
            keep=lambda source: portfolio.has_pair(source, target.task_id),
            **filters,
        )

    def _edges(self, chosen: list[Found], target: Task, small: Portfolio, work: TransferGraph) -> list[TransferEdge]:
        raw = {(each.source, target.task_id): each.score for each in chosen}
        told = calibrated(raw, work, self.scale)
        return [
            edge_between(
                small[source].descriptor, target.descriptor, told[source, to].coefficient, told[source, to].uncertainty,
                evidence=Evidence.PREDICTED, found_by="hub", estimates={"hub": score},
            )
            for (source, to), score in raw.items()
        ]  # fmt: skip


def _around(
    target: Task, sources: list[Task], graph: TransferGraph, *, unseen: bool
) -> tuple[Portfolio, TransferGraph]:
    """A portfolio whose pairs are those of the sources with the target, and what the graph knows among them."""
    name = f"shortlist of {target.task_id}"
    near_by = Portfolio([*sources, *([] if unseen else [target])], unseen=[target] if unseen else [], name=name)
    small = near_by.focused(target.task_id).restricted((each.task_id, target.task_id) for each in sources)
    work = TransferGraph(task.descriptor for task in [*sources, target])
    for source in work.task_ids:
        if source in graph.networkx:
            near = graph.networkx[source]
            for other in work.task_ids:
                if other in near:
                    for edge in graph.evidence(source, other):
                        work.add(edge)
    return small, work
