"""The command `crosstask`. One file per command; a command's module is imported when the command is used."""

from __future__ import annotations

import sys

import click

from crosstask.cli.lazy import LazyGroup

_COMMANDS = {
    "curriculum": "Plan a curriculum for a target task.",
    "demo": "Run the demo: discovery to joint training on real digits, with a report.",
    "discover": "Find out which tasks help which, and write the transfer graph.",
    "plugins": "List and inspect the installed plugins.",
    "recipe": "List recipes, or show one with the origin of each value.",
    "report": "Write the HTML report of a run again.",
    "run": "Run a recipe from discovery to joint training.",
    "synthesize": "Make a model for an unseen task without training it.",
    "transfer": "Measure the transfer from one task to another.",
}


@click.group(cls=LazyGroup, package=__name__, table=_COMMANDS)
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
