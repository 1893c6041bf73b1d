"""Which of twelve saved models fits a new data set? python tests/benchmarks/zoo.py [--seeds 5] [--data digits usps]

Six small architectures of transformers and timm, each with random weights and briefly trained ones (900 of
scikit-learn's digits; `crosstask_timm.testing.twelve`), ranked for a new data set of 100 labelled samples: digits that
no model has seen, modulo 5, and USPS (another source of digits, ten classes). Spearman's correlation of each ranking
with the accuracies that fine-tuning comes to (60 steps, mean of 2 seeds, on the test part), the share of pairs in which
a trained model is above a random one, and CPU seconds. `plain` is a loop of forward passes, with which the first look
is compared.

It needs timm and scikit-learn; where torchvision's library cannot be loaded, its operators are declared as in the
tests of contrib/timm.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from places import CACHE, DATA
from scipy.stats import spearmanr

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("declared", ROOT / "contrib" / "timm" / "tests" / "conftest.py")
_declared = importlib.util.module_from_spec(_spec)  # kept: what it declares goes with it
_spec.loader.exec_module(_declared)

from crosstask import Budget, Task, TransferEngine  # noqa: E402
from crosstask.learning.transferring import transfer_scores  # noqa: E402
from crosstask_timm.testing import digits, twelve  # noqa: E402
from crosstask_zoo import Zoo  # noqa: E402

BY = {
    "ridge, left one out": (),
    "`logme`": ("logme",),
    "`hscore`": ("hscore",),
    "`knn`": ("knn",),
    "`gbc`": ("gbc",),
    "`logme`, `hscore`, `knn`": ("logme", "hscore", "knn"),
}
LABELLED = 100


def new_task(name: str, seed: int) -> Task:
    generator = torch.Generator().manual_seed(seed)
    if name == "digits":
        images, labels = digits()
        order = 900 + torch.randperm(len(images) - 900, generator=generator)
        labels = labels % 5
    else:
        held = np.load(DATA / "usps_7291_2007.npz")
        images = torch.as_tensor(held["x_train"]).float()[:, None] / 255
        labels = torch.as_tensor(held["y_train"]).long()
        order = torch.randperm(len(images), generator=generator)[: LABELLED + 1000]
    few, rest = order[:LABELLED], order[LABELLED:]
    return Task(descriptor=name, train=(images[few], labels[few]), test=(images[rest], labels[rest]))


def above(names: list[str]) -> float:
    trained, random = ([n for n, name in enumerate(names) if name.endswith(end)] for end in ("trained", "random"))
    return float(np.mean([one < other for one in trained for other in random]))


def clock() -> float:
    return time.process_time()


def measured(name: str, seed: int, found: dict, costs: dict) -> None:
    folder = CACHE / f"zoo-{seed}"
    if not folder.exists():
        part = Path(tempfile.mkdtemp(dir=CACHE))
        twelve(part, seed)
        part.rename(folder)
    task = new_task(name, seed)
    names = [saved.name for saved in Zoo(folder)]
    budget = Budget(steps=60)
    with TransferEngine(seeds=2, budget=budget, discoverers=[], auto_discover=False, seed=seed) as engine:
        zoo = Zoo(folder)
        engine.register(zoo.portfolio(task))
        method, true, started = engine.method("fine_tuning"), {}, clock()
        for model in names:
            chosen = [engine.run.seed_for("true", number) for number in range(2)]
            runs, _, _ = transfer_scores(method, engine.portfolio[model].model, task, budget, chosen, "test", False)
            true[model] = statistics.fmean(score for score, _ in runs)
        costs["fine-tuning all, one seed each"].append((clock() - started) / 2)

        def note(label: str, ranking: list[str]) -> None:
            rho = float(spearmanr(range(len(names), 0, -1), [true[model] for model in ranking])[0])
            best = max(true.values())
            found[label].append((rho, above(ranking), best - true[ranking[0]]))

        trunks = [engine.portfolio[model].model.trunk for model in names]
        inputs = task.data("train").inputs
        for _ in range(3):  # interleaved
            with torch.no_grad():
                started = clock()
                for trunk in trunks:
                    trunk.features(inputs)
                costs["plain: a forward pass of each"].append(clock() - started)
                for trunk in trunks:
                    trunk.remember_in(zoo.cache.__class__())
                started = clock()
                for trunk in trunks:
                    trunk(inputs)
                costs["the same, kept"].append(clock() - started)
                started = clock()
                for trunk in trunks:
                    trunk(inputs)
                costs["the same again, known"].append(clock() - started)
        started = clock()
        advice = engine.advise(name)
        costs["`engine.advise`, all twelve registered"].append(clock() - started)
        note("`engine.advise`, all twelve registered", [row.source for row in advice.rows])
    for label, by in BY.items():
        fresh, started = Zoo(folder), clock()
        note(label, fresh.rank(task, by).names)
        costs[f"`zoo.rank`, {label}"].append(clock() - started)
    with TransferEngine(seeds=2, budget=budget, discoverers=[], auto_discover=False, seed=seed) as engine:
        engine.register_task(task)
        fresh, started = Zoo(folder), clock()
        ranking = fresh.advise(engine, name, ["logme"])
        costs["`zoo.advise`, `logme`, 4 finalists"].append(clock() - started)
        note("`zoo.advise`, `logme`, 4 finalists", ranking.names)
    print(f"{name} {seed}: " + ", ".join(f"{model} {score:.3f}" for model, score in true.items()))
    print("  rho: " + ", ".join(f"{label} {rows[-1][0]:.2f}" for label, rows in found.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="+", default=["digits", "usps"], choices=["digits", "usps"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"load {os.getloadavg()}")
    for name in asked.data:
        found, costs = defaultdict(list), defaultdict(list)
        for seed in range(asked.seeds):
            measured(name, seed, found, costs)
        print(f"\n{name}, {asked.seeds} seeds\n\n| ranking | rho | lowest | trained above random | lost by the first |")
        print("|---|---|---|---|---|")
        for label, rows in found.items():
            rho, share, lost = zip(*rows, strict=True)
            spread = f" ± {statistics.stdev(rho):.2f}" if len(rho) > 1 else ""
            mean = statistics.fmean
            print(f"| {label} | {mean(rho):.2f}{spread} | {min(rho):.2f} | {mean(share):.2f} | {mean(lost):.3f} |")
        print("\n| cost | CPU s |\n|---|---|")
        for label, seconds in costs.items():
            print(f"| {label} | {statistics.median(seconds):.2f} |")
        plain, kept = (statistics.median(costs[each]) for each in ("plain: a forward pass of each", "the same, kept"))
        print(f"\nkept / plain: {kept / plain:.2f}", flush=True)


if __name__ == "__main__":
    main()
