"""Adaptation: the score on each target with and without alignment, and whether domains can still be told apart."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import STEPS, dots, dots_height, figure, legend, line, plot, view
from crosstask.report.page import escape, note, number, spread, table
from crosstask_alignment.records import AlignmentResult


def section(done: AlignmentResult) -> Section:
    """What an adaptation came to, as a section of the report."""
    lead = (
        f'<p class="lead">From {escape(", ".join(done.sources))} with labels to {escape(", ".join(done.targets))} '
        f"without: features aligned by <strong>{escape(done.alignment)}</strong>, weight {number(done.weight)}.</p>"
    )
    notes = "".join(note(escape(each)) for each in done.notes)
    rows = [
        (
            target,
            [
                ("adapted", "more", done.adapted[target]),
                ("source only", "less", done.source_only[target]),
                *([("supervised", "series2", done.supervised[target])] if target in done.supervised else []),
                *([("chance", "muted", _exactly(done.chances[target]))] if target in done.chances else []),
            ],
        )
        for target in done.targets
    ]
    series = {"adapted": ("adapted", "more", "full"), "source only": ("source only", "less", "hollow")}
    series |= {"supervised": ("with its labels", "series2", "hollow")} if done.supervised else {}
    series |= {"chance": ("chance", "muted", "hollow")} if done.chances else {}
    caption = f"Test {done.metric} on each target"
    scores = plot(
        dots(rows, done.metric), caption, f"{caption}, adapted, source only and with labels", dots_height(rows, 4)
    )
    apart = [
        ("aligned", [("domain accuracy", "more", done.domain_accuracy)]),
        ("source only", [("domain accuracy", "less", done.domain_accuracy_before)]),
        ("chance", [("domain accuracy", "muted", _exactly(done.domain_chance))]),
    ]
    caption = "How well a new critic tells the domains apart by the features"
    figures = [plot(dots(apart, "accuracy"), caption, caption, dots_height(apart))]
    if done.terms:
        caption = "The alignment's term, mean over the seeds"
        made = figure([line(done.steps, done.terms, "term", "series1")], xaxis=STEPS, yaxis={"title": {"text": "term"}})
        figures.append(plot(made, caption, f"{caption}, over optimiser steps", 280))
    own = [
        (escape(source), spread(done.sources_adapted[source]), spread(done.sources_only[source]))
        for source in done.sources
    ]
    kept = table(f"Test {done.metric} on the sources themselves", ("Source", "Aligned", "Source only"), own)
    return Section("Domain alignment", lead + notes + view(legend(series), scores) + view(*figures, grid=True) + kept)


def _exactly(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)
