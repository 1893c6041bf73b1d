"""`crosstask store`: what is kept, whether it is whole, and how it is put in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, emit_table, json_option, say

if TYPE_CHECKING:
    from crosstask.graph import Merged
    from crosstask.points.store import Row, Store


@click.group()
def command() -> None:
    """List, check, repair, merge and clean what is stored."""


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Which store: the options `--store`, `--weights` and `--out`; and `--json`."""
    for decorate in (
        json_option,
        click.option(
            "--weights",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the weights files. [default: beside the database; crosstask.weights for a server's]",
        ),
        click.option("--store", "url", help="Store: a path or any SQLAlchemy URL. [default: store.db in --out]"),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("crosstask-out"),
            show_default=True,
            help="Folder of a run, whose store is meant.",
        ),
    ):
        function = decorate(function)
    return function


@contextlib.contextmanager
def opened(url: str, weights: Path | None = None) -> Iterator[Store]:
    """A store that is there: none is made."""
    from crosstask.errors import StoreError
    from crosstask.registry import Registry
    from crosstask.store import open_store

    scheme, _, rest = url.partition("://")
    path = Path(rest.partition("?")[0].removeprefix("/") if rest else url)
    if (not rest or scheme.partition("+")[0] == "sqlite") and not path.is_file():
        raise StoreError(f"no store at {path}: say where it is with --store, or --out for that of a run's folder")
    store = open_store(url, weights, Registry.installed())
    try:
        yield store
    finally:
        store.close()


def _url(url: str | None, out: Path) -> str:
    return url or str(out / "store.db")


@command.command("list")
@click.argument("kind", required=False)
@_options
def list_(kind: str | None, url: str | None, out: Path, weights: Path | None, as_json: bool) -> None:
    """The kinds of entries with their numbers, or the entries of KIND: models, transfers, runs, …"""
    from crosstask.store.upkeep import chosen_kinds

    with opened(_url(url, out), weights) as store:
        kinds = chosen_kinds(store, kind)
        if kind is None:
            rows: list[dict[str, Any]] = []
            for each in kinds:
                found = list(store.rows(each))
                damaged = sum(row.damage is not None for row in found)
                if found:
                    newest = max((row.created for row in found if row.created is not None), default=None)
                    rows.append({"kind": each, "entries": len(found), "damaged": damaged, "newest": newest})
        else:
            at_work = {holder.run_id for holder in store.holders()}
            rows = [_told(row, at_work) for row in store.rows(kind)]
    _emit(rows, kind or "Store", as_json)


def _told(row: Row, at_work: set[str]) -> dict[str, Any]:
    shown = {"key": row.key, "run": row.run_id, "created": row.created}
    if row.kind == "runs":
        shown = {"key": row.key, "created": row.created, **_run(row.payload, at_work)}
    else:
        shown["what"] = _what(row.payload)
    return {**shown, "damage": row.damage}


def _run(payload: Any, at_work: set[str]) -> dict[str, Any]:
    """A run as it stands: one that gives no sign of life any more was interrupted, whatever its record says."""
    from crosstask.job import still_running

    payload = payload if isinstance(payload, dict) else {}
    record = payload.get("record")
    record = record if isinstance(record, dict) else {}
    status, folder, run_id = record.get("status"), payload.get("folder"), record.get("run_id")
    if status == "running" and run_id not in at_work:
        there = isinstance(folder, str) and isinstance(run_id, str) and still_running(Path(folder), run_id)
        status = status if there else "interrupted"
    return {"name": record.get("name"), "status": status, "folder": folder}


def _what(payload: Any) -> str:
    """The short fields of a payload that say what it is: names, not figures."""
    if not isinstance(payload, dict):
        return ""
    short = (f"{key}: {value}" for key, value in payload.items() if isinstance(value, str) and len(value) < 60)
    return ", ".join(list(short)[:4])


@command.command()
@_options
def check(url: str | None, out: Path, weights: Path | None, as_json: bool) -> None:
    """Read every entry and every weights file. Exit status 1 if something is damaged."""
    from crosstask.store import upkeep

    with opened(_url(url, out), weights) as store:
        found = upkeep.check(store)
    if as_json:
        emit_json({**_health(found), "database": found.database, "dead_claims": found.dead_claims})
    else:
        if found.database is not None:
            say(f"the database is damaged: {found.database}")
        for row in found.damaged:
            say(f"{row.kind} {row.key}: {row.damage}")
        say(
            f"{found.entries} entries, {len(found.damaged)} damaged; {len(found.unused)} weights files that nothing "
            f"uses; {found.dead_claims} claims of runs that have died"
        )
        if found.damaged:
            say("they are made again when a run next needs them; `crosstask store repair` removes them now")
    if not found.well:
        raise click.exceptions.Exit(1)


def _health(found: Any) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "damaged": [{"kind": row.kind, "key": row.key, "damage": row.damage} for row in found.damaged],
        "unused": [str(path) for path in found.unused],
    }


@command.command()
@_options
def repair(url: str | None, out: Path, weights: Path | None, as_json: bool) -> None:
    """Remove the entries that are damaged, so that a run makes them again, and the claims of runs that have died."""
    from crosstask.store import upkeep

    with opened(_url(url, out), weights) as store:
        found = upkeep.repair(store)
    if as_json:
        emit_json({"removed": _health(found)["damaged"], "dead_claims": found.dead_claims})
        return
    for row in found.damaged:
        say(f"removed {row.kind} {row.key}: {row.damage}")
    say(f"{len(found.damaged)} of {found.entries} entries and {found.dead_claims} dead claims removed")


