"""Files and folders that are written as a whole: who reads one finds what was there before, or all of the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from crosstask.errors import CrosstaskError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic(
    path: str | Path,
    what: str = "",
    *,
    needed: int | None = None,
    kind: type[CrosstaskError] = StoreError,
) -> Iterator[Path]:
    """Inside, write a file or a folder at the path that is given; it is named `path` when the block has ended. The
    folder around it is made.

    Where that fails nothing of it stays, what stood there before does, and a `kind` says it in one sentence: `what` and
    the path, why, and on a full disk how many bytes are free and were `needed` (unless given, as many as were written,
    and more). It stands for OSErrors and safetensors' errors; a folder replaces none that holds something.
    """
    target = Path(path)
    check_path(target, what, kind)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")  # others may write it at the same time
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(target)
    except (OSError, SafetensorError) as error:
        raise kind(unwritten(error, target, what, needed, written=size_of(part))) from None
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def check_path(path: Path, what: str = "", kind: type[CrosstaskError] = StoreError) -> None:
    """`kind` for what is no path of any file."""
    if "\0" in str(path):
        raise kind(f"cannot write {what}{' ' if what else ''}{str(path)!r}: no path holds a null character")


def unwritten(error: Exception, path: Path, what: str = "", needed: int | None = None, *, written: int = 0) -> str:
    """`cannot write model /models/a: No space left on device (1,024 bytes free, 4,096 needed)`. Where nobody knows what
    was `needed`, it is more than was `written`, which is about to be removed and counts as free.
    """
    number = _number(error)
    why = os.strerror(number) if number else str(error)
    space = ""
    if number in _FULL:
        more = f"{needed:,}" if needed is not None else f"more than {written:,}"
        space = f" ({_free(path) + written:,} bytes free, {more} needed)"
    return f"cannot write {what}{' ' if what else ''}{path}: {why}{space}"


def _number(error: Exception) -> int | None:
    """The system's number of an error, which safetensors tells in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _free(path: Path) -> int:
    """Bytes that are free where a path is, or will be."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def size_of(*paths: Path) -> int:
    """Bytes in files and in folders' files, as far as they are there."""
    size = 0
    for path in paths:
        with contextlib.suppress(OSError):
            size += sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    return size
