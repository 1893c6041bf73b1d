"""What a run has claimed in its store, and the waiting for what others have."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from crosstask.errors import StoreError
from crosstask.points.store import Holder, Store
from crosstask.store.processes import birth, host

Key = tuple[str, str]

_TELL_AFTER = 10.0
_at_work: dict[str, int] = {}  # holder of this process -> thread that last claimed something for it


class Claims:
    """The claims of one run, by (kind, key), each with how deep in the run's calls it was made.

    A thread keeps them alive: it gives `store.lease` seconds' sign of life four times in that time.
    """

    def __init__(self, store: Store, run_id: str, log: Any) -> None:
        self.store, self.log = store, log
        pid = os.getpid()
        self.holder = Holder(uuid.uuid4().hex, run_id, host(), pid, birth(pid))
        self.held: dict[Key, int] = {}
        self.also: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._ended: threading.Event | None = None
        self._told = False

    def begin(self) -> None:
        """Show that the run is at work, until `close`."""
        with self._lock:
            if self._ended is None:
                self.store.beat(self.holder)
                self._ended = threading.Event()
                threading.Thread(target=_beat, args=(weakref.ref(self), self._ended), daemon=True).start()

    def take(self, key: Key, depth: int = 0) -> Holder | None:
        """Claim an entry. None: it is ours; else who has it."""
        self.begin()
        _at_work[self.holder.name] = threading.get_ident()
        if key in self.held:
            return None
        owner = self.store.claimed_by(*key) or self.store.claim(*key, self.holder)  # a look disturbs nobody's writing
        if owner is None:
            self.held[key] = depth
        return owner

    def wait(self, keys: Iterable[Key]) -> bool:
        """Wait until one of the claims that others have has ended. False: waiting would never end."""
        wanted = list(keys)
        owner = None
        for key in wanted:
            owner = self.store.claimed_by(*key)
            if owner is None:
                return True
            if _at_work.get(owner.name) == threading.get_ident():  # another run in this very thread: it cannot go on
                return False
        if not all(self.store.wait_for(self.holder, *key) for key in wanted):
            for key in wanted:
                self.store.stop_waiting(self.holder, *key)
            return False
        began, pause = time.monotonic(), 0.02
        try:
            while all(self.store.claimed_by(*key) is not None for key in wanted):
                time.sleep(pause)
                pause = min(0.5, pause * 1.5)
                if time.monotonic() - began > _TELL_AFTER and not self._told:
                    self._told = True
                    self.log.warning("waits for what another run is measuring in the same store", holder=str(owner))
        finally:
            with contextlib.suppress(StoreError):  # the error on its way, if there is one, says more
                for key in wanted:
                    self.store.stop_waiting(self.holder, *key)
        return True

    def release(self, keys: Iterable[Key]) -> None:
        """Give up claims: what was claimed is stored, or will not be made."""
        given = [key for key in keys if self.held.pop(key, None) is not None]
        if given:
            self.store.unclaim(self.holder, given)

    def release_from(self, depth: int) -> None:
        """Give up the claims that were made at this depth or below."""
        if any(at >= depth for at in self.held.values()):
            self.release([key for key, at in self.held.items() if at >= depth])

    def close(self) -> None:
        """The run is done: nothing is claimed any more."""
        with self._lock:
            self.held.clear()
            _at_work.pop(self.holder.name, None)
            if self._ended is not None:
                self._ended.set()
                self._ended = None
                if not self.store.closed:
                    with contextlib.suppress(StoreError):  # the lease will run out
                        self.store.leave(self.holder)

    def beat(self, ended: threading.Event) -> bool:
        """One sign of life. False: there will be no more."""
        with self._lock:
            if ended.is_set() or self.store.closed:
                return False
            with contextlib.suppress(StoreError):  # whoever next writes to the store says what is wrong
                self.store.beat(self.holder)
            if self.also is not None:
                with contextlib.suppress(OSError):
                    self.also()
        return True


def _beat(own: weakref.ref[Claims], ended: threading.Event) -> None:
    """Keep a run's claims alive for as long as the run exists."""
    while (claims := own()) is not None and claims.beat(ended):
        pause = claims.store.lease / 4
        del claims
        if ended.wait(pause):
            return
