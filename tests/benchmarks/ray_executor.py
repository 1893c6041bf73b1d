"""What a job costs on Ray, beside the executors `process` and `serial` and joblib: time to start, per job, with data.

    OMP_NUM_THREADS=1 python tests/benchmarks/ray_executor.py [--jobs 300] [--repeats 5] [--workers 2]

The start is a process of its own each time: from the import to the result of the first job. Jobs are sent all at once
to workers that are warm, and waited for; executors take turns, medians are shown. `empty` returns its number, `data`
sums a row of a tensor of 8 MiB that all jobs share. CPU is of this process alone, which packs, sends and hears.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from crosstask.components import Job
from crosstask.executors import ProcessExecutor, SerialExecutor
from crosstask.points.executor import Executor

START = """
import sys, time
begin = time.perf_counter()
from crosstask.components import Job
if {kind!r} == "joblib":
    import joblib, torch
    joblib.Parallel({workers}, backend="loky")([joblib.delayed(max)(1, 2)])
else:
    from {module} import {kind}
    made = {kind}({options})
    made.submit(Job(max, (1, 2))).result()
print(time.perf_counter() - begin, file=sys.stderr)
if {kind!r} != "joblib":
    made.shutdown()
"""


def empty(number: int) -> int:
    return number


def summed(values: torch.Tensor, number: int) -> float:
    return float(values[number % len(values)].sum())


def through(executor: Executor) -> Callable[[list[Job]], list[Any]]:
    return lambda jobs: [future.result() for future in [executor.submit(job) for job in jobs]]


def start(kind: str, module: str, options: str, workers: int) -> float:
    text = START.format(kind=kind, module=module, options=options, workers=workers)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return float(done.stderr.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    from crosstask_ray import RayExecutor

    ray, process = RayExecutor(workers=given.workers), ProcessExecutor(workers=given.workers)
    ways = {"serial": through(SerialExecutor()), "process": through(process), "ray": through(ray)}
    kinds = {
        "serial": ("SerialExecutor", "crosstask.executors", ""),
        "process": ("ProcessExecutor", "crosstask.executors", f"workers={given.workers}"),
        "ray": ("RayExecutor", "crosstask_ray", f"workers={given.workers}"),
    }
    if importlib.util.find_spec("joblib"):
        import joblib

        pool = joblib.Parallel(given.workers, backend="loky")
        ways["joblib"] = lambda jobs: pool(joblib.delayed(job.function)(*job.args) for job in jobs)
        kinds["joblib"] = ("joblib", "joblib", "")

    values = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(0))
    loads = {
        "empty": [Job(empty, (n,)) for n in range(given.jobs)],
        "data": [Job(summed, (values, n)) for n in range(given.jobs // 5)],
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {(way, load): [] for way in ways for load in loads}
    expected = {load: ways["serial"](jobs) for load, jobs in loads.items()}
    for turn in range(given.repeats + 1):
        for (way, load), times in found.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answers = ways[way](loads[load])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert answers == expected[load]
            if turn:  # the first warms the workers
                times.append((1000 * wall / len(answers), 1000 * cpu / len(answers)))
    ray.shutdown()
    process.shutdown()
    print("| executor | start, s | empty: ms | CPU here | 8 MiB shared: ms | CPU here |\n|---|---|---|---|---|---|")
    for way in ways:
        first = statistics.median(start(*kinds[way], given.workers) for _ in range(3))
        cells = [f"{statistics.median(t[i] for t in found[way, load]):.2f}" for load in loads for i in (0, 1)]
        print(f"| `{way}` | {first:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
