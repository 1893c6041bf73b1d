"""The stage `example_family`: the tasks' own models, scored."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from crosstask.errors import RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.training import predict
from crosstask.options import component, option, record
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio


@record
class ExampleFamilyResult:
    """The scores of the tasks' own models, by task; `measure` is what scored, with its options."""

    measure: str
    scores: dict[str, float]
    split: str = "test"
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def worst(self) -> str:
        """The task with the lowest score; of two that are as bad, the first by name."""
        return min(self.scores, key=lambda task_id: (self.scores[task_id], task_id))


@component
class ExampleFamilyStage(Stage):
    """Scores the answers of the tasks' own models."""

    Result: ClassVar[type] = ExampleFamilyResult
    provides: ClassVar[dict[str, Any]] = {"scores": dict[str, float]}
    needs_models: ClassVar[bool] = True

    tasks: tuple[str, ...] = option((), help="tasks to score; all classification tasks with data by default")
    measure: Part = part("example_family", help="what scores")
    split: str = option("test", choices=("train", "validation", "test"), help="data to score on")

    def check(self, portfolio: Portfolio) -> None:
        for task_id in self.tasks:
            if task_id not in portfolio:
                raise RecipeError(f"tasks: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
        chosen = self._chosen(portfolio)
        for task_id in self.tasks:
            if task_id not in chosen:
                raise RecipeError(f"tasks: {task_id!r} is no classification task with data to learn and to score")
        if not chosen:
            raise RecipeError("there is no classification task to score")

    def _chosen(self, portfolio: Portfolio) -> list[str]:
        return [
            task_id
            for task_id in self.tasks or portfolio.ids
            if portfolio[task_id].descriptor.task_type == "classification"
            and portfolio[task_id].has_data()
            and portfolio[task_id].has_data(self.split)
        ]

    def work(self, engine: Engine) -> Outcome:
        chosen = self._chosen(engine.portfolio)
        measure = self.made_of("measure")[0]
        scores = {}
        self.context.tell("stage_started", stage="example_family", total=len(chosen))
        for task_id in chosen:
            task = engine.portfolio[task_id]
            assert task.model is not None  # `needs_models`
            data = task.data(self.split)
            outputs = predict(task.model, data.inputs).detach()
            # Through the run, not `measure.measure(…)`: so wrappers act on it.
            scores[task_id] = self.context.call(measure, "measure", outputs=outputs, targets=data.targets)
            self.context.tell("stage_progress", stage="example_family", detail=task_id)
        result = ExampleFamilyResult(
            measure=measure.origin, scores=scores, split=self.split, seed=engine.seed, options=measure.options()
        )
        self.context.tell("stage_finished", stage="example_family", result=result)
        return Outcome(result, {"scores": scores})

    @classmethod
    def summary(cls, result: ExampleFamilyResult) -> dict[str, Any]:
        return {
            "mean_score": sum(result.scores.values()) / len(result.scores),
            "worst_score": result.scores[result.worst],
            "worst_task": result.worst,
        }

    @classmethod
    def sections(cls, result: ExampleFamilyResult, graph: TransferGraph) -> list[Section]:
        from crosstask.report.page import escape, number, table  # deferred: it imports plotly

        rows = [(escape(task_id), number(score)) for task_id, score in result.scores.items()]
        lead = f'<p class="lead">By <strong>{escape(result.measure)}</strong>, on {escape(result.split)} data.</p>'
        return [Section("Scores", lead + table("How good the answers are", ("Task", "Score"), rows))]
