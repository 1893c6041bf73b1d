"""What it costs to train many small networks at once: python tests/benchmarks/fleets.py [--rounds 3] [--before FOLDER]

CPU time of one thread, interleaved: in every round each side works once, the median of the rounds is shown. First
optimiser steps, of `fit` one network after the other and of fleets of K = 9, 36 and 108 (108 in fleets of at most 36),
for an MLP with two hidden layers of 64 and the demo's two convolutions, batches of 25 of scikit-learn's digits. Then a
probe of all 132 pairs of twelve digit tasks, three seeds each (50 samples, 60 steps, a point of the curve every 10):
in fleets, and one by one. With `--before` the same probe by the code in that folder (`git worktree add FOLDER COMMIT`),
and how far its coefficients are from ours.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from crosstask.context import LocalContext
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import train_models
from crosstask.records import Budget
from crosstask.registry import Registry

SPECS = {"mlp": ModelSpec(kind="mlp", hidden=(64, 64)), "conv": ModelSpec(kind="conv", hidden=(16, 32))}
BUDGET = Budget(steps=60, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=10)
FLEETS = (9, 36, 108)


def portfolio(registry: Registry) -> Any:
    """The twelve tasks of the source `digits`."""
    return LocalContext(seed=0, registry=registry).component("source", "digits").load()  # type: ignore[attr-defined]


def steps_per_second(kind: str, tasks: list[Any], rounds: int) -> dict[str, float]:
    """Steps of one network per CPU second, by `fit` and in fleets."""
    from crosstask.learning.fleets import Member, Phase, muster, train_fleet  # deferred: `--before` has none
    from crosstask.learning.training import fit
    from crosstask.learning.transferring import drawn, fresh_model

    def members(count: int) -> list[Any]:
        made = []
        for seed in range(count):
            task = drawn(tasks[seed % len(tasks)], 50, seed)
            model = fresh_model(SPECS[kind].build(task.descriptor, 0), task, seed)
            made.append(Member(model, task, BUDGET, (Phase(BUDGET.steps),), seed))
        return made

    seconds: dict[str, list[float]] = {}
    for _ in range(rounds + 1):  # the first warms up
        own = members(9)
        start = time.process_time()
        for each in own:
            fit(each.model, each.task, BUDGET, torch.Generator().manual_seed(each.seed), curve_split=None)
        seconds.setdefault("fit", []).append((time.process_time() - start) / 9)
        for count in FLEETS:
            own = members(count)
            start = time.process_time()
            for fleet in muster(own)[0]:
                train_fleet([own[number] for number in fleet])
            seconds.setdefault(f"K = {count}", []).append((time.process_time() - start) / count)
    return {name: BUDGET.steps / statistics.median(values[1:]) for name, values in seconds.items()}


def probe(kind: str, alone: bool = False) -> dict[str, Any]:
    """CPU seconds of a probe of all pairs, the coefficients, and the process's peak memory in MiB."""
    registry = Registry.installed()
    tasks = portfolio(registry)
    train_models(
        LocalContext(seed=0, registry=registry), SPECS[kind], list(tasks), Budget(steps=100, learning_rate=3e-3)
    )
    context = LocalContext(seed=0, registry=registry)
    context.budget, context.seeds = BUDGET, 3
    made: Any = context.component("discovery", "probe", {})
    if alone:
        import crosstask_probe.probe as place

        place.muster = lambda members, *more: ([], dict.fromkeys(range(len(members)), "asked for"))  # type: ignore[assignment]
    graph = TransferGraph(task.descriptor for task in tasks)
    start = time.process_time()
    edges = made.discover(tasks, graph)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {f"{e.source} {e.target}": e.transfer_coefficient for e in edges}
    return {"seconds": seconds, "memory": memory, "coefficients": found}


def elsewhere(*arguments: str, before: str | None = None) -> dict[str, Any]:
    """`probe` in a process of its own, by the code of another folder if one is named."""
    paths = [str(p) for p in (Path(before) / "kernel/src", *Path(before).glob("plugins/*/*/src"))] if before else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", *arguments]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="folder with an earlier state of the repository")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        kind, *how = options.one
        print(json.dumps(probe(kind, alone="alone" in how)))
        return
    tasks = list(portfolio(Registry.installed()))
    print("| steps per CPU s of one network | fit |", " | ".join(f"K = {k}" for k in FLEETS), "|\n|---|" + "---|" * 4)
    for kind in SPECS:
        found = steps_per_second(kind, tasks, options.rounds)
        shown = [f"{rate:.0f} ({rate / found['fit']:.1f} x)" for name, rate in found.items() if name != "fit"]
        print(f"| {kind} | {found['fit']:.0f} |", " | ".join(shown), "|", flush=True)
    sides = {"in fleets": ((), None), "one by one": (("alone",), None)}
    if options.before:
        sides["before"] = ((), options.before)
    print(
        "\n| probe, CPU ms per pair |",
        " | ".join(sides),
        "| MiB | largest difference |\n|---|" + "---|" * (len(sides) + 2),
    )
    for kind in SPECS:
        every: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for name, (more, before) in sides.items():
                every.setdefault(name, []).append(elsewhere(kind, *more, before=before))
        first = every["in fleets"][0]["coefficients"]
        cost = {name: statistics.median(r["seconds"] for r in runs) / len(first) * 1e3 for name, runs in every.items()}
        shown = [
            f"{ms:.1f}" + (f" ({ms / cost['in fleets']:.1f} x)" if name != "in fleets" else "")
            for name, ms in cost.items()
        ]
        memory = " / ".join(f"{runs[0]['memory']:.0f}" for runs in every.values())
        other = [runs[0]["coefficients"] for name, runs in every.items() if name != "in fleets"]
        apart = max(abs(first[pair] - each[pair]) for each in other for pair in first)
        print(f"| {kind} |", " | ".join(shown), f"| {memory} | {apart:.2g} |", flush=True)


if __name__ == "__main__":
    main()
