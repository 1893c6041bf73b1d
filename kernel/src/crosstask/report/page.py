"""The page around the figures: escaping, numbers, tables, sections, and the document with everything inline."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.drawing import PALETTE as PALETTE
from crosstask.drawing import cut as cut
from crosstask.drawing import seen
from crosstask.points.stage import Section
from crosstask.records import Interval


def escape(text: object) -> str:
    """Text from data, safe between tags, and in plotly's labels: these read a subset of HTML, but no `&quot;`, and fill
    in `%{…}`. What would change the order of the text around it is shown as `�`.
    """
    return html.escape(seen(text), quote=False).replace("%{", "&#37;{")


def attribute(text: object) -> str:
    """Text from data, safe as the value of an attribute."""
    return html.escape(str(text))


def short(text: str, length: int = 24) -> str:
    """Escaped for a label, and cut in the middle if it is long: names often differ at their ends."""
    return escape(cut(text, length))


def words(name: str) -> str:
    """`sample_efficiency_gain` as a person writes it; not yet escaped."""
    return name.replace("_", " ")


def number(value: object, *, signed: bool = False) -> str:
    """A number for people: three decimals, a real minus sign; a dash for what is not known."""
    if isinstance(value, float) and math.isfinite(value):
        shown = f"{value:+.3f}" if signed else f"{value:,.3f}"
        return shown.replace("-", "−")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    return "–"


def interval(mean: float, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """`0.912 [0.890, 0.934]`; only the mean where no interval is known."""
    shown = number(mean, signed=signed)
    if low is None or high is None:
        return shown
    return f"{shown} [{number(low, signed=signed)}, {number(high, signed=signed)}]"


def spread(value: Interval, *, signed: bool = False) -> str:
    """A mean with its 95 % interval."""
    return interval(value.mean, value.low, value.high, signed=signed)


def note(text: str) -> str:
    """A sentence in place of, or under, a figure. `text` is HTML."""
    return f'<p class="note">{text}</p>'


_LONGEST_NUMBER = 28  # +0.123 [−0.123, +0.123], and some room


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ready HTML cells; the first of each row is its heading. Numbers stay on one line, text does not. The
    caption is plain text.
    """

    def data(cell: str) -> str:
        return f"<td class=text>{cell}</td>" if len(cell) > _LONGEST_NUMBER else f"<td>{cell}</td>"

    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(map(data, rest))}</tr>' for first, *rest in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{attribute(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """HTML that is folded away behind its summary."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def as_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def document(name: str, header: str, sections: Sequence[Section], marks: Mapping[str, str]) -> str:
    """The whole page: the HTML of its header, its sections (their titles are plain text), and what is to be marked in
    its graph, by task.
    """
    colours = as_json(dict(PALETTE.values()))
    scripts = [get_plotlyjs(), asset("page.js")]
    # The page itself forbids every request, and every script but its own two: a mistake in escaping stays harmless.
    policy = f"default-src 'none'; script-src {allowed(*scripts)}; style-src 'unsafe-inline'; img-src data: blob:"
    anchors = _anchors([section.title for section in sections])
    links = "".join(f'<a href="#{at}">{escape(each.title)}</a>' for at, each in zip(anchors, sections, strict=True))
    body = "".join(
        f'<section id="{at}" aria-labelledby="h-{at}"><h2 id="h-{at}">{escape(each.title)}</h2>{each.html}</section>'
        for at, each in zip(anchors, sections, strict=True)
    )
    marked = as_json({seen(task): [seen(what), escape(what)] for task, what in marks.items()})
    plotly, own = (f"<script>{script}</script>" for script in scripts)
    return (
        f"{head(name, policy)}<body><header>{header}</header>"
        f'<nav aria-label="Contents">{links}</nav><main>'
        '<noscript><p class="note">The figures need JavaScript. Every number is also in run.json and graph.json.</p>'
        f"</noscript>{body}</main>"
        f'<script type="application/json" id="palette">{colours}</script>'
        f'<script type="application/json" id="marks">{marked}</script>{plotly}{own}</body></html>'
    )


def head(name: str, policy: str) -> str:
    """The begin of a page, with its policy and its look."""
    themes = [":root{" + "".join(f"--{role}:{pair[dark]};" for role, pair in PALETTE.items()) + "}" for dark in (0, 1)]
    style = f"{themes[0]}@media (prefers-color-scheme: dark){{{themes[1]}}}{asset('page.css')}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)} · crosstask</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head>"
    )


def allowed(*scripts: str) -> str:
    """These scripts, as a policy allows them."""
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    """An address within the page for each title; two sections may have the same."""
    found: list[str] = []
    for title in titles:
        plain = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        found.append(next(at for at in itertools.chain([plain], numbered) if at not in found))
    return found


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return resources.files(__package__).joinpath(name).read_text("utf-8").replace("\r\n", "\n")
