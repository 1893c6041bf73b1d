"""`crosstask plugins points`."""

from __future__ import annotations

import click

from crosstask.cli.common import emit_json, json_option, say
from crosstask.errors import printable


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Every extension point: what its components do, who brings it, how many there are."""
    from crosstask.registry import Registry

    registry = Registry.installed()
    rows = [
        {
            "point": each.point.name,
            "origin": each.origin,
            "version": ".".join(map(str, each.point.version)),
            "contract": each.point.contract,
            "kit": each.point.kit,
            "template": each.point.template,
            "summary": each.point.summary,
            "components": [] if each.reason else registry.names(each.point.name),
            "reason": each.reason,
        }
        for each in registry.points()
    ]
    if as_json:
        emit_json(rows)
        return
    name, origin = (max(len(str(row[key])) for row in rows) for key in ("point", "origin"))
    for row in rows:
        told = f"UNUSABLE: {row['reason']}" if row["reason"] else f"{row['summary']} ({len(row['components'])})"
        say(printable(f"{row['point']:<{name}}  {row['origin']:<{origin}}  {told}", lines=False))
