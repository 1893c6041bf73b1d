"""The stage `explain`."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_transfer.attribution import attribute_layers
from crosstask_transfer.causes import class_causes, classes_of, skill_causes
from crosstask_transfer.records import LayerAttribution


@component
class Explain(Stage):
    """Which layers carried the transfer between two tasks: the transfer itself, then without each block of layers,
    with each alone and with each frozen, under the same budget and seeds. With `classes` and `skills` also what each
    class and each skill of the source brings, beside controls.
    """

    Result: ClassVar[type] = LayerAttribution
    after: ClassVar[tuple[str, ...]] = ("discovery",)

    source: str = option(help="the task to transfer from")
    target: str = option(help="the task to transfer to")
    strategy: Part | None = part("transfer", None, help="how; the recipe's transfer by default")
    classes: bool = option(False, help="what each class of the source brings: it is trained again without it")
    skills: bool = option(False, help="what each skill of the source brings: the units that serve it are silenced")
    cause_seeds: int = option(6, ge=2, help="repeats of these two; fewer find little")
    controls: int = option(3, ge=1, help="controls of each repeat, without as many samples or units at random")
    units: float = option(0.5, gt=0, lt=1, help="share of the units that is taken as a skill's")

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
        source = portfolio[self.source]
        if self.classes:
            try:
                classes_of(source)
            except DataError as error:
                raise RecipeError(f"classes: {error}") from None
        if self.skills and not source.descriptor.required_skills:
            raise RecipeError(f"skills: the descriptor of {self.source!r} requires none (required_skills)")

    def work(self, engine: Engine) -> Outcome:
        chosen = self.made_of("strategy")
        method = engine.method(chosen[0] if chosen else None)
        result = engine.transfer_knowledge(self.source, self.target, method)
        source, target = engine.portfolio[self.source], engine.portfolio[self.target]
        found, causes = attribute_layers(method, source, target, result), []
        how: dict[str, Any] = {"seeds": self.cause_seeds, "controls": self.controls, "split": result.split}
        if self.classes:
            causes.append(class_causes(method, source, target, engine.train_budget, engine.budget, **how))
        if self.skills:
            causes.append(
                skill_causes(method, source, target, engine.portfolio, engine.budget, share=self.units, **how)
            )
        return Outcome(attrs.evolve(found, causes=tuple(causes)))

    @classmethod
    def summary(cls, result: LayerAttribution) -> dict[str, Any]:
        rows = {
            "explained": f"{result.source} → {result.target}",
            "explained_gain": result.gain,
            "carried_by": carried_by(result),
        }
        for causes in result.causes:
            rows[f"{causes.kind} that helped"] = ", ".join(causes.helping) or "none beyond the control"
        return rows

    @classmethod
    def sections(cls, result: LayerAttribution, graph: TransferGraph) -> list[Section]:
        from crosstask_transfer.report import why_it_transferred  # deferred: it imports plotly

        return why_it_transferred([result])


def carried_by(found: LayerAttribution) -> str:
    """The layer that carried a transfer, in words."""
    return found.carrier.block if found.carrier else "no single layer"
