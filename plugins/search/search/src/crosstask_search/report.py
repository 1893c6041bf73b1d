"""Search: what was tried, the best so far, and whether the winner is worth it."""

from __future__ import annotations

import itertools

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.report.figures import dots, dots_height, figure, line, plot, view
from crosstask.report.page import details, escape, note, number, table, words
from crosstask_search.records import SearchResult, Trial

TITLE = "Search"


def render(done: SearchResult) -> str:
    """The HTML of the section."""
    winner = f" The best: <strong>{escape(_point(done.best))}</strong>." if done.best else ""
    failed = f" {done.failed} failed." if done.failed else ""
    lead = (
        f'<p class="lead">{escape(done.search)} tried {len(done.trials)} networks for '
        f"<strong>{escape(done.task_id or 'its objective')}</strong>, {done.evaluated} of them different, in "
        f"{done.seconds:.0f} s, {done.proposal_seconds:.1f} s of it to choose them.{failed}{winner}</p>"
    )
    metric = words(done.metric or "value")
    tried = sorted((trial for trial in done.trials if trial.value is not None), key=lambda trial: trial.number)
    points = go.Scatter(
        x=[trial.number + 1 for trial in tried], y=[trial.value for trial in tried], mode="markers", name="trial",
        marker={"size": 7, "color": color("less")}, meta={"series": ["trial"]},
        text=[escape(_point(trial)) for trial in tried], hovertemplate="%{text}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    # by the number of the trial, as the points are: `curve` counts the trials in the order in which they ended
    best = list(itertools.accumulate((trial.value for trial in tried if trial.value is not None), max))
    so_far = line([trial.number + 1 for trial in tried], best, "best so far", "more").update(line_shape="hv")
    axis = {"title": {"text": "trials"}, "rangemode": "tozero", "showgrid": False}
    made = figure([points, so_far], xaxis=axis, yaxis={"title": {"text": escape(f"{metric} on validation")}})
    figures = [plot(made, "Trials, and the best so far", "Value of each trial and the best so far", 300)]
    judged = [("found", "more", done.score), ("default", "less", done.default_score)]
    rows = [(name, [(metric, role, value)]) for name, role, value in judged if value is not None]
    if rows:
        caption = f"The best beside the default, on the {done.split} split"
        figures.append(plot(dots(rows, metric), caption, caption, dots_height(rows)))
    head = ("Trial", "Point", escape(metric.capitalize()), "")
    cells = [
        (str(t.number + 1), escape(_point(t)), number(t.value) if t.value is not None else "–", escape(t.error or ""))
        for t in done.trials
    ]
    starts = "".join(
        note(f"Tried first, because it did well on {escape(w.source)}: {escape(_values(w.point))}.")
        for w in done.warm_starts
    )
    return lead + starts + view(*figures, grid=True) + details("All trials", table("Trials", head, cells))


def _point(trial: Trial) -> str:
    return _values(trial.point)


def _values(point: dict[str, object]) -> str:
    # significant digits, not decimals: the rate 0.0003 is not 0
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in point.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
