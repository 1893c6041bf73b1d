"""Continual learning: how well each task is still known after the later ones, beside what it is compared with."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, plot, view
from crosstask.report.page import details, escape, note, number, table
from crosstask_continual.records import ContinualResult

Row = tuple[float | None, ...]


def section(done: ContinualResult) -> Section:
    """What a run came to, as a section of the report."""
    how = escape(", ".join(done.strategies)) or "no strategy"
    lead = (
        f'<p class="lead">{len(done.tasks)} tasks, one after another, {done.scenario}-incremental, with '
        f"<strong>{how}</strong>.</p>"
    )
    notes = "".join(note(escape(text)) for text in done.warnings)
    if done.adapter is not None:
        share = f"{number(done.trained_weights)} of {number(done.weights)}"
        notes += note(f"Trained: {share} weights, those of the head and of {escape(done.adapter)}.")
    accuracies = {
        "with": done.scores.accuracy,
        "without": done.naive.accuracy if done.naive else None,
        "all tasks at once": done.joint,
        "always the majority class": _exactly(done.majority),
        "at random": _exactly(done.chance),
    }
    rows = _rows(accuracies, "accuracy")
    figures = []
    if rows:
        caption = "Mean accuracy after the last task"
        figures.append(plot(dots(rows, "accuracy"), caption, caption, dots_height(rows)))
    without = done.naive.forgetting if done.naive else None
    lost = _rows({"with": done.scores.forgetting, "without": without}, "forgetting")
    if lost:
        caption = "Forgetting: what was lost since a task was known best"
        figures.append(plot(dots(lost, "forgetting"), caption, caption, dots_height(lost)))
    matrices = details("Accuracy on each task after each task", _matrix(done, done.scores.matrix, "with"))
    if done.naive:
        matrices += details("The same without a strategy", _matrix(done, done.naive.matrix, "without"))
    return Section("Continual learning", lead + notes + view(*figures, grid=True) + matrices)


def _exactly(value: float | None) -> Interval | None:
    return None if value is None else Interval(mean=value, low=value, high=value)


def _rows(values: dict[str, Interval | None], series: str) -> list[tuple[str, list[tuple[str, str, Interval]]]]:
    return [
        (name, [(series, "more" if name == "with" else "less", value)])
        for name, value in values.items()
        if value is not None
    ]


def _matrix(done: ContinualResult, matrix: tuple[Row, ...], caption: str) -> str:
    named = [(f"after {escape(task)}", row) for task, row in zip(done.tasks, matrix, strict=False)]
    nothing = {"always the majority class": done.majority_scores, "at random": done.chance_scores}
    named += [(name, row) for name, row in nothing.items() if row]
    blank = ("",) * len(done.tasks)  # a row ends with the task that had been learned last
    rows = [
        (name, *("–" if value is None else number(value) for value in row), *blank[len(row) :]) for name, row in named
    ]
    return table(caption, ("", *map(escape, done.tasks)), rows)
