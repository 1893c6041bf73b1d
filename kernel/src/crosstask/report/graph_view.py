"""The transfer graph: who helps whom, with a threshold, buttons for relations, and one task at a time on request."""

from __future__ import annotations

import math
from collections import Counter

import networkx as nx
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.graph import RelationType, TransferEdge, TransferGraph
from crosstask.report.figures import dropdown, figure, legend, plot, view
from crosstask.report.page import color, details, escape, interval, note, number, short, table, words

_POINTS = 9  # of the curve of an edge
_MIDDLE = slice(3, 6)
Places = dict[str, tuple[float, float]]


def render(graph: TransferGraph, seed: int = 0) -> str:
    """The graph as HTML. `seed` decides where its tasks are drawn."""
    edges = list(graph.edges())
    if not edges:
        return note("No relation between tasks has been discovered yet, so there is no graph to draw.")
    tasks = graph.task_ids
    used = Counter(edge.relation for edge in edges)
    series = {
        f"relation {relation.value}": (f"{words(relation.value)} {used[relation]}", relation.value, "solid")
        for relation in RelationType
        if relation in used
    }
    for name, wanted, dash in (("measured", True, "solid"), ("estimated", False, "dot")):
        if any(edge.measured is wanted for edge in edges):
            series[name] = (name, "muted", dash)
    start = _threshold(edges, len(tasks))
    slider = (
        f'<label>Least strength <input type="range" min="0" max="1" step="0.01" value="{start:g}" '
        'aria-label="Hide edges whose coefficient is nearer to zero than this"></label>'
    )
    choices = {"": ("all tasks", ""), **{str(n): (task, "") for n, task in enumerate(tasks)}}
    focus = dropdown("focus", "Edges of", choices)
    controls = f'<div class="controls">{slider}{focus}<output aria-live="polite"></output></div>'
    at = _positions(graph, seed)
    made = figure(
        [*_edge_traces(graph, edges, at), _task_trace(graph, at)],
        xaxis={"visible": False, "range": [-1.04, 1.04]},
        yaxis={"visible": False, "range": [-1.08, 1.16]},
        margin={"l": 52, "r": 52, "t": 0, "b": 0},
        hoverdistance=14,
    )
    label = f"Graph of {len(tasks)} tasks and {len(edges)} transfer edges. The table below lists the strongest."
    lead = (
        '<p class="lead">An arrow runs from the task that was learned first to the one that it helps or hurts; the '
        "wider, the stronger. Point at a task or an edge for its numbers; click a task to see its edges alone.</p>"
    )
    return lead + view(controls, legend(series), plot(made, "", label, 620), classes="halo") + _strongest(edges)


def _threshold(edges: list[TransferEdge], tasks: int) -> float:
    """Hide so much that about three edges for each task remain: more is a hairball, whatever the layout."""
    ranked = sorted((abs(e.transfer_coefficient) for e in edges), reverse=True)
    return 0.0 if len(ranked) <= 3 * tasks else math.ceil(ranked[3 * tasks] * 100) / 100


def _positions(graph: TransferGraph, seed: int) -> Places:
    """Tasks that help one another lie near one another; spread so that they fill the square from -1 to 1."""
    pull = nx.Graph()
    pull.add_nodes_from(graph.task_ids)
    for edge in graph.edges():
        # the fourth power: nearly every pair helps a little, and only what stands out should shape the picture
        strength = max(0.0, edge.transfer_coefficient) ** 4 + 0.01
        known = pull.get_edge_data(edge.source, edge.target, {"weight": 0.0})["weight"]
        pull.add_edge(edge.source, edge.target, weight=known + strength)
    spring = nx.spring_layout(pull, weight="weight", seed=seed, iterations=300, k=2.2 / math.sqrt(len(pull)))
    spread: list[list[float]] = []
    for axis in (0, 1):
        values = [float(spring[task][axis]) for task in graph.task_ids]
        low, high, ranked = min(values), max(values), sorted(values)
        # half way to even spacing: a lone outlier would otherwise press all others, and their names, together
        spread.append(
            [(v - low) / (high - low) + ranked.index(v) / (len(values) - 1) - 1 if high > low else 0.0 for v in values]
        )
    return {task: (x, y) for task, x, y in zip(graph.task_ids, *spread, strict=True)}


def _edge_traces(graph: TransferGraph, edges: list[TransferEdge], at: Places) -> list[go.Scatter]:
    """One trace for all edges that look alike: a line's width and dash belong to its trace."""
    index = {task: n for n, task in enumerate(graph.task_ids)}
    alike: dict[tuple[int, bool, RelationType], list[TransferEdge]] = {}
    for edge in edges:
        level = round(5 * abs(edge.transfer_coefficient))
        alike.setdefault((level, edge.measured, edge.relation), []).append(edge)
    lines, arrows = [], []
    for (level, measured, relation), group in sorted(alike.items(), key=lambda item: item[0][0]):
        curves = [_curve(at[edge.source], at[edge.target]) for edge in group]
        meta = {
            "series": [f"relation {relation.value}", "measured" if measured else "estimated"],
            "edges": [[abs(e.transfer_coefficient), index[e.source], index[e.target]] for e in group],
        }
        paint = color(relation.value)
        lines.append(
            go.Scatter(
                **_joined(curves), mode="lines", hoverinfo="skip", opacity=0.85,
                line={"width": 1 + 0.9 * level, "color": paint, "dash": "solid" if measured else "dot"},
                meta={**meta, "span": _POINTS + 1},
            )
        )  # fmt: skip
        # The mouse finds the middle of an edge only: near its ends it would find it where the reader means the task.
        # The arrow stands on the last of these points and takes its angle from the one before, in pixels.
        arrows.append(
            go.Scatter(
                **_joined([curve[_MIDDLE] for curve in curves]), mode="markers",
                marker={
                    "symbol": "arrow", "angleref": "previous", "color": paint, "opacity": 1,
                    "size": [0, 0, 10 + 1.4 * level, 0] * len(group), "line": {"width": 0},
                },
                text=[describe(graph, edge) for edge in group], hovertemplate="%{text}<extra></extra>",
                meta={**meta, "span": 4},
            )
        )  # fmt: skip
    return [*lines, *arrows]


