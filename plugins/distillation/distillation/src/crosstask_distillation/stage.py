"""The stage `distillation`: what several tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.transferring import key_of
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.distillation import Distilled
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio, Task
from crosstask_distillation.encoders import EncoderDistiller
from crosstask_distillation.records import DistillationResult


@component
class Distillation(Stage):
    """What several tasks have in common, as far as the distiller measures it with what it is worth to a task left out.

    Later stages may refer to the knowledge's `tensors`, and to the `encoder` of a distiller that has one: a module that
    maps inputs to features, to start from.
    """

    Result: ClassVar[type] = DistillationResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[Mapping[str, Any]] = {"encoder": nn.Module, "tensors": dict[str, Tensor]}
    needs_models: ClassVar[bool] = True

    distiller: Part = part("distillation", help="what is distilled, and how")
    tasks: tuple[str, ...] = option((), help="those to distil from; all that are learned from by default")

    def check(self, portfolio: Portfolio) -> None:
        for task_id in self.tasks:
            try:
                portfolio[task_id]
            except DataError as error:
                raise RecipeError(f"tasks: {error}") from None
            if task_id not in portfolio:
                raise RecipeError(f"tasks: task {task_id!r} is unseen: nothing is learned from it")
        chosen = self._chosen(portfolio)
        if not any(task.model is not None or task.has_data() for task in chosen):
            named = ", ".join(task.task_id for task in chosen)
            raise RecipeError(f"tasks: none has a model, or data to train one: {named}")
        distiller = self.made_of("distiller")[0]
        if "encoder" in self.taken and not isinstance(distiller, EncoderDistiller):
            raise RecipeError(
                f"distiller: {distiller.origin} has no encoder, which a later stage takes; take 'tensors'"
            )

    def _chosen(self, portfolio: Portfolio) -> list[Task]:
        return [portfolio[task_id] for task_id in self.tasks] or list(portfolio)

    def work(self, engine: Engine) -> Outcome:
        engine.run.tell("stage_started", stage="distillation", total=1)
        chosen = [task for task in self._chosen(engine.portfolio) if self.tasks or task.model is not None]
        inputs = [task.data("train").inputs for task in chosen if task.has_data()]
        samples = joined(inputs) if len({kind_of(each) for each in inputs}) == 1 else None
        distiller = self.made_of("distiller")[0]
        found = engine.distill([task.task_id for task in chosen], distiller, samples)  # type: ignore[arg-type]
        result = DistillationResult(knowledge=found.knowledge, distiller=distiller.origin)
        artifacts: dict[str, Any] = {"tensors": found.tensors}
        if isinstance(distiller, EncoderDistiller):
            artifacts["encoder"] = distiller.encoder(found, chosen)
        engine.run.tell("stage_finished", stage="distillation", result=result)
        return Outcome(result, artifacts)

    def rebuild(self, engine: Engine, name: str, result: DistillationResult) -> nn.Module | None:
        distiller = self.made_of("distiller")[0]
        known = self.context.recall("knowledge", key_of("knowledge", result.knowledge))
        if not isinstance(distiller, EncoderDistiller) or known is None:
            return None
        sources = result.knowledge.source_tasks
        engine.train(sources)
        return distiller.encoder(Distilled(result.knowledge, known.tensors), [engine.portfolio[t] for t in sources])

    @classmethod
    def summary(cls, result: DistillationResult) -> dict[str, Any]:
        return {
            "distilled_from": ", ".join(result.knowledge.source_tasks),
            "generalization_score": result.knowledge.generalization_score,
        }

    @classmethod
    def sections(cls, result: DistillationResult, graph: TransferGraph) -> list[Section]:
        from crosstask_distillation import report  # deferred: it needs plotly

        return [Section(report.TITLE, report.render(result.knowledge))]
