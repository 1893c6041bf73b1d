"""Few-shot learning: what meta-training made of the accuracy on episodes of classes or tasks never seen."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.records import Interval, RunRecord
from crosstask.report.figures import dots, dots_height, figure, line, plot, view
from crosstask.report.page import escape, note

TITLE = "Few-shot learning"


def render(record: RunRecord, graph: TransferGraph) -> str:
    done = record.few_shot
    if done is None:
        return note("No meta-learner was trained in this run.")
    lead = (
        f'<p class="lead"><strong>{escape(done.learner)}</strong> learned from {done.ways}-way {done.shots}-shot '
        f"episodes of {escape(', '.join(done.train))}, and was judged on those of {escape(', '.join(done.test))}, "
        f"{done.held_out} it had never seen.</p>"
    )
    chance = Interval(mean=done.chance, low=done.chance, high=done.chance)
    rows = [
        ("meta-trained", [("accuracy", "more", done.accuracy)]),
        ("before meta-training", [("accuracy", "less", done.untrained_accuracy)]),
        ("guessing", [("accuracy", "less", chance)]),
    ]
    figures = [plot(dots(rows, "accuracy"), "Accuracy on test episodes", "Accuracy of each", dots_height(rows))]
    if done.curve.steps:
        axis = {"title": {"text": "meta-steps"}, "rangemode": "tozero", "showgrid": False}
        trace = line(done.curve.steps, done.curve.values, "accuracy on training episodes", "more")
        made = figure([trace], xaxis=axis, yaxis={"title": {"text": "accuracy"}})
        figures.append(plot(made, "Meta-training", "Accuracy on training episodes over meta-steps", 240))
    return lead + view(*figures, grid=True)
