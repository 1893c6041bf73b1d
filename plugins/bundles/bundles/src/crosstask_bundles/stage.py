"""The stage `bundles`: what others have measured, taken into the transfer graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_bundles.imported import Imported
from crosstask_bundles.records import BundlesResult, TakenEdge

_OPTIONS = ("bundles", "same", "stored", "signers")


@component
class Bundles(Stage):
    """Bundles that others have made, verified; what they measured between the tasks of the recipe goes into the
    transfer graph, pooled with what is known there, and the report says what came from which under which licence.

    The same as the discoverer `imported`, as a stage of its own. Put it after `discovery`, which it completes, and
    before what uses the graph.
    """

    Result: ClassVar[type] = BundlesResult
    keeps: ClassVar[bool] = False  # it fills the graph of the engine
    after: ClassVar[tuple[str, ...]] = ("discovery",)

    bundles: tuple[str, ...] = option(
        (), help="files, indexes, or names of installed bundles (default: all that are installed)"
    )
    same: dict[str, str] = option(factory=dict, help="tasks that are the same though their data differ: {there: here}")
    stored: bool = option(True, help="also those that `crosstask bundle import --store` has put into the run's store")
    signers: str = option("", help="a file of allowed signers: bundles that nobody of them signed are refused")

    def check(self, portfolio: Portfolio) -> None:
        for name in self.bundles:
            if ("/" in name or name.endswith((".ctb", ".json"))) and not Path(name).is_file():
                raise RecipeError(f"bundles: no file {name!r}")
        if self.signers and not Path(self.signers).is_file():
            raise RecipeError(f"signers: no file {self.signers!r}")

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="bundles", total=None)
        options = {name: getattr(self, name) for name in _OPTIONS}
        imported = cast(Imported, self.context.component("discovery", "imported", options))
        edges = self.context.call(imported, "discover", portfolio=engine.portfolio, graph=engine.graph)
        for edge in edges:
            engine.graph.add(edge)
        self.context.tell("edges_discovered", edges=edges, discoverer=imported.origin)
        taken = tuple(
            TakenEdge(
                source=edge.source,
                target=edge.target,
                mean=edge.transfer_coefficient,
                evidence=edge.evidence.value,
                found_by=edge.found_by,
                low=edge.low,
                high=edge.high,
                measurements=max(1, len(edge.measurements)),
            )
            for edge in edges
        )
        result = BundlesResult(uses=imported.uses, edges=taken, conflicts=imported.conflicts)
        self.context.tell("stage_finished", stage="bundles", result=result)
        return Outcome(result)

    @classmethod
    def summary(cls, result: BundlesResult) -> dict[str, Any]:
        return {
            "bundles": len(result.uses),
            "pairs_from_bundles": len({(edge.source, edge.target) for edge in result.edges}),
            "pooled_pairs": sum(edge.measurements > 1 for edge in result.edges),
            "conflicts": len(result.conflicts),
        }

    @classmethod
    def sections(cls, result: BundlesResult, graph: TransferGraph) -> list[Section]:
        from crosstask_bundles.report import section  # deferred: plotly is slow to import

        return [section(result)]
