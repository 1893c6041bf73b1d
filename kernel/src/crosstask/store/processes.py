"""Which process is meant, and whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from crosstask.errors import RunError
from crosstask.points.store import LEASE

PATIENCE = 10.0
"""Seconds for which `alone` waits."""


@functools.cache
def host() -> str:
    """This machine as a process sees it. Process numbers mean something only there: within one boot and one namespace
    of numbers, which a container may have to itself.
    """
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8])
        parts.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))  # noqa: PTH115 -- no path
    except OSError:  # not Linux
        pass
    return ":".join(parts)


def birth(pid: int) -> str:
    """When a process started, in the kernel's own ticks, which tells it from a later one of the same number; "" where
    that is not told, "dead" if it has ended and waits for its parent only.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "dead" if told[0] in "ZX" else told[19]


def has_ended(where: str, pid: int, born: str) -> bool:
    """Whether a process is known to have ended: one of another machine never is."""
    if where != host():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        pass
    now = birth(pid)
    return bool(born and now) and now != born


def signed() -> dict[str, str | int]:
    """This process, as `still_at_work` knows it again."""
    return {"host": host(), "pid": os.getpid(), "born": birth(os.getpid())}


def still_at_work(mark: Path) -> str | None:
    """Which process is at work that wrote `signed` into a file: "process 7 on host". None: none is, or nothing can be
    read there. One on this machine is asked for; one of another machine counts for `LEASE` seconds after the file was
    last touched.
    """
    try:
        told = json.loads(mark.read_text("utf-8"))
        where, pid, born = str(told["host"]), int(told["pid"]), str(told["born"])
        age = time.time() - mark.stat().st_mtime
        ended = has_ended(where, pid, born)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if ended or (where != host() and age > LEASE):
        return None
    return f"process {pid} on {where.partition(':')[0]}"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Inside, no other process is in here with this path: for a moment, such as that between a look and a mark.

    The file is made with O_EXCL, which other machines see on a network's file system, too, and systems without locks
    have; a process that died inside leaves it, and who comes next takes it over. RunError after `PATIENCE` seconds, or
    where no file can be made.
    """
    end = time.monotonic() + PATIENCE
    text = json.dumps({**signed(), "token": uuid.uuid4().hex})
    while True:
        try:
            with lock.open("x", encoding="utf-8") as file:
                file.write(text)
            break
        except FileExistsError:
            _take_away(lock)
        except OSError as error:
            raise RunError(f"cannot write to {lock.parent}: {error.strerror or error}") from None
        if time.monotonic() > end:
            who = still_at_work(lock) or "nobody knows which"
            raise RunError(f"a process ({who}) holds {lock}: wait for it, or remove that file if there is none")
        time.sleep(0.02)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)


def _take_away(lock: Path) -> None:
    """Remove the lock of a process that is no more. Only who made the file `.taking` may: what it has looked at is then
    what it removes, and not the lock of one who was quicker.
    """
    taking = lock.with_name(f"{lock.name}.taking")
    with contextlib.suppress(OSError):
        seen = lock.read_bytes()
        young = time.time() - lock.stat().st_mtime < PATIENCE / 2  # written in two steps: it may be empty yet
        if still_at_work(lock) or (young and not seen.endswith(b"}")):
            return
        try:
            taking.open("x").close()
        except FileExistsError:
            if time.time() - taking.stat().st_mtime > 10 * PATIENCE:  # left by one who died in this moment
                taking.unlink()
            return
        try:
            if lock.read_bytes() == seen:
                lock.unlink()
        finally:
            taking.unlink()
