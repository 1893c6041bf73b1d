"""`crosstask advise TARGET`."""

from __future__ import annotations

import attrs
import click

from crosstask.cli.common import Wanted, emit_json, emit_table, say, shown, task_options


@click.command()
@click.argument("target")
@click.option("--strategy", help="Transfer component. [default: the recipe's]")
@click.option(
    "--share", default=0.25, show_default=True, type=click.FloatRange(0, 1),
    help="What it may spend, of the cost of learning from every source.",
)  # fmt: skip
@task_options
def command(target: str, strategy: str | None, share: float, reference: str, wanted: Wanted) -> None:
    """Say which task's model to learn TARGET from, with what score to expect, from what evidence."""
    with wanted.engine(reference) as (engine, _):
        advice = engine.advise(target, strategy, share=share)
    if wanted.as_json:
        emit_json(advice)
        return
    from rich.table import Table

    say(advice.text)
    table = Table("Source", f"Expected {advice.metric}", "Evidence", "Features alone")
    for row in advice.rows:
        expected = "–" if row.expected is None else shown(attrs.asdict(row.expected))
        table.add_row(row.source, expected, row.evidence, shown(row.screened))
    for name, why in advice.avoid.items():
        if name not in [row.source for row in advice.rows]:
            table.add_row(name, "–", why, "–")
    emit_table(table)
    if advice.strategies:
        table = Table("Strategy", "Recommended", "Usual", "Settings", f"Expected {advice.metric}", "Gain", "Steps")
        for each in advice.strategies:
            figures = ("–" if v is None else shown(attrs.asdict(v)) for v in (each.expected, each.gain, each.cost))
            table.add_row(each.kind, each.strategy, each.usual, str(each.evidence), *figures)
        emit_table(table)
