"""Training tasks together: losses, weights and gradient conflicts as training went on, and what it was worth."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.records import Interval, RunRecord
from crosstask.report.figures import STEPS, dots, dots_height, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, words

TITLE = "Multi-task training"


def render(record: RunRecord, graph: TransferGraph) -> str:
    done = record.multitask
    if done is None:
        return note("No tasks were trained together in this run.")
    lead = (
        f'<p class="lead">{len(done.tasks)} tasks share one model ({escape(done.sharing)}); their gradients are '
        f"balanced by <strong>{escape(done.balancer)}</strong>.</p>"
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
    parts = [lead]
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
            ("together", "more", done.scores), ("alone", "less", done.single_task_scores)) if task in scores])
        for task in done.tasks
        if task in done.scores or task in done.single_task_scores
    ]  # fmt: skip
    if rows:
        series = {"together": ("together", "more", "full"), "alone": ("alone", "less", "hollow")}
        caption = "Test score of each task"
        made = plot(dots(rows, "score"), caption, f"{caption}, trained together and alone", dots_height(rows))
        parts.append(view(legend(series), made))
    return "".join(parts)


def _exact(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)
