"""Training tasks together: losses, weights and gradient conflicts as training went on, and what it was worth."""

from __future__ import annotations

from crosstask.records import Interval
from crosstask.report.figures import STEPS, dots, dots_height, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, words
from crosstask_multitask.records import MultiTaskResult

TITLE = "Multi-task training"


def render(done: MultiTaskResult) -> str:
    """The HTML of the section."""
    lead = (
        f'<p class="lead">{len(done.tasks)} tasks share one model ({escape(done.sharing)}); their gradients are '
        f"balanced by <strong>{escape(done.balancer)}</strong>.{_begun(done)}</p>"
    )
    looks = {task: style(n) for n, task in enumerate(done.tasks)}
    figures = []
    for caption, title, curves in (
        ("Loss of each task", "loss", done.losses),
        ("Weight of each task", "weight", done.weights),
    ):
        if curves:
            traces = [
                line(done.steps, values, task, *looks.get(task, ("ink", "solid"))) for task, values in curves.items()
            ]
            made = figure(traces, xaxis=STEPS, yaxis={"title": {"text": title}})
            figures.append(plot(made, caption, f"{caption} over optimiser steps", 320))
    parts = [lead, *(note(escape(each)) for each in done.notes)]
    if figures:
        parts.append(view(legend({task: (task, *look) for task, look in looks.items()}), *figures, grid=True))
    if done.conflicts:
        parts.append("<h3>Gradient conflicts</h3>")
        parts.append(
            view(
                *(
                    plot(
                        figure(
                            [line(done.steps, values, metric, "series2")],
                            xaxis=STEPS,
                            yaxis={"zeroline": True},
                        ),
                        words(metric).capitalize(),
                        f"{words(metric)} over optimiser steps",
                        240,
                    )
                    for metric, values in done.conflicts.items()
                ),
                grid=True,
            )
        )
    else:
        parts.append(note("Gradient conflicts were not recorded: the balancer never looked at the gradients."))
    rows = [
        (task, [(name, role, _exact(scores[task])) for name, role, scores in (
            ("together", "more", done.scores), ("alone", "less", done.single_task_scores),
            ("chance", "muted", done.chances)) if task in scores])
        for task in done.tasks
        if task in done.scores or task in done.single_task_scores
    ]  # fmt: skip
    if rows:
        series = {"together": ("together", "more", "full"), "alone": ("alone", "less", "hollow")}
        series |= {"chance": ("chance", "muted", "hollow")} if done.chances else {}
        caption = "Test score of each task"
        made = plot(dots(rows, "score"), caption, f"{caption}, trained together and alone", dots_height(rows))
        parts.append(view(legend(series), made))
        if done.learned_nothing:
            told = "nothing was learned, the score is no better than always giving the most frequent answer"
            parts.append(note(f"<strong>{escape(', '.join(done.learned_nothing))}:</strong> {told}."))
    return "".join(parts)


def _begun(done: MultiTaskResult) -> str:
    """What the trunk started from, and how much of it was trained, where that is not all of one drawn anew."""
    said = "" if done.start is None else f" The trunk started from {escape(done.start)}."
    if done.adapter is not None:
        at_random = ", which was drawn at random," if done.start is None else ""
        said += (
            f" The trunk{at_random} stayed as it was: {escape(done.adapter)} was trained on it, so that "
            f"{number(done.trained_weights)} of {number(done.all_weights)} weights were trained."
        )
    return said


def _exact(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)
