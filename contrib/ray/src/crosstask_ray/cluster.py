"""This process's connection to Ray, of which there is one: several executors share it, the user may have made it."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import attrs

from crosstask.errors import PluginError, RunError


def ray_library() -> Any:
    """Ray itself. PluginError, with what to do, where it is missing."""
    try:
        import ray
    except ImportError:
        raise PluginError("crosstask-ray needs ray: pip install ray") from None
    return ray


@attrs.define
class _Made:
    """A connection that an executor has made, and how many use it."""

    users: int = 1


_lock = threading.Lock()
_made: _Made | None = None
"""Ray's connection is one for the process, and so is this."""


@attrs.define
class Connection:
    """What an executor holds of it. The last one that uses a connection which one of them made ends it; with it a
    cluster that was started for it.
    """

    made: _Made | None
    runtime_env: dict[str, Any]
    """What each task has to name, because the connection was made without it."""

    def close(self) -> None:
        global _made
        with _lock:
            made, self.made = self.made, None
            if made is None:
                return
            made.users -= 1
            if made.users == 0 and made is _made:
                _made = None
                ray_library().shutdown()


def connect(origin: str, address: str | None, cpus: int, runtime_env: dict[str, Any]) -> Connection:
    """Connect to a cluster; without an address to that of RAY_ADDRESS, else to one started here, of `cpus` CPUs. If
    this process is connected already, that is the connection. RunError if it cannot be.
    """
    global _made
    ray = ray_library()
    with _lock:
        if ray.is_initialized():
            there = ray.get_runtime_context().gcs_address
            if address not in (None, "auto", "local", there):
                raise RunError(
                    f"{origin}: this process is connected to Ray at {there}, so not to {address}; leave the address out"
                )
            if _made is not None:
                _made.users += 1
            return Connection(_made, runtime_env)
        wanted = address or os.environ.get("RAY_ADDRESS") or "local"
        if wanted.startswith("ray://"):
            raise RunError(
                f"{origin}: {wanted} is of Ray Client, which gives no news of a job that goes on; start the program on "
                "a node of the cluster (`ray job submit`), with address 'auto'"
            )
        _check_there(origin, wanted)
        options: dict[str, Any] = {"address": wanted, "logging_level": "WARNING"}
        if wanted == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
            options |= {"num_cpus": cpus, "include_dashboard": False}
        try:
            ray.init(**options, runtime_env=runtime_env or None)
        except (Exception, SystemExit) as error:  # Ray ends a program whose cluster goes away
            raise RunError(f"{origin}: no connection to Ray at {wanted!r}: {error}") from error
        _made = _Made()
        return Connection(_made, {})


def _check_there(origin: str, address: str) -> None:
    """RunError at once where nothing listens: Ray itself tries for minutes and then ends the program."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise RunError(f"{origin}: address {address!r} must be host:port, or 'auto'")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"{origin}: no connection to Ray at {address!r}: {error}") from error


def most_at_once(cpus: float, gpus: float) -> int:
    """How many jobs of these shares the nodes hold together; 0 if none holds one."""
    total = 0
    for node in ray_library().nodes():
        if node["Alive"]:
            held = [node["Resources"].get(name, 0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
            total += int(min(held) + 1e-9)
    return total