@command.command()
@click.argument("kind")
@click.argument("keys", nargs=-1)
@click.option("--run", "run_id", help="Delete the entries that this run has made.")
@click.option("--all", "everything", is_flag=True, help="Delete every entry of KIND.")
@_options
def delete(
    kind: str,
    keys: tuple[str, ...],
    run_id: str | None,
    everything: bool,
    url: str | None,
    out: Path,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Delete entries of KIND: those with KEYS, those of a run, or all. Their weights go too if nothing else uses
    them.
    """
    from crosstask.errors import StoreError, nearest
    from crosstask.store.upkeep import chosen_kinds

    if sum((bool(keys), run_id is not None, everything)) != 1:
        raise click.UsageError("say which entries: KEYS, --run RUN or --all")
    with opened(_url(url, out), weights) as store:
        chosen_kinds(store, kind)
        rows = list(store.rows(kind))
        known = {row.key for row in rows}
        for key in keys:
            if key not in known:
                raise StoreError(f"no entry {key!r} of kind {kind!r}{nearest(key, known)}")
        if run_id is not None and all(row.run_id != run_id for row in rows):
            raise StoreError(
                f"no entry of kind {kind!r} is of run {run_id!r}{nearest(run_id, {r.run_id for r in rows})}"
            )
        chosen = keys or tuple(row.key for row in rows if everything or row.run_id == run_id)
        gone = [key for key in chosen if store.delete(kind, key)]
    if as_json:
        emit_json({"deleted": gone})
    else:
        say(f"{len(gone)} entries of {kind} deleted")


@command.command()
@click.argument("other")
@click.option("--other-weights", type=click.Path(path_type=Path, file_okay=False), help="Weights folder of OTHER.")
@_options
def merge(
    other: str, other_weights: Path | None, url: str | None, out: Path, weights: Path | None, as_json: bool
) -> None:
    """Take over what the store OTHER (a path, a URL, or a run's folder) has. What is known already stays as it is.

    The graphs of the runs of both are one graph then (`crosstask store graph`); where their measurements of a pair
    differ by more than their errors, this says so.
    """
    from crosstask.options import unstructure
    from crosstask.registry import Registry
    from crosstask.store import open_store, upkeep
    from crosstask.store.graphs import kept_graph

    whence = str(Path(other) / "store.db") if Path(other).is_dir() else other
    with opened(whence, other_weights) as source:
        store = open_store(_url(url, out), weights, Registry.installed())  # made if it is not there
        try:
            done, graph = upkeep.merge(store, source), kept_graph(store)
        finally:
            store.close()
    if as_json:
        emit_json({**unstructure(done), "graph": _pooled(graph)})
        return
    say(f"{done.added} entries added, {done.known} known already")
    if done.joined:
        say(f"{done.joined} graphs of runs that both know hold the evidence of both")
    if done.different:
        say(f"{done.different} are known with other values, which stay:")
        for kind, key in done.conflicts:
            say(f"  {kind} {key}")
    if done.damaged:
        say(f"{done.damaged} are damaged there and were left out")
    if graph.graph.task_ids:
        _say_pooled(graph)


def _pooled(found: Merged) -> dict[str, Any]:
    edges = found.graph.measured_edges()
    return {
        "tasks": len(found.graph.task_ids),
        "pairs": len(edges),
        "measurements": sum(max(1, len(edge.measurements)) for edge in edges),
        "conflicts": [str(each) for each in found.conflicts],
        "ageing": found.ageing,
    }


def _say_pooled(found: Merged) -> None:
    told = _pooled(found)
    say(f"graph: {told['tasks']} tasks, {told['pairs']} pairs measured, by {told['measurements']} measurements")
    for each in told["conflicts"]:
        say(f"measurements disagree: {each}")
    say(told["ageing"])


@command.command()
@click.option("--export", "path", type=click.Path(path_type=Path), help="Write it as .json, .graphml or .gexf.")
@_options
def graph(path: Path | None, url: str | None, out: Path, weights: Path | None, as_json: bool) -> None:
    """What all runs of the store have measured of each pair of tasks, pooled; where they disagree, whether it ages."""
    from crosstask.store.graphs import kept_graph

    with opened(_url(url, out), weights) as store:
        found = kept_graph(store)
    if path is not None:
        found.graph.export(path)
    if as_json:
        emit_json(_pooled(found))
    elif not found.graph.task_ids:
        say("no run of this store has measured transfer between tasks")
    else:
        _say_pooled(found)


@command.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Hours: younger files may be those of a run that is at work.",
)
@_options
def gc(older_than: float, url: str | None, out: Path, weights: Path | None, as_json: bool) -> None:
    """Remove weights files that no entry names, and the claims of runs that have died."""
    from crosstask.store import upkeep

    with opened(_url(url, out), weights) as store:
        removed = upkeep.collect(store, older_than * 3600)
    if as_json:
        emit_json({"removed": [str(path) for path in removed]})
    else:
        say(f"{len(removed)} files removed")


def _emit(rows: list[dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        emit_json(rows)
        return
    if not rows:
        say("nothing is stored")
        return
    from rich.table import Table

    rows = [{name: value for name, value in row.items() if name != "damage" or value} for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    emit_table(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return str(value.isoformat(" ", "seconds")) if hasattr(value, "isoformat") else str(value)
