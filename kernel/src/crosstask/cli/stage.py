"""`crosstask stage NAME`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, shown, task_options


@click.command()
@click.argument("name")
@click.option("--before", is_flag=True, help="First run the stages of the recipe that come before it.")
@task_options
def command(name: str, before: bool, reference: str | None, wanted: Wanted) -> None:
    """Run the stage NAME on a recipe's tasks.

    Its options are those of the recipe's table [NAME]; where there is none, the stage's defaults. --set
    NAME.option=value sets others. What it refers to in other stages is run first.
    """
    from crosstask.errors import UnknownComponentError, nearest
    from crosstask.manifest import RESERVED
    from crosstask.recipe import bind
    from crosstask.registry import Registry
    from crosstask.stages import Finished, check_stage, run_stage, summary_of

    if name in RESERVED["stage"]:
        stages = Registry.installed().names("stage")
        raise UnknownComponentError(f"{name!r} is a table of every recipe, not a stage{nearest(name, stages)}")
    with wanted.engine(reference, name) as (engine, recipe):
        order = bind(recipe, engine.registry)
        needed = {name}
        for each in reversed(order):
            if each.name in needed:
                needed |= {ref.stage for ref, _ in each.stage.references().values()}
        upto = order[: [each.name for each in order].index(name) + 1]
        chosen = [each for each in upto if before or each.name in needed]
        for number, each in enumerate(chosen):
            each.stage.before = tuple(earlier.stage.name for earlier in chosen[:number])
            check_stage(each.stage, engine, each.name)
        finished = Finished()
        for each in chosen:
            outcome = run_stage(engine, each.stage, each.name, finished)
    if wanted.as_json:
        emit_json(outcome.record)
        return
    from rich.table import Table

    table = Table("What", "Figure", title=name)
    for what, value in summary_of(chosen[-1].stage, outcome.record).items():
        table.add_row(what.replace("_", " "), shown(value))
    emit_table(table)
