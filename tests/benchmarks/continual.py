"""Continual learning: accuracy on Split MNIST beside the published table, and what a step and a Fisher cost.

    OMP_NUM_THREADS=1 python tests/benchmarks/continual.py [accuracy | cost] [--seeds 3]

Accuracies are kept in `places.CACHE`, one file for each training, and not measured twice. Costs are
CPU time on one thread; variants take turns in each round of one process, figures are medians of ratios within a round.
"""

import argparse
import functools
import json
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from places import CACHE, DATA
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.fisher import fisher_diagonal
from crosstask.learning.models import ModelSpec, optimizer_for
from crosstask.tasks import Task
from crosstask_continual import ContinualLearner, ScenarioWarning, split_by_classes

MNIST = DATA / "mnist_20k_10k.npz"
KEPT = CACHE / "continual"
SCENARIOS = ("task", "domain", "class")
EPOCHS = 4
JOINT = "all tasks at once"

METHODS: dict[str, Any] = {
    "none": [],
    "ewc": [{"use": "ewc"}],
    "online ewc": [{"use": "ewc", "mode": "online"}],
    "si": ["si"],
    "mas": ["mas"],
    "lwf": ["lwf"],
    "replay (1000)": ["replay"],
    "replay (1000), balanced": [{"use": "replay", "buffer": "balanced"}],
    "replay (1000), prioritised": [{"use": "replay", "buffer": "prioritised"}],
    "der++ (1000)": ["der++"],
    "agem (1000)": ["agem"],
    "gem (1000)": ["gem"],
    "ewc + replay (1000)": ["ewc", "replay"],
    "ewc 100 + replay (1000)": [{"use": "ewc", "strength": 100.0}, "replay"],
    "lwf + replay (1000)": ["lwf", "replay"],
    "progressive": ["progressive"],
    JOINT: [],
}
ONLY = {"progressive": ("task",), "ewc + replay (1000)": ("class",), "ewc 100 + replay (1000)": ("class",)}
PUBLISHED = {  # Hsu et al. (2018), 60,000 images; replay with 1100 samples
    "none": (93.5, 55.2, 19.7),
    "ewc": (97.7, 58.9, 19.8),
    "online ewc": (98.0, 57.3, 19.8),
    "si": (98.6, 64.8, 19.7),
    "mas": (99.2, 68.6, 19.5),
    "lwf": (99.6, 71.0, 24.2),
    "replay (1000)": (99.4, 95.2, 90.8),
    JOINT: (99.5, 98.6, 97.5),
}
TARGETS = {
    "ewc": (98.5, None, None),
    "lwf": (99.5, 71.0, None),
    "replay (1000)": (99.2, 94.5, 90.0),
    "der++ (1000)": (99.3, 94.5, 90.0),
}


# --- Accuracy


