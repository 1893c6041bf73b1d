"""Bundles in the report: what came from which, what it is worth, and under which licence."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, plot, view
from crosstask.report.page import details, escape, interval, note, number, table
from crosstask_bundles.records import BundlesResult, BundleUse, TakenEdge

_MOST = 40
"""Pairs of a figure; a table has them all."""


def section(done: BundlesResult) -> Section:
    """What was taken from bundles. All names in it are strangers'."""
    if not done.uses:
        return Section("Bundles", note("No bundle was found: none is installed, named or in the store."))
    rows = [
        (
            f"{escape(use.name)} {escape(use.digest[:8])}",
            escape(use.licence) or "none stated",
            escape(use.run_id) or "–",
            escape(use.created) or "–",
            escape(use.signed_by) if use.signed_by is not None else "not asked",
            _tasks(use),
            _counts(use),
            number(use.left_out),
        )
        for use in done.uses
    ]
    head = ("Bundle", "Licence", "Run", "Made", "Signed by", "Its tasks here", "Edges taken", "Of other tasks")
    shown = table("Where it comes from", head, rows)
    if not any(use.licence for use in done.uses):
        shown += note("No licence is stated: ask before you pass on what came from these bundles.")
    for conflict in done.conflicts:
        shown += note(f"Measurements differ by more than their errors: {escape(conflict)}")
    if not done.edges:
        shown += note("None of their edges is between two tasks of this run.")
        return Section("Bundles", shown)
    lead = (
        '<p class="lead">What others have measured between the tasks of this run. A bundle’s task is one of these '
        "where its data are the same, or where the recipe says so; measurements of one pair are pooled by their "
        "uncertainty.</p>"
    )
    caption = "Transfer coefficients with what the bundles say"
    strongest = sorted(done.edges, key=lambda edge: -abs(edge.mean))[:_MOST]
    figure = [(f"{edge.source} → {edge.target}", [(_kind(edge), _role(edge), _interval(edge))]) for edge in strongest]
    shown += view(plot(dots(figure, "transfer coefficient"), caption, caption, dots_height(figure)))
    pairs = [
        (
            f"{escape(edge.source)} → {escape(edge.target)}",
            interval(edge.mean, edge.low, edge.high, signed=True),
            escape(edge.evidence),
            escape(edge.found_by),
            number(edge.measurements),
        )
        for edge in done.edges
    ]
    caption = f"{number(len(pairs))} edges"
    columns = ("Pair", "Coefficient", "Evidence", "Found by", "Measurements")
    return Section("Bundles", lead + shown + details(caption, table(caption, columns, pairs)))


def _kind(edge: TakenEdge) -> str:
    return "pooled" if edge.measurements > 1 else edge.evidence


def _role(edge: TakenEdge) -> str:
    return "more" if edge.mean > 0 else "less"


def _interval(edge: TakenEdge) -> Interval:
    low, high = (edge.mean if end is None else end for end in (edge.low, edge.high))
    return Interval(mean=edge.mean, low=low, high=high)


def _tasks(use: BundleUse) -> str:
    told = [
        escape(here) if here == there else f"{escape(there)} as {escape(here)}" for there, here in use.matched.items()
    ]
    return ", ".join(told) or "none"


def _counts(use: BundleUse) -> str:
    return ", ".join(f"{number(count)} {escape(kind)}" for kind, count in use.edges.items()) or "none"
