"""Federation: accuracy over the rounds by site, beside all data in one place and each site alone, and the bytes."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, spread, table
from crosstask_federation.records import FederatedResult, SharedEdgesResult

ROUNDS = {"title": {"text": "rounds"}, "rangemode": "tozero", "showgrid": False}
SHOWN = 20
"""The most sites that have a curve, and a row in the figure of scores, of their own; all are in the table."""


def section(done: FederatedResult) -> Section:
    """What a federation came to, as a section of the report."""
    shares = ", ".join(done.shares)
    stays = f"; {escape(', '.join(done.stays))} stays there" if done.stays else ""
    begun = f", from the published model of {escape(done.source)}" if done.source else ""
    lead = (
        f'<p class="lead">{len(done.sites)} sites keep their data and learn together by '
        f"<strong>{escape(done.federation)}</strong>{begun}. What leaves a site: {escape(shares)} and how many samples "
        f"it has{stays}. {_size(done.sent)} were sent in {len(done.up)} rounds.</p>"
    )
    notes = "".join(note(escape(each)) for each in done.notes)
    shown = done.sites[:SHOWN]
    traces = [line(done.rounds, done.curves[s], s, *style(at)) for at, s in enumerate(shown)]
    traces.append(line(done.rounds, done.curve, "all sites", "ink"))
    series = {s: (s, *style(at)) for at, s in enumerate(shown)} | {"all sites": ("all sites", "ink", "solid")}
    caption = f"Test {done.metric} over the rounds"
    curves = plot(
        figure(traces, xaxis=ROUNDS, yaxis={"title": {"text": escape(done.metric)}}), caption,
        f"{caption}, by site and for all sites", 340,
    )  # fmt: skip
    overall = [("all sites", _kinds(done.score, done.pooled, done.alone))]
    rows = overall + [(s, _kinds(done.scores[s], done.pooled_scores.get(s), done.alone_scores.get(s))) for s in shown]
    kinds = {"federated": ("federated", "more", "full")}
    kinds |= {"pooled": ("all data in one place", "series2", "hollow")} if done.pooled else {}
    kinds |= {"alone": ("each site alone", "less", "hollow")} if done.alone else {}
    caption = f"Test {done.metric} in the end"
    scores = plot(dots(rows, done.metric), caption, f"{caption}, by site", dots_height(rows, 3))
    steps = list(range(1, len(done.up) + 1))
    sent = figure(
        [line(steps, done.up, "by the sites", "series1"), line(steps, done.down, "by the server", "series2", "dash")],
        xaxis=ROUNDS, yaxis={"title": {"text": "bytes"}, "rangemode": "tozero"},
    )  # fmt: skip
    ways = {"by the sites": ("by the sites", "series1", "solid"), "by the server": ("by the server", "series2", "dash")}
    caption = "Bytes of tensors sent in each round, first seed"
    head = ("Site", "Samples", "Federated", "All data in one place", "Alone")
    cells = [
        (
            escape(s), number(done.samples[s]), spread(done.scores[s]),
            spread(done.pooled_scores[s]) if s in done.pooled_scores else "–",
            spread(done.alone_scores[s]) if s in done.alone_scores else "–",
        )
        for s in done.sites
    ]  # fmt: skip
    body = (
        view(legend(series), curves)
        + view(legend(kinds), scores)
        + view(legend(ways), plot(sent, caption, caption, 240))
    )
    body += table(f"Test {done.metric} by site", head, cells)
    if done.lost:
        body += table(
            "Answers that were lost", ("Site", "Round", "Why"),
            [(escape(e.site), number(e.round), escape(e.reason)) for e in done.lost],
        )  # fmt: skip
    return Section("Federation", lead + notes + body)


def _kinds(score: Interval, pooled: Interval | None, alone: Interval | None) -> list[tuple[str, str, Interval]]:
    made = [("federated", "more", score)]
    made += [("pooled", "series2", pooled)] if pooled else []
    return made + ([("alone", "less", alone)] if alone else [])


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def edges_section(done: SharedEdgesResult) -> Section:
    """Transfers that sites have measured, as a section of the report."""
    lead = (
        f'<p class="lead">{len(done.sites)} sites measured transfers from {escape(", ".join(done.sources))} on their '
        f"own data, by <strong>{escape(done.method)}</strong>. Only the figures left them: {_size(done.bytes)}.</p>"
    )
    rows = [
        (
            f"{edge.source} → {edge.site}",
            [("coefficient", "more" if edge.coefficient.mean > 0 else "less", edge.coefficient)],
        )
        for edge in done.edges
    ]
    caption = "Transfer coefficient by site"
    made = plot(dots(rows, "coefficient", signed=True), caption, caption, dots_height(rows))
    pairs = [
        (escape(pair), number(value, signed=True), number(done.uncertainty[pair]))
        for pair, value in done.merged.items()
    ]
    body = view(made) + table("The merged edges", ("Pair", "Coefficient", "Standard error"), pairs)
    if done.lost:
        body += table("Sites that failed", ("Site", "Why"), [(escape(s), escape(w)) for s, w in done.lost.items()])
    return Section("Transfers shared by sites", lead + body)
