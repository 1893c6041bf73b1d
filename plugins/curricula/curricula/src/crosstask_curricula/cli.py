"""`crosstask curriculum TARGET`."""

from __future__ import annotations

from pathlib import Path

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, shown, task_options


@click.command()
@click.argument("target")
@click.option("--strategy", help="Curriculum component. [default: the one that a plugin marks]")
@click.option("--max-tasks", default=5, show_default=True, type=click.IntRange(1), help="Tasks on the path.")
@click.option(
    "--graph",
    "graph_path",
    type=click.Path(path_type=Path),
    help="Use this transfer graph, discover nothing.",
)
@task_options
def command(
    target: str,
    strategy: str | None,
    max_tasks: int,
    graph_path: Path | None,
    reference: str,
    wanted: Wanted,
) -> None:
    """Plan an order of tasks that ends with TARGET."""
    with wanted.engine(reference) as (engine, recipe):
        found = [stage for stage in recipe.stages.values() if stage.use == "discovery"]
        if graph_path is not None:
            from crosstask.graph import TransferGraph

            engine.graph = TransferGraph.load(graph_path)
        elif not found:
            engine.discover()
        else:
            for stage in found:
                engine.run_stage("discovery", **stage.options)
        curriculum = engine.generate_curriculum(target, strategy, max_tasks)
    if wanted.as_json:
        emit_json(curriculum)
        return
    from rich.table import Table

    table = Table("Step", "Task", "Difficulty", "Helps the target", "Prerequisites", title=f"Curriculum for {target}")
    if curriculum.expected_interval is not None:
        table.caption = f"expected score of {target} at the end: {shown(curriculum.expected_interval)}"
    for number, task_id in enumerate(curriculum.task_sequence, 1):
        helps = shown(curriculum.contributions.get(task_id))
        needs = ", ".join(curriculum.prerequisites.get(task_id, ()))
        table.add_row(str(number), task_id, shown(curriculum.task_difficulties[task_id]), helps, needs or "–")
    emit_table(table)
