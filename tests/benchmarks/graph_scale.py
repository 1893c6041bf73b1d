"""Graphs at scale: python tests/benchmarks/graph_scale.py [--tasks 100 300 1000] [--merge]

Complete graphs with one edge for each ordered pair, one in a hundred measured: CPU time (one thread) and size of what
`metrics`, `export` and `load` of each format and the report's graph take, and the largest memory of the process.
"""

import argparse
import functools
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.records import RunRecord
from crosstask.registry import Registry
from crosstask.report import write_report


def complete(tasks: int, seed: int = 0) -> TransferGraph:
    """A graph of so many tasks with all edges."""
    rng = np.random.default_rng(seed)
    names = [f"task{number:04}" for number in range(tasks)]
    graph = TransferGraph(TaskDescriptor(task_id=name, input_shape=(1, 8, 8), output_dim=10) for name in names)
    values = rng.normal(0.1, 0.3, (tasks, tasks)).clip(-1, 1)
    measured = rng.random((tasks, tasks)) < 0.01
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            if i != j:
                value = float(values[i, j])
                told: dict[str, Any] = {"found_by": "gnn"}
                if measured[i, j]:
                    told = {"evidence": Evidence.MEASURED, "found_by": "probe", "accuracy_gain": value / 2}
                graph.add(
                    TransferEdge(
                        source=source, target=target, transfer_coefficient=value, uncertainty=0.1,
                        low=max(-1.0, value - 0.2), high=min(1.0, value + 0.2), estimates={"mean_z": value}, **told,
                    )
                )  # fmt: skip
    return graph


def timed(what: str, function: Callable[[], Any], size: Path | None = None) -> Any:
    started, clock = time.process_time(), time.perf_counter()
    found = function()
    spent, waited = time.process_time() - started, time.perf_counter() - clock
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = "" if size is None else f"{size.stat().st_size / 2**20:.1f}"
    print(f"| {what} | {spent:.2f} | {waited:.2f} | {told} | {memory:.1f} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--formats", nargs="+", default=["json", "graphml", "gexf"])
    parser.add_argument("--report", action="store_true", help="write the report, too")
    parser.add_argument("--merge", action="store_true", help="merge two such graphs, too")
    args = parser.parse_args()
    for tasks in args.tasks:
        measure(tasks, args)


def measure(tasks: int, args: argparse.Namespace) -> None:
    print(f"\n{tasks} tasks, {tasks * (tasks - 1):,} edges\n")
    print("| | CPU, s | wall, s | MiB | memory, GiB |\n|---|---|---|---|---|")
    graph = timed("made, edge by edge", lambda: complete(tasks))
    timed("metrics", graph.metrics)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in args.formats:
            path = Path(folder) / f"graph.{suffix}"
            timed(f"export .{suffix}", functools.partial(graph.export, path))
            timed(f"load .{suffix}", functools.partial(TransferGraph.load, path), path)
        if args.report:
            record, path = RunRecord(run_id="scale", name="scale"), Path(folder) / "report.html"
            timed("report", lambda: write_report(record, graph, path, Registry.installed()))
    if args.merge:
        other = complete(tasks, seed=1)
        timed("merge", lambda: graph.merge(other))


if __name__ == "__main__":
    main()
