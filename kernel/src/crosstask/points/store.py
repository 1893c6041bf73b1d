"""Stores, by the scheme of their URL: where finished work is kept."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from crosstask.components import Component, Remembered, hook
from crosstask.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_kind(kind: str) -> str:
    """The kind, which is any short name of lower-case letters, digits and underscores. StoreError if it is none.

    The kernel keeps `tasks` (registered), `models` (trained), `transfers`, `curricula`, `knowledge`, `stages`
    (finished) and `runs`; plugins choose further ones, such as `features` of a model or `trials` of a search.
    """
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise StoreError(f"a kind is a short name of lower-case letters, digits and underscores, got {kind!r}")
    return kind


class Store(ABC):
    """Finished work by (kind, key); a kind is any name that `check_kind` accepts. Safe to use from several processes
    and threads at once.
    """

    @abstractmethod
    def get(self, kind: str, key: str) -> Remembered | None:
        """One entry with its tensors, or None. StoreError if its weights file is missing or damaged."""

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
        """(key, payload) of every entry of a kind, oldest first, without tensors."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection. The store cannot be used afterwards."""


class StoreOpener(Component):
    """Opens stores; registered under the URL scheme it handles."""

    point: ClassVar[str] = "store"

    @abstractmethod
    @hook(first=True, returns=Store)
    def open(self, url: str, weights: Path | None) -> Store:
        """Open or create a store. `weights` is the folder for safetensors files (None: beside the database)."""
