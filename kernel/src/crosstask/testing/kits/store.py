"""Checks of stores, through their opener."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from crosstask.errors import StoreError
from crosstask.points.store import Holder, Store
from crosstask.store.processes import birth, host
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, expect, refused


class StoreKit(Kit):
    """What is put in comes out again, in this process and the next. `url` may hold `{folder}`, a fresh one."""

    point = "store"

    def inputs(self) -> dict[str, Any]:
        return {}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            store: Store = call("open", url=self.url(folder), weights=Path(folder))
            try:
                store.put("models", "a", {"score": 0.5}, tensors=_tensors(), replace=True)
                return [plain(store.get("models", "a")), sorted(key for key, _ in store.entries("models"))]
            finally:
                store.close()

    def url(self, folder: str) -> str:
        return (self.subject.url or "{folder}/store.db").format(folder=folder)

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A new folder; what an earlier check left behind a URL without `{folder}` is not looked at."""
        with tempfile.TemporaryDirectory() as folder:
            yield folder

    @contextmanager
    def opened(self, folder: str) -> Iterator[Store]:
        """A store in a folder."""
        component = self.make()
        with self.run(component) as run:
            store = run.call(component, "open", url=self.url(folder), weights=Path(folder))
        expect(isinstance(store, Store), f"{self.name}.open returned a {type(store).__name__}, not a Store")
        try:
            yield store
        finally:
            store.close()

    def check_get_what_was_put(self) -> None:
        """Payload and tensors come back as they were, of every kind; what is not there is None."""
        payload = {"text": "ä", "number": 1.5, "none": None, "list": [1, {"a": True}]}
        with self.folder() as folder, self.opened(folder) as store:
            for kind in ("models", "runs", "a_kind_of_a_plugin"):
                expect(store.get(kind, "no such key") is None, f"{self.name}: an entry of {kind} that nobody put")
                store.put(kind, "conformance", payload, tensors=_tensors(), run_id="r", replace=True)
                found = store.get(kind, "conformance")
                expect(found is not None, f"{self.name}: an entry of {kind} is lost")
                assert found is not None
                told = difference(plain(payload), plain(found.payload), "payload")
                told = told or difference(plain(_tensors()), plain(found.tensors), "tensors")
                expect(told is None, f"{self.name}: {told}")

    def check_entry_kept_unless_replaced(self) -> None:
        """An entry that exists is kept by `put`, and replaced if that is asked for."""
        with self.folder() as folder, self.opened(folder) as store:
            store.put("runs", "kept", 1, replace=True)
            store.put("runs", "kept", 2)
            expect(_payload(store, "runs", "kept") == 1, f"{self.name}.put overwrote an entry without replace=True")
            store.put("runs", "kept", 3, replace=True)
            expect(_payload(store, "runs", "kept") == 3, f"{self.name}.put with replace=True kept the old entry")

    def check_entries_in_order(self) -> None:
        """`entries` gives keys and payloads, oldest first, of the kind asked for only."""
        with self.folder() as folder, self.opened(folder) as store:
            for number in (3, 1, 2):
                store.put("transfers", f"order-{number}", number)
            store.put("curricula", "order-4", 4)
            found = [(key, value) for key, value in store.entries("transfers") if key.startswith("order-")]
        wanted = [("order-3", 3), ("order-1", 1), ("order-2", 2)]
        expect(found == wanted, f"{self.name}.entries gave {found}, expected {wanted}")

    def check_kept_after_closing(self) -> None:
        """What was put is there when the store is opened again."""
        with self.folder() as folder:
            with self.opened(folder) as store:
                store.put("models", "again", {"x": 1}, tensors=_tensors(), replace=True)
            with self.opened(folder) as store:
                found = store.get("models", "again")
                expect(found is not None, f"{self.name}: an entry is gone after closing and opening")
                assert found is not None
                told = difference(plain(_tensors()), plain(found.tensors), "tensors")
                expect(told is None, f"{self.name}: {told}")

    def check_threads(self) -> None:
        """Several threads may write and read at once, and of two that write one key both see one entry."""
        with self.folder() as folder, self.opened(folder) as store:

            def work(number: int) -> None:
                for step in range(5):
                    store.put("knowledge", f"thread-{number}-{step}", step, tensors={"x": torch.ones(3)})
                    store.put("knowledge", "thread-same", "same")
                    store.get("knowledge", f"thread-{number}-{step}")

            with ThreadPoolExecutor(6) as pool:
                list(pool.map(work, range(6)))
            keys = [key for key, _ in store.entries("knowledge") if key.startswith("thread-")]
        expect(len(keys) == len(set(keys)) == 31, f"{self.name}: {len(keys)} entries after six threads put 31")

    def check_claims(self) -> None:
        """Of two runs one can claim an entry, until it gives up or leaves; a store without claims has none at all."""
        with self.folder() as folder, self.opened(folder) as store:
            here = host(), os.getpid(), birth(os.getpid())
            first, second = (Holder(f"{name}-{uuid.uuid4().hex}", name, *here) for name in ("first", "second"))
            entry = ("models", f"claimed-{first.name}")
            expect(store.claim(*entry, first) is None, f"{self.name}: nobody had claimed it, and it was refused")
            if store.claimed_by(*entry) is None:
                expect(store.claim(*entry, second) is None, f"{self.name}: refused a claim that claimed_by denies")
                return
            expect(store.claim(*entry, first) is None, f"{self.name} refused a run its own claim")
            expect(store.claim(*entry, second) == first, f"{self.name} let two runs claim one entry")
            store.unclaim(first, [entry])
            expect(store.claim(*entry, second) is None, f"{self.name}: a claim stays after `unclaim`")
            store.leave(second)
            expect(store.claim(*entry, first) is None, f"{self.name}: a claim stays after its run has left")
            store.leave(first)

    def check_unknown_kind_refused(self) -> None:
        """A kind that stores do not have is refused."""
        with self.folder() as folder, self.opened(folder) as store:
            with refused(f"{self.name}: put of an unknown kind", StoreError, ValueError):
                store.put("no such kind", "key", 1)
            with refused(f"{self.name}: get of an unknown kind", StoreError, ValueError):
                store.get("no such kind", "key")


def _tensors() -> dict[str, torch.Tensor]:
    return {
        "single": torch.linspace(0, 1, 6).reshape(2, 3),
        "double": torch.tensor([1e-300], dtype=torch.float64),
        "whole": torch.tensor([[2**40]]),
        "flag": torch.tensor(True),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }


def _payload(store: Store, kind: str, key: str) -> Any:
    found = store.get(kind, key)
    return None if found is None else found.payload


KIT = StoreKit
