"""Entries as files."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from torch import Tensor

from crosstask.components import Remembered
from crosstask.errors import StoreError
from crosstask.options import component
from crosstask.points.store import Store, StoreOpener, check_kind


class FolderStore(Store):
    """One JSON file per entry. Files are written under another name first: a reader never sees half of one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, kind: str, key: str) -> Path:
        place = self.folder / check_kind(kind)
        place.mkdir(exist_ok=True)
        return place / f"{quote(key, safe='')}.json"

    def get(self, kind: str, key: str) -> Remembered | None:
        from safetensors.torch import load

        path = self._path(kind, key)
        try:
            entry = json.loads(path.read_text("utf-8"))
            name = entry["tensors"]
            tensors = load((path.parent / name).read_bytes()) if name else {}
        except FileNotFoundError as error:
            if error.filename == str(path):
                return None
            raise StoreError(f"the tensors of {kind} {key!r} are missing: {error.filename}") from None
        except ValueError as error:
            raise StoreError(f"{path} cannot be read: {error}") from None
        return Remembered(entry["payload"], tensors)

    def put(
        self,
        kind: str,
        key: str,
        payload: Any,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        run_id: str = "",
        replace: bool = False,
    ) -> None:
        from safetensors.torch import save

        path = self._path(kind, key)
        if path.exists() and not replace:
            return
        unique = uuid.uuid4().hex
        name = f"{unique}.safetensors" if tensors else ""
        if tensors:
            copies = {n: tensor.detach().cpu().clone().contiguous() for n, tensor in tensors.items()}
            (path.parent / name).write_bytes(save(copies))
        entry = {"payload": payload, "tensors": name, "run": run_id, "made": time.time_ns()}
        temporary = path.parent / f"{unique}.part"
        temporary.write_text(json.dumps(entry, allow_nan=False), "utf-8")
        if replace:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # of two writers at once the first one wins
                os.link(temporary, path)
            temporary.unlink()

    def entries(self, kind: str) -> Iterator[tuple[str, Any]]:
        files = [(json.loads(path.read_text("utf-8")), path) for path in self._path(kind, "").parent.glob("*.json")]
        for entry, path in sorted(files, key=lambda item: item[0]["made"]):
            yield unquote(path.stem), entry["payload"]

    def close(self) -> None:
        """Files are closed already."""


@component
class ExampleStore(StoreOpener):
    """Opens `example-store://folder`."""

    def open(self, url: str, weights: Path | None) -> Store:
        folder = url.partition("://")[2] or url
        try:
            return FolderStore(Path(folder))
        except OSError as error:
            raise StoreError(f"cannot open the store {url!r}: {error.strerror or error}") from None
