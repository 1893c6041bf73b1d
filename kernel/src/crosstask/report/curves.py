"""Learning curves with and without transfer: of each stage of the curriculum, and of each single transfer."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.records import LearningCurve, RunRecord
from crosstask.report.figures import STEPS, dots, dots_height, dropdown, figure, legend, line, plot, view
from crosstask.report.page import escape, note, number, words

TITLE = "Learning curves"
_MOST = 24  # single transfers with the interval of each; the matrix has them all


def render(record: RunRecord, graph: TransferGraph) -> str:
    pairs: dict[str, tuple[LearningCurve, LearningCurve]] = {}
    done = record.curriculum
    for stage in done.stages if done else ():
        pairs[f"stage {stage.stage} · {stage.task_id}"] = stage.curve, stage.scratch_curve
    for transfer in record.transfers:
        name = f"{transfer.source} → {transfer.target}, {transfer.strategy}"
        pairs[name] = transfer.curve, transfer.scratch_curve
    pairs = {name: both for name, both in pairs.items() if any(curve.values for curve in both)}
    body = _curves(record, pairs) if pairs else note("No learning curve was recorded in this run.")
    return body + (_transfers(record) if record.transfers else note("The run made no transfer outside its curriculum."))


def _curves(record: RunRecord, pairs: dict[str, tuple[LearningCurve, LearningCurve]]) -> str:
    metric = record.curriculum.metric if record.curriculum else record.transfers[0].metric
    # the target is what a reader asks for first
    order = sorted(pairs, key=lambda name: name != _target(record))
    looks = {"with transfer": ("more", "solid"), "from scratch": ("less", "dash")}
    traces = [
        line(curve.steps, curve.values, series, *looks[series], group=str(number_))
        for number_, name in enumerate(order)
        for series, curve in zip(looks, pairs[name], strict=True)
        if curve.values
    ]
    choices = {str(number_): (name, _speed(*pairs[name])) for number_, name in enumerate(order)}
    controls = f'<div class="controls">{dropdown("group", "Show", choices)}<output aria-live="polite"></output></div>'
    made = figure(traces, xaxis=STEPS, yaxis={"title": {"text": escape(words(metric))}}, hovermode="x unified")
    label = f"{words(metric)} over optimiser steps, with transfer and from scratch, for the chosen stage"
    return view(
        controls, legend({name: (name, *look) for name, look in looks.items()}), plot(made, "", label, 380)
    )  # fmt: skip


def _target(record: RunRecord) -> str:
    stages = record.curriculum.stages if record.curriculum else ()
    return f"stage {stages[-1].stage} · {stages[-1].task_id}" if stages else ""


def _speed(curve: LearningCurve, scratch: LearningCurve) -> str:
    if not curve.values or not scratch.values:
        return ""
    level = scratch.final
    with_, without = curve.first_reaching(level), scratch.first_reaching(level)
    if with_ is None:
        return f"Transfer does not reach scratch's final {number(level)}."
    return f"Transfer reaches scratch's final {number(level)} at step {with_}, scratch at step {without}."


def _transfers(record: RunRecord) -> str:
    ranked = sorted(record.transfers, key=lambda t: t.coefficient.mean, reverse=True)
    shown = ranked if len(ranked) <= _MOST else [*ranked[: _MOST // 2], *ranked[-_MOST // 2 :]]
    rows = [
        (f"{t.source} → {t.target}", [("coefficient", "less" if t.negative else "more", t.coefficient)]) for t in shown
    ]
    caption = "Single transfers" + (
        f": the best and worst {_MOST // 2} of {len(ranked)}" if len(ranked) > _MOST else ""
    )
    made = dots(rows, "transfer coefficient", signed=True)
    return view(plot(made, caption, "Coefficient of each single transfer with its interval", dots_height(rows)))
