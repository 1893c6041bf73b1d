"""Graphs at scale: python tests/benchmarks/graph_scale.py [--tasks 100 300 1000] [--merge] [--report] [--browser 5]

Complete graphs with one edge for each ordered pair, one in a hundred measured: CPU time (one thread) and size of what
`metrics`, `export` and `load` of each format and the report's graph take, and the largest memory of the process while
each is done, the graph that was made included.

`--browser N`: the report (with the transfer matrix) is opened so often in a fresh Chromium. Of each the time until the
page has opened (its load event) and until all of it is drawn, by the clock and of the CPU of the page's thread. Needs
selenium, /usr/bin/chromium and /usr/bin/chromedriver.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import unstructure
from crosstask.records import RunRecord
from crosstask.registry import Registry
from crosstask.report import write_report
from crosstask_discovery.records import DiscoveryResult


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
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
    started, clock = time.process_time(), time.perf_counter()
    found = function()
    spent, waited = time.process_time() - started, time.perf_counter() - clock
    status = Path("/proc/self/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20
    told = "" if size is None else f"{size.stat().st_size / 2**20:.1f}"
    print(f"| {what} | {spent:.2f} | {waited:.2f} | {told} | {memory:.2f} | {os.getloadavg()[0]:.1f} |", flush=True)
    return found


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1400,1000"
)
DRAWN = "return document.querySelectorAll('.plot .main-svg').length > 0 && [...document.querySelectorAll('.plot')]"
DRAWN += ".every(each => each.querySelector('.main-svg'))"


def opened(path: Path, times: int) -> None:
    """The report in a browser, with how busy the machine is."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    print("\n| opened after, s | CPU, s | of it scripts | layout and style | all drawn after, s | CPU, s | load |")
    print("|---|---|---|---|---|---|---|")
    for _ in range(times):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
                options.add_argument(flag)
            driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
            driver.get("about:blank")
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            started = time.perf_counter()
            driver.get(path.as_uri())
            waited, spent = time.perf_counter() - started, used(driver)
            while not driver.execute_script(DRAWN):
                time.sleep(0.05)
            drawn, whole = time.perf_counter() - started, used(driver)
            driver.quit()
        style = spent["LayoutDuration"] + spent["RecalcStyleDuration"]
        figures = (waited, spent["TaskDuration"], spent["ScriptDuration"], style, drawn, whole["TaskDuration"])
        print("|", " | ".join(f"{each:.2f}" for each in (*figures, os.getloadavg()[0])), "|", flush=True)


def used(driver: Any) -> dict[str, float]:
    """What the page's main thread has spent, in seconds."""
    return {each["name"]: each["value"] for each in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--formats", nargs="*", default=["json", "graphml", "gexf"])
    parser.add_argument("--report", action="store_true", help="write the report, too")
    parser.add_argument("--browser", type=int, default=0, help="open the report so often")
    parser.add_argument("--merge", action="store_true", help="merge two such graphs, too")
    args = parser.parse_args()
    for tasks in args.tasks:
        measure(tasks, args)


def measure(tasks: int, args: argparse.Namespace) -> None:
    print(f"\n{tasks} tasks, {tasks * (tasks - 1):,} edges\n")
    print("| | CPU, s | wall, s | MiB | memory, GiB | load |\n|---|---|---|---|---|---|")
    graph = timed("made, edge by edge", lambda: complete(tasks))
    timed("metrics", graph.metrics)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in args.formats:
            path = Path(folder) / f"graph.{suffix}"
            timed(f"export .{suffix}", functools.partial(graph.export, path))
            timed(f"load .{suffix}", functools.partial(TransferGraph.load, path), path)
        if args.report or args.browser:
            result = DiscoveryResult(tasks=tasks, metrics=graph.metrics())
            record = RunRecord(run_id="scale", name="scale", results={"discovery": unstructure(result)})
            path = Path(folder) / "report.html"
            timed("report", lambda: write_report(record, graph, path, Registry.installed()))
            print(f"\nreport: {path.stat().st_size / 2**20:.1f} MiB", flush=True)
        if args.browser:
            opened(path, args.browser)
    if args.merge:
        other = complete(tasks, seed=1)
        timed("merge", lambda: graph.merge(other))


if __name__ == "__main__":
    main()
