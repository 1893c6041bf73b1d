"""The pages that `crosstask report --serve` shows around reports: the runs, one that works, several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from crosstask.manifest import RESERVED
from crosstask.records import Interval, RunRecord
from crosstask.report.comparison import Comparison, Difference
from crosstask.report.following import Curve, Followed
from crosstask.report.page import (
    allowed,
    asset,
    attribute,
    escape,
    head,
    interval,
    note,
    number,
    spread,
    table,
    words,
)

_SHOWN = 50  # rows of a table of differences


@attrs.frozen
class Seen:
    """A run as it stands: its record, how far it has come, and the name under which it is asked for. Without a folder
    it is known from a store only. `damage` says why it cannot be shown.
    """

    record: RunRecord
    folder: Path | None = None
    followed: Followed = attrs.field(factory=lambda: Followed(run_id=""))
    damage: str = ""
    key: str = ""

    @property
    def address(self) -> str:
        return f"/runs/{quote(self.key, safe='')}"

    @property
    def where(self) -> str:
        return "in the store" if self.folder is None else str(self.folder)

    @property
    def stages(self) -> list[str]:
        """The tables of its recipe that are stages."""
        return [name for name in self.record.recipe if name not in RESERVED["stage"] and name != "description"]


def framed(title: str, header: str, body: str, live: bool = False) -> str:
    """A page that may ask nobody but its own server, and only to see whether something is new."""
    script = asset("live.js") if live else ""
    policy = (
        f"default-src 'none'; script-src {allowed(script)}; style-src 'unsafe-inline'; "
        "connect-src 'self'; frame-src 'self'; img-src data:; form-action 'self'; base-uri 'none'"
    )
    run = f"<script>{script}</script>" if live else ""
    return (
        f'{head(title, policy)}<body class="served"><header><p class="kicker"><a href="/">crosstask runs</a></p>'
        f'<h1>{escape(title)}</h1>{header}<p class="note told" role="status"></p></header>'
        f"<main>{body}</main>{run}</body></html>"
    )


def listing(runs: Sequence[Seen]) -> str:
    """All runs, the newest first, with what to look at and what to lay side by side."""
    if not runs:
        return framed("Runs", "", _section("", note("There is no run here yet.")), live=True)
    rows = [
        (
            f'<label><input type="checkbox" name="run" value="{attribute(run.key)}"> {escape(run.record.name)}</label>',
            _status(run.record.status),
            f'<a href="{run.address}">{escape(run.record.run_id)}</a>',
            f"{len(run.record.results)} of {len(run.stages)}",
            _duration(run),
            escape(run.record.started[:19].replace("T", " ")),
            escape(run.damage or run.where),
        )
        for run in runs
    ]
    found = table("Runs", ("", "Status", "Run", "Stages done", "Time", "Started", "Where"), rows)
    button = '<p><button value="compare">Lay the ticked ones side by side</button></p>'
    return framed("Runs", "", _section("", f'<form action="/compare">{found}{button}</form>'), live=True)


def one(run: Seen) -> str:
    """A run that may still be at work: its stages, what it is at, its curves, its figures so far."""
    record = run.record
    done = [name for name in run.stages if name in record.results]
    left = [name for name in run.stages if name not in record.results]
    problem = f'<p class="problem"><strong>What went wrong.</strong> {escape(record.error)}</p>' if record.error else ""
    facts = {
        "Status": _status(record.status),
        "Run": escape(record.run_id),
        "Time": _duration(run),
        "Stages done": escape(", ".join(done) or "none"),
        "To come": escape(", ".join(left) or "none"),
        "Where": escape(run.where),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    said = "Report of what is finished so far" if left else "Report"
    link = f'<p><a href="{run.address}/report">{said}</a></p>'
    parts = [f'<section><h2>Where it stands</h2>{problem}<dl class="facts">{items}</dl>{link}</section>']
    if run.followed.parts:
        parts.append(_section("What it is at", _parts(run)))
    curves = "".join(_curve(name, curve) for name, curve in run.followed.curves.items() if curve.steps)
    if curves:
        parts.append(_section("Curves", f"<div class=grid>{curves}</div>"))
    if record.summary:
        rows = [(escape(words(name)), _value(value)) for name, value in record.summary.items()]
        parts.append(_section("Figures so far" if left else "Figures", table("Summary", ("", "Value"), rows)))
    return framed(record.name, "", "".join(parts), live=True)


def compared(runs: Sequence[Seen], found: Sequence[Comparison]) -> str:
    """Several runs side by side: their figures, what differs from the first, their reports."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.summary))
    rows = [(escape(words(name)), *(_value(run.record.summary.get(name)) for run in runs)) for name in names]
    heads = [f"{escape(run.record.name)}<br>{escape(run.record.run_id)}" for run in runs]
    parts = [_section("Figures", table("Summaries side by side", ("", *heads), rows))]
    parts += [_section(f"{each.second} beside {each.first}", _comparison(each)) for each in found]
    frames = "".join(
        f'<figure><figcaption><a href="{run.address}/report">{escape(run.record.name)} · {escape(run.record.run_id)}'
        f'</a></figcaption><iframe src="{run.address}/report" title="{attribute(run.record.name)}" loading="lazy">'
        "</iframe></figure>"
        for run in runs
    )
    parts.append(f'<section class="wide"><h2>Reports</h2><div class="beside">{frames}</div></section>')
    return framed("Side by side", "", "".join(parts))


