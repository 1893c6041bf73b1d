"""Features of samples, computed once: by the weights that made them and the sample that they are of."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, StoreError
from crosstask.learning.transferring import key_of
from crosstask.points.store import Store

KIND = "zoo_features"
"""Under which the store keeps them."""
WIDTH = 16
"""Bytes of a sample's digest."""

Batch = Tensor | MultiInput
Rows = list[bytes]


@attrs.define(eq=False)
class _Block:
    """Features [N, …] of N samples, computed together; `of` says at which place that of a sample is."""

    features: Tensor
    of: dict[bytes, int]

    @property
    def bytes(self) -> int:
        return self.features.numel() * self.features.element_size() + 2 * WIDTH * len(self.of)


class FeatureCache:
    """Features of samples in memory, at most `memory` bytes, and in a store, at most `disk` bytes; what was used
    longest ago makes room, in the store what was written first.

    A sample is known by its own values, not by its place or its data set: another batch, split or subset computes
    nothing again. Copies share one cache; one that is sent to another process begins empty there.
    """

    def __init__(self, store: Store | None = None, *, memory: int = 1 << 28, disk: int = 1 << 31) -> None:
        for name, size in (("memory", memory), ("disk", disk)):
            if size < 0:
                raise DataError(f"{name} of a feature cache is a number of bytes, got {size}")
        self.store, self.memory, self.disk = store, memory, disk
        self.computed = 0
        """Samples whose features were computed."""
        self.reused = 0
        """Samples whose features were here."""
        self._blocks: OrderedDict[tuple[str, str], _Block] = OrderedDict()
        self._stored: dict[str, dict[str, int]] | None = None  # weights -> entry -> bytes, oldest first
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (self.memory, self.disk)

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(block.bytes for block in self._blocks.values())

    def features(self, weights: str, inputs: Batch, make: Callable[[Batch], Tensor]) -> Tensor:
        """Features [N, …] of the samples `inputs` by the model whose digest is `weights`; of those that are not known
        `make` computes them, in one call.
        """
        rows = digests(inputs)
        if not rows:
            return make(inputs)
        with self._lock:
            found = self._look(weights, rows)
            missing: dict[bytes, int] = {}  # each sample once
            for place, row in enumerate(rows):
                if row not in found:
                    missing.setdefault(row, place)
            new: Tensor | None = None
            if missing:
                index = torch.tensor(list(missing.values()))
                new = make(inputs if len(missing) == len(rows) else inputs[index.to(inputs.device)])
                if new.ndim < 1 or len(new) != len(missing):
                    raise DataError(
                        f"features of shape {tuple(new.shape)} for {len(missing)} samples: one row for each"
                    )
                block = _Block(new.detach().cpu().clone(), {row: n for n, row in enumerate(missing)})
                self._keep(weights, block)
                self.computed += len(missing)
            self.reused += len(rows) - len(missing)
            if new is not None and len(missing) == len(rows):
                return new
            if new is not None:
                found |= {row: (block, n) for row, n in block.of.items()}
            return _gathered(found, rows).to(inputs.device)

    # Looking ----------------------------------------------------------------------------------------------------------

    def _look(self, weights: str, rows: Rows) -> dict[bytes, tuple[_Block, int]]:
        """Where each sample is that is here: in memory, else in the store, whose entries are read when needed."""
        found: dict[bytes, tuple[_Block, int]] = {}
        wanted = set(rows)
        mine = [key for key in self._blocks if key[0] == weights]
        for key in reversed(mine):
            self._find(key, wanted, found)
        for entry in reversed(list(self._entries(weights))):
            if len(found) == len(wanted):
                break
            if (weights, entry) in self._blocks:
                continue
            block = self._read(entry)
            if block is not None and wanted & block.of.keys():
                self._hold((weights, entry), block)
                found |= {row: (block, block.of[row]) for row in wanted & block.of.keys()}
        return found

    def _find(self, key: tuple[str, str], wanted: set[bytes], found: dict[bytes, tuple[_Block, int]]) -> None:
        block = self._blocks[key]
        here = wanted & block.of.keys()
        if here:
            self._blocks.move_to_end(key)
            found |= {row: (block, block.of[row]) for row in here}

    def _entries(self, weights: str) -> Iterator[str]:
        if self.store is None:
            return iter(())
        if self._stored is None:
            self._stored = {}
            for entry, told in self.store.entries(KIND):
                if isinstance(told, dict) and isinstance(told.get("weights"), str) and type(told.get("bytes")) is int:
                    self._stored.setdefault(told["weights"], {})[entry] = told["bytes"]
        return iter(self._stored.get(weights, {}))

    def _read(self, entry: str) -> _Block | None:
        """One entry of the store; None where it was deleted meanwhile, or is none of ours."""
        assert self.store is not None
        kept = self.store.get(KIND, entry)
        tensors = {} if kept is None else kept.tensors
        rows, features = tensors.get("rows"), tensors.get("features")
        if rows is None or features is None or rows.shape != (len(features), WIDTH) or rows.dtype != torch.uint8:
            return None
        return _Block(features, {bytes(row): n for n, row in enumerate(rows.numpy())})

    # Keeping ----------------------------------------------------------------------------------------------------------

    def _keep(self, weights: str, block: _Block) -> None:
        entry = key_of("zoo features", weights, hashlib.sha256(b"".join(block.of)).hexdigest())
        self._hold((weights, entry), block)
        if self.store is None or block.bytes > self.disk:
            return
        list(self._entries(weights))
        assert self._stored is not None
        try:
            self._make_room(block.bytes)
        except StoreError:  # a store that can delete nothing is given nothing more than it may hold
            return
        rows = torch.from_numpy(np.frombuffer(b"".join(block.of), np.uint8).reshape(-1, WIDTH).copy())
        told = {"weights": weights, "samples": len(block.of), "bytes": block.bytes}
        self.store.put(KIND, entry, told, tensors={"rows": rows, "features": block.features})
        self._stored.setdefault(weights, {})[entry] = block.bytes

    def _hold(self, key: tuple[str, str], block: _Block) -> None:
        """Into memory, and out of it what was used longest ago."""
        self._blocks[key] = block
        self._blocks.move_to_end(key)
        held = self.held
        while held > self.memory and self._blocks:
            _, oldest = self._blocks.popitem(last=False)
            held -= oldest.bytes

    def _make_room(self, size: int) -> None:
        """Delete from the store what was written first, until `size` bytes more are within its bound."""
        assert self.store is not None
        assert self._stored is not None
        if sum(sum(own.values()) for own in self._stored.values()) + size <= self.disk:
            return
        weights_of = {entry: weights for weights, own in self._stored.items() for entry in own}
        for entry, _ in list(self.store.entries(KIND)):  # oldest first
            if entry in weights_of:
                self.store.delete(KIND, entry)
                del self._stored[weights_of[entry]][entry]
                if sum(sum(own.values()) for own in self._stored.values()) + size <= self.disk:
                    return


