"""The stage `synthesis`: a model for an unseen task, beside real training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from torch import nn

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio
from crosstask_synthesis.judging import judged
from crosstask_synthesis.owners import ByOutputs, unnamed
from crosstask_synthesis.records import SynthesisResult


@component
class Synthesis(Stage):
    """A model for an unseen task, made from the models of the others without its labels, with the score that can be
    expected of it; judged on the task's test split where there is one.

    The task's training inputs are shown to the synthesizer without their labels.
    """

    Result: ClassVar[type] = SynthesisResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}
    needs_models: ClassVar[bool] = True

    task: str = option(help="the unseen task to make a model for")
    synthesizer: Part = part("synthesis", help="how the model is made")

    def check(self, portfolio: Portfolio) -> None:
        try:
            portfolio[self.task]
        except DataError as error:
            raise RecipeError(f"task: {error}") from None
        if not any(t.task_id != self.task and (t.model is not None or t.has_data()) for t in portfolio):
            raise RecipeError(f"task: no task but {self.task!r} has a model, or data to train one")
        if isinstance(self.made_of("synthesizer")[0], ByOutputs) and (
            reason := unnamed(portfolio[self.task].descriptor)
        ):
            raise RecipeError(reason)

    def work(self, engine: Engine) -> Outcome:
        engine.run.tell("stage_started", stage="synthesis", total=1)
        model = self._made(engine, expect=True)
        result = attrs.evolve(judged(engine, model, self.task), options=self.made_of("synthesizer")[0].options())
        engine.run.tell("stage_finished", stage="synthesis", result=result)
        return Outcome(result, {"model": model})

    def rebuild(self, engine: Engine, name: str, result: SynthesisResult) -> nn.Module | None:
        """The model made again: without its expected score, which takes most of the time."""
        model = self._made(engine, expect=False)
        model.provenance = result.provenance  # type: ignore[assignment]
        return model

    def _made(self, engine: Engine, expect: bool) -> nn.Module:
        task = engine.portfolio[self.task]
        inputs = task.data("train").inputs if task.has_data() else None
        return engine.synthesize_zero_shot_model(self.task, self.made_of("synthesizer")[0], inputs, expect=expect)

    @classmethod
    def summary(cls, result: SynthesisResult) -> dict[str, Any]:
        full = result.full_training_score
        return {
            "unseen_task": result.task_id,
            "zero_shot_score": result.score,
            "full_training_score": full,
            "zero_shot_share": result.score / full if result.score is not None and full else None,
            "unseen_task_by_chance": result.chance,
        }

    @classmethod
    def sections(cls, result: SynthesisResult, graph: TransferGraph) -> list[Section]:
        from crosstask_synthesis import report  # deferred: it needs plotly

        return [Section(report.TITLE, report.render(result))]
