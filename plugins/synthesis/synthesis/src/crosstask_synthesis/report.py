"""The model for the unseen task: from which tasks it was made, and how it compares with real training."""

from __future__ import annotations

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import color
from crosstask.records import Interval
from crosstask.report.figures import dots_height, figure, plot, view
from crosstask.report.page import details, escape, note, number, short, words
from crosstask_synthesis.records import SynthesisResult

TITLE = "Zero-shot synthesis"
_FEW = 3


def render(done: SynthesisResult) -> str:
    """The HTML of the section."""
    made = done.provenance
    confidence = f" The method's own confidence is {number(made.confidence)}." if made.confidence is not None else ""
    lead = (
        f'<p class="lead">A model for <strong>{escape(done.task_id)}</strong>, which the run never trained on, '
        f"was made by {escape(words(made.strategy))}.{confidence}</p>"
    )
    sources = sorted(made.sources.items(), key=lambda item: -abs(item[1]))
    metric = words(done.metric or "score")
    expected = made.expected
    scores = {
        "expected beforehand": None if expected is None else expected.mean,
        "synthesised, no training": done.score,
        "trained in full": done.full_training_score,
        "most frequent answer": done.chance,
    }
    known = {name: value for name, value in scores.items() if value is not None}
    figures = []
    if sources:
        figures.append(_bars(dict(sources), "weight", "What it was made from", "Weight of each source task"))
    if known:
        label = ", ".join(f"{name} {number(value)}" for name, value in known.items())
        caption = f"{metric.capitalize()} on the test split"
        if expected is not None:
            label += f"; 95 % interval of what was expected: {number(expected.low)} to {number(expected.high)}"
            caption += ", beside what was expected with its 95 % interval"
        figures.append(_bars(known, metric, caption, label, expected))
    judged = done.score is not None or done.full_training_score is not None
    nothing = "" if judged else note("The unseen task has no test split, so the model could not be judged.")
    if done.learned_nothing:
        told = f"{number(done.score)}, is no better than always giving the most frequent answer ({number(done.chance)})"
        nothing += note(f"<strong>The model knows nothing of the task:</strong> its score, {told}.")
    remarks = "".join(note(escape(remark)) for remark in made.notes)
    if len(made.notes) > _FEW:
        remarks = details(f"{len(made.notes)} notes on how it was made", remarks)
    return lead + view(*figures, grid=True) + nothing + remarks


def _bars(values: dict[str, float], axis: str, caption: str, label: str, first: Interval | None = None) -> str:
    """A bar for each value; `first` is the interval of the first one."""
    reach = {
        "type": "data", "symmetric": False, "visible": first is not None, "color": color("muted"), "thickness": 1.5,
        "array": [None if first is None or n else first.high - first.mean for n in range(len(values))],
        "arrayminus": [None if first is None or n else first.mean - first.low for n in range(len(values))],
    }  # fmt: skip
    bars = go.Bar(
        x=list(values.values()), y=list(range(len(values))), orientation="h", width=0.5, error_x=reach,
        marker={"color": color("more"), "cornerradius": 3},
        text=[number(float(value)) for value in values.values()], textposition="auto",
        insidetextanchor="end" if first is None else "start",  # at its end the interval would cross it
        hovertext=[escape(name) for name in values], hovertemplate="%{hovertext}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    made = figure(
        [bars],
        xaxis={"title": {"text": escape(axis)}, "rangemode": "tozero", "zeroline": True},
        yaxis={
            "tickvals": list(range(len(values))), "ticktext": [short(name) for name in values],
            "range": [len(values) - 0.5, -0.5], "showgrid": False,
        },
    )  # fmt: skip
    return plot(made, caption, label, dots_height(values))
