"""A process of tests/torture/test_store.py: runs of a small recipe, with a journal of everything that was measured.

    python run_journalled.py STORE OUT JOURNAL [--workers N] [--resume] [--go FILE] [--limit BYTES]
    python run_journalled.py STORE OUT JOURNAL [--workers N] --kills N --seed N

A line of the journal is `KIND KEY PROCESS`, written after the result was stored: a result that is measured twice is
there twice. On standard output: "ready", then the figures as JSON.

With --kills, runs are begun and resumed in forked copies of this process, which has imported everything, and killed
(SIGKILL) at moments that follow from the seed, until there were so many. OUT, STORE and JOURNAL get a number for each
run. The figures are then a list, one for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

from crosstask.job import check_components, run_recipe
from crosstask.options import unstructure
from crosstask.recipe import Recipe, recipe_from
from crosstask.registry import Registry
from crosstask.store.sql import SqlStore

RECIPE: dict[str, Any] = {
    "name": "torture",
    "seeds": 2,
    "source": {
        "use": "digits",
        "tasks": ["parity", "low", "prime", "loop"],
        "train": 120,
        "validation": 60,
        "test": 80,
    },
    "model": {"kind": "mlp", "hidden": [8]},
    "train": {"steps": 25},
    "budget": {"steps": 12, "samples": 30},
    "discovery": {"discoverers": [{"use": "probe", "samples": 30, "steps": 12}]},
}


def run(registry: Registry, store: str, out: Path, journal: Path, workers: int, resume: bool) -> dict[str, Any]:
    """Status and figures of one run."""
    file = os.open(journal, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    put = SqlStore.put

    def journalled(self: SqlStore, kind: str, key: str, payload: Any, **rest: Any) -> None:
        put(self, kind, key, payload, **rest)
        if kind in ("models", "transfers", "features"):
            os.write(file, f"{kind} {key} {os.getpid()}\n".encode())

    SqlStore.put = journalled  # type: ignore[method-assign]
    recipe = recipe_of(registry, workers)
    known = resume and (out / "run.json").exists()
    record = run_recipe(recipe, out, registry=registry, store=store, resume=known)
    return {"status": record.status, "figures": timeless(unstructure([record.summary, record.results]))}


def recipe_of(registry: Registry, workers: int) -> Recipe:
    executor = {"use": "process", "workers": workers} if workers else "serial"
    return recipe_from({**RECIPE, "executor": executor}, registry)


def timeless(value: Any) -> Any:
    """Figures without how long it took."""
    if isinstance(value, dict):
        return {name: timeless(inside) for name, inside in value.items() if name != "seconds"}
    return [timeless(inside) for inside in value] if isinstance(value, list | tuple) else value


def killed_runs(store: str, out: str, journal: str, workers: int, kills: int, seed: int) -> dict[str, Any]:
    """The figures of runs that were killed so often on their way, and how often each was."""
    registry = Registry.installed()
    check_components(recipe_of(registry, workers), registry)  # imports what the copies need
    chance = random.Random(seed)
    figures, counts = [], []
    while sum(counts) < kills:
        number = len(counts)
        counts.append(0)
        place, lines = Path(f"{out}{number}"), Path(f"{journal}{number}")
        told = Path(f"{out}{number}.json")
        while not told.exists():
            # After a few results, or soon after the start; then a moment within whatever it is doing
            wanted, pause = chance.randint(0, 4), chance.uniform(0, 0.1)
            begun = _length(lines)
            child = os.fork()
            if child == 0:
                _child(registry, f"{store}{number}", place, lines, workers, told)
            ended = False
            while not (ended := _has_ended(child)) and _length(lines) < begun + wanted:
                time.sleep(0.002)
            time.sleep(pause)
            if not ended and not _has_ended(child):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                counts[number] += 1
        figures.append(json.loads(told.read_text())["figures"])
    return {"kills": counts, "figures": figures}


def _child(registry: Registry, store: str, out: Path, journal: Path, workers: int, told: Path) -> None:
    try:
        found = run(registry, store, out, journal, workers, resume=True)
        temporary = told.with_suffix(".part")
        temporary.write_text(json.dumps(found))
        temporary.replace(told)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def _length(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _has_ended(child: int) -> bool:
    """Whether it ended by itself, which must be a success."""
    try:
        found, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return True
    if found and status:
        raise SystemExit(f"a run ended with status {status}")
    return bool(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("store", "out", "journal"):
        parser.add_argument(name)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--go")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("ready", flush=True)
    while given.go and not Path(given.go).exists():
        time.sleep(0.005)
    if given.limit:  # no file may grow beyond it: as with a disk that is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.limit, given.limit))
    if given.kills:
        told = killed_runs(given.store, given.out, given.journal, given.workers, given.kills, given.seed)
    else:
        told = run(Registry.installed(), given.store, Path(given.out), Path(given.journal), given.workers, given.resume)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
