"""`crosstask plugins why NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say

if TYPE_CHECKING:
    from crosstask.manifest import Extension
    from crosstask.registry import PluginRecord, Registry
    from crosstask.settings import Settings


@click.command()
@click.argument("name")
@json_option
def command(name: str, as_json: bool) -> None:
    """Why the plugin or component NAME can or cannot be used, and what decided it."""
    from crosstask.cli.plugins.info import offers
    from crosstask.registry import Registry

    registry = Registry.installed()
    answers = [_why(registry, record, extension) for record, extension in offers(registry, name)]
    if as_json:
        emit_json(answers)
        return
    for answer in answers:
        say(f"{answer['what']} of {answer['origin']}: {'usable' if answer['usable'] else 'NOT usable'}")
        for line in answer["because"]:
            say(f"  {line}")


def _why(registry: Registry, record: PluginRecord, extension: Extension | None) -> dict[str, Any]:
    from crosstask.errors import PluginError
    from crosstask.manifest import RECIPE
    from crosstask.registry import Status

    what = f"{extension.point} {extension.name!r}" if extension else f"plugin {record.name!r}"
    found = f"found as entry point {record.name} = {record.entry_point}" if record.entry_point else "added by hand"
    because = [found, *decided(registry.settings, record)]
    usable = record.status is Status.OK
    if record.status is Status.DENIED:
        pass  # the settings above say it
    elif not usable:
        because.append(f"{record.status.value}: {record.reason}")
    elif extension is not None and (reason := record.unusable.get(extension.key)):
        usable = False
        because.append(reason)
    elif extension is not None:
        try:
            registry.load_offer(extension)
            because.append(f"{extension.target} {'is there' if extension.point == RECIPE else 'can be imported'}")
        except PluginError as error:
            usable = False
            because.append(str(error))
    return {"what": what, "origin": record.origin, "usable": usable, "because": because}


def decided(settings: Settings, record: PluginRecord) -> list[str]:
    """The settings that touch a plugin, with where each comes from."""
    lines = []
    for key in ("allow", "allow_project"):
        if getattr(settings, key):
            verdict = "names it" if settings.matches(key, record.distribution) else "does not name it"
            lines.append(f"the allow list ({settings.whence(key)}) {verdict}")
    if pattern := settings.matches("deny", *record.names):
        lines.append(f"the deny list ({settings.whence('deny', pattern)}) names it: {pattern!r}")
    offered = {e.key for e in (record.plugin.extensions if record.plugin else ())} | {record.name}
    for key, distribution in settings.prefer.items():
        if key in offered:
            lines.append(f"prefer ({settings.origins.get('prefer', 'settings')}): {key} = {distribution}")
    return lines or ["no setting names it"]
