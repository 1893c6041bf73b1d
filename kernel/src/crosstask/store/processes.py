"""Which process is meant, and whether it still lives."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path


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
