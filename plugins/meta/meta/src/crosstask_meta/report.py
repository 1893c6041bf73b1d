"""The section of the report: what meta-training made of the accuracy on episodes of classes or tasks never seen."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, figure, line, plot, view
from crosstask.report.page import escape, note, number, spread
from crosstask_meta.records import FewShotResult


def section(done: FewShotResult) -> Section:
    lead = (
        f'<p class="lead"><strong>{escape(done.learner)}</strong> learned from {done.ways}-way {done.shots}-shot '
        f"episodes of {escape(', '.join(done.train))}, and was judged on those of {escape(', '.join(done.test))}, "
        f"{done.held_out} it had never seen.{_start(done)}</p>"
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
    if done.learned_nothing:
        told = f"{spread(done.accuracy)}, are not beyond doubt better than guessing ({number(done.chance)})"
        lead += note(f"<strong>Nothing was learned:</strong> the answers, {told}.")
    return Section("Few-shot learning", lead + view(*figures, grid=True))


def _start(done: FewShotResult) -> str:
    """Sentences on what the network was before, and what of it was trained; none for all of one that was drawn anew."""
    told = f" It started from {escape(done.start)}." if done.start else ""
    return told + (f" The network was frozen: {escape(done.adapter)} was trained on it." if done.adapter else "")
