"""The section of the report: what each arrival gained, what was tried for it, and what others would have brought."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import figure, legend, plot, view
from crosstask.report.page import details, escape, number, spread, table
from crosstask_lifelong.records import Arrival, LifelongResult

_X = {"title": {"text": "arrival"}, "showgrid": False}


def section(done: LifelongResult) -> Section:
    """The arrivals as a section of the report."""
    mean = "not known" if done.gain is None else spread(done.gain, signed=True)
    told = f"mean gain over scratch <strong>{mean}</strong>"
    for control, what in (("random_gain", "one source at random"), ("tried_gain", "as many tried at random")):
        over = done.over(control)
        told += "" if over is None else f", {spread(over, signed=True)} more than with {what}"
    lead = (
        f'<p class="lead">{number(len(done.arrivals))} tasks arrived one by one; for each at most '
        f"{number(done.per_task)} sources were tried, {number(done.pairs)} pairs in all; {told}. The intervals are "
        f"over tasks.</p>"
    )
    caption = "Gain in the metric over scratch"
    series = {"gain": ("chosen source", "more", "full"), "mean": ("mean so far", "series1", "solid")}
    judged = [(each, each.gain) for each in done.later if each.gain is not None]
    if any(each.random_gain is not None for each, _ in judged):
        series["random"] = ("one source at random", "less", "hollow")
    figures = [plot(_gains(judged), caption, f"{caption}, for each arrival", 320)]
    caption = "What was done for each arrival"
    figures.append(plot(_costs(done.arrivals), caption, f"{caption}: tasks looked at, trainings", 260))
    known = [each for each in done.later if each.regret is not None]
    if known:
        caption = "Regret: how much more the best of the sources compared brings"
        figures.append(plot(_regrets(known), caption, f"{caption}, as a coefficient, for each arrival", 260))
    rows = [
        (
            number(place),
            escape(each.task),
            escape(each.source or "scratch"),
            escape(", ".join(each.tried)) or "–",
            "–" if each.gain is None else spread(each.gain, signed=True),
            "–" if each.best is None else escape(each.best),
        )
        for place, each in enumerate(done.arrivals, 1)
    ]
    caption = f"{number(len(rows))} arrivals"
    shown = details(caption, table(caption, ("", "Task", "Learned from", "Tried", "Gain", "Best compared"), rows))
    return Section("Tasks that arrive", lead + view(legend(series), figures[0]) + view(*figures[1:], grid=True) + shown)


def _gains(judged: list[tuple[Arrival, Interval]]) -> Any:
    places = [each.known + 1 for each, _ in judged]
    means = [gain.mean for _, gain in judged]
    traces = [
        go.Scatter(
            x=places, y=means, mode="markers", marker={"size": 7, "color": color("more")},
            error_y={
                "type": "data", "symmetric": False, "array": [gain.high - gain.mean for _, gain in judged],
                "arrayminus": [gain.mean - gain.low for _, gain in judged], "thickness": 1, "width": 0,
                "color": color("muted"),
            },
            text=[
                f"<b>{escape(e.task)}</b><br>from {escape(e.source or 'scratch')}: {spread(gain, signed=True)}"
                for e, gain in judged
            ],
            hovertemplate="%{text}<extra></extra>", meta={"series": ["gain"]},
        ),
        go.Scatter(
            x=places, y=[total / count for count, total in enumerate(accumulate(means), 1)], mode="lines",
            line={"color": color("series1"), "width": 2}, hovertemplate="mean so far %{y:.3f}<extra></extra>",
            meta={"series": ["mean"]},
        ),
    ]  # fmt: skip
    if any(each.random_gain is not None for each, _ in judged):
        traces.append(
            go.Scatter(
                x=places, y=[each.random_gain for each, _ in judged], mode="markers",
                marker={"size": 7, "symbol": "circle-open", "color": color("less")},
                hovertemplate="one source at random %{y:.3f}<extra></extra>", meta={"series": ["random"]},
            )
        )  # fmt: skip
    return figure(traces, xaxis=_X, yaxis={"title": {"text": "gain"}, "zeroline": True})


def _costs(arrivals: tuple[Arrival, ...]) -> Any:
    places = list(range(1, len(arrivals) + 1))
    return figure(
        [
            go.Scatter(
                x=places, y=values, mode="lines", line={"color": color(role), "width": 2, "dash": dash}, name=name,
                hovertemplate=f"%{{y}} {name}<extra></extra>",
            )
            for name, role, dash, values in (
                ("tasks looked at", "series2", "solid", [each.looked_at for each in arrivals]),
                ("trainings", "series1", "dash", [each.trainings for each in arrivals]),
            )
        ],
        xaxis=_X,
        yaxis={"rangemode": "tozero", "title": {"text": "looked at (solid), trainings (dashed)"}},
    )  # fmt: skip


def _regrets(arrivals: list[Arrival]) -> Any:
    return figure(
        [
            go.Bar(
                x=[each.known + 1 for each in arrivals], y=[each.regret for each in arrivals],
                marker={"color": color("less")},
                text=[f"<b>{escape(e.task)}</b><br>best: {escape(e.best or 'scratch')}" for e in arrivals],
                textposition="none", hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
            )
        ],
        xaxis=_X,
        yaxis={"title": {"text": "coefficient"}},
    )  # fmt: skip
