"""`crosstask discover`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, say, shown, task_options


@click.command()
@task_options
def command(reference: str | None, wanted: Wanted) -> None:
    """Find out which tasks of a recipe help which; write graph.json and graph.graphml to --out.

    The discoverers are those of the recipe's table [discovery], or those that the installed plugins mark as default.
    """
    with wanted.engine(reference, "discovery") as (engine, recipe):
        engine.run_stage("discovery", **recipe.stages["discovery"].options)
        graph = engine.graph
        for suffix in ("json", "graphml"):
            engine.export_transfer_graph(wanted.out / f"graph.{suffix}")
        if wanted.as_json:
            emit_json(graph.to_json())
            return
        from rich.table import Table

        table = Table("Source", "Target", "Coefficient", "95 %", "Relation", "Evidence", title="Strongest transfer")
        for edge in sorted(graph.edges(), key=lambda e: -e.transfer_coefficient)[:20]:
            between = "–" if edge.low is None else f"{edge.low:+.2f} … {edge.high:+.2f}"
            coefficient = shown(edge.transfer_coefficient)
            relation = edge.relation.value.replace("_", " ")
            table.add_row(edge.source, edge.target, coefficient, between, relation, edge.evidence.value)
        emit_table(table)
        say(f"graph: {wanted.out / 'graph.json'}")
