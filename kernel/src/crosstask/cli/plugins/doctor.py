"""`crosstask plugins doctor`."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option

if TYPE_CHECKING:
    from crosstask.registry import PluginRecord, Registry


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 if anything is wrong (for continuous integration).")
@json_option
def command(strict: bool, as_json: bool) -> None:
    """What was found where, what is wrong with it and what to do; imports every component to find out."""
    from crosstask.registry import Registry

    registry = Registry.installed()
    reports = [_examine(registry, record) for record in registry.plugins()]
    if as_json:
        emit_json({"python": sys.version.split()[0], "settings": _settings(registry), "plugins": reports})
    else:
        _print(registry, reports)
    if strict and any(report["problems"] for report in reports):
        sys.exit(1)


def _settings(registry: Registry) -> dict[str, Any]:
    settings = registry.settings
    values: dict[str, Any] = {
        "allow": list(settings.allow),
        "deny": list(settings.deny),
        "prefer": dict(settings.prefer),
    }
    values["plugins_dir"] = list(settings.plugins_dir)
    return {
        key: {"value": value, "from": settings.origins.get(key, "default")} for key, value in values.items() if value
    } | {
        f"[{plugin}]": {"value": settings.shown(plugin), "from": "a table of the plugin"} for plugin in settings.tables
    }


def _examine(registry: Registry, record: PluginRecord) -> dict[str, Any]:
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
            registry.load_offer(extension)
        except PluginError as error:
            problems.append(_problem(str(error), _advice_for(error, record), _trace(error)))
    for point in well.points if well else ():
        if reason := record.unusable.get(f"point/{point.name}"):
            problems.append(_problem(f"point {point.name!r}: {reason}", _advice_unusable(reason), ""))
            continue
        try:
            registry.contract(point.name)
            if point.kit:
                load(point.kit, f"kit of extension point {point.name!r}")
            if point.template and not data_path(point.template).exists():
                raise PluginError(f"template of extension point {point.name!r}: {point.template} is not there")
        except PluginError as error:
            problems.append(_problem(str(error), _advice_for(error, record), _trace(error)))
    return _report(record, problems, list(record.notes))


def _report(record: PluginRecord, problems: list[dict[str, str]], notes: list[str]) -> dict[str, Any]:
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "folder": _folder(record.distribution),
        "entry_point": record.entry_point,
        "status": record.status.value,
        "problems": problems,
        "notes": notes,
    }


def _problem(what: str, advice: str, trace: str) -> dict[str, str]:
    return {"what": what, "advice": advice, "traceback": trace}


def _folder(distribution: str) -> str:
    from importlib_metadata import PackageNotFoundError
    from importlib_metadata import distribution as find

    try:
        return str(find(distribution).locate_file(""))
    except PackageNotFoundError:
        return ""


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


def _print(registry: Registry, reports: list[dict[str, Any]]) -> None:
    for key, entry in _settings(registry).items():
        click.echo(f"setting {key} = {entry['value']}  ({entry['from']})")
    for report in sorted(reports, key=lambda report: bool(report["problems"])):  # what is wrong comes last
        state = "ok" if not report["problems"] and report["status"] == "ok" else report["status"].upper()
        state = "PROBLEM" if report["problems"] and report["status"] == "ok" else state
        where = f" in {report['folder']}" if report["folder"] else ""
        click.echo(f"{report['name']}: {state}  ({report['distribution']} {report['version']}{where})")
        for note in report["notes"]:
            click.echo(f"  note: {note}")
        for problem in report["problems"]:
            click.echo(f"  {problem['what']}\n  what to do: {problem['advice']}")
            if problem["traceback"]:
                click.echo(textwrap.indent(problem["traceback"].rstrip(), "    "))
    wrong = sum(bool(report["problems"]) for report in reports)
    click.echo(f"{len(reports)} plugins, {wrong} with problems")
