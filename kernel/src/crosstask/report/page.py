"""The page around the figures: escaping, numbers, tables, sections, and the document with everything inline."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # plotly ships no types

from crosstask.records import Interval

# role: (light, dark). Figures are made with the light colour; page.js swaps it, so each light colour occurs once.
# Blue against orange, and Okabe and Ito's colours for series, stay apart for every common kind of colour blindness.
PALETTE = {
    "paper": ("#fdfdfc", "#12161c"),
    "panel": ("#f4f5f4", "#1a2029"),
    "rule": ("#dfe2e4", "#2c3541"),
    "ink": ("#1b2430", "#e8ebef"),
    "muted": ("#5a6573", "#98a4b3"),
    "accent": ("#0067a8", "#63b3ee"),
    "identical": ("#08306b", "#dcecff"),
    "highly_similar": ("#1f5fa8", "#9dcbfb"),
    "moderately_similar": ("#4a8fd0", "#5c9fe6"),
    "weakly_similar": ("#86b6e2", "#3c6fa8"),
    "complementary": ("#00876c", "#35c9a0"),
    "independent": ("#9aa2ac", "#667180"),
    "antagonistic": ("#c8540a", "#ff9147"),
    "less": ("#a8480a", "#ff9a52"),
    "slightly_less": ("#eba36c", "#8f562d"),
    "neither": ("#f0f1f2", "#262e39"),
    "slightly_more": ("#7fb0e0", "#34618f"),
    "more": ("#16508f", "#7dbdff"),
    "on_strong": ("#ffffff", "#0b0f14"),
    "series1": ("#0072b2", "#4ba6e3"),
    "series2": ("#d55e00", "#ff8a3c"),
    "series3": ("#009e73", "#2fc498"),
    "series4": ("#b5609a", "#e29ac4"),
    "series5": ("#d99400", "#f2b63c"),
    "series6": ("#4fb0e4", "#8ed3f8"),
    "series7": ("#333d4a", "#c3ccd6"),
}


def color(role: str) -> str:
    """The colour of a role (see `PALETTE`), as CSS writes it."""
    return PALETTE[role][0]


# control characters, above all those that reorder the text around them: a name could turn the page's own numbers round
_UNSEEN = dict.fromkeys([*range(9), *range(0xE, 0x20), 0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def escape(text: object) -> str:
    """Text from data, safe between tags, and in plotly's labels: these read a subset of HTML, but no `&quot;`, and fill
    in `%{…}`. What would change the order of the text around it is shown as `�`.
    """
    return html.escape(str(text).translate(_UNSEEN), quote=False).replace("%{", "&#37;{")


def attribute(text: object) -> str:
    """Text from data, safe as the value of an attribute."""
    return html.escape(str(text))


def short(text: str, length: int = 24) -> str:
    """Escaped for a label, and cut in the middle if it is long: names often differ at their ends."""
    return escape(cut(text, length))


def cut(text: str, length: int) -> str:
    """As `short` cuts it; not yet escaped."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


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
    """A table of ready HTML cells; the first of each row is its heading. Numbers stay on one line, text does not."""

    def data(cell: str) -> str:
        return f"<td class=text>{cell}</td>" if len(cell) > _LONGEST_NUMBER else f"<td>{cell}</td>"

    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(map(data, rest))}</tr>' for first, *rest in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """HTML that is folded away behind its summary."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def as_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def document(name: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page of sections: each its title, which is plain text, and its HTML. The first is the header and has no
    entry in the contents.
    """
    themes = [":root{" + "".join(f"--{role}:{pair[dark]};" for role, pair in PALETTE.items()) + "}" for dark in (0, 1)]
    style = f"{themes[0]}@media (prefers-color-scheme: dark){{{themes[1]}}}{_asset('page.css')}"
    colours = as_json(dict(PALETTE.values()))
    scripts = [get_plotlyjs(), _asset("page.js")]
    # The page itself forbids every request, and every script but its own two: a mistake in escaping stays harmless.
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    (_, header), *rest = sections
    anchors = _anchors([title for title, _ in rest])
    links = "".join(f'<a href="#{at}">{escape(title)}</a>' for at, (title, _) in zip(anchors, rest, strict=True))
    body = "".join(
        f'<section id="{at}" aria-labelledby="h-{at}"><h2 id="h-{at}">{escape(title)}</h2>{content}</section>'
        for at, (title, content) in zip(anchors, rest, strict=True)
    )
    plotly, own = (f"<script>{script}</script>" for script in scripts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)} · crosstask</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><header>{header}</header>"
        f'<nav aria-label="Contents">{links}</nav><main>'
        '<noscript><p class="note">The figures need JavaScript. Every number is also in run.json and graph.json.</p>'
        f"</noscript>{body}</main>"
        f'<script type="application/json" id="palette">{colours}</script>{plotly}{own}</body></html>'
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    """An address within the page for each title; two sections may have the same."""
    found: list[str] = []
    for title in titles:
        plain = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        found.append(next(at for at in itertools.chain([plain], numbered) if at not in found))
    return found


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8").replace("\r\n", "\n")
