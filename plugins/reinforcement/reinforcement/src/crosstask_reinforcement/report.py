"""Learning curves of tasks learned together, and the matrix of transfer between tasks learned alone."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.points.stage import Section
from crosstask.report.figures import dots, dots_height, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, short, spread, table
from crosstask_reinforcement.records import MeasuredTransfer, ReinforcementResult

_SCALE = [[n / 4, color(role)] for n, role in enumerate(("less", "slightly_less", "neither", "slightly_more", "more"))]
_STEPS = {"title": {"text": "environment steps"}, "rangemode": "tozero", "showgrid": False}


def sections(done: ReinforcementResult) -> list[Section]:
    """What was learned together; then, where it was measured, what transfers."""
    found = [Section("Reinforcement learning", _together(done))]
    if done.transfers:
        found.append(Section("Transfer by acting", _transfers(done)))
    return found


def _together(done: ReinforcementResult) -> str:
    lead = (
        f'<p class="lead">{number(len(done.tasks))} tasks learned together by <strong>{escape(done.agent)}</strong>: '
        f"all solved in {done.all_solved} of {done.seeds} seeds, within {number(done.steps)} environment steps of all "
        "tasks together.</p>"
    )
    traces, shown = [], {}
    for place, task in enumerate(done.tasks):
        role, dash = style(place)
        curve = done.mean_curve(task)
        traces.append(line(curve.steps, curve.values, task, role, dash))
        shown[task] = (task, role, dash)
    levels = sorted(set(done.levels.values()))
    marks = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
         "line": {"color": color("muted"), "width": 1, "dash": "dot"}}
        for level in levels
    ]  # fmt: skip
    made = figure(traces, xaxis=_STEPS, yaxis={"title": {"text": "mean return"}}, shapes=marks)
    caption = f"Mean return of {done.episodes} greedy episodes, mean over seeds; dotted: from where a task is solved"
    rows = [
        (
            escape(task),
            spread(done.returns[task]),
            number(done.levels.get(task)),
            f"{done.solved[task]} of {done.seeds}",
            number(done.steps_to_solve[task]),
        )
        for task in done.tasks
    ]
    head = ("Task", "Return at the end", "Solved from", "Seeds that solved it", "Steps until it stayed so")
    return (
        lead
        + "".join(note(escape(each)) for each in done.notes)
        + view(legend(shown), plot(made, caption, caption, 340))
        + table("Greedy episodes at the end of training", head, rows)
    )


def _transfers(done: ReinforcementResult) -> str:
    what = "what tasks share" if done.transferred == "shared" else "all of the network that fits"
    lead = (
        f'<p class="lead">Each task learned alone, from scratch and from another task\'s weights ({what}). The '
        "coefficient is the share of environment steps that were saved until the return was reached; below zero it "
        "took longer.</p>"
    )
    rows = [
        (f"{m.source} → {m.target}", [("coefficient", "more" if m.coefficient.mean >= 0 else "less", m.coefficient)])
        for m in done.transfers
    ]
    caption = "Share of steps saved, with 95 % intervals over seeds"
    parts = [
        plot(_matrix(done.transfers), "Transfer matrix", "Transfer matrix of the tasks", 380),
        plot(dots(rows, "coefficient", signed=True), caption, caption, dots_height(rows, 1)),
    ]
    cells = [
        (
            f"{escape(m.source)} → {escape(m.target)}",
            _steps(m.steps),
            _steps(m.scratch_steps),
            ("≥ " if m.speed_capped and m.speed_gain is not None else "") + number(m.speed_gain),
            spread(m.coefficient, signed=True),
        )
        for m in done.transfers
    ]
    head = ("Pair", "Steps with the source", "Steps from scratch", "Times faster", "Coefficient")
    levels = ", ".join(sorted({number(m.level) for m in done.transfers}))
    return (
        lead + view(*parts, grid=True) + table(f"Environment steps to a mean return of {levels}, by seed", head, cells)
    )


def _steps(found: tuple[int | None, ...]) -> str:
    return ", ".join("never" if each is None else number(each) for each in found)


def _matrix(measured: tuple[MeasuredTransfer, ...]) -> Any:
    """Sources as rows, targets as columns."""
    tasks = list(dict.fromkeys(end for m in measured for end in (m.source, m.target)))
    index = {task: place for place, task in enumerate(tasks)}
    cells: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
    texts = [[""] * len(tasks) for _ in tasks]
    for m in measured:
        cells[index[m.source]][index[m.target]] = m.coefficient.mean
        texts[index[m.source]][index[m.target]] = (
            f"<b>{short(m.source)} → {short(m.target)}</b><br>{spread(m.coefficient, signed=True)}"
        )
    ticks = {"tickvals": list(range(len(tasks))), "ticktext": [short(task, 18) for task in tasks]}
    axis = {**ticks, "showgrid": False}
    return figure(
        [
            go.Heatmap(
                z=cells, text=texts, coloraxis="coloraxis", xgap=2, ygap=2, hoverongaps=False,
                hovertemplate="%{text}<extra></extra>",
            )
        ],
        xaxis={**axis, "side": "top", "title": {"text": "target"}, "range": [-0.5, len(tasks) - 0.5]},
        yaxis={**axis, "title": {"text": "source"}, "range": [len(tasks) - 0.5, -0.5]},
        coloraxis={"colorscale": _SCALE, "cmin": -1, "cmid": 0, "cmax": 1, "colorbar": {"thickness": 10}},
    )  # fmt: skip
