"""Who the run is, how it ended, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crosstask.graph import TransferGraph
from crosstask.points.stage import Section
from crosstask.records import RunRecord
from crosstask.report.page import escape, note, number, table, words


def render(record: RunRecord, graph: TransferGraph, leading: Iterable[Section] = ()) -> str:
    """The head of the page; sections that are to lead stand before the summary."""
    minutes, seconds = divmod(record.seconds, 60)
    # the built-in plugins have the kernel's version; every one is listed at the end of the page
    shown = [
        f"{name} {version}"
        for name, version in record.versions.items()
        if name == "crosstask-kernel" or not name.startswith("crosstask-")
    ]
    facts = {
        "Status": f'<span class="status {record.status}">{record.status}</span>',
        "Run": escape(record.run_id),
        "Seed": str(record.seed),
        "Started": escape(record.started[:19].replace("T", " ")) or "–",
        "Duration": f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s",
        "Tasks": str(len(graph.task_ids)),
        "Versions": escape(", ".join(shown)) or "–",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    problem = f'<p class="problem"><strong>What went wrong.</strong> {escape(record.error)}</p>' if record.error else ""
    if record.notes:
        told = "".join(f"<li>{escape(each)}</li>" for each in record.notes)
        problem += f'<div class="problem"><strong>What was noticed.</strong><ul>{told}</ul></div>'
    if record.summary:
        rows = [(escape(words(name)), *_cells(value)) for name, value in record.summary.items()]
        summary = table("Summary", ("", "Value", "95 % interval"), rows)
    else:
        summary = note("There is no summary: the run had not come to its end when this report was written.")
    first = "".join(f"<h2>{escape(section.title)}</h2>{section.html}" for section in leading)
    return (
        f'<p class="kicker">crosstask run report</p><h1>{escape(record.name)}</h1>{problem}'
        f'<dl class="facts">{items}</dl>{first}{summary}'
    )


def _cells(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping) and "mean" in value:
        mean, low, high = value["mean"], value.get("low"), value.get("high")
        return number(mean), "–" if low is None or high is None else f"{number(low)} to {number(high)}"
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, int | float | None):
        return number(value), ""
    return escape(", ".join(map(str, value)) if isinstance(value, list | tuple) else value), ""
