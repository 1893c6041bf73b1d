"""`crosstask plugins doctor`."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say
from crosstask.settings import matching

if TYPE_CHECKING:
    from crosstask.registry import PluginRecord, Registry


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 if anything is wrong (for continuous integration).")
@json_option
def command(strict: bool, as_json: bool) -> None:
    """What was found where, what is wrong with it and what to do; imports every component to find out."""
    from crosstask.registry import Registry

    registry = Registry.installed()
    deadly = _deadly(registry)
    reports = [_examine(registry, record, deadly) for record in registry.plugins()]
    warnings = _warnings(registry)
    if as_json:
        told = {"python": sys.version.split()[0], "settings": _settings(registry)}
        emit_json(told | {"warnings": warnings, "plugins": reports})
    else:
        _print(registry, warnings, reports)
    if strict and any(report["problems"] for report in reports):
        sys.exit(1)


def _settings(registry: Registry) -> dict[str, Any]:
    settings = registry.settings
    values: dict[str, Any] = {
        "allow": list(settings.allow),
        "allow_project": list(settings.allow_project),
        "deny": list(settings.deny),
        "prefer": dict(settings.prefer),
    }
    values["plugins_dir"] = list(settings.plugins_dir)
    return {
        key: {"value": value, "from": settings.origins.get(key, "default")} for key, value in values.items() if value
    } | {
        f"[{plugin}]": {"value": settings.shown(plugin), "from": "a table of the plugin"} for plugin in settings.tables
    }


def _warnings(registry: Registry) -> list[str]:
    """What is no fault of a plugin: a pattern that is probably misspelt, a distribution that harms others."""
    from crosstask.registry import unreadable

    settings, records = registry.settings, registry.plugins()
    found = []
    for key in ("allow", "allow_project", "deny"):
        kind = "plugin or distribution" if key == "deny" else "distribution of a plugin"
        for pattern in getattr(settings, key):
            if not any(matching(pattern, *(r.names if key == "deny" else (r.distribution,))) for r in records):
                word = key.partition("_")[0]
                found.append(f"{word} ({settings.whence(key, pattern)}): {pattern!r} matches no installed {kind}")
    for path in unreadable():
        told = "torch and networkx, which read all of them, cannot be imported; reinstall or remove its distribution"
        found.append(f"{path} is not UTF-8: {told}")
    return found


def _deadly(registry: Registry) -> dict[str, str]:
    """Modules of plugins that are not ours which end the process that imports them, with how: they are tried in another
    one, because this one has more to tell.
    """
    from crosstask.isolated import Import, look_apart
    from crosstask.manifest import RECIPE
    from crosstask.registry import Status

    targets: list[str] = []
    for record in registry.plugins():
        if record.plugin and record.status is Status.OK and record.is_foreign:
            targets += [e.target for e in record.plugin.extensions if e.point != RECIPE]
            targets += [code for point in record.plugin.points for code in (point.contract, point.kit) if code]
    modules = list(dict.fromkeys(target.partition(":")[0] for target in targets))
    answers = look_apart([Import("module", (module,)) for module in modules])
    return {module: answer.reason for module, answer in zip(modules, answers, strict=True) if answer.ended}


def _examine(registry: Registry, record: PluginRecord, deadly: dict[str, str]) -> dict[str, Any]:
    from crosstask.errors import PluginError
    from crosstask.registry import Status, data_path, load

    problems = []
    if record.status is Status.DENIED:  # what the user asked for is no problem
        return _report(record, [], [*record.notes, record.reason])
    if record.status is not Status.OK:
        problems.append(_problem(record.reason, _advice(record), record.traceback))
    well = record.plugin if record.plugin and record.status is Status.OK else None
    for extension in well.extensions if well else ():
        if reason := record.unusable.get(extension.key):
            problems.append(_problem(f"{extension.point} {extension.name!r}: {reason}", _advice_unusable(reason), ""))
            continue
        try:
            _spare(extension.target, deadly, f"{extension.point} {extension.name!r} ({record.origin})")
            registry.load_offer(extension)
        except PluginError as error:
            problems.append(_problem(str(error), _advice_for(error, record), _trace(error)))
    for point in well.points if well else ():
        if reason := record.unusable.get(f"point/{point.name}"):
            problems.append(_problem(f"point {point.name!r}: {reason}", _advice_unusable(reason), ""))
            continue
        try:
            for code in (point.contract, point.kit):
                _spare(code, deadly, f"extension point {point.name!r} ({record.origin})")
            registry.contract(point.name)
            if point.kit:
                load(point.kit, f"kit of extension point {point.name!r}")
            if point.template and not data_path(point.template).exists():
                raise PluginError(f"template of extension point {point.name!r}: {point.template} is not there")
        except PluginError as error:
            problems.append(_problem(str(error), _advice_for(error, record), _trace(error)))
    return _report(record, problems, list(record.notes))


def _spare(target: str, deadly: dict[str, str], where: str) -> None:
    """PluginError for code that must not be imported here."""
    from crosstask.errors import PluginError

    module = target.partition(":")[0]
    if module in deadly:
        raise PluginError(f"{where}: {module}: {deadly[module]}")


def _report(record: PluginRecord, problems: list[dict[str, str]], notes: list[str]) -> dict[str, Any]:
    from crosstask.registry import folder_of

    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "folder": folder_of(record.distribution),
        "entry_point": record.entry_point,
        "status": record.status.value,
        "problems": problems,
        "notes": notes,
    }


def _problem(what: str, advice: str, trace: str) -> dict[str, str]:
    return {"what": what, "advice": advice, "traceback": trace}


def _advice(record: PluginRecord) -> str:
    from crosstask.registry import Status

    if record.status is Status.INCOMPATIBLE:
        return f"install a version of {record.distribution} for this kernel: pip install -U {record.distribution}"
    if record.status is Status.CONFLICTING:
        return "set prefer in [tool.crosstask], in the recipe or in CROSSTASK_PREFER, or uninstall one of them"
    if missing := _missing_module(record.traceback):
        return (
            f"pip install what provides {missing!r}, or reinstall: pip install --force-reinstall {record.distribution}"
        )
    return f"report it to the authors of {record.distribution}, or leave it out: CROSSTASK_DENY={record.name}"


def _advice_unusable(reason: str) -> str:
    if "pip install" in reason:
        return "pip install" + reason.partition("pip install")[2]
    return (
        "set prefer in [tool.crosstask], or deny one of the plugins" if "offered by" in reason else "tell its authors"
    )


def _advice_for(error: BaseException, record: PluginRecord) -> str:
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError):
        return f"pip install what provides {cause.name!r}, or reinstall {record.distribution}"
    return f"report it to the authors of {record.distribution}"


def _missing_module(trace: str) -> str:
    _, found, rest = trace.rpartition("ModuleNotFoundError: No module named '")
    return rest.partition("'")[0] if found else ""


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""


def _print(registry: Registry, warnings: list[str], reports: list[dict[str, Any]]) -> None:
    for key, entry in _settings(registry).items():
        say(f"setting {key} = {entry['value']}  ({entry['from']})")
    for warning in warnings:
        say(f"warning: {warning}")
    for report in sorted(reports, key=lambda report: bool(report["problems"])):  # what is wrong comes last
        state = "ok" if not report["problems"] and report["status"] == "ok" else report["status"].upper()
        state = "PROBLEM" if report["problems"] and report["status"] == "ok" else state
        where = f" in {report['folder']}" if report["folder"] else ""
        say(f"{report['name']}: {state}  ({report['distribution']} {report['version']}{where})")
        for note in report["notes"]:
            say(f"  note: {note}")
        for problem in report["problems"]:
            say(f"  {problem['what']}\n  what to do: {problem['advice']}")
            if problem["traceback"]:
                say(textwrap.indent(problem["traceback"].rstrip(), "    "))
    wrong = sum(bool(report["problems"]) for report in reports)
    say(f"{len(reports)} plugins, {wrong} with problems")
