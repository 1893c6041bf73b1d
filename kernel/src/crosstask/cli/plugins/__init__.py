"""`crosstask plugins`: one file per subcommand, imported when it is used."""

from __future__ import annotations

import click

from crosstask.cli.common import json_option
from crosstask.cli.lazy import LazyGroup

_COMMANDS = {
    "list": "Every plugin found, what it offers, and what is wrong with those that cannot be used.",
    "points": "Every extension point, the kernel's and those of plugins, with where it comes from.",
    "info": "What a plugin or component is: options, documentation, source, licence.",
    "why": "Why a plugin or component can or cannot be used.",
    "search": "What to install for a component, point, recipe or command, by name or by words.",
    "doctor": "What was found where, what is wrong with it, and what to do.",
    "check": "Check that a plugin or component does what its contract says.",
    "new": "Write a new plugin: a small working one of any extension point, a recipe, or a whole family.",
    "freeze": "Write which plugins and versions a run used.",
}


@click.group(cls=LazyGroup, package=__name__, table=_COMMANDS, invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins, or inspect them."""
    if ctx.invoked_subcommand is None:
        from crosstask.cli.plugins.list import show

        show(as_json)
