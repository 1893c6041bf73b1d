"""The stage: every task's own model, calibrated on its validation data and judged on its test data."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from crosstask import Engine, Outcome, Part, Section, Stage, component, option, part, record
from crosstask.errors import RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.training import predict
from crosstask.tasks import Portfolio
from torch import nn

from crosstask_calibration.error import calibration_error


@record
class CalibrationResult:
    """Expected calibration errors on the test split, by task, before and after."""

    calibrator: str
    before: dict[str, float]
    after: dict[str, float]
    bins: int
    options: dict[str, Any] = attrs.field(factory=dict)


@component
class Calibration(Stage):
    """Calibrates the tasks' own models: how sure they are is made to agree with how often they are right."""

    Result: ClassVar[type] = CalibrationResult
    provides: ClassVar[dict[str, Any]] = {"calibrated": nn.Module}
    needs_models: ClassVar[bool] = True

    tasks: tuple[str, ...] = option((), help="tasks to calibrate; all classification tasks with data by default")
    calibrator: Part = part("calibrator", help="what fits the map from logits to logits")
    bins: int = option(10, ge=2, help="bins of the calibration error")

    def check(self, portfolio: Portfolio) -> None:
        for task_id in self.tasks:
            if task_id not in portfolio.ids:
                raise RecipeError(f"tasks: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
        if not self._chosen(portfolio):
            raise RecipeError("no classification task with data to calibrate")

    def _chosen(self, portfolio: Portfolio) -> list[str]:
        named = self.tasks or portfolio.ids
        return [t for t in named if portfolio[t].has_data() and portfolio[t].descriptor.task_type == "classification"]

    def work(self, engine: Engine) -> Outcome:
        chosen = self._chosen(engine.portfolio)
        fitter = self.made_of("calibrator")[0]
        self.context.tell("stage_started", stage="calibration", total=len(chosen))
        before, after, last = {}, {}, nn.Module()
        for task_id in chosen:
            task = engine.portfolio[task_id]
            assert task.model is not None
            held_out, test = task.data("validation"), task.data("test")
            known = predict(task.model, held_out.inputs)
            last = self.context.call(fitter, "fit", logits=known, labels=held_out.targets)
            logits = predict(task.model, test.inputs)
            before[task_id] = calibration_error(logits, test.targets, self.bins)
            with torch.no_grad():
                after[task_id] = calibration_error(last(logits), test.targets, self.bins)
            self.context.tell("stage_progress", stage="calibration", detail=task_id)
        result = CalibrationResult(
            calibrator=fitter.origin, before=before, after=after, bins=self.bins, options=fitter.options()
        )
        self.context.tell("stage_finished", stage="calibration", result=result)
        return Outcome(result, {"calibrated": last})

    @classmethod
    def summary(cls, result: CalibrationResult) -> dict[str, Any]:
        count = len(result.before)
        return {
            "calibration_error_before": sum(result.before.values()) / count,
            "calibration_error_after": sum(result.after.values()) / count,
        }

    @classmethod
    def sections(cls, result: CalibrationResult, graph: TransferGraph) -> list[Section]:
        from crosstask.report.page import escape, number, table

        rows = [(escape(t), number(result.before[t]), number(result.after[t])) for t in result.before]
        head = ("Task", "Before", "After")
        lead = f'<p class="lead">By <strong>{escape(result.calibrator)}</strong>, {result.bins} bins.</p>'
        return [Section("Calibration", lead + table("Expected calibration error", head, rows))]