def refused(reason: str) -> str:
    """The page of an error."""
    return framed("That cannot be shown", "", _section("", f'<p class="problem">{escape(reason)}</p>'))


def _comparison(found: Comparison) -> str:
    if found.why_not:
        told = f"<p><strong>They cannot be compared:</strong> {escape('; '.join(found.why_not))}.</p>"
    else:
        told = f"<p>{escape(found.told())}.</p>"
    if not (found.why_not or found.differs):
        told += note("Nothing differs but, maybe, versions and time.")
    edges = found.ranked()
    more = {"Sign": [edge.sign for edge in edges], "Evidence": [" / ".join(edge.evidence) for edge in edges]}
    parts = [
        _differences("Scores", found.scores),
        _differences("Transfers", [edge.change for edge in edges], **more),
        _differences("What they were told", found.recipe),
        _differences("What it took", found.costs),
        _differences("Versions", found.versions),
    ]
    notes = [note(f"{escape(what)}: {escape('; '.join(_cut(names)))}") for what, names in found.lists().items()]
    return "".join([told, *parts, *notes])


def _cut(names: Sequence[str]) -> list[str]:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [*names[:_SHOWN], *more]


def _differences(caption: str, found: Sequence[Difference], **more: Sequence[str]) -> str:
    if not found:
        return ""
    rows = []
    for at, each in enumerate(found[:_SHOWN]):
        change = interval(each.change, each.low, each.high, signed=True) if each.change is not None else ""
        paired = " (paired)" if each.paired else ""
        shown = f"<strong>{change}</strong>" if each.certain else change
        others = (escape(column[at]) for column in more.values())
        rows.append((escape(each.name), _value(each.first), _value(each.second), shown + paired, *others))
    if len(found) > _SHOWN:
        caption += f", {_SHOWN} of {len(found)}"
    return table(caption, ("", "First", "Second", "Change", *more), rows)


def _value(value: Any) -> str:
    if isinstance(value, Interval):
        return spread(value)
    if isinstance(value, dict) and "mean" in value:
        return interval(value["mean"], value.get("low"), value.get("high"))
    if isinstance(value, int | float | None) and not isinstance(value, bool):
        return number(value)
    return escape("yes" if value is True else "no" if value is False else value)


def _section(title: str, body: str) -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f"<section>{heading}{body}</section>"


def _status(status: str) -> str:
    return f'<span class="status {attribute(status)}">{escape(status)}</span>'


def _duration(run: Seen) -> str:
    seconds = run.record.seconds
    if run.record.status == "running" or (run.record.status == "interrupted" and run.record.error is None):
        seconds += run.followed.seconds  # the record has those of before only: it works, or was killed
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _parts(run: Seen) -> str:
    rows = []
    for part in run.followed.parts:
        if part.total == 0:  # nothing was left to do
            continue
        whole = f"{part.done} of {part.total}" if part.total else (str(part.done) if part.done else "")
        share = 1.0 if part.ended else part.done / part.total if part.total else None
        value = "" if share is None else f' value="{min(1.0, share):.3f}"'
        bar = f'<progress max="1"{value} aria-label="{attribute(part.name)}"></progress>'
        detail = "done" if part.ended else part.detail if run.record.status == "running" else "not finished"
        rows.append((escape(words(part.name)), bar, whole, f"{part.seconds:.1f} s", escape(detail)))
    return table("Parts of the work", ("", "", "Done", "Time", ""), rows)


def _curve(name: str, curve: Curve) -> str:
    """The figures of a training over its steps, losses in the order in which they were told."""
    wide, high = 320, 150
    drawn = {name: values for name, values in curve.values.items() if any(v is not None for v in values)}
    known = [value for values in drawn.values() for value in values if value is not None]
    if not known:
        return ""
    low, top, last = min(known), max(known), max(curve.steps[-1], 1)
    lines, legend = [], []
    for at, (figure, values) in enumerate(drawn.items()):
        colour, dash = f"var(--series{at % 7 + 1})", ("", "5 3", "2 2")[at // 7 % 3]
        points = " ".join(
            f"{wide * step / last:.1f},{high - high * (value - low) / ((top - low) or 1):.1f}"
            for step, value in zip(curve.steps, values, strict=False)
            if value is not None
        )
        lines.append(f'<polyline points="{points}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        legend.append(f'<li><span style="color:{colour}" aria-hidden="true">━</span> {escape(figure)}</li>')
    told = f"{name}: {number(low)} to {number(top)} in {curve.steps[-1]} steps"
    return (
        f"<figure><figcaption>{escape(words(name))}</figcaption>"
        f'<svg class="live" viewBox="-2 -2 {wide + 4} {high + 4}" role="img" aria-label="{attribute(told)}">'
        f'{"".join(lines)}</svg><p class="note">{number(low)} to {number(top)} · step {curve.steps[-1]}</p>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )
