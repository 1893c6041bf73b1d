"""What balancing buys: python tests/benchmarks/mtl_quality.py [--quick] [--sets adult,digits] [--methods rgb,pcgrad]

Every balancer of the built-in plugins against single-task training and equal weights, on real data: the average over
tasks of the relative change in test accuracy, Δm, in percent. All train with the same network, optimiser, learning
rate, steps and batches; nothing is tuned for any of them. Data: `CROSSTASK_DATA`, else `shared/data` beside the
repository.
"""

import argparse
import ast
import importlib
import math
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from places import DATA

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import seeded
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskTrainer

PACKAGES = ("weighting", "gradnorm", "rgb", "pcgrad", "jacobian", "robust")
STEPS = {"multimnist": 400, "digit_and_fashion": 400, "adult": 300, "digits": 200}
BATCH = 32  # of each task
HIDDEN = (64, 32)
Split = tuple[torch.Tensor, torch.Tensor]


def two_labels(first: str, second: str, seed: int) -> list[Task]:
    """MultiMNIST (Sabour et al. 2017): two images overlaid on 36 x 36, halved to 18 x 18; the labels are two tasks."""
    rng = np.random.default_rng(seed)
    sources = [np.load(DATA / f"{name}_20k_10k.npz") for name in (first, second)]
    splits: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for split, count in (("train", 12000), ("test", 4000)):
        canvas = np.zeros((count, 36, 36), dtype=np.float32)
        labels = []
        for source, corner in zip(sources, (0, 8), strict=True):
            chosen = rng.permutation(len(source[f"y_{split}"]))[:count]
            place = canvas[:, corner : corner + 28, corner : corner + 28]
            np.maximum(place, source[f"x_{split}"][chosen].reshape(-1, 28, 28) / 255.0, out=place)
            labels.append(torch.from_numpy(source[f"y_{split}"][chosen].astype(np.int64)))
        small = torch.from_numpy(canvas.reshape(count, 18, 2, 18, 2).mean(axis=(2, 4)))
        splits[split] = small[:, None], labels
    return [
        Task(
            descriptor=TaskDescriptor(task_id=f"{place}_{name}", input_shape=(1, 18, 18), output_dim=10),
            train=(splits["train"][0], splits["train"][1][i]),
            test=(splits["test"][0], splits["test"][1][i]),
        )
        for i, (place, name) in enumerate([("upper", first), ("lower", second)])
    ]


def adult(seed: int) -> list[Task]:
    """Census income above 50,000 and never married, from the other columns but `relationship`, which tells that."""
    data = np.load(DATA / "adult_32561_16281.npz", allow_pickle=False)
    names, columns = [str(n) for n in data["cat_names"]], {}
    for split in ("train", "test"):
        categories, numbers = data[f"cat_{split}"], data[f"num_{split}"].astype(np.float32)
        columns[split] = categories, numbers
    mean, spread = columns["train"][1].mean(axis=0), columns["train"][1].std(axis=0)
    marital = next(i for i, n in enumerate(names) if n.startswith("marital"))
    never = ast.literal_eval(str(data["vocab"][marital])).index("Never-married")
    kept = [i for i, n in enumerate(names) if i != marital and not n.startswith("relationship")]
    sizes = columns["train"][0].max(axis=0) + 1
    splits: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for split, (categories, numbers) in columns.items():
        hot = [np.eye(sizes[i] + 1, dtype=np.float32)[np.minimum(categories[:, i], sizes[i])] for i in kept]
        inputs = np.concatenate([(numbers - mean) / spread, *hot], axis=1).astype(np.float32)
        order = np.random.default_rng(seed).permutation(len(inputs))
        labels = data[f"y_{split}"].astype(np.int64)[order], (categories[:, marital] == never).astype(np.int64)[order]
        splits[split] = torch.from_numpy(inputs[order]), *map(torch.from_numpy, labels)
    shape = tuple(splits["train"][0].shape[1:])
    return [
        Task(
            descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=2),
            train=(splits["train"][0], splits["train"][i]),
            test=(splits["test"][0], splits["test"][i]),
        )
        for i, name in ((1, "income"), (2, "never_married"))
    ]


def digits(seed: int) -> list[Task]:
    """Eight tasks on scikit-learn's digits: which digit, shown in four ways, and four questions about it."""
    source = importlib.import_module("crosstask_digits").Digits
    names = ("digits", "parity", "above_four", "prime", "loop", "rotated", "inverted", "blurred")
    return list(source(seed=seed, tasks=names).load())


SETS = {
    "multimnist": lambda seed: two_labels("mnist", "mnist", seed),
    "digit_and_fashion": lambda seed: two_labels("mnist", "fashion_mnist", seed),
    "adult": adult,
    "digits": digits,
}


def methods() -> dict[str, type[Balancer]]:
    """Every balancer of the built-in packages that needs no options, `equal` first."""
    found = {}
    for package in PACKAGES:
        plugin = importlib.import_module(f"crosstask_{package}.plugin").PLUGIN
        for extension in plugin.extensions:
            if extension.name != "fixed":
                module, _, name = extension.target.partition(":")
                found[extension.name] = getattr(importlib.import_module(module), name)
    return {"equal": found.pop("equal"), **found}


def train(tasks: list[Task], balancer: Balancer, seed: int, steps: int) -> dict[str, float]:
    """Test accuracy of each task after joint training (of one task: after training it alone)."""
    sharing = importlib.import_module("crosstask_hard_parameter_sharing").HardParameterSharing()
    context = LocalContext(seed=seed)
    balancer.bind(context)
    sharing.bind(context)
    trunk = ModelSpec(hidden=HIDDEN).build(tasks[0].descriptor, seed)[0]
    with seeded(seed):
        module = sharing.build(tasks, trunk)
    budget = Budget(steps=steps, batch_size=BATCH * len(tasks), learning_rate=2e-3, evaluate_every=10**9)
    trainer = MultiTaskTrainer(module, tasks, balancer, budget, context)
    trainer.fit()
    return trainer.scores("test")


def relative(joint: dict[str, float], alone: dict[str, float]) -> float:
    """Δm in percent (Maninis et al. 2019): the mean relative improvement over training each task alone."""
    return 100 * statistics.mean((joint[t] - alone[t]) / alone[t] for t in alone)


def measure(
    name: str, chosen: dict[str, type[Balancer]], seeds: int, scale: float
) -> Iterator[tuple[str, list[float]]]:
    """(method, Δm of each seed) on one data set."""
    steps = max(2, round(STEPS[name] * scale))
    found: dict[str, list[float]] = {method: [] for method in chosen}
    accuracy: dict[str, list[float]] = {}
    for seed in range(seeds):
        tasks = SETS[name](seed)
        alone: dict[str, float] = {}
        for task in tasks:
            alone |= train([task], chosen["equal"](), seed, steps)
        for task_id, value in alone.items():
            accuracy.setdefault(task_id, []).append(value)
        for method, made in chosen.items():
            if len(tasks) < made.least_tasks:
                continue
            found[method].append(relative(train(tasks, made(), seed, steps), alone))
            print(f"{name} seed {seed} {method} {found[method][-1]:+.3f}", file=sys.stderr, flush=True)
    print(
        f"<!-- {name}: alone " + ", ".join(f"{t} {100 * statistics.mean(a):.1f}" for t, a in accuracy.items()) + " -->"
    )
    yield from found.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default="")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps, one seed: does everything run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds, scale = (1, 0.05) if arguments.quick else (arguments.seeds, 1.0)
    known = methods()
    chosen = {name: known[name] for name in {"equal": 0} | dict.fromkeys(filter(None, arguments.methods.split(",")))}
    chosen = known if not arguments.methods else chosen
    sets = arguments.sets.split(",")
    started = time.process_time()
    table: dict[str, dict[str, list[float]]] = {name: dict(measure(name, chosen, seeds, scale)) for name in sets}
    print("\n| balancer | " + " | ".join(sets) + " | mean |")
    print("|---|" + "---:|" * (len(sets) + 1))
    run = {method: [s for s in sets if table[s][method]] for method in chosen}  # some need more tasks than there are
    means = {m: statistics.mean(statistics.mean(table[s][m]) for s in where) for m, where in run.items() if where}
    chosen = {method: chosen[method] for method in means}
    for method in sorted(chosen, key=means.__getitem__, reverse=True):
        cells = [_cell(table[s][method], table[s]["equal"]) if table[s][method] else "" for s in sets]
        print(f"| {method} | " + " | ".join(cells) + f" | {means[method]:+.2f} |")
    for name in sets:
        better = [m for m in chosen if table[name][m] and _beats(table[name][m], table[name]["equal"])]
        print(f"\n{name}: better than equal weights by more than two standard errors: {', '.join(better) or 'none'}")
    print(f"\n{time.process_time() - started:.0f} s of CPU time, {seeds} seeds")


def _gain(values: list[float], equal: list[float]) -> tuple[float, float]:
    """Mean difference to equal weights over seeds, and its standard error."""
    gains = [v - e for v, e in zip(values, equal, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return statistics.mean(gains), error


def _beats(values: list[float], equal: list[float]) -> bool:
    gain, error = _gain(values, equal)
    return values is not equal and gain > 2 * error and gain > 0


def _cell(values: list[float], equal: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    text = f"{statistics.mean(values):+.2f} ± {spread:.2f}"
    return f"**{text}**" if _beats(values, equal) else text


if __name__ == "__main__":
    main()
