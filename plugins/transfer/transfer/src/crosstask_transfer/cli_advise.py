"""`crosstask advise TARGET`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, say, shown, task_options
from crosstask.options import unstructure

if TYPE_CHECKING:
    from crosstask.engine import TransferEngine
    from crosstask.recipe import Recipe


@click.command()
@click.argument("target")
@click.option("--strategy", help="Transfer component. [default: the recipe's]")
@click.option(
    "--share", default=0.25, show_default=True, type=click.FloatRange(0, 1),
    help="What it may spend, of the cost of learning from every source.",
)  # fmt: skip
@task_options
def command(target: str, strategy: str | None, share: float, reference: str, wanted: Wanted) -> None:
    """Say which task's model to learn TARGET from, with what score to expect, from what evidence.

    What a run of the same recipe has measured in the folder counts.
    """
    with wanted.engine(reference) as (engine, recipe):
        if told := _with_measured(engine, recipe, wanted.out):
            click.echo(told, err=True)
        advice = engine.advise(target, strategy, share=share)
    if wanted.as_json:
        emit_json(advice)
        return
    from rich.table import Column, Table

    from crosstask_transfer.advice import whole  # deferred: `--help` lists the command

    say(advice.text)
    table = Table("Source", f"Expected {advice.metric}", "Evidence", "From scratch", "Features alone")
    for row in advice.rows:
        expected = "–" if row.expected is None else str(row.expected)
        table.add_row(row.source, expected, row.evidence, shown(row.scratch), shown(row.screened))
    for name, why in advice.avoid.items():
        if name not in [row.source for row in advice.rows]:
            table.add_row(name, "–", why, "–", "–")
    emit_table(table)
    if advice.strategies:
        names = [Column(name, overflow="fold") for name in ("Strategy", "Recommended", "Usual")]  # whole, to be copied
        table = Table(*names, "Settings", f"Expected {advice.metric}", "Gain", "Steps")
        for each in advice.strategies:
            expected = "–" if each.expected is None else str(each.expected)
            gain = "–" if each.gain is None else f"{each.gain:+}"
            table.add_row(each.kind, each.strategy, each.usual, str(each.evidence), expected, gain, whole(each.cost))
        emit_table(table)


def _with_measured(engine: TransferEngine, recipe: Recipe, folder: Path) -> str:
    """Take over what a run in this folder has measured; why not, where there is one and it has other settings."""
    from crosstask.graph import TransferGraph  # deferred: `--help` lists the command
    from crosstask.job import load_run

    if not (folder / "run.json").exists() or not (folder / "graph.json").exists():
        return ""
    ours, theirs = unstructure(recipe), load_run(folder).recipe
    other = [name for name in ("source", "model", "train", "budget", "seed", "seeds") if ours[name] != theirs.get(name)]
    if other:
        return f"what was measured in {folder} is not used: it was with another {', '.join(other)}"
    for edge in TransferGraph.load(folder / "graph.json").edges():
        if edge.measured and edge.source in engine.portfolio and edge.target in engine.portfolio:
            engine.graph.add(edge)
    return ""
