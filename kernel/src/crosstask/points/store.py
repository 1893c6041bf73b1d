"""Stores, by the scheme of their URL: where finished work is kept."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from crosstask.components import Component, Remembered, hook
from crosstask.errors import StoreError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import torch

_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")

LEASE = 60.0
"""Seconds after which the claims of a run that gave no sign of life are free."""


def is_kind(kind: object) -> bool:
    """Whether something is a kind: a short name of lower-case letters, digits and underscores."""
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


def check_kind(kind: str) -> str:
    """The kind, which is any short name of lower-case letters, digits and underscores. StoreError if it is none.

    The kernel keeps `tasks` (registered), `models` (trained), `transfers`, `curricula`, `knowledge`, `stages`
    (finished) and `runs`; plugins choose further ones, such as `features` of a model or `trials` of a search.
    """
    if not is_kind(kind):
        raise StoreError(f"a kind is a short name of lower-case letters, digits and underscores, got {kind!r}")
    return kind


@attrs.frozen
class Holder:
    """A run that claims entries: a name of its own, and the process in which it works."""

    name: str
    run_id: str
    host: str
    pid: int
    born: str = ""

    def __str__(self) -> str:
        run = f"run {self.run_id}" if self.run_id else "a run"
        return f"{run} (process {self.pid} on {self.host.partition(':')[0]})"


@attrs.frozen
class Row:
    """One entry without its tensors: what `crosstask store` shows. `damage` says why it cannot be used, if it cannot;
    its payload is then None.
    """

    kind: str
    key: str
    run_id: str = ""
    created: datetime | None = None
    payload: Any = None
    weights: str | None = None
    damage: str | None = None


class Store(ABC):
    """Finished work by (kind, key); a kind is any name that `check_kind` accepts. Safe to use from several processes
    and threads at once.
    """

    lease: float = LEASE
    """Seconds that a claim lasts after its holder's last sign of life."""
    closed: bool = False
    """Whether `close` was called: nobody gives signs of life any more."""

    @abstractmethod
    def get(self, kind: str, key: str) -> Remembered | None:
        """One entry with its tensors, or None. One that is damaged is none, with a warning in the log: it is made
        again, and the next `put` of it replaces it.
        """

    @abstractmethod
    def put(
        self,
        kind: str,
        key: str,
        payload: Any,
        *,
        tensors: Mapping[str, torch.Tensor] | None = None,
        run_id: str = "",
        replace: bool = False,
    ) -> None:
        """Write one entry. An entry that exists is kept unless `replace`: equal keys mean equal results."""

    @abstractmethod
    def entries(self, kind: str) -> Iterator[tuple[str, Any]]:
        """(key, payload) of every entry of a kind, oldest first, without tensors; damaged ones are left out."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection. The store cannot be used afterwards."""

    # Work shared between runs. A store that does not say otherwise serves one run at a time well, and lets several
    # measure the same thing.

    def claim(self, kind: str, key: str, holder: Holder) -> Holder | None:
        """Claim an entry that is going to be made. None: it is the holder's now; else who has it.

        A claim ends with `unclaim`, or `lease` seconds after the last `beat` of its holder, or as soon as its process
        is known to have ended.
        """
        return None

    def claimed_by(self, kind: str, key: str) -> Holder | None:
        """Who has a claim on an entry, if a living run has."""
        return None

    def unclaim(self, holder: Holder, keys: Iterable[tuple[str, str]]) -> None:
        """Give up claims on (kind, key) pairs."""
        return

    def beat(self, holder: Holder) -> None:
        """A sign of life: the holder's claims last another `lease` seconds."""
        return

    def wait_for(self, holder: Holder, kind: str, key: str) -> bool:
        """Say that the holder waits for somebody's claim. False: it must not, because that somebody waits, maybe
        through others, for the holder itself.
        """
        return True

    def stop_waiting(self, holder: Holder, kind: str, key: str) -> None:
        """Take back what `wait_for` said."""
        return

    def leave(self, holder: Holder) -> None:
        """The holder is done: its claims are free."""
        return

    def holders(self) -> list[Holder]:
        """The runs that are at work on this store."""
        return []

    # Upkeep

    def kinds(self) -> list[str]:
        """Every kind of which there are entries."""
        raise StoreError(f"{type(self).__name__} cannot list its kinds")

    def rows(self, kind: str) -> Iterator[Row]:
        """Every entry of a kind, oldest first, damaged ones included."""
        raise StoreError(f"{type(self).__name__} cannot list its rows")

    def delete(self, kind: str, key: str) -> bool:
        """Forget one entry, and its tensors unless another entry has the same. Whether there was one."""
        raise StoreError(f"{type(self).__name__} cannot delete an entry")


class StoreOpener(Component):
    """Opens stores; registered under the URL scheme it handles."""

    point: ClassVar[str] = "store"

    @abstractmethod
    @hook(first=True, returns=Store)
    def open(self, url: str, weights: Path | None) -> Store:
        """Open or create a store. `weights` is the folder for safetensors files (None: beside the database)."""
