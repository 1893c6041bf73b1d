"""What several commands need: shared options, an engine from a recipe, JSON and table output."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from crosstask.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from crosstask.engine import TransferEngine
    from crosstask.recipe import Recipe

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables; no progress bars.")
"""The option `--json`, which every command has; it decorates the command, which is given `as_json`."""


@attrs.frozen
class Wanted:
    """The options that every command working on a recipe's tasks has."""

    out: Path
    overrides: tuple[str, ...]
    store: str | None
    device: str | None
    as_json: bool
    trace: bool
    trust: bool = False

    @property
    def tracer(self) -> Callable[[object], None] | None:
        """What is told of every call of a hook, with --trace."""
        return (lambda call: say(call, err=True)) if self.trace else None

    @contextlib.contextmanager
    def engine(self, reference: str | None, stage: str = "") -> Iterator[tuple[TransferEngine, Recipe]]:
        """An engine with the tasks of a recipe, and a progress bar unless JSON is wanted. With `stage` the recipe has a
        table of that name, an empty one if it had none.
        """
        from crosstask.cli.trust import approval
        from crosstask.job import check_components, check_requirements, engine_for, load_portfolio
        from crosstask.manifest import RECIPE
        from crosstask.recipe import load_recipe
        from crosstask.registry import Registry
        from crosstask.store import open_store

        registry = Registry.installed()
        named = reference or registry.default(RECIPE)
        recipe = load_recipe(named, registry, self.overrides, stage, approval(registry, self.trust)).recipe
        registry = registry.preferring(recipe.prefer)
        check_requirements(recipe, registry)
        check_components(recipe, registry)
        opened = open_store(self.store or str(self.out / "store.db"), registry=registry)
        with (
            progress(self.as_json) as observers,
            engine_for(recipe, registry, opened, self.device, observers, trace=self.tracer) as engine,
        ):
            engine.register(load_portfolio(recipe, engine))
            yield engine, recipe


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Wanted`; the function receives them as one argument, `wanted`."""

    @functools.wraps(function)
    def gathered(
        out: Path, overrides: tuple[str, ...], store: str | None, device: str | None, as_json: bool, trace: bool,
        trust: bool, **others: Any,
    ) -> None:  # fmt: skip
        if device is not None:
            from crosstask.learning.devices import resolve_device

            device = resolve_device(device)  # before anything is made or written
        function(wanted=Wanted(out, overrides, store, device, as_json, trace, trust), **others)

    decorated: Callable[..., None] = gathered
    for decorate in (
        json_option,
        click.option(
            "--trace",
            is_flag=True,
            envvar="CROSSTASK_TRACE",
            help="Print every call of a hook: component, distribution, time, kind of answer.",
        ),
        click.option("--trust", is_flag=True, help="Import code that a recipe's file names and that no plugin brings."),
        click.option("--device", help="torch device to train on, or auto.  [default: the recipe's, else cpu]"),
        click.option("--store", help="Store: a path or any SQLAlchemy URL. [default: store.db in --out]"),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("crosstask-out"),
            show_default=True,
            help="Folder for results and the store.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated


def task_options(function: Callable[..., None]) -> Callable[..., None]:
    """`run_options` and the recipe whose tasks to use."""
    with_recipe = click.option(
        "--recipe",
        "reference",
        help="Recipe file or name: tasks, model, budgets.  [default: the one that `recipe list` calls the default]",
    )
    return with_recipe(run_options(function))


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[list[Any]]:
    """Observers that draw progress bars on standard error; none if quiet."""
    if quiet:
        yield []
        return
    from crosstask.progress import Progress

    bars = Progress()
    try:
        yield [bars]
    finally:
        bars.stop()


def emit_json(value: Any) -> None:
    """Print any record as JSON."""
    import json

    from crosstask.options import unstructure

    click.echo(json.dumps(unstructure(value), indent=1, allow_nan=False))


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text that may hold names and words of plugins, recipes and tasks: control characters are shown, and do
    nothing to the terminal.
    """
    click.echo(printable(text), err=err, nl=nl)


def file_name(text: str) -> str:
    """A name from outside, such as a task's id, as one that is a file's name everywhere and leads into no other folder:
    letters, digits, blanks, `_`, `-` and inner dots stand, anything else is written as in an address (`%2F`).
    """
    from hashlib import sha256

    def escaped(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))

    shown = re.sub(r"[^\w .-]|^[. ]|[. ]$", escaped, text)
    if 0 < len(shown) <= 80:
        return shown
    return f"{shown[:60]}-{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def emit_table(table: Table) -> None:
    """Print a rich table, at least as wide as its title. What stands in its cells is text, not rich's markup."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    for column in table.columns:
        column.header, column.footer = _as_text(column.header), _as_text(column.footer)
        column._cells = [_as_text(cell) for cell in column._cells]
    table.title = _as_text(table.title)
    table.min_width = min(console.width, len(str(table.title or "")))
    console.print(table)


def _as_text(cell: Any) -> Any:
    return printable(cell, lines=False) if isinstance(cell, str) else cell


@functools.singledispatch
def shown(value: Any) -> str:
    """A figure as it is shown in a table."""
    return "–" if value is None else str(value)


@shown.register
def _(value: float) -> str:
    return f"{value:.3f}"


@shown.register
def _(value: bool) -> str:
    return "yes" if value else "no"


@shown.register
def _(value: dict) -> str:  # type: ignore[type-arg]
    if all(isinstance(value.get(key), int | float) for key in ("mean", "low", "high")):
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return ", ".join(f"{k}: {shown(v)}" for k, v in value.items())
