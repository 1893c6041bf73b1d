"""`crosstask run RECIPE --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, progress, run_options, say, shown

if TYPE_CHECKING:
    from crosstask.records import RunRecord


@click.command()
@click.argument("reference", metavar="RECIPE", required=False)
@click.option("--resume", is_flag=True, help="Continue the run that was started in --out; its recipe if none is given.")
@click.option(
    "--frozen",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Refuse to run with other plugins or versions than this file names (see `plugins freeze`).",
)
@click.option(
    "--observer",
    "observers",
    multiple=True,
    metavar="NAME",
    help="Have this observer listen too, such as an experiment tracker: its options are those of its settings.",
)
@run_options
def command(
    reference: str | None, resume: bool, frozen: Path | None, observers: tuple[str, ...], wanted: Wanted
) -> None:
    """Run RECIPE, a TOML file or the name of an installed recipe, and write everything it finds to --out."""
    execute(reference, resume, wanted, frozen, observers)


def execute(
    reference: str | None, resume: bool, wanted: Wanted, frozen: Path | None = None, named: Sequence[str] = ()
) -> None:
    """Run a recipe and print its summary."""
    if reference is None and not resume:
        raise click.UsageError("a RECIPE is needed, or --resume to continue the run in --out")
    from crosstask.cli.trust import approval
    from crosstask.job import run_recipe
    from crosstask.recipe import load_recipe
    from crosstask.registry import Registry

    registry = Registry.installed()
    approve = approval(registry, wanted.trust)
    recipe = load_recipe(reference, registry, wanted.overrides, approve=approve).recipe if reference else None
    listening: list[Any] = [registry.create("observer", name) for name in named]
    with progress(wanted.as_json) as observers:
        record = run_recipe(
            recipe,
            wanted.out,
            registry=registry,
            store=wanted.store,
            resume=resume,
            device=wanted.device,
            observers=[*observers, *listening],
            trace=wanted.tracer,
            frozen=frozen,
            approve=approve,
        )
    if wanted.as_json:
        emit_json(record)
    else:
        _show(record, wanted.out)


def _show(record: RunRecord, out: Path) -> None:
    from rich.table import Table

    table = Table("What", "Figure", title=f"{record.name} · seed {record.seed} · {record.seconds:.0f} s")
    for name, value in record.summary.items():
        table.add_row(name.replace("_", " "), shown(value))
    emit_table(table)
    written = {"report": "report.html", "figures": "run.json", "graph": "graph.json"}
    say("   ".join(f"{what}: {out / name}" for what, name in written.items() if (out / name).exists()))
