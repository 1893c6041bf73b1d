"""What estimating a pair costs: python tests/benchmarks/estimators.py [digits omniglot] [--all] [--before FOLDER]

CPU milliseconds a pair of every estimator alone, where the features that it looks at are known, and of `mean_z` with
all that it needs, the least of `--rounds`; one thread. With `--before` by the code in that folder, too (`git worktree
add FOLDER COMMIT`), interleaved, and whether all sources of every target are in the same order. Tasks and models are
those of `discovery_world.py`, as many samples as there: on digits `--all` takes 250. Models are trained once and kept.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from discovery_world import ESTIMATORS, MODELS, PORTFOLIOS, SAMPLES, SOURCES
from places import CACHE

from crosstask.context import LocalContext
from crosstask.graph import TransferGraph
from crosstask.learning.own_models import train_models
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store


def costs(name: str, samples: dict[str, object], side: str) -> dict[str, Any]:
    """CPU milliseconds a pair by estimator, and what each says of every pair."""
    portfolio = PORTFOLIOS[name]()
    CACHE.mkdir(parents=True, exist_ok=True)
    store = open_store(str(CACHE / f"estimators-{name}.db"))
    with Run(Registry.installed(), seed=0, store=store) as run:
        train_models(run, MODELS[name], list(portfolio), SOURCES[name])
    store.close()
    pairs, found = len(list(portfolio.pairs())), {}

    def spent(context: LocalContext, estimator: str) -> tuple[float, list[Any]]:
        made: Any = context.component("discovery", estimator, dict(samples))
        graph = TransferGraph(task.descriptor for task in portfolio)
        start = time.process_time()
        edges = made.discover(portfolio, graph)
        return (time.process_time() - start) / pairs * 1e3, edges

    context = LocalContext()
    spent(context, "knn")  # the features are known after it
    said = {}
    for estimator in ESTIMATORS:
        found[estimator], edges = spent(context, estimator)
        said[estimator] = {f"{e.source} {e.target}": e.estimates[estimator] for e in edges}
    found["mean_z, features included"], _ = spent(LocalContext(), "mean_z")
    return {"side": side, "costs": found, "said": said}


def elsewhere(name: str, samples: dict[str, object], before: str | None) -> dict[str, Any]:
    """The same in a process of its own."""
    paths = [str(p) for p in (Path(before) / "kernel/src", *Path(before).glob("plugins/*/*/src"))] if before else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, json.dumps(samples)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def orders(said: dict[str, dict[str, float]]) -> dict[tuple[str, str], list[str]]:
    """The sources of each target, from the worst to the best, by estimator."""
    found = {}
    for estimator, values in said.items():
        for target in {pair.split()[1] for pair in values}:
            own = {pair.split()[0]: value for pair, value in values.items() if pair.split()[1] == target}
            found[estimator, target] = sorted(own, key=lambda source: (own[source], source))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["digits", "omniglot"])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="folder with an earlier state of the repository")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(costs(options.one[0], json.loads(options.one[1]), "")))
        return
    sides = {"now": None} | ({"before": options.before} if options.before else {})
    for name in options.names:
        samples = {"samples": 250} if options.all and name == "digits" else SAMPLES[name]
        every: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, before in sides.items():
                every[side].append(elsewhere(name, samples, before))
        print(f"\n{name}, {samples}, load {os.getloadavg()[0]:.1f}\n\n| ms a pair |", " | ".join(sides), "|")
        print("|---|" + "---|" * len(sides))
        for estimator in every["now"][0]["costs"]:
            least = [float(np.min([run["costs"][estimator] for run in runs])) for runs in every.values()]
            print(f"| {estimator} |", " | ".join(f"{ms:.2f}" for ms in least), "|")
        if options.before:
            ours, theirs = (orders(runs[0]["said"]) for runs in every.values())
            other = [key for key in ours if ours[key] != theirs[key]]
            print(f"\nin another order: {len(other)} of {len(ours)}", *other[:5])


if __name__ == "__main__":
    main()
