"""`crosstask plugins search TEXT`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crosstask.registry import Indexed


@click.command()
@click.argument("text")
@click.option(
    "--index", help="A path, or a file:// or https:// address, beside ours. [default: the setting plugins.index]"
)
@json_option
def command(text: str, index: str | None, as_json: bool) -> None:
    """What to install for a component, extension point, recipe or command: `balancer/rgb`, or any words about it.

    Looks into the index that crosstask ships, and into the one that the settings name. Exits with 1 if nothing is
    found; then what comes nearest is shown. Nothing is installed, and nothing of an index is executed.
    """
    from crosstask.manifest import DEFAULT, canonical
    from crosstask.registry import Registry, load_index, shipped_index

    registry = Registry.installed()
    known = {("crosstask", key): offer for key, offer in shipped_index().items()}
    if where := index or registry.settings.index:
        known |= {(where, key): offer for key, offer in load_index(where).items()}
    offers = {at: offer for at, offer in known.items() if at[1].partition("/")[2] != DEFAULT}
    found = [at for level in (_is, _has) for at, offer in offers.items() if level(text.lower(), at[1], offer)]
    here = {canonical(record.distribution) for record in registry.plugins()}
    rows = [
        {
            "point": at[1].partition("/")[0],
            "name": at[1].partition("/")[2],
            "install": offers[at].install,
            "installed": canonical(offers[at].install) in here,
            "summary": offers[at].summary,
            "index": at[0],
        }
        for at in dict.fromkeys(found or _near(text, offers))
    ]
    if as_json:
        emit_json({"found": rows if found else [], "near": [] if found else rows})
    else:
        _show(text, rows, bool(found))
    sys.exit(not found)


def _is(text: str, key: str, offer: Indexed) -> bool:
    return text in (key.lower(), key.partition("/")[2].lower(), offer.install.lower())


def _has(text: str, key: str, offer: Indexed) -> bool:
    return all(word in f"{key} {offer.install} {offer.summary}".lower() for word in text.split())


def _near(text: str, offers: Mapping[tuple[str, str], Indexed]) -> list[tuple[str, str]]:
    """Names that are alike; else, of several words, what has most of them."""
    from difflib import get_close_matches

    called: dict[str, list[tuple[str, str]]] = {}
    for at in offers:
        called.setdefault(at[1].partition("/")[2].lower(), []).append(at)
    near = get_close_matches(text.lower().rpartition("/")[2], called, n=5, cutoff=0.6)
    if near or len(words := [word for word in text.lower().split() if len(word) > 2]) < 2:
        return [at for name in near for at in called[name]]
    counts = {at: sum(_has(word, at[1], offer) for word in words) for at, offer in offers.items()}
    most = max(counts.values(), default=0)
    return [at for at, count in counts.items() if most and count == most][:5]


def _show(text: str, rows: list[dict[str, Any]], found: bool) -> None:
    if not found:
        say(f"nothing is called {text!r}, or says so of itself" + ("; what comes nearest:" if rows else ""))
    for row in rows:
        whence = "" if row["index"] == "crosstask" else f"  (by {row['index']})"
        say(f"{row['point']} {row['name']}: {row['summary'] or 'no summary'}{whence}")
        say(f"  installed: {row['install']}" if row["installed"] else f"  pip install {row['install']}")
