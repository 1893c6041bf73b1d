"""The transfer matrix of the report: every pair's coefficient, and which of them differ from zero beyond doubt."""

from __future__ import annotations

import textwrap
from collections import Counter

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.report.figures import figure, plot, view
from crosstask.report.graph_view import describe, strongest
from crosstask.report.page import details, escape, interval, note, number, short, table
from crosstask_discovery.records import DiscoveryResult

_SCALE = [[n / 4, color(role)] for n, role in enumerate(("less", "slightly_less", "neither", "slightly_more", "more"))]
_DOTS = 1000
"""Dots of a matrix: each is an element of the page, and of more the browser makes a picture."""
_MEASURED_NAMES = 40
"""Tasks whose names the browser measures, again and again, to make room for them; for more the room is what the longest
needs."""
_MOST = 150
"""Tasks of a matrix: of more, nobody reads the names."""


def matrix(result: DiscoveryResult, graph: TransferGraph) -> str:
    """The HTML of the section: a cell for each pair, sources as rows and targets as columns."""
    edges = graph.told_edges(guessed=True)
    cannot = list(graph.impossible.items())
    tasks = _chosen(graph, edges)
    few = ""
    if len(tasks) < len(graph.task_ids):
        few = f" Of {number(len(graph.task_ids))} tasks the {len(tasks)} of which most is known are here."
        own = set(tasks)
        edges = strongest([e for e in edges if e.source in own and e.target in own], len(tasks))
        cannot = [(pair, why) for pair, why in cannot if own.issuperset(pair)]
    if not edges and not cannot:
        return note("No pair of tasks has been measured or estimated yet, so the matrix is empty.")
    index = {task: n for n, task in enumerate(tasks)}
    measured = [e for e in edges if e.evidence is Evidence.MEASURED]
    guessed = [e for e in edges if e.evidence is not Evidence.MEASURED]
    limit = max(0.2, *(abs(e.transfer_coefficient) for e in edges), 0)

    def text(edge: TransferEdge) -> str:
        count = result.repeats.get(edge.found_by) if edge.evidence is Evidence.MEASURED else None
        return describe(graph, edge) + (f"<br>{count} seeds" if count is not None else "")

    cells: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
    texts = [[""] * len(tasks) for _ in tasks]
    for edge in measured:
        cells[index[edge.source]][index[edge.target]] = edge.transfer_coefficient
        texts[index[edge.source]][index[edge.target]] = text(edge)
    traces = [_cells(cells, texts)]
    if len(guessed) > _DOTS:
        small: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
        said = [[""] * len(tasks) for _ in tasks]
        for edge in guessed:
            small[index[edge.source]][index[edge.target]] = edge.transfer_coefficient
            said[index[edge.source]][index[edge.target]] = text(edge)
        traces.append(_cells(small, said, gap=(3, 18)))
    else:
        traces.append(
            go.Scatter(
                x=[index[e.target] for e in guessed], y=[index[e.source] for e in guessed], mode="markers",
                marker={"size": 9, "color": [e.transfer_coefficient for e in guessed], "coloraxis": "coloraxis",
                        "line": {"width": 1, "color": color("muted")}},
                text=[text(e) for e in guessed], hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    if cannot:
        traces.append(
            go.Scatter(
                x=[index[target] for (_, target), _ in cannot], y=[index[source] for (source, _), _ in cannot],
                mode="markers", marker={"size": 8, "symbol": "x-thin", "line": {"width": 1.5, "color": color("muted")}},
                text=[
                    f"<b>{short(source, 40)} → {short(target, 40)}</b><br>cannot be tried:<br>{_lines(reason)}"
                    for (source, target), reason in cannot
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    certain = [e for e in measured if e.low is not None and e.high is not None and (e.low > 0 or e.high < 0)]
    traces.append(
        go.Scatter(
            x=[index[e.target] for e in certain], y=[index[e.source] for e in certain], mode="text", hoverinfo="skip",
            text=["+" if e.transfer_coefficient > 0 else "−" for e in certain],
            textfont={"size": 14, "color": [_over(e.transfer_coefficient / limit) for e in certain]},
        )
    )  # fmt: skip
    ticks = {"tickvals": list(range(len(tasks))), "ticktext": [short(task, 18) for task in tasks]}
    axis = {**ticks, "showgrid": False, "constrain": "domain"}
    room = {}
    if len(tasks) > _MEASURED_NAMES:
        axis["automargin"] = False
        room["margin"] = {"l": 124, "r": 12, "t": 124, "b": 8}
    made = figure(
        traces,
        **room,
        xaxis={**axis, "side": "top", "tickangle": -90, "title": {"text": "target"}, "range": [-0.5, len(tasks) - 0.5]},
        yaxis={**axis, "title": {"text": "source"}, "range": [len(tasks) - 0.5, -0.5]},
        coloraxis={
            "colorscale": _SCALE, "cmin": -limit, "cmid": 0, "cmax": limit,
            "colorbar": {"orientation": "h", "thickness": 10, "len": 0.6, "y": 0, "yanchor": "top", "ypad": 16,
                         "outlinewidth": 0, "title": {"text": "transfer coefficient", "side": "bottom"}},
        },
    )  # fmt: skip
    lead = (
        '<p class="lead">Each row is a task learned first, each column the task learned after it. A full cell was '
        "measured; a small one was only estimated or predicted; where there is a cross, transfer cannot be tried; an "
        "empty cell is not known. The sign + or − stands where the whole 95\u00a0% interval lies on one side of zero: "
        f"{len(certain)} of {len(measured)} measured pairs.{few}</p>"
    )
    label = (
        f"Matrix of transfer coefficients, {len(measured)} measured, {len(guessed)} only estimated or predicted, "
        f"{len(cannot)} impossible"
    )
    return lead + view(plot(made, "", label, 260 + 30 * max(6, len(tasks)))) + _tables(measured, graph)


def _cells(values: list[list[float | None]], texts: list[list[str]], gap: tuple[int, int] = (2, 2)) -> go.Heatmap:
    """Values as coloured cells, so many pixels apart."""
    return go.Heatmap(
        z=values, text=texts, coloraxis="coloraxis", xgap=gap[0], ygap=gap[1], hoverongaps=False,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _chosen(graph: TransferGraph, edges: list[TransferEdge]) -> list[str]:
    """The tasks of the matrix, in the order of the graph: of too many those with the most measured edges, then with the
    strongest.
    """
    if len(graph.task_ids) <= _MOST:
        return graph.task_ids
    measured = Counter(end for e in edges if e.measured for end in (e.source, e.target))
    strength: dict[str, float] = dict.fromkeys(graph.task_ids, 0.0)
    for edge in edges:
        for end in (edge.source, edge.target):
            strength[end] += abs(edge.transfer_coefficient)
    ranked = sorted(graph.task_ids, key=lambda task: (-measured[task], -strength[task]))
    kept = set(ranked[:_MOST])
    return [task for task in graph.task_ids if task in kept]


def _tables(measured: list[TransferEdge], graph: TransferGraph) -> str:
    """What was measured, and what cannot be tried, in words."""
    shown = ""
    if measured:
        rows = [
            (
                f"{escape(e.source)} → {escape(e.target)}",
                interval(e.transfer_coefficient, e.low, e.high, signed=True),
                "–"
                if e.accuracy_gain is None
                else interval(e.accuracy_gain, e.accuracy_gain_low, e.accuracy_gain_high, signed=True),
            )
            for e in sorted(measured, key=lambda e: -e.transfer_coefficient)
        ]
        caption = f"{number(len(rows))} measured pairs"
        shown += details(caption, table(caption, ("Pair", "Coefficient", "Gain in the metric"), rows))
    if graph.impossible:
        pairs = [(f"{escape(a)} → {escape(b)}", escape(reason)) for (a, b), reason in graph.impossible.items()]
        caption = f"{number(len(pairs))} pairs between which transfer cannot be tried"
        shown += details(caption, table(caption, ("Pair", "Why"), pairs))
    return shown


def _lines(text: str) -> str:
    """A long sentence over several lines of a tooltip."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, 44, max_lines=5, placeholder=" …"))


def _over(strength: float) -> str:
    """The colour of a sign on a cell: both ends of the scale are strong."""
    return color("on_strong" if abs(strength) > 0.6 else "ink")
