"""Where finished work is kept: one table per kind in a SQL database, tensors in safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crosstask.errors import StoreError
from crosstask.points.store import Store
from crosstask.store.urls import without_secrets

if TYPE_CHECKING:
    from crosstask.registry import Registry

__all__ = ["Store", "open_store"]


def open_store(url: str, weights: Path | None = None, registry: Registry | None = None) -> Store:
    """Open a store by URL: a component registered under the URL's scheme, else SQLAlchemy. A bare path means SQLite.

    StoreError says what is wrong, and never a password of the URL.
    """
    scheme = url.split("://", 1)[0].split("+", 1)[0] if "://" in url else "sqlite"
    if registry is not None and scheme in registry.names("store"):
        opener = registry.create("store", scheme)
        try:
            opened: Store = opener.open(url, weights)  # type: ignore[attr-defined]
        except StoreError as error:
            if (told := without_secrets(str(error), url)) != str(error):  # a plugin's opener may name the whole URL
                raise StoreError(told) from None
            raise
        return opened
    from crosstask.store.sql import SqlStore

    return SqlStore(url, weights)
