"""`crosstask recipe`: list, show."""

from __future__ import annotations

import json
from typing import Any

import click

from crosstask.cli.common import emit_json, json_option, say
from crosstask.errors import printable


@click.group()
def command() -> None:
    """List recipes, or show one as a run would see it."""


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """Recipes that installed plugins ship; each can be run by its name."""
    from crosstask.registry import Registry

    registry = Registry.installed()
    found: list[dict[str, Any]] = []
    for name in registry.names("recipe"):
        record, extension = registry.find("recipe", name)
        marked = bool(extension.default)
        found.append({"name": name, "plugin": record.origin, "summary": extension.summary, "default": marked})
    if as_json:
        emit_json(found)
        return
    width = max((len(item["name"]) for item in found), default=0)
    for item in found:
        default = ", the default" if item["default"] else ""
        say(printable(f"{item['name']:<{width}}  {item['summary']}  ({item['plugin']}{default})", lines=False))
    if not found:
        say("no plugin ships a recipe")


@command.command("show")
@click.argument("reference", metavar="RECIPE")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value.")
@json_option
def show(reference: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """RECIPE (a file or a name) with what it extends and every default, and where each value comes from."""
    from crosstask.recipe import load_recipe
    from crosstask.registry import Registry

    values = load_recipe(reference, Registry.installed(), overrides).table()
    if as_json:
        emit_json({key: {"value": value, "from": origin} for key, (value, origin) in values.items()})
        return
    shown = {key: f"{key} = {_toml(value)}" for key, (value, _) in values.items()}
    width = min(60, max(map(len, shown.values())))
    for key, (_, origin) in values.items():
        say(f"{shown[key]:<{width}}  # {origin}")


def _toml(value: Any) -> str:
    """A value as TOML writes it; None, which TOML lacks, as it is meant."""
    if value is None:
        return "(none)"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
