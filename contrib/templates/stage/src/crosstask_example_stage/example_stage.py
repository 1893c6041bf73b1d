"""The best of several starts."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import nn

from crosstask.errors import RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.options import component, option, record
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Interval
from crosstask.tasks import Portfolio


@record
class ExampleStageResult:
    """What each start is worth to the target: its transfer coefficient, with a 95 % interval, and the score reached."""

    target: str
    method: str
    metric: str
    coefficients: dict[str, Interval]
    scores: dict[str, Interval]
    seed: int = 0

    @property
    def best(self) -> str:
        """The task that helps most; of two that are as good, the first by name."""
        return min(self.coefficients, key=lambda task_id: (-self.coefficients[task_id].mean, task_id))


@component
class ExampleStage(Stage):
    """Transfers to one task from each of the others, and says which is the best start.

    Where more than `most` tasks could be tried, those come first that the transfer graph finds most promising: run a
    discovery before.
    """

    Result: ClassVar[type] = ExampleStageResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[dict[str, Any]] = {"model": nn.Module}

    target: str = option(help="the task to be learned")
    sources: tuple[str, ...] = option((), help="tasks to try; all others with data by default")
    most: int = option(5, ge=1, help="try so many, those first that the transfer graph finds most promising")
    transfer: Part | None = part("transfer", None, help="how; as the recipe says by default")

    def check(self, portfolio: Portfolio) -> None:
        for option_name, task_id in [("target", self.target), *(("sources", each) for each in self.sources)]:
            if task_id not in portfolio:
                raise RecipeError(f"{option_name}: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
            if not portfolio[task_id].has_data():
                raise RecipeError(f"{option_name}: task {task_id!r} has no training data")
        if not self._sources(portfolio):
            raise RecipeError(f"there is no task beside {self.target!r} to start from")

    def _sources(self, portfolio: Portfolio) -> list[str]:
        named = self.sources or [task_id for task_id in portfolio.ids if portfolio[task_id].has_data()]
        return [task_id for task_id in named if task_id != self.target]

    def work(self, engine: Engine) -> Outcome:
        sources = self._sources(engine.portfolio)
        sources.sort(key=lambda task_id: (-engine.graph.coefficient(task_id, self.target), task_id))
        method = engine.method(next(iter(self.made_of("transfer")), None))
        found = {}
        self.context.tell("stage_started", stage="example_stage", total=len(sources[: self.most]))
        for source in sources[: self.most]:
            found[source] = engine.transfer_knowledge(source, self.target, method)
            self.context.tell("stage_progress", stage="example_stage", detail=source)
        result = ExampleStageResult(
            target=self.target,
            method=method.origin,
            metric=next(iter(found.values())).metric,
            coefficients={source: each.coefficient for source, each in found.items()},
            scores={source: each.score for source, each in found.items()},
            seed=engine.seed,
        )
        self.context.tell("stage_finished", stage="example_stage", result=result)
        return Outcome(result, {"model": self.rebuild(engine, "model", result)})

    def rebuild(self, engine: Engine, name: str, result: ExampleStageResult) -> nn.Module:
        """The model of the best start; a copy, for whoever goes on from it must not change the task's own."""
        engine.train([result.best])
        model = engine.portfolio[result.best].model
        assert model is not None  # what could not be trained could not be transferred from
        return copy.deepcopy(model)

    @classmethod
    def summary(cls, result: ExampleStageResult) -> dict[str, Any]:
        return {"best_start": result.best, "best_start_coefficient": result.coefficients[result.best]}

    @classmethod
    def sections(cls, result: ExampleStageResult, graph: TransferGraph) -> list[Section]:
        from crosstask.report.page import escape, spread, table  # deferred: it imports plotly

        rows = [
            (escape(source), spread(worth, signed=True), spread(result.scores[source]))
            for source, worth in sorted(result.coefficients.items(), key=lambda item: -item[1].mean)
        ]
        lead = f'<p class="lead">To learn <strong>{escape(result.target)}</strong>, by {escape(result.method)}.</p>'
        head = ("Start", "Transfer coefficient", escape(result.metric).capitalize())
        return [Section("Where to start", lead + table("What each start is worth", head, rows))]
