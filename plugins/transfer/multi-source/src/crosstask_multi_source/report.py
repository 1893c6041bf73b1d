"""The section of the report: what several sources gave, beside the best single one, and what it cost."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Cost, Interval
from crosstask.report.figures import dots, dots_height, legend, plot, view
from crosstask.report.page import escape, note, number, spread, table, words
from crosstask_multi_source.records import SINGLE, Candidate, MultiSourceReport, MultiSourceResult

_SERIES = {
    "several": ("several sources", "more", "full"),
    "single": ("the best single source", "series3", "hollow"),
    "scratch": ("from scratch", "muted", "hollow"),
}


def section(report: MultiSourceReport) -> Section:
    """One section for all targets."""
    body = _overview(report) + "".join(map(_one, report.results))
    return Section(
        "From several sources", body, {done.target: "learned from several sources" for done in report.results}
    )


def _overview(report: MultiSourceReport) -> str:
    rows: list[tuple[str, list[tuple[str, str, Interval]]]] = []
    for done in report.results:
        values = (done.score, done.single_score, done.scratch_score)
        signs = [(name, role) for name, role, _ in _SERIES.values()]
        rows.append((done.target, [(*sign, value) for sign, value in zip(signs, values, strict=True)]))
    metric = " or ".join(dict.fromkeys(words(done.metric) for done in report.results))
    first = report.results[0]
    made = dots(rows, f"{metric} on the {first.split} data")
    label = f"{metric} of each target from several sources, from the best single source and from scratch"
    figures = view(legend(_SERIES), plot(made, "Several sources or one", label, dots_height(rows, 3)))
    cells = [
        (
            escape(done.target), escape(words(done.chosen)), escape(", ".join(done.sources)), spread(done.score),
            "–" if done.gain is None else spread(done.gain, signed=True), *_cost(done.cost), *_cost(done.single_cost),
        )
        for done in report.results
    ]  # fmt: skip
    costs = ("Steps", "Samples seen", "Weights")
    alone = tuple(f"{name} (single)" for name in costs)
    head = ("Target", "Learned by", "From", f"Score over {first.seeds} seeds", "Gain over the single source",
            *costs, *alone)  # fmt: skip
    return figures + table("What it gave, and what one model took", head, cells)


def _cost(cost: Cost) -> tuple[str, str, str]:
    return number(cost.steps), number(cost.samples), number(cost.parameters)


def _one(done: MultiSourceResult) -> str:
    told = "".join(f"<li>{escape(text)}</li>" for text in done.notes)
    notes = f"<ul>{told}</ul>" if told else ""
    lead = f'<p class="lead"><strong>{escape(done.target)}</strong>: {_why(done)}</p>'
    if not done.candidates:
        return lead + notes
    head = ("Way", "From", "Score", "Gain over the single source", "Steps", "Samples seen", "Weights")
    rows = table(f"What there was to choose from, on {done.judged_on}", head, map(_row, done.candidates))
    spent = ""
    if done.search is not None:
        spent = note(
            f"All candidates together took {number(done.search.steps)} steps and {number(done.search.samples)} samples "
            f"for each of {done.seeds} seeds; the gain's ± is one standard error (bootstrap over the samples)."
        )
    return lead + rows + notes + spent


def _row(each: Candidate) -> tuple[str, ...]:
    if each.validation is None or each.gain is None or each.error is None or each.cost is None:
        return escape(words(each.name)), escape(each.reason), "–", "–", "–", "–", "–"
    gain = f"{number(each.gain, signed=True)} ± {number(each.error)}"
    return (
        escape(words(each.name)), escape(", ".join(each.sources)), number(each.validation), gain, *_cost(each.cost)
    )  # fmt: skip


def _why(done: MultiSourceResult) -> str:
    if not done.candidates:
        return f"learned by {escape(words(done.chosen))} from {escape(', '.join(done.sources))}, as it was asked for."
    row = next(each for each in done.candidates if each.name == done.chosen)
    if row.name == SINGLE:
        best = escape(", ".join(row.sources))
        return f"learned from <strong>{best}</strong> alone: no other way was better beyond noise."
    return (
        f"learned by <strong>{escape(words(row.name))}</strong> from {escape(', '.join(row.sources))}: "
        f"{number(row.gain, signed=True)} ± {number(row.error)} over the best single one on {escape(done.judged_on)}."
    )
