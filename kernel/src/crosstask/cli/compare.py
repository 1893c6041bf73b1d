"""`crosstask compare RUN RUN`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from crosstask.cli.common import emit_json, emit_table, json_option, say, shown

if TYPE_CHECKING:
    from crosstask.report.comparison import Comparison, Difference

_ROWS = 20


@click.command()
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("others", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def command(first: Path, others: tuple[Path, ...], as_json: bool) -> None:
    """What differs between the run in the folder RUN and each of the others.

    Recipes and versions; transfers, with intervals and changes of sign; scores, paired by seed where the seeds are the
    same; what it took. Exits with 0 if recipes and findings are the same, with 1 if something differs, with 2 if runs
    cannot be compared, because they are of other tasks or of other data behind them.
    """
    from crosstask.graph import TransferGraph
    from crosstask.job import load_run
    from crosstask.report.comparison import compare

    runs = [(load_run(folder), TransferGraph.load(folder / "graph.json")) for folder in (first, *others)]
    if not as_json:  # a person knows them by the folders
        named = zip(runs, _told_apart((first, *others)), strict=True)
        runs = [(attrs.evolve(record, run_id=name), graph) for (record, graph), name in named]
    found = [compare(runs[0], other) for other in runs[1:]]
    if as_json:
        emit_json(found)
    else:
        for each in found:
            _show(each)
    sys.exit(2 if any(each.why_not for each in found) else int(any(each.differs for each in found)))


def _show(found: Comparison) -> None:
    say(f"{found.first} and {found.second}")
    _table(found, "What they were told", found.recipe)
    if found.why_not:
        say(f"they cannot be compared: {'; '.join(found.why_not)}")
        return
    _table(found, "Scores", found.scores)
    edges = found.ranked()
    signs = [f"{edge.evidence[0]} / {edge.evidence[1]}{edge.sign and ', ' + edge.sign}" for edge in edges]
    _table(found, "Transfers", [edge.change for edge in edges], How=signs)
    _table(found, "What it took", found.costs)
    _table(found, "Versions", found.versions)
    for what, names in found.lists().items():
        say(f"{what}: {'; '.join(names[:_ROWS])}{f' and {len(names) - _ROWS} more' if len(names) > _ROWS else ''}")
    say(f"{found.told()}. An interval is one of 95 %; * it has no zero in it")


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """The folders as they are headed: by as much of the end of their paths as tells them apart."""
    paths = [Path(os.path.abspath(folder)).parts for folder in folders]  # noqa: PTH100 - links stay as they are written
    for count in range(1, max(map(len, paths))):
        names = [str(Path(*parts[-count:])) for parts in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(Path(*parts)) for parts in paths]


def _table(both: Comparison, title: str, found: Sequence[Difference], **more: Sequence[str]) -> None:
    if not found:
        return
    from rich.table import Table

    rest = f", {_ROWS} of {len(found)} (--json has all)" if len(found) > _ROWS else ""
    numbers = any(each.change is not None for each in found)
    table = Table("", both.first, both.second, *(["Change"] if numbers else []), *more, title=f"{title}{rest}")
    table.columns[0].overflow = "fold"
    for at, each in enumerate(found[:_ROWS]):
        change = [_change(each)] if numbers else []
        values = (shown(getattr(value, "mean", value)) for value in (each.first, each.second))
        table.add_row(each.name.replace("_", " "), *values, *change, *(column[at] for column in more.values()))
    emit_table(table)


def _change(each: Difference) -> str:
    if each.change is None:
        return ""
    ends = "" if each.low is None else f" [{each.low:+.3f}, {each.high:+.3f}]"
    change = f"{each.change:+.3f}" if isinstance(each.change, float) else f"{each.change:+,}"
    return f"{change}{ends}{' paired' if each.paired else ''}{' *' if each.certain else ''}"
