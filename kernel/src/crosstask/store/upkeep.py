"""What keeps a store in order: finding damage, dropping it, merging another store in, removing what nothing uses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from crosstask.errors import StoreError, nearest
from crosstask.points.store import Row, Store
from crosstask.store.graphs import KIND, join_rows
from crosstask.store.sql import SqlStore

YOUNG = 3600.0
"""Seconds: a weights file is written before the row that names it, so a young one may be a run's that is at work."""


@attrs.frozen
class Health:
    """What `check` found: damaged rows, files that no row names, the database's own complaint."""

    entries: int
    damaged: list[Row]
    unused: list[Path]
    dead_claims: int = 0
    database: str | None = None

    @property
    def well(self) -> bool:
        return not self.damaged and self.database is None


@attrs.frozen
class Merged:
    """Entries taken over, those that were there already, those that were there with another payload (kept as they
    were; `conflicts` names them as (kind, key)), and damaged ones that were left out. A graph of a run that both have
    with other evidence now has that of both: it is `joined`.
    """

    added: int = 0
    known: int = 0
    different: int = 0
    damaged: int = 0
    joined: int = 0
    conflicts: tuple[tuple[str, str], ...] = ()


def chosen_kinds(store: Store, kind: str | None) -> list[str]:
    """One kind or all of them. StoreError for one that the store does not have."""
    kinds = store.kinds()
    if kind is None:
        return kinds
    if kind not in kinds:
        raise StoreError(f"the store has nothing of kind {kind!r}{nearest(kind, kinds)}")
    return [kind]


def check(store: Store) -> Health:
    """Read every row and every weights file."""
    if not isinstance(store, SqlStore):
        rows = [row for kind in store.kinds() for row in store.rows(kind)]
        return Health(len(rows), [row for row in rows if row.damage is not None], [])
    if (database := store.check_database()) is not None:
        return Health(0, [], [], database=database)
    count, damaged = 0, []
    for row in _all_rows(store):
        count += 1
        if (damage := store.damage_of(row)) is not None:
            damaged.append(attrs.evolve(row, payload=None, damage=damage))
    return Health(count, damaged, unused_files(store), store.dead_claims())


def repair(store: Store) -> Health:
    """Delete what `check` finds damaged, so that it is made again when it is next asked for, and the claims of runs
    that have died. What was found.
    """
    found = check(store)
    if found.database is not None:
        raise StoreError(
            f"the database itself is damaged ({found.database}): restore it from a copy, or move it away; "
            "what is measured again goes into a new one"
        )
    for row in found.damaged:
        store.delete(row.kind, row.key)
    if isinstance(store, SqlStore):
        store.forget_dead()
    return found


def merge(store: Store, other: Store) -> Merged:
    """Take over the entries of another store. What is known already stays as it is, unless it is damaged here; of the
    graph of one run, both keep all evidence (`crosstask.store.graphs`). Done again, it changes nothing.
    """
    count = Counter[str]()
    conflicts: list[tuple[str, str]] = []
    for kind in other.kinds():
        own = {row.key: row for row in store.rows(kind)}
        for row in other.rows(kind):
            known = own.get(row.key)
            if known is not None and store.get(kind, row.key) is not None:
                same = row.damage is not None or row.payload == known.payload
                if kind == KIND and not same:
                    whole = join_rows(known.payload, row.payload, row.key)
                    same = whole == known.payload
                    if not same:
                        store.put(kind, row.key, whole, run_id=known.run_id, replace=True)
                        count["joined"] += 1
                        continue
                if not same:
                    conflicts.append((kind, row.key))
                count["known" if same else "different"] += 1
                continue
            found = None if row.damage is not None else other.get(kind, row.key)
            if found is None:
                count["damaged"] += 1
                continue
            store.put(kind, row.key, found.payload, tensors=found.tensors or None, run_id=row.run_id)
            count["added"] += 1
    return Merged(**count, conflicts=tuple(conflicts))


def unused_files(store: SqlStore, older_than: float = YOUNG) -> list[Path]:
    """Files in the weights folder that the store wrote and no row names, leaving out those younger than so many
    seconds.
    """
    before = time.time() - older_than
    files = [path for path in store.weights_files() if _age(path) <= before]  # first the files, then who names them
    used = {row.weights for row in _all_rows(store)}
    return [path for path in files if path.name not in used]


def collect(store: Store, older_than: float = YOUNG) -> list[Path]:
    """Remove the files that no row names, and the claims of runs that have died. Which files."""
    if not isinstance(store, SqlStore):
        raise StoreError(f"{type(store).__name__} has no weights folder to clean")
    removed = []
    for path in unused_files(store, older_than):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror or error}") from None
        removed.append(path)
    store.forget_dead()
    return removed


def _all_rows(store: Store) -> Iterator[Row]:
    for kind in store.kinds():
        yield from store.rows(kind)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return float("inf")
