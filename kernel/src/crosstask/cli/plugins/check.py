"""`crosstask plugins check NAME`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, json_option, say
from crosstask.cli.plugins.info import offers

if TYPE_CHECKING:
    from crosstask.testing.kit import Outcome

_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "expected": "expected", "unexpected": "UNEXPECTED"}


@click.command()
@click.argument("name")
@click.option("--set", "options", multiple=True, metavar="OPTION=VALUE", help="An option to make the component with.")
@click.option("--expect", "expected", multiple=True, metavar="CHECK=REASON", help="A check that is expected to fail.")
@click.option("--url", help="For a store: the URL to open; {folder} in it stands for a fresh folder.")
@json_option
def command(name: str, options: tuple[str, ...], expected: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Check that the plugin or component NAME does what its contract says; exit code 1 if it does not.

    This is what `crosstask.testing.conformance` does with pytest.
    """
    from crosstask.errors import PluginError
    from crosstask.manifest import COMMAND, RECIPE
    from crosstask.registry import Registry
    from crosstask.testing.kit import run_checks

    registry = Registry.installed()
    given = {key: _toml(value) for key, value in _pairs(options, "--set")}
    reasons = dict(_pairs(expected, "--expect"))
    rows, failed = [], False
    for record, extension in offers(registry, name):
        if extension is None:
            raise PluginError(f"plugin {record.name!r} of {record.origin} cannot be checked: {record.reason}")
        if extension.point in (RECIPE, COMMAND):
            registry.load_offer(extension)
        else:
            component = registry.component_class(extension.point, extension.name)
            manifest = record.entry_point or None
            outcomes = run_checks(
                component,
                options=given,
                expected_failures=reasons,
                manifest=manifest,
                registry=registry,
                url=url,
            )
            failed |= not all(outcome.ok for outcome in outcomes)
            rows.append({"component": f"{extension.point}/{extension.name}", "checks": outcomes})
            if not as_json:
                _show(f"{extension.point} {extension.name!r} ({record.origin})", outcomes)
    if as_json:
        emit_json(rows)
    sys.exit(1 if failed else 0)


def _show(title: str, outcomes: list[Outcome]) -> None:
    say(title)
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        told = outcome.summary if outcome.status == "passed" else outcome.message.strip().replace("\n", "\n    ")
        say(f"  {outcome.name:<{width}}  {_MARKS[outcome.status]:<10}  {told}")
    count = sum(outcome.status == "passed" for outcome in outcomes)
    wrong = sum(not outcome.ok for outcome in outcomes)
    say(f"  {count} passed, {wrong} failed, {len(outcomes) - count - wrong} skipped or expected to fail")


def _pairs(texts: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise click.UsageError(f"{option} must look like key=value, got {text!r}")
        found.append((key.strip(), value.strip()))
    return found


def _toml(text: str) -> Any:
    """A TOML value; a bare word is a string."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
