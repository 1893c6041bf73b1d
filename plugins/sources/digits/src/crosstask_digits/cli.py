"""`crosstask demo`: the recipe `demo`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, run_options
from crosstask.cli.run import execute


@click.command()
@click.option("--resume", is_flag=True, help="Continue a demo that was interrupted.")
@run_options
def command(resume: bool, wanted: Wanted) -> None:
    """Discover, order, transfer, synthesise and train together on scikit-learn's real digits, in under two minutes."""
    execute("demo", resume, wanted)
