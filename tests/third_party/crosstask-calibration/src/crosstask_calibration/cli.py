"""`crosstask reliability RUN`."""

from __future__ import annotations

from pathlib import Path

import click
from crosstask.cli.common import emit_json, json_option


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Print the calibration errors of the run in FOLDER."""
    from crosstask import Registry, Unread
    from crosstask.job import load_run

    record = load_run(folder)
    registry = Registry.installed()
    for name in record.results:
        result = record.result(name, registry) if record.stage_of(name) == "calibration" else None
        if result is None or isinstance(result, Unread):
            continue
        if as_json:
            emit_json(result)
        else:
            for task_id, before in result.before.items():
                click.echo(f"{task_id}: {before:.3f} before, {result.after[task_id]:.3f} after")
