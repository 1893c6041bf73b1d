"""The command `crosstask`. One file per command; a command's module is imported when the command is used.

Commands of plugins (extension point `command`) stand beside the kernel's: `--help` reads their manifests only.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import click

from crosstask.cli.lazy import LazyGroup
from crosstask.manifest import COMMAND, RESERVED

_COMMANDS = {
    "compare": "What differs between runs: recipes, transfers, scores, cost.",
    "plugins": "List and inspect the installed plugins.",
    "recipe": "List recipes, or show one with the origin of each value.",
    "report": "Write the HTML report of a run again, or show runs as a local page.",
    "run": "Run a recipe: its stages in order, with a report.",
    "stage": "Run one stage on a recipe's tasks.",
    "store": "List, check, repair, merge and clean what is stored.",
}
assert set(_COMMANDS) == set(RESERVED[COMMAND])


class RootGroup(LazyGroup):
    """The kernel's commands, and those of plugins; the latter never replace one of the former."""

    def others(self) -> dict[str, str]:
        """Commands of plugins with their summaries, by their manifests."""
        from crosstask.errors import printable
        from crosstask.registry import Registry  # deferred: the kernel's own commands need no listing

        registry = Registry.installed()
        return {n: printable(registry.find(COMMAND, n)[1].summary, lines=False) for n in registry.names(COMMAND)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({**self.table, **self.others()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.table:
            return super().get_command(ctx, name)
        from crosstask.errors import UnknownComponentError, nearest
        from crosstask.registry import Registry

        registry = Registry.installed()
        try:
            command: click.Command = registry.load_offer(registry.find(COMMAND, name)[1])
        except UnknownComponentError as error:
            hint = str(error) if "pip install" in str(error) else ""
            ctx.fail(hint or f"no command {name!r}{nearest(name, self.list_commands(ctx))}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        if others := self.others():
            with formatter.section("Commands of plugins"):
                formatter.write_dl(sorted(others.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        command = self.get_command(ctx, args[0])
        return args[0], command, args[1:]


_FOLDERS = "CROSSTASK_PLUGINS_DIR"


def _use_folders(ctx: click.Context, option: click.Parameter, folders: tuple[str, ...]) -> None:
    """Before a command is looked for, which may be one of theirs; and in the environment, because worker processes read
    the same settings.
    """
    if folders:
        known = [os.environ[_FOLDERS]] if os.environ.get(_FOLDERS) else []
        os.environ[_FOLDERS] = ",".join([*known, *(os.path.abspath(folder) for folder in folders)])  # noqa: PTH100


@click.group(cls=RootGroup, package=__name__, table=_COMMANDS)
@click.version_option(package_name="crosstask-kernel", prog_name="crosstask")
@click.option("--verbose", is_flag=True, help="Log what happens inside to standard error.")
@click.option(
    "--plugins-dir",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    callback=_use_folders,
    is_eager=True,
    expose_value=False,
    help="Folder of one-off plugins, each a NAME.py with a PLUGIN.",
)
def cli(verbose: bool) -> None:
    """Find out which tasks help which others to learn, and use it."""
    if verbose:
        from crosstask.logs import log_everything

        log_everything()


def main() -> None:
    """Entry point: errors that crosstask raises on purpose are printed in a line, not as a traceback."""
    from crosstask.errors import CrosstaskError, printable

    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(message)}\n"
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(printable(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo("interrupted; what was finished is in the store, and --resume continues a run", err=True)
        sys.exit(getattr(stop.__cause__ or stop, "exit_code", 130))  # click raises Abort from what was raised
    except CrosstaskError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        click.echo(printable(f"error: {error}{notes}"), err=True)
        sys.exit(2)