def _curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points from start to end, bent to the left, so that the edge back, bent to its own left, lies beside it."""
    (x0, y0), (x1, y1) = start, end
    bx, by = (x0 + x1) / 2 - 0.14 * (y1 - y0), (y0 + y1) / 2 + 0.14 * (x1 - x0)
    return [
        (
            round((1 - t) ** 2 * x0 + 2 * t * (1 - t) * bx + t**2 * x1, 3),
            round((1 - t) ** 2 * y0 + 2 * t * (1 - t) * by + t**2 * y1, 3),
        )
        for t in (n / (_POINTS - 1) for n in range(_POINTS))
    ]


def _joined(curves: list[list[tuple[float, float]]]) -> dict[str, list[float | None]]:
    """The coordinates of several curves in one trace, with a gap after each."""
    axes: dict[str, list[float | None]] = {"x": [], "y": []}
    for curve in curves:
        for name, values in zip(axes, zip(*curve, strict=True), strict=True):
            axes[name] += [*values, None]
    return axes


def describe(graph: TransferGraph, edge: TransferEdge) -> str:
    """What is known of a pair: its strongest edge first, then what else was found of it."""
    coefficient = interval(edge.transfer_coefficient, edge.low, edge.high, signed=True)
    gains = {
        "{} gain in the metric": number(edge.accuracy_gain, signed=True),
        "{} times faster": number(edge.convergence_speed_gain),
        "{} times fewer samples": number(edge.sample_efficiency_gain),
    }
    lines = [
        f"<b>{short(edge.source, 40)} → {short(edge.target, 40)}</b>",
        f"coefficient {coefficient}",
        f"{words(edge.relation.value)}, {edge.evidence.value}"
        + (f" by {escape(edge.found_by)}" if edge.found_by else ""),
        *(name.format(value) for name, value in gains.items() if value != "–"),
    ]
    if edge.best_strategy:
        lines.append(f"best strategy {escape(edge.best_strategy)}")
    pair = graph.networkx[edge.source][edge.target].values()
    lines += [
        f"also {number(e.transfer_coefficient, signed=True)}, {e.evidence.value} by {escape(e.found_by)}"
        for e in (data["edge"] for data in pair)
        if e is not edge
    ]
    return "<br>".join(lines)


def _task_trace(graph: TransferGraph, at: Places) -> go.Scatter:
    given = graph.centrality()
    most = max(given.values()) or 1.0
    texts = []
    for task in graph.task_ids:
        known = graph.task(task)
        sources = [
            f"{short(e.source)} {number(e.transfer_coefficient, signed=True)}" for e in graph.best_sources(task, 3)
        ]
        lines = [
            f"<b>{short(known.task_name, 40)}</b>",
            f"{escape(words(known.task_type))}, domain {escape(known.domain)}",
            f"skills: {escape(', '.join(known.required_skills)) or '–'}",
            f"training samples: {number(known.sample_count)}",
            "best sources:" if sources else "nothing is known to help it",
            *sources,  # a line each: a phone is narrow
        ]
        texts.append("<br>".join(lines))
    return go.Scatter(
        x=[at[task][0] for task in graph.task_ids],
        y=[at[task][1] for task in graph.task_ids],
        mode="markers+text",
        text=[short(task) for task in graph.task_ids],
        textposition="top center",
        cliponaxis=False,
        textfont={"size": 12, "color": color("ink")},
        marker={
            "size": [13 + 13 * given[task] / most for task in graph.task_ids],
            "color": color("ink"),
            "line": {"width": 2, "color": color("paper")},
            "opacity": 1,
        },
        hovertext=texts,
        hovertemplate="%{hovertext}<extra></extra>",
        meta={"tasks": True},
    )


def _strongest(edges: list[TransferEdge]) -> str:
    ranked = sorted(edges, key=lambda e: e.transfer_coefficient, reverse=True)
    helping = [e for e in ranked if e.transfer_coefficient > 0][:10]
    hurting = [e for e in reversed(ranked) if e.transfer_coefficient < 0][:5]
    rows = [
        (
            f"{escape(e.source)} → {escape(e.target)}",
            interval(e.transfer_coefficient, e.low, e.high, signed=True),
            words(e.relation.value),
            e.evidence.value,
        )
        for e in [*helping, *hurting]
    ]
    head = ("Edge", "Coefficient", "Relation", "Evidence")
    return details("The strongest edges as a table", table("What helps most, and what hurts most", head, rows))
