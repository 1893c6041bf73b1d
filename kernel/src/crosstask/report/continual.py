"""Continual learning: how well each task is still known after the later ones, beside no strategy and joint training."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.records import ContinualScores, Interval, RunRecord
from crosstask.report.figures import dots, dots_height, plot, view
from crosstask.report.page import details, escape, note, number, table

TITLE = "Continual learning"


def render(record: RunRecord, graph: TransferGraph) -> str:
    done = record.continual
    if done is None:
        return note("No tasks were learned in sequence in this run.")
    how = escape(", ".join(done.strategies)) or "no strategy"
    lead = (
        f'<p class="lead">{len(done.tasks)} tasks, one after another, {done.scenario}-incremental, with '
        f"<strong>{how}</strong>.</p>"
    )
    warnings = "".join(note(escape(text)) for text in done.warnings)
    accuracies = {
        "with": done.scores.accuracy,
        "without": done.naive.accuracy if done.naive else None,
        "all tasks at once": done.joint,
    }
    rows = _rows(accuracies, "accuracy")
    figures = [plot(dots(rows, "accuracy"), "Mean accuracy after the last task", "Mean accuracy", dots_height(rows))]
    without = done.naive.forgetting if done.naive else None
    lost = _rows({"with": done.scores.forgetting, "without": without}, "forgetting")
    if lost:
        caption = "Forgetting: what was lost since a task was known best"
        figures.append(plot(dots(lost, "forgetting"), caption, caption, dots_height(lost)))
    matrices = details("Accuracy on each task after each task", _matrix(done.scores, done.tasks, "with"))
    if done.naive:
        matrices += details("The same without a strategy", _matrix(done.naive, done.tasks, "without"))
    return lead + warnings + view(*figures, grid=True) + matrices


def _rows(values: dict[str, Interval | None], series: str) -> list[tuple[str, list[tuple[str, str, Interval]]]]:
    return [
        (name, [(series, "more" if name == "with" else "less", value)])
        for name, value in values.items()
        if value is not None
    ]


def _matrix(scores: ContinualScores, tasks: tuple[str, ...], caption: str) -> str:
    rows = [
        (f"after {escape(task)}", *("–" if value is None else number(value) for value in row))
        for task, row in zip(tasks, scores.matrix, strict=False)
    ]
    return table(caption, ("", *map(escape, tasks)), rows)
