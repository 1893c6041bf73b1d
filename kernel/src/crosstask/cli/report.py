"""`crosstask report DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from crosstask.cli.common import emit_json, json_option, say


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Write report.html of the run in FOLDER again, from its run.json and graph.json."""
    from crosstask.graph import TransferGraph
    from crosstask.job import load_run
    from crosstask.registry import Registry
    from crosstask.report import write_report

    record = load_run(folder)
    graph = TransferGraph.load(folder / "graph.json")
    prefer = record.recipe.get("prefer")
    registry = Registry.installed().preferring(prefer if isinstance(prefer, dict) else {})  # as the run did
    path = write_report(record, graph, folder / "report.html", registry)
    if as_json:
        emit_json({"report": str(path), "run": record.run_id, "status": record.status})
    else:
        say(f"report: {path}")
