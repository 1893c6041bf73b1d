"""`crosstask example-family RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from crosstask.cli.common import emit_json, json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@json_option
def command(run: Path, as_json: bool) -> None:
    """Print the scores of the run in the folder RUN."""
    from crosstask.errors import RunError
    from crosstask.job import load_run
    from crosstask.records import Unread
    from crosstask.registry import Registry

    record, registry = load_run(run), Registry.installed()
    tables = [name for name in record.results if record.stage_of(name) == "example_family"]
    if not tables:
        raise RunError(f"the run in {run} has no stage 'example_family'")
    for name in tables:
        result = record.result(name, registry)
        if isinstance(result, Unread):
            raise RunError(f"{name}: {result.reason}")
        if as_json:
            emit_json(result)
            continue
        click.echo(f"{name}: {result.measure}, {result.split} data")
        for task_id, score in result.scores.items():
            click.echo(f"  {score:.3f}  {task_id}")
