"""The command `crosstask`. One file per command; a command's module is imported when the command is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

_COMMANDS = {
    "curriculum": "Plan a curriculum for a target task.",
    "demo": "Run the demo: discovery to joint training on real digits, with a report.",
    "discover": "Find out which tasks help which, and write the transfer graph.",
    "plugins": "List and inspect the installed plugins.",
    "report": "Write the HTML report of a run again.",
    "run": "Run a recipe from discovery to joint training.",
    "synthesize": "Make a model for an unseen task without training it.",
    "transfer": "Measure the transfer from one task to another.",
}


class _Lazy(click.Group):
    """Knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"crosstask.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in _COMMANDS:
            from crosstask.errors import nearest

            ctx.fail(f"no command {args[0]!r}{nearest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy)
@click.version_option(package_name="crosstask-kernel", prog_name="crosstask")
@click.option("--verbose", is_flag=True, help="Log what happens inside to standard error.")
def cli(verbose: bool) -> None:
    """Find out which tasks help which others to learn, and use it."""
    if verbose:
        import structlog

        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def main() -> None:
    """Entry point: errors that crosstask raises on purpose are printed in a line, not as a traceback."""
    from crosstask.errors import CrosstaskError

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was finished is in the store, and --resume continues a run", err=True)
        sys.exit(130)
    except CrosstaskError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        click.echo(f"error: {error}{notes}", err=True)
        sys.exit(2)
