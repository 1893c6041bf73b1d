"""The stage `multi_source`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import nn

from crosstask.adapting import from_several
from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_multi_source.methods import MultiSource
from crosstask_multi_source.records import MultiSourceReport, MultiSourceResult


@component
class MultiSourceStage(Stage):
    """Learns targets from several sources at once, with the recipe's budget, beside the best single source and scratch.

    Sources are the best by the graph, none that it knows to hurt, or those that are named, the best first. What is
    chosen is chosen on the targets' own training and validation data. The model of the first target is provided as
    `model`.
    """

    Result: ClassVar[type] = MultiSourceReport
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    needs_models: ClassVar[bool] = True
    provides: ClassVar[dict[str, Any]] = {"model": nn.Module}

    targets: tuple[str, ...] = option(help="the tasks to learn")
    sources: tuple[str, ...] = option((), help="what to learn them from, the best first; by default the graph says it")
    strategy: Part = part("transfer", "best_of", help="how; a method that learns from several sources")

    def check(self, portfolio: Portfolio) -> None:
        """Targets and sources are there, differ, and have data."""
        if not self.targets:
            raise RecipeError("targets: name at least one task")
        for name, tasks in (("targets", self.targets), ("sources", self.sources)):
            for task_id in tasks:
                try:
                    task = portfolio[task_id]
                except DataError as error:
                    raise RecipeError(f"{name}: {error}") from None
                wanted = ("train", "test") if name == "targets" else ("train",) if task.model is None else ()
                for split in wanted:
                    if not task.has_data(split):
                        raise RecipeError(f"{name}: task {task_id!r} has no {split} data")
        if both := sorted(set(self.targets) & set(self.sources)):
            raise RecipeError(f"sources: {both[0]!r} is a target, too")

    def work(self, engine: Engine) -> Outcome:
        (chosen,) = self.made_of("strategy")
        method = engine.method(chosen)
        if not isinstance(method, MultiSource):
            raise DataError(f"strategy: {method.origin} does not learn from several sources as this stage reports it")
        self.context.tell("stage_started", stage="multi_source", total=len(self.targets))
        results, models = [], []
        for target in self.targets:
            done = cast(MultiSourceResult, from_several(engine, method, target, self.sources or None))
            results.append(done)
            models.append(done.model)
            self.context.tell("stage_progress", stage="multi_source", detail=target)
        report = MultiSourceReport(results=tuple(results))
        self.context.tell("stage_finished", stage="multi_source", result=report)
        return Outcome(report, {"model": models[0]})

    @classmethod
    def summary(cls, result: MultiSourceReport) -> dict[str, Any]:
        gains = [done.gain.mean for done in result.results if done.gain is not None]
        return {
            "learned_by": ", ".join(f"{done.target}: {done.chosen}" for done in result.results),
            "gain_over_single_source": sum(gains) / len(gains),
        }

    @classmethod
    def sections(cls, result: MultiSourceReport, graph: TransferGraph) -> list[Section]:
        from crosstask_multi_source.report import section  # deferred: it imports plotly

        return [section(result)]
