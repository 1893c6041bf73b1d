"""The history of monitored tasks: entries in the store, or in memory without one, oldest first."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from crosstask.errors import DataError, OptionError
from crosstask.options import structure, unstructure
from crosstask.points.stage import Engine
from crosstask_monitoring.records import Entry

KIND = "monitoring"
"""Where entries are kept in a store."""


class History:
    """All entries that the engine's store holds, and those that are written from here on. Entries are only added; those
    that other processes add meanwhile are known after `refresh`. Not `stored`, it begins empty and is kept in memory.
    """

    def __init__(self, engine: Engine, *, stored: bool = True) -> None:
        self._store: Any = getattr(engine.run, "store", None) if stored else None
        self._run_id = str(getattr(engine.run, "run_id", ""))
        self._entries: list[Entry] = []
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read what has come into the store since."""
        for key, payload in self._store.entries(KIND) if self._store is not None else ():
            if key in self._known:
                continue
            self._known.add(key)
            try:
                self._entries.append(structure(payload, Entry, "stored entry"))
            except OptionError:  # of a later release
                continue
        self._entries.sort(key=lambda entry: entry.when)

    def add(self, entry: Entry) -> Entry:
        """Write one; without a time of its own it is now."""
        made: Entry = structure({**unstructure(entry), "when": _time(entry.when)}, Entry, "entry")
        self._entries.append(made)
        self._entries.sort(key=lambda each: each.when)  # labels may come late
        if self._store is not None:
            key = uuid.uuid4().hex
            self._known.add(key)
            self._store.put(KIND, key, unstructure(made), run_id=self._run_id)
        return made

    def of(self, task_id: str, *kinds: str, model: str | None = None) -> list[Entry]:
        """A task's entries, of some kinds and of one model where these are named."""
        return [
            entry for entry in self._entries
            if entry.task == task_id and (not kinds or entry.kind in kinds) and model in (None, entry.model)
        ]  # fmt: skip

    def tasks(self) -> list[str]:
        """The tasks of which there are entries."""
        return list(dict.fromkeys(entry.task for entry in self._entries))

    def current(self, task_id: str, digest: str) -> str:
        """The digest of the model that is in place where `digest` was put in place at first."""
        for entry in self.of(task_id, "replaced", "rolled_back"):
            if entry.model == digest and entry.after:
                digest = entry.after
        return digest


def _time(told: str) -> str:
    """A time in UTC, in ISO form; now for an empty one. DataError for what is none."""
    if not told:
        return datetime.datetime.now(datetime.UTC).isoformat()
    try:
        when = datetime.datetime.fromisoformat(told)
    except ValueError:
        raise DataError(f"when must be a date and time in ISO form, got {told!r}") from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC).isoformat()
