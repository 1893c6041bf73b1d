"""Jobs as bytes, and what is large in them apart, by what it holds: a thousand jobs on one data set send it once.

A job is pickled by Ray's cloudpickle, so that functions and classes of a script (`__main__`) go along. Tensors and
arrays of more than 100 KiB are taken out of the pickle: their bytes lie in Ray's object store under a fingerprint of
them, and the pickle says which they are. In a worker each job gets a copy that is its own: what it writes there, as
training does into weights, no other job sees. Strides stay what they were, so that sums come out the same.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from torch import Tensor

LARGE = 100 * 1024
"""Bytes up to which something stays in the pickle; it is also up to where Ray itself sends arguments with a task."""

Bytes = NDArray[np.uint8]


@attrs.frozen
class Packed:
    """A job as it is sent: its pickle, and references to the bytes that it leaves out."""

    pickled: bytes
    references: tuple[Any, ...]


@attrs.frozen
class _Place:
    """In a pickle: bytes that lie elsewhere."""

    index: int


class Shelf:
    """What is in the object store, by fingerprint. Jobs under way hold what they need; `mebibytes` more are kept for
    later ones, those used last.
    """

    def __init__(self, mebibytes: int) -> None:
        self.limit = mebibytes << 20
        self.lock = threading.RLock()  # jobs are packed where they come from, and again where they were lost
        self.held = 0
        self.references: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self.known: dict[int, tuple[weakref.ref[Any], str]] = {}

    def put(self, owner: object, data: Bytes) -> Any:
        """The reference to these bytes. `owner` is the object that has them: what it held last is compared first, at
        the speed of memory; a fingerprint takes longer.
        """
        with self.lock:
            found, last = self.known.get(id(owner), (None, ""))
            if found is None or found() is not owner or not self._still(last, data):
                last = hashlib.blake2b(data.data, digest_size=20).hexdigest()
                self._remember(owner, last)
            reference, _ = self.references.get(last, (None, 0))
            if reference is None:
                reference = ray.put(data)
                self.references[last] = reference, data.nbytes
                self.held += data.nbytes
            self.references.move_to_end(last)
            while self.held > self.limit and self.references:
                _, (_, size) = self.references.popitem(last=False)
                self.held -= size
            return reference

    def forget(self, references: Sequence[Any]) -> None:
        """They are lost: what they held is sent again when it is needed."""
        with self.lock:
            for name, (reference, size) in list(self.references.items()):
                if reference in references:
                    del self.references[name]
                    self.held -= size

    def _still(self, fingerprint: str, data: Bytes) -> bool:
        reference, size = self.references.get(fingerprint, (None, 0))
        if reference is None or size != data.nbytes:
            return False
        try:
            return np.array_equal(ray.get(reference, timeout=60), data)
        except ray.exceptions.RayError:  # lost with its node: it is sent anew
            self.forget([reference])
            return False

    def _remember(self, owner: object, fingerprint: str) -> None:
        key = id(owner)
        self.known[key] = weakref.ref(owner, lambda _: self.known.pop(key, None)), fingerprint


class _Pickler(cloudpickle.CloudPickler):
    def __init__(self, file: io.BytesIO, shelf: Shelf) -> None:
        super().__init__(file, protocol=5)
        self.shelf = shelf
        self.places: dict[Any, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        return value.index if type(value) is _Place else None

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and _is_plain(value):
            if value.device.type != "cpu" or value.nbytes > LARGE:
                # All that it spans, which is never more than the storage that torch would send.
                span = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
                flat = value.as_strided((span,), (1,)).cpu().view(torch.uint8).numpy()
                return _tensor, (
                    self._place(value, flat),
                    value.dtype,
                    tuple(value.shape),
                    value.stride(),
                    value.device.type,
                )
        elif type(value) is np.ndarray and not value.dtype.hasobject and value.nbytes > LARGE:
            fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            array = np.ascontiguousarray(value.T if fortran else value)
            flat = array.reshape(-1).view(np.uint8)
            return _array, (self._place(value, flat), value.dtype, array.shape, fortran)
        return super().reducer_override(value)

    def _place(self, owner: object, data: Bytes) -> _Place:
        return _Place(self.places.setdefault(self.shelf.put(owner, data), len(self.places)))


def _is_plain(value: Tensor) -> bool:
    """Whether its memory, shape and strides are all that there is to it."""
    return (
        value.layout is torch.strided
        and value.device.type != "meta"
        and value.numel() > 0
        and not (value.requires_grad or value.is_quantized or value.is_conj() or value.is_neg())
        and not vars(value)
    )


def pack(function: Callable[..., Any], args: tuple[Any, ...], shelf: Shelf) -> Packed:
    """Whatever pickling raises, it raises."""
    file = io.BytesIO()
    pickler = _Pickler(file, shelf)
    pickler.dump((function, args))
    return Packed(file.getvalue(), tuple(pickler.places))


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, data: Sequence[Bytes]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.data = data

    def persistent_load(self, pid: Any) -> Bytes:
        return self.data[pid]


def unpack(pickled: bytes, data: Sequence[Bytes]) -> Any:
    """In a worker: the function and its arguments."""
    return _Unpickler(pickled, data).load()


def _tensor(data: Bytes, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], device: str) -> Tensor:
    flat = torch.empty(data.nbytes, dtype=torch.uint8)
    flat.numpy()[:] = data
    return flat.view(dtype).to(device).as_strided(shape, strides)


def _array(data: Bytes, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> NDArray[Any]:
    array = data.copy().view(dtype).reshape(shape)
    return array.T if fortran else array
