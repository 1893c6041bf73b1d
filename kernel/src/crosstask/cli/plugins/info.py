"""`crosstask plugins info NAME`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say

if TYPE_CHECKING:
    from crosstask.manifest import Extension
    from crosstask.registry import PluginRecord, Registry


@click.command()
@click.argument("name")
@json_option
def command(name: str, as_json: bool) -> None:
    """What the plugin or component NAME is; `balancer/rgb` where two extension points share a name."""
    from crosstask.registry import Registry

    registry = Registry.installed()
    described = [describe_offer(registry, record, extension) for record, extension in offers(registry, name)]
    if as_json:
        emit_json(described)
        return
    for item in described:
        say(_text(item))


def offers(registry: Registry, name: str) -> list[tuple[PluginRecord, Extension | None]]:
    """Every (plugin, component) that `name` may mean; a plugin that offers nothing readable comes with None."""
    from crosstask.errors import UnknownComponentError, nearest
    from crosstask.manifest import DEFAULT
    from crosstask.registry import packages

    point, _, last = name.partition("/")
    if last == DEFAULT:
        name = f"{point}/{registry.default(point)}"
    found: list[tuple[PluginRecord, Extension | None]] = []
    known: set[str] = set()
    for record in registry.plugins():
        known.add(record.name)
        if record.plugin is None and name in (record.name, record.distribution):
            found.append((record, None))
        for extension in record.plugin.extensions if record.plugin else ():
            known.add(extension.key if last else extension.name)
            if name in (record.name, record.distribution, extension.name, extension.key):
                found += [(record, extension)]
    if not found and (components := registry.names(name)):
        raise UnknownComponentError(
            f"{name!r} is an extension point; name one of its components: {', '.join(components)}"
        )
    if not found:
        ours = [(key, key.partition("/")[2], by, by.removeprefix("crosstask-")) for key, by in packages().items()]
        if brings := {names[2] for names in ours if name in names}:
            raise UnknownComponentError(
                f"{name!r} is not installed; pip install {' or '.join(sorted(brings))} brings it"
            )
        raise UnknownComponentError(f"no plugin or component named {name!r}{nearest(name, known)}")
    return found


def describe_offer(registry: Registry, record: PluginRecord, extension: Extension | None) -> dict[str, Any]:
    """A component as JSON. A component that cannot be imported is described as far as its manifest goes."""
    from crosstask.errors import PluginError
    from crosstask.manifest import COMMAND, RECIPE
    from crosstask.options import describe
    from crosstask.registry import licence

    item: dict[str, Any] = {
        "plugin": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "licence": licence(record.distribution),
        "status": record.status.value,
        "reason": record.reason,
    }
    if extension is None:
        return item
    item |= {
        "point": extension.point,
        "name": extension.name,
        "target": extension.target,
        "summary": extension.summary,
        "source": extension.source,
    }
    if reason := record.unusable.get(extension.key):
        return item | {"reason": reason}
    try:
        made = registry.load_offer(extension)
    except PluginError as error:
        return item | {"reason": str(error)}
    if extension.point in (RECIPE, COMMAND):
        return item
    options = describe(made)
    for option in options:
        option["default"] = "nothing" if option["default"] is None else option["default"]
    if extension.point == "stage":
        item |= {"provides": sorted(made.provides), "after": list(made.after)}
    return item | {
        "default": bool(extension.default),
        "capabilities": sorted(made.capabilities),
        "options": options,
        "documentation": inspect.cleandoc(made.__doc__ or ""),
    }


def _text(item: dict[str, Any]) -> str:
    what = f"{item['point']} {item['name']}" if "point" in item else f"plugin {item['plugin']}"
    lines = [f"{what}  ({item['distribution']} {item['version']}, licence {item['licence']}, {item['status']})"]
    lines += [f"  {item[key]}" for key in ("reason", "summary") if item.get(key)]
    if item.get("source"):
        lines.append(f"  source: {item['source']}")
    if item.get("target"):
        lines.append(f"  code: {item['target']}")
    if item.get("capabilities"):
        lines.append(f"  capabilities: {', '.join(item['capabilities'])}")
    for key, told in (("provides", "provides for later stages"), ("after", "runs after")):
        if item.get(key):
            lines.append(f"  {told}: {', '.join(item[key])}")
    if item.get("default"):
        lines.append(f"  the default of {item['point']}")
    if item.get("options"):
        lines.append(
            f"  options (the table [{item['name']}] of a recipe):" if item["point"] == "stage" else "  options:"
        )
    for option in item.get("options", ()):
        rules = f" ({option['bounds']})" if option["bounds"] else ""
        lines.append(f"    {option['name']}: {option['type']} = {option['default']}{rules}  {option['help']}".rstrip())
    if item.get("documentation"):
        lines += ["", *(f"    {line}".rstrip() for line in item["documentation"].splitlines())]
    return "\n".join([*lines, ""])
