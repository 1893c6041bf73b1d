"""`crosstask demo`: the recipe `demo` that the digits plugin ships."""

from __future__ import annotations

from pathlib import Path

import click

from crosstask.cli.common import run_options
from crosstask.cli.run import execute


@click.command()
@click.option("--resume", is_flag=True, help="Continue a demo that was interrupted.")
@run_options
def command(resume: bool, out: Path, overrides: tuple[str, ...], store: str | None, device: str, as_json: bool) -> None:
    """Discover, order, transfer, synthesise and train together on scikit-learn's real digits, in under two minutes."""
    execute("demo", resume, out, overrides, store, device, as_json)
