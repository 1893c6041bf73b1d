"""Training tasks together: losses, weights and gradient conflicts as training went on, and what it was worth."""

from __future__ import annotations

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.records import Interval
from crosstask.report.figures import STEPS, dots, dots_height, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, short, words
from crosstask_multitask.records import MultiTaskResult
from crosstask_multitask.sharing import SharingMatrix

TITLE = "Multi-task training"
_SIGNED = ("less", "slightly_less", "neither", "slightly_more", "more")
_WRITTEN = 12
"""Columns up to which a cell has room for its number."""


def render(done: MultiTaskResult) -> str:
    """The HTML of the section."""
    lead = (
        f'<p class="lead">{len(done.tasks)} tasks share one model ({escape(done.sharing)}); their gradients are '
        f"balanced by <strong>{escape(done.balancer)}</strong>.{_begun(done)}</p>"
    )
    looks = {task: style(n) for n, task in enumerate(done.tasks)}
    figures = []
    for caption, title, curves in (
        ("Loss of each task", "loss", done.losses),
        ("Weight of each task", "weight", done.weights),
    ):
        if curves:
            traces = [
                line(done.steps, values, task, *looks.get(task, ("ink", "solid"))) for task, values in curves.items()
            ]
            made = figure(traces, xaxis=STEPS, yaxis={"title": {"text": title}})
            figures.append(plot(made, caption, f"{caption} over optimiser steps", 320))
    parts = [lead, *(note(escape(each)) for each in done.notes)]
    if figures:
        parts.append(view(legend({task: (task, *look) for task, look in looks.items()}), *figures, grid=True))
    if done.conflicts:
        parts.append("<h3>Gradient conflicts</h3>")
        parts.append(
            view(
                *(
                    plot(
                        figure(
                            [line(done.steps, values, metric, "series2")],
                            xaxis=STEPS,
                            yaxis={"zeroline": True},
                        ),
                        words(metric).capitalize(),
                        f"{words(metric)} over optimiser steps",
                        240,
                    )
                    for metric, values in done.conflicts.items()
                ),
                grid=True,
            )
        )
    else:
        parts.append(note("Gradient conflicts were not recorded: the balancer never looked at the gradients."))
    rows = [
        (task, [(name, role, _exact(scores[task])) for name, role, scores in (
            ("together", "more", done.scores), ("alone", "less", done.single_task_scores),
            ("chance", "muted", done.chances)) if task in scores])
        for task in done.tasks
        if task in done.scores or task in done.single_task_scores
    ]  # fmt: skip
    if rows:
        series = {"together": ("together", "more", "full"), "alone": ("alone", "less", "hollow")}
        series |= {"chance": ("chance", "muted", "hollow")} if done.chances else {}
        caption = "Test score of each task"
        made = plot(dots(rows, "score"), caption, f"{caption}, trained together and alone", dots_height(rows, 3))
        parts.append(view(legend(series), made))
        if done.learned_nothing:
            told = "nothing was learned, the score is no better than always giving the most frequent answer"
            parts.append(note(f"<strong>{escape(', '.join(done.learned_nothing))}:</strong> {told}."))
    if done.learned:
        parts.append("<h3>What is shared</h3>")
        said = dict.fromkeys(matrix.told for matrix in done.learned if matrix.told)
        parts += [note(escape(f"{each[0].upper()}{each[1:]}.")) for each in said]
        parts.append(view(*map(_matrix, done.learned), grid=True))
    return "".join(parts)


def _matrix(shown: SharingMatrix) -> str:
    """A cell for each value: from white to blue, and to orange below zero."""
    low = min((value for row in shown.values for value in row), default=0.0)
    most = max((abs(value) for row in shown.values for value in row), default=0.0) or 1.0
    signed = low < -0.005 * most
    roles = _SIGNED if signed else _SIGNED[2:]
    texts = [
        [
            f"<b>{short(row, 40)}</b><br>{short(column, 40)}: {number(value)}"
            for column, value in zip(shown.columns, values, strict=True)
        ]
        for row, values in zip(shown.rows, shown.values, strict=True)
    ]
    traces = [
        go.Heatmap(
            z=shown.values, text=texts, coloraxis="coloraxis", xgap=2, ygap=2, hovertemplate="%{text}<extra></extra>"
        )
    ]
    if len(shown.columns) <= _WRITTEN:
        cells = [(x, y, value) for y, row in enumerate(shown.values) for x, value in enumerate(row)]
        traces.append(
            go.Scatter(
                x=[x for x, _, _ in cells], y=[y for _, y, _ in cells], mode="text", hoverinfo="skip",
                text=[f"{value:.2f}".replace("-", "−") for *_, value in cells],
                textfont={"size": 12, "color": [
                    color("on_strong" if abs(value) > 0.7 * most else "ink") for *_, value in cells
                ]},
            )
        )  # fmt: skip
    made = figure(
        traces,
        xaxis={
            "tickvals": list(range(len(shown.columns))), "ticktext": [short(each, 18) for each in shown.columns],
            "showgrid": False, "side": "top", "range": [-0.5, len(shown.columns) - 0.5],
        },
        yaxis={
            "tickvals": list(range(len(shown.rows))), "ticktext": [short(each, 18) for each in shown.rows],
            "showgrid": False, "range": [len(shown.rows) - 0.5, -0.5],
        },
        coloraxis={
            "colorscale": [[n / (len(roles) - 1), color(role)] for n, role in enumerate(roles)],
            "cmin": -most if signed else 0, "cmax": most, "showscale": False,
        },
    )  # fmt: skip
    label = f"{shown.name}: a matrix of {len(shown.rows)} by {len(shown.columns)} values"
    return plot(made, shown.name, label, 110 + 34 * max(2, len(shown.rows)))


def _begun(done: MultiTaskResult) -> str:
    """What the trunk started from, and how much of it was trained, where that is not all of one drawn anew."""
    said = "" if done.start is None else f" The trunk started from {escape(done.start)}."
    if done.adapter is not None:
        at_random = ", which was drawn at random," if done.start is None else ""
        said += (
            f" The trunk{at_random} stayed as it was: {escape(done.adapter)} was trained on it, so that "
            f"{number(done.trained_weights)} of {number(done.all_weights)} weights were trained."
        )
    return said


def _exact(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)
