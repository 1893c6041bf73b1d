"""How discovery grows with the number of tasks: python tests/benchmarks/scaling.py [--tasks 10 30 50 100 300 1000]

Tasks are synthetic descriptors: 2 to 6 of 40 skills, 1 to 3 of 20 fields, one of 12 domains, 5 input shapes.
Every number of tasks has a process of its own, one thread:

- `skills`: `engine.discover()` with the discoverer that reads descriptors, all n(n-1) pairs.
- `gnn`: the discoverer that predicts every pair from the estimates of `skills` and 3 n pairs that are "measured" (what
  descriptors have in common, an effect of each source and target, noise; below zero for a third of the pairs).
- `one more`: `engine.register_task` of another task, `auto_discover` on; the median of seven. Its slope over n in
  logarithms says how it grows: 1 is O(n), 2 would be O(n^2).

CPU seconds, and how far the process's peak of resident memory rose. `--plot` writes docs/images/scaling.png.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.graph import Evidence, TransferEdge
from crosstask.tasks import Task

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "scaling.png"
SHAPES = ((1, 8, 8), (1, 14, 14), (1, 28, 28), (3, 32, 32), (64,))


def described(number: int) -> Task:
    rng = np.random.default_rng(number)
    skills = rng.choice(40, size=rng.integers(2, 7), replace=False)
    knowledge = rng.choice(20, size=rng.integers(1, 4), replace=False)
    domain = int(rng.integers(12))
    return Task(
        descriptor=TaskDescriptor(
            task_id=f"task-{number}",
            domain=f"images/{domain % 4}/{domain}",
            input_shape=SHAPES[int(rng.integers(len(SHAPES)))],
            output_dim=int(rng.integers(2, 50)),
            sample_count=int(rng.integers(100, 10_000)),
            complexity=float(rng.random()),
            required_skills=tuple(f"skill {skill}" for skill in sorted(skills)),
            domain_knowledge=tuple(f"field {field}" for field in sorted(knowledge)),
        )
    )


def peak() -> float:
    """MiB of resident memory, at its highest so far: `ru_maxrss` is at least that of who started the process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measured(engine: TransferEngine, count: int) -> None:
    """Add `count` measured edges per task, at random."""
    rng = np.random.default_rng(0)
    ids = engine.portfolio.ids
    n = len(ids)
    gives, takes = 0.1 * rng.normal(size=(2, n))
    for place in rng.choice(n * (n - 1), size=min(count * n, n * (n - 1)), replace=False):
        i, j = int(place) // (n - 1), int(place) % (n - 1)
        j += j >= i
        known = engine.graph.coefficient(ids[i], ids[j]) - 0.05 + gives[i] + takes[j] + 0.05 * rng.normal()
        engine.graph.add(
            TransferEdge(
                source=ids[i],
                target=ids[j],
                transfer_coefficient=float(np.clip(known, -1, 1)),
                evidence=Evidence.MEASURED,
                found_by="made up",
                uncertainty=0.05,
            )
        )


def one(n: int) -> dict[str, float]:
    """The figures of one number of tasks."""
    torch.set_num_threads(1)
    found: dict[str, float] = {"tasks": n}
    with TransferEngine(discoverers=["skills"], auto_discover=False) as engine:
        small = TransferEngine(discoverers=["skills"], auto_discover=False)  # what loads once is loaded
        for number in range(12):
            small.register_task(described(10_000 + number))
        small.discover()
        measured(small, 3)
        small.component(object, "discovery", "gnn", {"steps": 2}).discover(small.portfolio, small.graph)  # type: ignore[attr-defined]
        for number in range(n):
            engine.register_task(described(number))
        before, start = peak(), time.process_time()
        engine.discover()
        found |= {"skills s": time.process_time() - start, "skills MiB": peak() - before}
        engine.auto_discover = True
        seconds = []
        for number in range(n, n + 7):
            start = time.process_time()
            engine.register_task(described(number))
            seconds.append(time.process_time() - start)
        found["one more ms"] = 1e3 * statistics.median(seconds)
        measured(engine, 3)
        gnn = engine.component(object, "discovery", "gnn")
        before, start = peak(), time.process_time()
        edges = gnn.discover(engine.portfolio, engine.graph)  # type: ignore[attr-defined]
        found |= {"gnn s": time.process_time() - start, "gnn MiB": peak() - before, "predicted": len(edges)}
    return found


def slope(rows: list[dict[str, float]], name: str) -> float:
    """How fast a figure grows from 100 tasks on (or over all, with fewer): its exponent."""
    big = [row for row in rows if row["tasks"] >= 100] if rows[-1]["tasks"] > 100 else rows
    x, y = [math.log(row["tasks"]) for row in big], [math.log(max(row[name], 1e-9)) for row in big]
    return float(np.polyfit(x, y, 1)[0]) if len(big) > 1 else math.nan


def plot(rows: list[dict[str, float]]) -> None:
    """Time and memory over the number of tasks, both in logarithms."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tasks = [row["tasks"] for row in rows]
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(9, 3.4))
    for name in ("skills", "gnn"):
        time_axes.loglog(tasks, [row[f"{name} s"] for row in rows], marker="o", label=name)
        memory_axes.loglog(tasks, [max(row[f"{name} MiB"], 1) for row in rows], marker="o", label=name)
    time_axes.loglog(tasks, [row["one more ms"] / 1e3 for row in rows], marker="o", label="one more task")
    time_axes.set(xlabel="tasks", ylabel="CPU seconds")
    memory_axes.set(xlabel="tasks", ylabel="memory, MiB (1 or less at 1)")
    time_axes.legend(loc="upper left")
    memory_axes.legend()
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 30, 50, 100, 300, 1000])
    parser.add_argument("--one", type=int, help="measure in this process, print JSON")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    print("| tasks | pairs | skills, CPU s | MiB | gnn, CPU s | MiB | one more, ms |\n|---|---|---|---|---|---|---|")
    rows: list[dict[str, float]] = []
    for n in options.tasks:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(n)], check=True, capture_output=True, text=True
        ).stdout
        row = json.loads(done.strip().splitlines()[-1])
        rows.append(row)
        cells = [f"{row['skills s']:.2f}", f"{row['skills MiB']:.0f}", f"{row['gnn s']:.1f}", f"{row['gnn MiB']:.0f}"]
        print(f"| {n} | {n * (n - 1):,} | {' | '.join(cells)} | {row['one more ms']:.2f} |", flush=True)
    exponents = [slope(rows, name) for name in ("skills s", "gnn s", "one more ms")]
    if options.plot:
        plot(rows)
    print("| exponent | 2 | {:.2f} | | {:.2f} | | {:.2f} |".format(*exponents))


if __name__ == "__main__":
    main()
