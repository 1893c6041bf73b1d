"""Transfers under shift: score against severity for each shift, and where a transfer stays better than scratch."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.report.figures import figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, spread, table
from crosstask_shifted.records import ShiftResult, ShiftRow


def section(done: ShiftResult) -> Section:
    """What became of transfers under shift, as a section of the report."""
    told = f", adversarial: a ball of {number(done.radius)} of the range times the severity" if done.radius else ""
    lead = (
        f'<p class="lead">Test {escape(done.metric)} where the test data shift: severity 0 is the data as they are'
        f"{told}.</p>"
    )
    body = lead + "".join(note(escape(each)) for each in done.notes)
    for target in dict.fromkeys(row.target for row in done.rows):
        rows = [row for row in done.rows if row.target == target]
        looks = {row.name: ("ink", "dash") if row.source is None else style(at - 1) for at, row in enumerate(rows)}
        series = {name: (name, *look) for name, look in looks.items()}
        figures = []
        for shift in done.shifts:
            steps = (0, *done.severities)
            traces = [
                line(steps, (row.clean.mean, *(each.mean for each in row.scores[shift])), row.name, *looks[row.name])
                for row in rows
            ]
            axes = {
                "xaxis": {"title": {"text": "severity"}, "dtick": 1},
                "yaxis": {"title": {"text": escape(done.metric)}},
            }
            caption = f"{target}: {shift}"
            figures.append(plot(figure(traces, **axes), caption, f"{done.metric} of {caption}, against severity", 260))
        body += view(legend(series), *figures, grid=True) + _table(done, target, rows)
    return Section("Transfer under shift", body)


def _table(done: ShiftResult, target: str, rows: list[ShiftRow]) -> str:
    head = (
        "Learned from",
        "Clean",
        "Mean under shift",
        "Gain, clean",
        "Better than scratch at each severity of",
        "Worse at some of",
    )
    cells = [
        (
            escape(row.name), spread(row.clean), number(row.mean),
            "–" if row.gain is None else spread(row.gain, signed=True),
            escape(", ".join(row.stays)) or "–", escape(", ".join(row.turns)) or "–",
        )
        for row in rows
    ]  # fmt: skip
    told = f"; chance is {number(done.chances[target])}" if target in done.chances else ""
    return table(f"{target}, severities {', '.join(map(str, done.severities))}{told}", head, cells)
