"""`crosstask plugins list`, which is also what `crosstask plugins` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say
from crosstask.errors import printable

if TYPE_CHECKING:
    from crosstask.registry import PluginRecord


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Every plugin found, what it offers, and what is wrong with those that cannot be used."""
    show(as_json)


def show(as_json: bool) -> None:
    """Plain text: a table library costs more than finding the plugins does."""
    from crosstask.registry import Registry

    rows = Registry.installed().plugins()
    if as_json:
        emit_json([row(record) for record in rows])
        return
    lines = [[printable(cell, lines=False) for cell in (r.name, r.origin, told(r))] for r in rows]
    width, origin = (max((len(line[at]) for line in lines), default=0) for at in (0, 1))
    for name, where, offers in lines:
        say(f"{name:<{width}}  {where:<{origin}}  {offers}")
    if not rows:
        say("no plugins are installed")


def told(record: PluginRecord) -> str:
    """What a plugin offers, or in a line why it cannot be used."""
    if record.reason:
        return f"{record.status.value.upper()}: {record.reason.splitlines()[0]}"
    offers: dict[str, list[str]] = {}
    for extension in record.plugin.extensions if record.plugin else ():
        reason = record.unusable.get(extension.key, "")
        mark = "" if not reason else " (CONFLICTING)" if reason.startswith("conflicting") else " (UNUSABLE)"
        offers.setdefault(extension.point, []).append(extension.name + mark)
    for point in record.plugin.points if record.plugin else ():
        mark = " (CONFLICTING)" if f"point/{point.name}" in record.unusable else ""
        offers.setdefault("points", []).append(point.name + mark)
    return "; ".join(f"{point}: {', '.join(names)}" for point, names in offers.items())


def row(record: PluginRecord) -> dict[str, Any]:
    """A plugin as JSON."""
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": record.status.value,
        "reason": record.reason,
        "notes": list(record.notes),
        "unusable": record.unusable,
        "points": [point.name for point in (record.plugin.points if record.plugin else ())],
        "extensions": [
            {"point": e.point, "name": e.name, "target": e.target, "summary": e.summary, "source": e.source}
            for e in (record.plugin.extensions if record.plugin else ())
        ],
    }