def _empty(memory: int, disk: int) -> FeatureCache:
    return FeatureCache(memory=memory, disk=disk)


def _gathered(found: dict[bytes, tuple[_Block, int]], rows: Rows) -> Tensor:
    """Features of samples in the order of `rows`."""
    places: dict[int, tuple[_Block, list[int], list[int]]] = {}
    for place, row in enumerate(rows):
        block, n = found[row]
        _, to, taken = places.setdefault(id(block), (block, [], []))
        to.append(place)
        taken.append(n)
    first = next(iter(places.values()))[0].features
    made = first.new_empty((len(rows), *first.shape[1:]))
    for block, to, taken in places.values():
        made[torch.tensor(to)] = block.features[torch.tensor(taken)]
    return made


def digests(inputs: Batch) -> Rows:
    """A digest of each sample: of its values, their type, shape and name."""
    parts = inputs.parts if isinstance(inputs, MultiInput) else {"": inputs}
    start = hashlib.blake2b(digest_size=WIDTH)
    arrays = []
    for name, tensor in parts.items():
        start.update(f"{name}\0{tensor.dtype}{tuple(tensor.shape[1:])}\0".encode())
        plain = tensor.detach().cpu().contiguous()
        arrays.append(plain.reshape(len(plain), -1).view(torch.uint8).numpy() if plain.numel() else None)
    found = []
    for place in range(len(inputs)):
        one = start.copy()
        for array in arrays:
            if array is not None:
                one.update(memoryview(array[place]))
        found.append(one.digest())
    return found
