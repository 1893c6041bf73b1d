"""What the figures share: their look, their place in the page, legends, and the plot of values with intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.records import Interval
from crosstask.report.page import attribute, cut, escape, spread, words

DASHES = ("solid", "dash", "dot")
_SERIES = [f"series{n}" for n in range(1, 8)]
_AXIS = {
    "gridcolor": color("rule"),
    "linecolor": color("rule"),
    "zeroline": False,
    "zerolinecolor": color("muted"),
    "automargin": True,
    "ticks": "outside",
    "ticklen": 6,
    "tickcolor": "rgba(0,0,0,0)",
    "title": {"font": {"size": 12, "color": color("muted")}, "standoff": 8},
    "tickfont": {"size": 12, "color": color("muted")},
}
_FONT = '-apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", Arial, sans-serif'
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 12, "color": color("ink")},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {
            "bgcolor": color("panel"), "bordercolor": color("muted"), "align": "left",
            "font": {"family": _FONT, "size": 12, "color": color("ink")}, "namelength": -1,
        },
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }
)  # fmt: skip


def style(index: int) -> tuple[str, str]:
    """Role of the colour, and dash, of the n-th series: seven colours, then the same dashed, then dotted."""
    return _SERIES[index % len(_SERIES)], DASHES[index // len(_SERIES) % len(DASHES)]


def figure(traces: Sequence[Any], **layout: Any) -> Any:
    """A plotly figure of these traces, in the colours and type of the report."""
    return go.Figure(list(traces), {"template": _TEMPLATE, **layout})


def plot(made: Any, caption: str, label: str, height: int) -> str:
    """A figure in the page. `caption` and `label` (what a screen reader says) are plain text."""
    rows = " rows" if (made.layout.meta or {}).get("rows") else ""
    # the JSON is escaped so that no task name can end the script element
    data = made.to_json().replace("<", "\\u003c").replace(">", "\\u003e")
    title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure>{title}<script type="application/json">{data}</script>'
        f'<div class="plot{rows}" role="img" aria-label="{attribute(label)}" style="height:{height}px"></div></figure>'
    )


def view(*parts: str, grid: bool = False, classes: str = "") -> str:
    """Controls and the figures that obey them (see page.js)."""
    figures = "".join(p for p in parts if p.startswith("<figure"))
    controls = "".join(p for p in parts if not p.startswith("<figure"))
    return f'<div class="view {classes}">{controls}{f"<div class=grid>{figures}</div>" if grid else figures}</div>'


def legend(series: Mapping[str, tuple[str, str, str]]) -> str:
    """Buttons that hide and show: series -> text, role of its colour, dash (or `full` and `hollow` for dots)."""
    strokes = {"solid": "", "dash": "6 3", "dot": "2 3"}

    def sign(role: str, look: str) -> str:
        if look in strokes:
            shape = f'line x2="20" y1="5" y2="5" stroke-width="3" stroke-dasharray="{strokes[look]}"'
            return f'<{shape} stroke="var(--{role})"/>'
        fill = f"var(--{role})" if look == "full" else "none"
        return f'<circle cx="10" cy="5" r="4" fill="{fill}" stroke-width="2" stroke="var(--{role})"/>'

    items = "".join(
        f'<li><button type="button" aria-pressed="true" data-series="{attribute(name)}">'
        f'<svg width="20" height="10" aria-hidden="true">{sign(role, look)}</svg>{escape(text)}</button></li>'
        for name, (text, role, look) in series.items()
    )
    return f'<ul class="legend" aria-label="Legend: press to hide or show">{items}</ul>'


def dropdown(name: str, label: str, choices: Mapping[str, tuple[str, str]]) -> str:
    """value -> text and note. `name` is `group` or `focus` (see page.js)."""
    options = "".join(
        f'<option value="{attribute(value)}" data-note="{attribute(note)}">{escape(text)}</option>'
        for value, (text, note) in choices.items()
    )
    return f'<label>{escape(label)} <select class="{name}">{options}</select></label>'


def dots(rows: Sequence[tuple[str, Sequence[tuple[str, str, Interval]]]], axis: str, *, signed: bool = False) -> Any:
    """Values with their intervals, a row for each name and a dot for each (series, role of its colour, value) in it.

    The first series of a row is a full dot, the others are hollow: they differ without their colours.
    """
    series: dict[str, list[tuple[int, str, str, Interval, int]]] = {}
    apart = min(0.28, 0.72 / max([1, *(len(values) - 1 for _, values in rows)]))
    for place, (name, values) in enumerate(rows):
        for rank, (label, role, value) in enumerate(values):
            series.setdefault(label, []).append((place, name, role, value, rank))
    traces = [
        go.Scatter(
            x=[v.mean for _, _, _, v, _ in points],
            y=[place + apart * (rank - (len(rows[place][1]) - 1) / 2) for place, _, _, _, rank in points],
            mode="markers",
            name=escape(label),
            marker={
                "size": 11,
                "color": [color(role) for _, _, role, _, _ in points],
                "symbol": ["circle" if rank == 0 else "circle-open" for *_, rank in points],
                "line": {"width": 2, "color": [color(role) for _, _, role, _, _ in points]},
                "opacity": 1,
            },
            error_x={
                "type": "data",
                "visible": any(v.high > v.low for _, _, _, v, _ in points),
                "symmetric": False,
                "array": [v.high - v.mean for _, _, _, v, _ in points],
                "arrayminus": [v.mean - v.low for _, _, _, v, _ in points],
                "thickness": 1.5,
                "width": 4,
                "color": color("muted"),
            },
            text=[
                f"<b>{escape(name)}</b><br>{escape(words(label))}: {spread(v, signed=signed)}"
                for _, name, _, v, _ in points
            ],
            hovertemplate="%{text}<extra></extra>",
            meta={"series": [label]},
        )
        for label, points in series.items()
    ]
    # positions and tick texts rather than categories: two long names may be cut to the same text
    ticks = {"tickvals": list(range(len(rows))), "ticktext": [_two_lines(name) for name, _ in rows]}
    return figure(
        traces,
        xaxis={"title": {"text": escape(axis)}, "zeroline": signed},
        yaxis={**ticks, "range": [len(rows) - 0.5, -0.5], "showgrid": False},
        meta={"rows": True},
    )


def _two_lines(name: str) -> str:
    # cut first: `wrap` would leave out a word that fills a line, and put the placeholder alone
    cut_words = " ".join(cut(word, 20) for word in name.split())
    return "<br>".join(map(escape, textwrap.wrap(cut_words, 22, break_long_words=False, max_lines=2, placeholder=" …")))


def dots_height(rows: Collection[object], series: int = 2) -> int:
    """The height in pixels of `dots` with so many rows, of at most so many series."""
    return 76 + max(38, 16 * series) * len(rows)


def line(
    steps: Sequence[float], values: Sequence[float], name: str, role: str, dash: str = "solid", **meta: Any
) -> Any:
    """One curve over training steps."""
    return go.Scatter(
        x=list(steps), y=list(values), mode="lines", name=escape(name),
        line={"color": color(role), "dash": dash, "width": 2},
        hovertemplate="%{fullData.name}<br>step %{x}: %{y:.3f}<extra></extra>", meta={"series": [name], **meta},
    )  # fmt: skip


STEPS = {"title": {"text": "optimiser steps"}, "rangemode": "tozero", "showgrid": False}
"""The x axis of learning curves."""
