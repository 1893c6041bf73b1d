"""The curriculum: its stages in order, each against training from scratch, and the target by other ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosstask.graph import TransferGraph
from crosstask.records import Interval, RunRecord
from crosstask.report.figures import dots, dots_height, legend, plot, view
from crosstask.report.page import escape, note, number, spread, table, words

TITLE = "Curriculum"


def render(record: RunRecord, graph: TransferGraph) -> str:
    done = record.curriculum
    if done is None or not done.stages:
        return note("No stage of a curriculum was trained in this run.")
    plan = done.curriculum
    metric = words(done.metric)
    lead = (
        f'<p class="lead">Toward <strong>{escape(plan.target)}</strong> in {len(done.stages)} stages and '
        f"{number(done.total_steps)} optimiser steps, over {number(done.seeds)} seeds. Order: "
        f"{escape(plan.strategy or 'not named')}; training: {escape(done.strategy)}. Each stage starts from what the "
        "stages before it left, and training from scratch has the same budget.</p>"
    )
    names = [f"{stage.stage} · {stage.task_id}" for stage in done.stages]
    scores = [
        (name, [("with transfer", "more", stage.score), ("from scratch", "less", stage.scratch_score)])
        for name, stage in zip(names, done.stages, strict=True)
    ]
    gains = [
        (name, [("gain", "less" if stage.gain.high < 0 else "more", stage.gain)])
        for name, stage in zip(names, done.stages, strict=True)
    ]
    height = dots_height(scores)
    series = {
        "with transfer": ("with transfer", "more", "full"),
        "from scratch": ("from scratch", "less", "hollow"),
    }
    figures = [
        plot(
            dots(scores, metric),
            "Score of each stage",
            "Score of each stage with transfer and from scratch",
            height,
        ),
        plot(
            dots(gains, f"gain in {metric}", signed=True),
            "Gain of each stage",
            "Gain of each stage over scratch",
            height,
        ),
    ]
    target = done.stages[-1]
    others = {
        name: made for name, value in record.curriculum_baselines.items() if (made := _interval(value)) is not None
    }
    if others:
        rows = [("this curriculum", [("with transfer", "more", target.score)])]
        rows += [(name, [("baseline", "muted", value)]) for name, value in others.items()]
        caption = f"{target.task_id} by other ways"
        label = f"{metric} on {target.task_id} by this curriculum and by each baseline"
        figures.append(plot(dots(rows, metric), caption, label, dots_height(rows)))
    rows_ = [
        (
            escape(name),
            number(plan.task_difficulties.get(stage.task_id)),
            escape(", ".join(plan.prerequisites.get(stage.task_id, ()))) or "–",
            spread(stage.score),
            spread(stage.scratch_score),
            spread(stage.gain, signed=True),
        )
        for name, stage in zip(names, done.stages, strict=True)
    ]
    head = ("Stage", "Difficulty", "Needs first", escape(metric.capitalize()), "From scratch", "Gain")
    changes = "".join(
        f"<li>before stage {change.stage}, {escape(change.task_id)}: {escape(change.reason)}</li>"
        for change in plan.adjustments
    )
    adjusted = f"<p>Changed while it ran:</p><ul>{changes}</ul>" if changes else ""
    return lead + view(legend(series), *figures, grid=True) + table("Stages in order", head, rows_) + adjusted


def _interval(value: Any) -> Interval | None:
    """A baseline as it stands in run.json: a mapping, an interval or a number."""
    if isinstance(value, Interval):
        return value
    if isinstance(value, int | float):
        return Interval(mean=value, low=value, high=value)
    if isinstance(value, Mapping) and isinstance(mean := value.get("mean"), int | float):
        low, high = value.get("low"), value.get("high")
        return Interval(mean=mean, low=mean if low is None else low, high=mean if high is None else high)
    return None
