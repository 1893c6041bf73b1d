"""`crosstask plugins`: list, info."""

from __future__ import annotations

from typing import Any

import click

from crosstask.cli.common import emit_json, json_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins, or inspect one."""
    if ctx.invoked_subcommand is None:
        show_list(as_json)


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """Every plugin found, what it offers, and what is wrong with those that cannot be used."""
    show_list(as_json)


def show_list(as_json: bool) -> None:
    """Plain text: a table library costs more than finding the plugins does."""
    from crosstask.registry import Registry, Status

    rows = Registry.installed().plugins()
    if as_json:
        emit_json([_row(record) for record in rows])
        return
    width = max((len(r.name) for r in rows), default=0)
    origin = max((len(r.origin) for r in rows), default=0)
    for record in rows:
        offers: dict[str, list[str]] = {}
        for extension in record.plugin.extensions if record.plugin else ():
            offers.setdefault(extension.point, []).append(extension.name)
        what = "; ".join(f"{point}: {', '.join(names)}" for point, names in offers.items())
        told = what if record.status is Status.OK else f"{record.status.value.upper()}: {record.reason.splitlines()[0]}"
        click.echo(f"{record.name:<{width}}  {record.origin:<{origin}}  {told}")
    if not rows:
        click.echo("no plugins are installed")


def _row(record: Any) -> dict[str, Any]:
    extensions = record.plugin.extensions if record.plugin else ()
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": record.status.value,
        "reason": record.reason,
        "notes": list(record.notes),
        "extensions": [
            {"point": e.point, "name": e.name, "target": e.target, "summary": e.summary, "source": e.source}
            for e in extensions
        ],
    }


@command.command("info")
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """What a plugin or component is: options with types and defaults, source, capabilities, distribution."""
    from crosstask.errors import UnknownComponentError, nearest
    from crosstask.registry import Registry

    registry = Registry.installed()
    found = []
    for record in registry.plugins():
        for extension in record.plugin.extensions if record.plugin else ():
            if name in (record.name, extension.name, f"{extension.point}/{extension.name}"):
                found.append((record, extension))
        if record.plugin is None and name == record.name:
            found.append((record, None))
    if not found:
        known = {r.name for r in registry.plugins()} | {
            e.name for r in registry.plugins() if r.plugin for e in r.plugin.extensions
        }
        raise UnknownComponentError(f"no plugin or component named {name!r}{nearest(name, known)}")
    described = [_describe(registry, record, extension) for record, extension in found]
    if as_json:
        emit_json(described)
        return
    for item in described:
        click.echo(_text(item))


def _describe(registry: Any, record: Any, extension: Any) -> dict[str, Any]:
    from crosstask.manifest import RECIPE
    from crosstask.options import describe
    from crosstask.registry import Status

    item: dict[str, Any] = {
        "plugin": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": record.status.value,
        "reason": record.reason,
    }
    if extension is None:
        return item
    item |= {
        "point": extension.point,
        "name": extension.name,
        "summary": extension.summary,
        "source": extension.source,
    }
    if record.status is Status.OK and extension.point != RECIPE:
        made = registry.component_class(extension.point, extension.name)
        item["capabilities"] = sorted(made.capabilities)
        item["options"] = describe(made)
        item["documentation"] = made.__doc__ or ""
    return item


def _text(item: dict[str, Any]) -> str:
    import inspect

    lines = [
        f"{item.get('point', 'plugin')} {item.get('name', item['plugin'])}  ({item['distribution']} {item['version']}, {item['status']})"
    ]
    lines += [f"  {item[key]}" for key in ("reason", "summary") if item.get(key)]
    if item.get("source"):
        lines.append(f"  source: {item['source']}")
    if item.get("capabilities"):
        lines.append(f"  capabilities: {', '.join(item['capabilities'])}")
    for option in item.get("options", ()):
        rules = f"  {option['bounds']}" if option["bounds"] else ""
        lines.append(f"  {option['name']}: {option['type']} = {option['default']}{rules}  {option['help']}".rstrip())
    if item.get("documentation"):
        lines += [
            "",
            *(f"    {line}".rstrip() for line in inspect.cleandoc(item["documentation"]).splitlines()),
            "",
        ]
    return "\n".join(lines)
