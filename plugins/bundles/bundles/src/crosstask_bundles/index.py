"""An index file: bundles of a folder with their digests. It grows by whole files that replace it at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from crosstask.errors import CrosstaskError
from crosstask.options import option, record, structure, unstructure
from crosstask.writing import atomic
from crosstask_bundles.bundle import Bundle
from crosstask_bundles.errors import BundleError
from crosstask_bundles.strict import read_json

INDEX = "crosstask/bundle-index/1"
_MOST = 16 << 20
_PATIENCE = 10.0


@record
class Listed:
    """A bundle in an index: the file beside it, its length and SHA-256, and what its manifest says of itself."""

    file: str
    size: int = option(ge=0, help="in bytes")
    sha256: str = option(help="of the file")
    digest: str = option(help="of the manifest")
    name: str = ""
    licence: str = ""
    created: str = ""
    tasks: int = 0
    evidence: dict[str, int] = attrs.field(factory=dict)


def is_index(path: Path) -> bool:
    """Whether a path is an index rather than a bundle: by its suffix."""
    return path.suffix == ".json"


def read_index(path: Path) -> list[Listed]:
    """What an index lists. BundleError if it is none."""
    try:
        if path.stat().st_size > _MOST:
            raise BundleError(f"{path}: an index has at most {_MOST} bytes")
        told = read_json(path.read_bytes(), f"{path}: the index")
    except OSError as error:
        raise BundleError(f"{path}: the index cannot be read: {error.strerror or error}") from None
    if not isinstance(told, dict) or told.get("schema") != INDEX:
        raise BundleError(f"{path}: no index of bundles: its schema is not {INDEX!r}")
    try:
        found: list[Listed] = structure(told.get("bundles"), list[Listed], "bundles")
    except CrosstaskError as error:
        raise BundleError(f"{path}: {error}") from None
    return found


def listed(path: Path) -> list[Path]:
    """The files of an index, each with the length and digest that it says. BundleError if one is not so."""
    files = []
    for each in read_index(path):
        check_file_name(each.file, path)
        file = path.parent / each.file
        if not file.is_file() or file.is_symlink():
            raise BundleError(f"{path}: {each.file!r} is missing")
        if file.stat().st_size != each.size or file_digest(file) != each.sha256:
            raise BundleError(f"{file}: not the file that {path.name} lists: its length or its SHA-256 is another")
        files.append(file)
    return files


def check_file_name(name: str, path: Path) -> None:
    """BundleError for a file that does not lie beside its index."""
    if "/" in name or "\\" in name or name in ("", ".", "..") or ":" in name:
        raise BundleError(f"{path}: {name!r} does not lie beside the index")


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_to_index(path: Path, bundle: Bundle, file: Path) -> None:
    """Add a bundle, whose file lies beside the index, unless it is there. Others may be adding at the same time."""
    manifest = bundle.manifest
    row = Listed(
        file=file.name,
        size=file.stat().st_size,
        sha256=file_digest(file),
        digest=bundle.digest,
        name=manifest.name,
        licence=manifest.licence,
        created=manifest.created,
        tasks=len(manifest.tasks),
        evidence=manifest.evidence(),
    )
    with _alone(path):
        rows = read_index(path) if path.exists() else []
        if any(each.file == row.file for each in rows):
            return
        text = json.dumps({"schema": INDEX, "bundles": unstructure([*rows, row])}, indent=1, allow_nan=False)
        with atomic(path, "index", kind=BundleError) as part:
            part.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside, nobody else changes the index: who begins makes a file that is removed at the end."""
    lock = path.with_name(f".{path.name}.lock")
    began = time.monotonic()
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if time.monotonic() - began > _PATIENCE:
                raise BundleError(
                    f"{path}: somebody else has been adding to it for {_PATIENCE:.0f} s; if nobody is, remove {lock}"
                ) from None
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
