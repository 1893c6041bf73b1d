"""`crosstask transfer SOURCE TARGET`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, shown, task_options
from crosstask.showing import times


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--strategy", help="Transfer component. [default: the recipe's]")
@click.option("--samples", is_flag=True, help="Measure the sample efficiency gain too.")
@task_options
def command(
    source: str,
    target: str,
    strategy: str | None,
    samples: bool,
    reference: str,
    wanted: Wanted,
) -> None:
    """Measure the transfer from SOURCE to TARGET against training from scratch with the same budget and seeds."""
    with wanted.engine(reference) as (engine, _):
        result = engine.transfer_knowledge(source, target, strategy, samples=samples)
    if wanted.as_json:
        emit_json(result)
        return
    from rich.table import Table

    table = Table("What", "Figure", title=f"{source} → {target} by {result.strategy}")
    table.add_row(f"{result.metric} with transfer", str(result.score))
    table.add_row(f"{result.metric} from scratch", str(result.scratch_score))
    table.add_row("transfer coefficient", f"{result.coefficient:+}")
    table.add_row(f"gain in {result.metric}", f"{result.performance_gain:+}")
    table.add_row(f"{result.metric} by chance", shown(result.chance))
    doubt = "" if result.certain else " (the gain itself is not beyond doubt)"
    speed = times(result.convergence_speed_gain, result.speed_capped, result.convergence_speed_interval)
    table.add_row("convergence speed gain", speed + doubt)
    if samples:
        gained = times(result.sample_efficiency_gain, result.sample_efficiency_capped)
        table.add_row("sample efficiency gain", gained + doubt)
    if result.learned_nothing:
        table.add_row("nothing learned", "no better than always giving the most frequent answer")
    table.add_row("negative transfer", shown(result.negative))
    table.add_row("weights kept", ", ".join(result.transferred))
    table.add_row("weights drawn anew", ", ".join(result.not_transferred) or "–")
    emit_table(table)
