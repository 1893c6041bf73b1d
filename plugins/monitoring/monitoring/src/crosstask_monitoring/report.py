"""The section of the report: scores over time, alarms, and what was done."""

from __future__ import annotations

from typing import Any

from crosstask.drawing import color
from crosstask.points.stage import Section
from crosstask.report.figures import figure, legend, line, plot, view
from crosstask.report.page import escape, note, number, spread, table, words
from crosstask_monitoring.records import HealResult

_MARKS = {
    "alarm": ("alarm", "less", "x"),
    "replaced": ("model replaced", "more", "circle"),
    "kept": ("candidate refused", "muted", "circle-open"),
}


def section(done: HealResult) -> Section:
    metric = words(done.metric)
    replaced = sum(each.replaced for each in done.operations)
    lead = (
        f'<p class="lead"><strong>{escape(done.task)}</strong>: {len(done.scores)} records of {done.batch} samples, '
        f"{_count(len(done.alarms), 'alarm')} by {escape(done.detector)}, {_count(replaced, 'replacement')} in "
        f"{_count(len(done.operations), 'attempt')}. While it was healthy its {escape(metric)} was "
        f"{spread(done.reference)}.</p>"
    )
    looks = {name: (text, role, "full" if name != "kept" else "hollow") for name, (text, role, _) in _MARKS.items()}
    figures = view(legend(looks), _scores(done), _statistic(done))
    return Section("Monitored and healed", lead + figures + _operations(done) + _phases(done) + _verdict(done))


def _count(many: int, what: str) -> str:
    return f"{many} {what}{'' if many == 1 else 's'}"


def _starts(done: HealResult) -> dict[str, Any]:
    """Lines where another part of the stream begins, and its name."""
    shapes = [
        {"type": "line", "x0": each.start - 0.5, "x1": each.start - 0.5, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": color("rule"), "width": 1.5, "dash": "dot"}} for each in done.phases
    ]  # fmt: skip
    told = [
        {"x": each.start, "yref": "paper", "y": 1.0, "yanchor": "bottom", "xanchor": "left", "showarrow": False,
         "text": escape(each.task), "font": {"size": 11, "color": color("muted")}} for each in done.phases
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": told, "margin": {"l": 8, "r": 12, "t": 26, "b": 8}}


def _scores(done: HealResult) -> str:
    import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

    marks: dict[str, list[int]] = {"alarm": list(done.alarms), "replaced": [], "kept": []}
    for at, operation in zip(done.operated, done.operations, strict=True):
        marks[operation.outcome].append(at)
    level = [done.reference.mean] * 2
    traces = [
        line([0, len(done.scores) - 1], level, "while it was healthy", "muted", "dash"),
        line(list(range(len(done.scores))), done.scores, words(done.metric), "series1"),
    ]
    for name, places in marks.items():
        text, role, symbol = _MARKS[name]
        if places:
            look = {"size": 12, "symbol": symbol, "color": color(role), "line": {"width": 2, "color": color(role)}}
            hover = f"{escape(text)}<br>record %{{x}}: %{{y:.3f}}<extra></extra>"
            values = [done.scores[at] for at in places]
            traces.append(go.Scatter(x=places, y=values, mode="markers", name=escape(text), marker=look,
                                     hovertemplate=hover, meta={"series": [name]}))  # fmt: skip
    axis = {"title": {"text": "record"}, "showgrid": False}
    made = figure(traces, xaxis=axis, yaxis={"title": {"text": escape(words(done.metric))}}, **_starts(done))
    return plot(made, "The score over time", f"{words(done.metric)} of {done.task} by record, with alarms", 300)


def _statistic(done: HealResult) -> str:
    traces = []
    for number_, (start, reading) in enumerate(zip(done.placed, done.readings, strict=True), 1):
        places = list(range(start, start + len(reading.statistic)))
        traces.append(line(places, reading.statistic, f"evidence against model {number_}", "series2"))
        traces.append(line([start, places[-1]], [reading.threshold] * 2, "threshold", "less", "dash"))
    axis = {"title": {"text": "record"}, "showgrid": False}
    made = figure(traces, xaxis=axis, yaxis={"title": {"text": "evidence of a drop"}}, **_starts(done))
    return plot(
        made, "What the detector makes of it", f"Statistic of {done.detector} by record, and its threshold", 240
    )


def _operations(done: HealResult) -> str:
    rows = [
        (
            str(at), escape(each.outcome), number(found.old), number(found.new),
            spread(found.difference, signed=True), f"{found.p_value:.2g}", str(found.samples),
            escape(" → ".join(each.curriculum.task_sequence)) if each.curriculum else "–",
        )
        for at, each in zip(done.operated, done.operations, strict=True) if (found := each.comparison) is not None
    ]  # fmt: skip
    head = ("Record", "Outcome", "Old", "New", "Difference", "p", "Judged on", "Curriculum")
    return table("What was tried", head, rows) if rows else ""


def _phases(done: HealResult) -> str:
    rows = [(escape(each.task), str(each.start), str(each.records), number(each.before), number(each.after),
             str(each.samples)) for each in done.phases]  # fmt: skip
    head = ("Samples of", "From record", "Records", "First model", "Model at the end", "Test samples")
    return table(f"{words(done.metric)} on samples that no model has learned from", head, rows)


def _verdict(done: HealResult) -> str:
    told = [
        f"{escape(each.task)} ({number(each.before)} to {number(each.after)})"
        for each in done.phases
        if each.after < each.before - 0.02
    ]
    if not told:
        return ""
    return note(f"<strong>The model at the end is worse</strong> than the first on {', '.join(told)}.")
