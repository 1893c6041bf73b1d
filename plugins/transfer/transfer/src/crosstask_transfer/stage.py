"""The stage `explain`."""

from __future__ import annotations

from typing import Any, ClassVar

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_transfer.attribution import attribute_layers
from crosstask_transfer.records import LayerAttribution


@component
class Explain(Stage):
    """Which layers carried the transfer between two tasks: the transfer itself, then without each block of layers,
    with each alone and with each frozen, under the same budget and seeds.
    """

    Result: ClassVar[type] = LayerAttribution
    after: ClassVar[tuple[str, ...]] = ("discovery",)

    source: str = option(help="the task to transfer from")
    target: str = option(help="the task to transfer to")
    strategy: Part | None = part("transfer", None, help="how; the recipe's transfer by default")

    def check(self, portfolio: Portfolio) -> None:
        """Both tasks are there, they differ, and have what a transfer needs of them."""
        for option_name, task_id in (("source", self.source), ("target", self.target)):
            try:
                task = portfolio[task_id]
            except DataError as error:
                raise RecipeError(f"{option_name}: {error}") from None
            if task_id not in portfolio:
                raise RecipeError(f"{option_name}: task {task_id!r} is held back as unseen: it is not learned from")
            if not task.has_data() and (option_name == "target" or task.model is None):
                raise RecipeError(f"{option_name}: task {task_id!r} has no training data")
        if self.source == self.target:
            raise RecipeError(f"target: {self.target!r} is the source, too")

    def work(self, engine: Engine) -> Outcome:
        chosen = self.made_of("strategy")
        method = engine.method(chosen[0] if chosen else None)
        result = engine.transfer_knowledge(self.source, self.target, method)
        return Outcome(attribute_layers(method, engine.portfolio[self.source], engine.portfolio[self.target], result))

    @classmethod
    def summary(cls, result: LayerAttribution) -> dict[str, Any]:
        return {
            "explained": f"{result.source} → {result.target}",
            "explained_gain": result.gain,
            "carried_by": carried_by(result),
        }

    @classmethod
    def sections(cls, result: LayerAttribution, graph: TransferGraph) -> list[Section]:
        from crosstask_transfer.report import why_it_transferred  # deferred: it imports plotly

        return why_it_transferred([result])


def carried_by(found: LayerAttribution) -> str:
    """The layer that carried a transfer, in words."""
    return found.carrier.block if found.carrier else "no single layer"