@functools.cache
def tasks() -> list[Task]:
    """Split MNIST: 0 and 1, 2 and 3, … from the first 20,000 training images."""
    with np.load(MNIST) as found:
        arrays = {name: torch.tensor(found[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    images = {name: arrays[f"x_{name}"].float().reshape(-1, 1, 28, 28) / 255 for name in ("train", "test")}
    labels = {name: arrays[f"y_{name}"].long() for name in ("train", "test")}
    descriptor = TaskDescriptor(task_id="mnist", input_shape=(1, 28, 28), output_dim=10)
    splits = {name: (images[name], labels[name]) for name in ("train", "test")}
    return split_by_classes(Task(descriptor=descriptor, **splits), 5)


def network(outputs: int, seed: int = 0) -> nn.Module:
    descriptor = TaskDescriptor(task_id="all", input_shape=(1, 28, 28), output_dim=outputs)
    return ModelSpec(hidden=(400, 400)).build(descriptor, seed)


def trained(method: str, scenario: str, seed: int) -> dict[str, Any]:
    """Mean accuracy over the five tasks at the end, in percent, and CPU seconds; measured once."""
    key = "".join(c if c.isalnum() else "_" for c in f"{method} {scenario} {seed}")
    path = KEPT / f"{key}.json"
    given = json.dumps([METHODS[method], EPOCHS])
    if path.exists() and (known := json.loads(path.read_text()))["given"] == given:
        return known
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScenarioWarning)
        learner = ContinualLearner(
            network(2 if scenario == "domain" else 10, seed),
            METHODS[method],
            scenario=scenario,
            context=LocalContext(seed=seed),
        )
    if method == JOINT:
        found = learner.train_together(tasks(), EPOCHS)
    else:
        for task in tasks():
            found = learner.train_task(task, num_epochs=EPOCHS)
    known = {
        "given": given,
        "accuracy": 100 * statistics.fmean(found.values()),
        "matrix": learner.matrix,
        "seconds": time.process_time() - started,
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known))
    return known


def accuracies(seeds: int, methods: list[str]) -> None:
    print(f"Split MNIST, 20,000 training images, MLP 400-400, {EPOCHS} epochs, Adam 1e-3, batch 128, {seeds} seeds")
    for method in methods:
        row = []
        for place, scenario in enumerate(SCENARIOS):
            if scenario not in ONLY.get(method, SCENARIOS):
                row.append("-")
                continue
            values = [trained(method, scenario, seed)["accuracy"] for seed in range(seeds)]
            spread = statistics.stdev(values) if seeds > 1 else 0.0
            known = PUBLISHED.get(method, (None,) * 3)[place]
            goal = TARGETS.get(method, (None,) * 3)[place]
            told = f"{statistics.fmean(values):.1f} ± {spread:.1f}"
            told += f" (published {known})" if known is not None else ""
            row.append(told + (f" [to reach {goal}]" if goal is not None else ""))
        print("|", method, "|", " | ".join(row), "|", flush=True)


# --- Cost


def in_turns(variants: dict[str, Callable[[], object]], base: str, rounds: int) -> dict[str, float]:
    """Median over rounds of each variant's CPU time relative to the base's in the same round."""
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for step in variants.values():
        step()
    for number in range(rounds):
        order = list(variants)
        random.Random(number).shuffle(order)
        spent = {}
        for name in order:
            started = time.process_time()
            variants[name]()
            spent[name] = time.process_time() - started
        for name, seconds in spent.items():
            ratios[name].append(seconds / spent[base])
    return {name: statistics.median(values) for name, values in ratios.items()}


def plain(optimizer: str, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    """An epoch as one writes it by hand: a new optimiser, as for each task, and the data shuffled."""
    model = network(10)
    inputs, targets = (torch.cat(column) for column in zip(*batches, strict=True))

    def steps() -> None:
        made = optimizer_for(optimizer, list(model.parameters()), 1e-3, 0.0)
        model.train()
        for index in torch.randperm(len(targets)).split(128):
            loss = functional.cross_entropy(model(inputs[index]), targets[index])
            made.zero_grad(set_to_none=True)
            loss.backward()
            made.step()

    return steps


def ours(
    optimizer: str, strategies: list[Any], before: int, batches: list[tuple[Tensor, Tensor]]
) -> Callable[[], object]:
    """The learner's steps after so many earlier tasks."""
    learner = ContinualLearner(network(10), strategies, scenario="task", optimizer=optimizer)
    for task in tasks()[:before]:
        learner.train_task(Task(descriptor=task.descriptor, train=task.data("train").head(512)), num_epochs=1)
    inputs = torch.cat([x for x, _ in batches])
    targets = torch.cat([y for _, y in batches]) % 2
    task = Task(descriptor=tasks()[before].descriptor, train=(inputs, targets))
    learner.model.add(task, 0)
    for strategy in learner.strategies:
        strategy.task_begins(learner.model, task)
    data = learner.model.data(task)
    return lambda: learner._epochs(data, 1, task.task_id, learner._asked)


def costs(rounds: int) -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [(torch.rand(128, 1, 28, 28, generator=rng), torch.randint(10, (128,), generator=rng)) for _ in range(20)]
    for optimizer in ("sgd", "adam"):
        variants: dict[str, Callable[[], object]] = {
            "by hand": plain(optimizer, batches),
            "learner, no strategy": ours(optimizer, [], 1, batches),
            "ewc, 1 earlier task": ours(optimizer, ["ewc"], 1, batches),
            "ewc, 4 earlier tasks": ours(optimizer, ["ewc"], 4, batches),
            "ewc proximal, 4": ours(optimizer, [{"use": "ewc", "proximal": True}], 4, batches),
            "si, 4": ours(optimizer, ["si"], 4, batches),
            "lwf, 4": ours(optimizer, ["lwf"], 4, batches),
            "replay, 4": ours(optimizer, ["replay"], 4, batches),
            "der++, 4": ours(optimizer, ["der++"], 4, batches),
            "agem, 4": ours(optimizer, ["agem"], 4, batches),
        }
        variants |= peers(optimizer, batches)
        print(f"epoch of 20 steps, MLP 400-400, batch 128, {optimizer}, relative to one written by hand")
        for name, ratio in in_turns(variants, "by hand", rounds).items():
            print(f"| {name} | {ratio:.2f} |", flush=True)
    fishers(rounds)


def fishers(rounds: int) -> None:
    """The exact Fisher diagonal in training epochs."""
    conv = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    for name, model, count in (("mlp", network(10), 1280), ("cnn", conv, 640)):
        inputs, targets = torch.rand(count, 1, 28, 28), torch.randint(10, (count,))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def epoch(model: Any = model, x: Tensor = inputs, y: Tensor = targets, optimizer: Any = optimizer) -> None:
            for first in range(0, len(x), 128):
                part = slice(first, first + 128)
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()

        variants: dict[str, Callable[[], object]] = {
            "epoch": epoch,
            "fisher": functools.partial(fisher_diagonal, model, inputs, targets),
        }
        print(
            f"| exact Fisher of {name}, in epochs | {in_turns(variants, 'epoch', rounds)['fisher']:.2f} |", flush=True
        )


def peers(optimizer: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Callable[[], object]]:
    """Avalanche's naive and EWC loops over the same batches, handed to it ready made, if it can be imported.

    What it imports at the top and its loops do not use (loggers, torchvision's detection operators, which fail beside a
    torch without CUDA) is replaced by empty modules: `pip install --no-deps avalanche-lib torchvision dill gdown
    beautifulsoup4 soupsieve pytorchcv torchmetrics lightning_utilities` in an environment that sees this one's.
    """
    unused = ("wandb", "torch.utils.tensorboard", "torch.utils.tensorboard.summary", "GPUtil")
    for name in (*unused, "torchvision._meta_registrations"):
        sys.modules.setdefault(name, mock.MagicMock())
    try:
        import avalanche
    except ImportError as error:
        print(f"avalanche-lib is not measured: {error}")
        return {}
    from avalanche.training import EWC, Naive

    print(f"avalanche-lib {avalanche.__version__}")
    return {
        "Avalanche, naive": avalanches(Naive, optimizer, 1, batches),
        "Avalanche, EWC, 1 earlier task": avalanches(EWC, optimizer, 1, batches, ewc_lambda=1.0),
        "Avalanche, EWC, 4 earlier tasks": avalanches(EWC, optimizer, 4, batches, ewc_lambda=1.0),
    }


def avalanches(
    kind: Any, optimizer: str, before: int, batches: list[tuple[Tensor, Tensor]], **given: Any
) -> Callable[[], object]:
    """A strategy of Avalanche after so many earlier tasks; what is returned passes once over the batches."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin

    model = network(10)
    made = (
        torch.optim.SGD(model.parameters(), 1e-3, 0.9) if optimizer == "sgd" else torch.optim.Adam(model.parameters())
    )
    heads = [task.data("train").head(512) for task in tasks()[: before + 1]]
    datasets = [
        _make_taskaware_classification_dataset(
            TensorDataset(data.inputs, data.targets), targets=data.targets.tolist(), task_labels=0
        )
        for data in heads
    ]
    strategy = kind(
        model=model,
        optimizer=made,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=128,
        train_epochs=1,
        evaluator=EvaluationPlugin(),
        **given,
    )
    stream = benchmark_from_datasets(train=datasets).train_stream
    for number in range(before):
        strategy.train(stream[number], eval_streams=[])
    # As its `train` does before the loop.
    strategy.is_training, strategy.experience = True, stream[before]
    strategy._before_training()
    strategy._before_training_exp()
    strategy.dataloader = [[x, y, torch.zeros_like(y)] for x, y in batches]

    def steps() -> None:
        made.state.clear()  # a new optimiser, as the others have
        strategy.training_epoch()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", default=["accuracy", "cost"], choices=["accuracy", "cost"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="methods")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}")
    if "accuracy" in args.what:
        accuracies(args.seeds, args.only)
    if "cost" in args.what:
        costs(args.rounds)


if __name__ == "__main__":
    main()
