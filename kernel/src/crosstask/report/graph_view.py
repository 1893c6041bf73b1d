"""The transfer graph: who helps whom, with a threshold, buttons for relations, and one task at a time on request.

What was measured is drawn first; estimates and predictions wait behind a switch where there is something measured, and
pairs between which transfer cannot be tried are not drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import Point, bent, color, places
from crosstask.graph import RelationType, TransferEdge, TransferGraph
from crosstask.report.figures import dropdown, figure, legend, plot, view
from crosstask.report.page import details, escape, interval, note, number, short, table, words
from crosstask.showing import times

_POINTS = 9  # of the curve of an edge
_MIDDLE = slice(3, 6)
MOST = 4000
"""Edges that a figure holds: a page with more is too large to open, and nobody sees them apart."""
Places = dict[str, Point]


def render(graph: TransferGraph, seed: int = 0) -> str:
    """The graph as HTML. `seed` decides where its tasks are drawn."""
    edges = graph.told_edges(guessed=True)
    tasks = graph.task_ids
    if not edges:
        return note("No relation between tasks has been discovered yet, so there is no graph to draw.")
    every, edges = len(edges), strongest(edges, len(tasks))
    shown = strongest(graph.told_edges(), len(tasks))
    among = {(edge.source, edge.target) for edge in shown}
    guessed = sum((edge.source, edge.target) not in among for edge in edges)
    series = {
        f"relation {relation.value}": (_counted(relation, shown, edges), relation.value, "solid")
        for relation in RelationType
        if any(edge.relation is relation for edge in edges)
    }
    start = _threshold(shown, len(tasks))
    slider = (
        f'<label>Least strength <input type="range" min="0" max="1" step="0.01" value="{start:g}" '
        'aria-label="Hide edges whose coefficient is nearer to zero than this"></label>'
    )
    choices = {"": ("all tasks", ""), **{str(n): (task, "") for n, task in enumerate(tasks)}}
    focus = dropdown("focus", "Edges of", choices)
    switch = (
        '<label><input type="checkbox" class="switch" data-series="guessed"> '
        f"also {number(guessed)} that were only estimated or predicted</label>"
        if guessed
        else ""
    )
    controls = f'<div class="controls">{slider}{focus}{switch}<output aria-live="polite"></output></div>'
    at = places(tasks, {(e.source, e.target): e.transfer_coefficient for e in shown}, seed)
    made = figure(
        [*_edge_traces(graph, edges, at), _task_trace(graph, at)],
        xaxis={"visible": False, "range": [-1.04, 1.04]},
        yaxis={"visible": False, "range": [-1.08, 1.16]},
        margin={"l": 52, "r": 52, "t": 0, "b": 0},
        hoverdistance=14,
    )
    label = f"Graph of {len(tasks)} tasks and {len(edges)} transfer edges. The table below lists the strongest."
    measured = any(edge.measured for edge in edges)
    kinds = (
        "Solid edges were measured; dotted ones, if you ask for them, were only estimated or predicted."
        if measured
        else "<strong>Nothing here was measured: every edge is an estimate or a prediction.</strong>"
    )
    left = len(graph.impossible)
    cannot = f" {number(left)} pairs between which transfer cannot be tried are left out." if left else ""
    cannot += f" Of {number(every)} edges the strongest into each task are here." if every > len(edges) else ""
    lead = (
        '<p class="lead">An arrow runs from the task that was learned first to the one that it helps or hurts; the '
        f"wider, the stronger. {kinds}{cannot} Point at a task or an edge for its numbers, or go there with the arrow "
        'keys; click a task, or press Enter on it, to see its edges alone.</p><p class="note marked" hidden></p>'
    )
    drawn = view(controls, legend(series), plot(made, "", label, 620), classes="halo")
    return f"<div>{lead}{drawn}{_strongest(graph)}</div>"


def strongest(edges: Sequence[TransferEdge], tasks: int, most: int = MOST) -> list[TransferEdge]:
    """All edges, or where these are more than `most`, as many of the strongest into each task; measured ones first."""
    if len(edges) <= most:
        return list(edges)
    left = Counter({edge.target: max(3, most // max(1, tasks)) for edge in edges})
    kept = []
    for edge in sorted(edges, key=lambda e: (not e.measured, -abs(e.transfer_coefficient), e.source)):
        if left[edge.target] > 0:
            left[edge.target] -= 1
            kept.append(edge)
    return kept


def _counted(relation: RelationType, shown: Sequence[TransferEdge], edges: Sequence[TransferEdge]) -> str:
    here, all_ = (sum(edge.relation is relation for edge in each) for each in (shown, edges))
    return f"{words(relation.value)} {here}" + (f" (+{all_ - here})" if all_ > here else "")


def _threshold(edges: Sequence[TransferEdge], tasks: int) -> float:
    """Hide so much that about three edges for each task remain: more is a hairball, whatever the layout."""
    ranked = sorted((abs(e.transfer_coefficient) for e in edges), reverse=True)
    return 0.0 if len(ranked) <= 3 * tasks else math.ceil(ranked[3 * tasks] * 100) / 100


def _edge_traces(graph: TransferGraph, edges: Sequence[TransferEdge], at: Places) -> list[go.Scatter]:
    """One trace for all edges that look alike: a line's width and dash belong to its trace."""
    index = {task: n for n, task in enumerate(graph.task_ids)}
    switched = any(edge.measured for edge in edges)
    alike: dict[tuple[int, bool, RelationType], list[TransferEdge]] = {}
    for edge in edges:
        level = round(5 * abs(edge.transfer_coefficient))
        alike.setdefault((level, edge.measured, edge.relation), []).append(edge)
    lines, arrows = [], []
    for (level, measured, relation), group in sorted(alike.items(), key=lambda item: item[0][0]):
        curves = [bent(at[edge.source], at[edge.target], _POINTS) for edge in group]
        meta = {
            "series": [f"relation {relation.value}", *(["guessed"] if switched and not measured else [])],
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


def _joined(curves: list[list[Point]]) -> dict[str, list[float | None]]:
    """The coordinates of several curves in one trace, with a gap after each."""
    axes: dict[str, list[float | None]] = {"x": [], "y": []}
    for curve in curves:
        for name, values in zip(axes, zip(*curve, strict=True), strict=True):
            axes[name] += [*values, None]
    return axes


def describe(graph: TransferGraph, edge: TransferEdge) -> str:
    """What is known of a pair: its strongest edge first, then what else was found of it."""
    coefficient = interval(edge.transfer_coefficient, edge.low, edge.high, signed=True)
    lines = [
        f"<b>{short(edge.source, 40)} → {short(edge.target, 40)}</b>",
        f"coefficient {coefficient}" + ("" if edge.measured else f", only {edge.evidence.value}"),
        f"{words(edge.relation.value)}, {edge.evidence.value}"
        + (f" by {escape(edge.found_by)}" if edge.found_by else ""),
    ]
    if edge.accuracy_gain is not None:
        gain = interval(edge.accuracy_gain, edge.accuracy_gain_low, edge.accuracy_gain_high, signed=True)
        lines.append(f"{gain} gain in the metric")
    # beside a gain that may be none, a ratio of steps says nothing
    if edge.helps and (edge.accuracy_gain_low is None or edge.accuracy_gain_low > 0):
        if edge.convergence_speed_gain is not None:
            lines.append(f"{times(edge.convergence_speed_gain, edge.speed_capped)} as fast to what scratch ends with")
        if edge.sample_efficiency_gain is not None:
            lines.append(f"{times(edge.sample_efficiency_gain)} fewer samples")
    if edge.best_strategy:
        lines.append(f"best strategy {escape(edge.best_strategy)}")
    lines += [
        f"also {number(e.transfer_coefficient, signed=True)}, {e.evidence.value} by {escape(e.found_by)}"
        for e in graph.evidence(edge.source, edge.target)
        if e is not edge
    ]
    return "<br>".join(lines)


def _task_trace(graph: TransferGraph, at: Places) -> go.Scatter:
    given = graph.centrality()
    most = max(given.values()) or 1.0
    told = graph.told_edges()
    into: dict[str, list[TransferEdge]] = {}
    for edge in sorted(told, key=lambda e: (-e.transfer_coefficient, e.source)):
        if edge.transfer_coefficient > 0:
            into.setdefault(edge.target, []).append(edge)
    cannot = Counter(target for _, target in graph.impossible)
    texts = []
    for task in graph.task_ids:
        known = graph.task(task)
        sources = [
            f"{short(e.source)} {interval(e.transfer_coefficient, e.low, e.high, signed=True)}"
            + ("" if e.measured else f", {e.evidence.value}")
            for e in into.get(task, [])[:3]
        ]
        lines = [
            f"<b>{short(known.task_name, 40)}</b>",
            f"{escape(words(known.task_type))}, domain {escape(known.domain)}",
            f"skills: {escape(', '.join(known.required_skills)) or '–'}",
            f"training samples: {number(known.sample_count)}",
            "best sources:" if sources else "nothing is known to help it",
            *sources,  # a line each: a phone is narrow
            *([f"{cannot[task]} tasks cannot be its source"] if cannot[task] else []),
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


def _strongest(graph: TransferGraph) -> str:
    """A table of the strongest edges: the measured ones if there are any."""
    index = {task: n for n, task in enumerate(graph.task_ids)}
    ranked = sorted(graph.told_edges(), key=lambda e: e.transfer_coefficient, reverse=True)
    helping = [e for e in ranked if e.transfer_coefficient > 0][:10]
    hurting = [e for e in reversed(ranked) if e.transfer_coefficient < 0][:5]
    rows = [
        (
            f'<button type="button" class="link" data-focus="{index[e.target]}">'
            f"{escape(e.source)} → {escape(e.target)}</button>",
            interval(e.transfer_coefficient, e.low, e.high, signed=True),
            "–"
            if e.accuracy_gain is None
            else interval(e.accuracy_gain, e.accuracy_gain_low, e.accuracy_gain_high, signed=True),
            words(e.relation.value),
            e.evidence.value,
        )
        for e in [*helping, *hurting]
    ]
    head = ("Edge", "Coefficient", "Gain in the metric", "Relation", "Evidence")
    hint = note("Press an edge to see in the graph all that helps or hurts its target.")
    return details("The strongest edges as a table", table("What helps most, and what hurts most", head, rows) + hint)
