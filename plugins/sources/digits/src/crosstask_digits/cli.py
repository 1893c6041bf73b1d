"""`crosstask demo`: the recipe `demo`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, run_options
from crosstask.cli.run import execute
from crosstask.executors import one_thread


@click.command()
@click.option("--resume", is_flag=True, help="Continue a demo that was interrupted.")
@run_options
def command(resume: bool, wanted: Wanted) -> None:
    """Discover, order, transfer, synthesise and train together on scikit-learn's real digits, in half a minute."""
    with one_thread():  # its networks are tiny: on a machine at work, threads wait for each other many times as long
        execute("demo", resume, wanted)
