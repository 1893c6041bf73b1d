"""A plugin's manifest as the registry sees it: found, imported here, and imported apart to see what that costs."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import attrs

HEAVY = ("torch", "numpy", "networkx", "structlog", "scipy", "sklearn", "pandas", "sqlalchemy", "plotly")
LIMIT_SECONDS = 0.5
"""CPU time that importing a manifest may take, over that of crosstask.manifest. (A slow disk is not its fault.)"""

_PROGRAM = """
import contextlib, io, json, sys, time, traceback
import crosstask.manifest
printed, error = io.StringIO(), ""
before = set(sys.modules)
started = time.process_time()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    try:
        __import__(sys.argv[1])
    except BaseException:
        error = traceback.format_exc()
seconds = time.process_time() - started
new = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"error": error, "printed": printed.getvalue(), "seconds": seconds, "modules": new}))
"""


@attrs.frozen
class Import:
    """What importing a manifest did in a process of its own."""

    error: str
    printed: str
    seconds: float
    heavy: tuple[str, ...]


def find_manifest(component: type) -> str | None:
    """`<top-level package>.plugin:PLUGIN` if there is such a module. None for what a package has for tests, in its
    `testing`: its manifest does not offer that.
    """
    package, _, inside = component.__module__.partition(".")
    if inside.partition(".")[0] == "testing":
        return None
    if package == "crosstask":
        return "crosstask.builtin:PLUGIN"
    try:
        spec = importlib.util.find_spec(f"{package}.plugin")
    except (ImportError, ValueError, AttributeError):
        return None
    return f"{package}.plugin:PLUGIN" if spec is not None else None


def import_manifest(target: str) -> Any:
    """The object itself."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def import_manifest_apart(target: str) -> Import:
    """Import it in a new process that has imported nothing but crosstask.manifest."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, target.partition(":")[0]],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return Import(done.stderr or f"the process ended with {done.returncode}", "", 0.0, ())
    found = json.loads(lines[-1])
    printed = found["printed"] + "".join(lines[:-1])
    return Import(found["error"], printed, found["seconds"], tuple(m for m in found["modules"] if m in HEAVY))
