"""Domain alignment: target accuracy without target labels, beside the source alone and the target's labels.

    OMP_NUM_THREADS=1 python tests/benchmarks/alignment.py [--pairs mnist-usps digits-inverted] [--seeds 5]

2000 images of MNIST and 1800 of USPS to learn from (the numbers of Long et al. 2013), 16x16 pixels, judged on 2000 test
images of each; 800 images of scikit-learn's digits, turned by 90 degrees or inverted, judged on 400, no image in two
tasks. One network for all: two convolutions of 16 and 32 channels with BatchNorm and pooling, a layer of 64, BatchNorm
and dropout, whose outputs are aligned, and a linear head; SGD with momentum, the rate falling on half a cosine, 64
images of each domain in a step. The weight of a term is 1, of coral 10, so that it is not lost beside the loss; nothing
is stopped early, and labels of the target are used only for what is called supervised. The domain accuracy is that of a
new critic on test images; guessing gives 50 %.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from places import DATA
from torch import Tensor, nn
from torch.nn import functional

from crosstask import Budget, ModelSpec, Task, TaskDescriptor, TransferEngine
from crosstask_alignment.testing import digits

METHODS: dict[str, tuple[Any, float]] = {
    "dann": ("dann", 1.0),
    "cdan": ("cdan", 1.0),
    "mmd": ("mmd", 1.0),
    "coral": ("coral", 10.0),
}


def network(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The network of all pairs."""
    side = input_shape[1] // 4
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * side**2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, outputs),
    )  # fmt: skip


def stored(name: str, file: str, count: int) -> Task:
    """A task on images of a file, 16x16."""
    arrays = np.load(DATA / file)

    def images(split: str, most: int) -> tuple[Tensor, Tensor]:
        raw = torch.tensor(arrays[f"x_{split}"][:most], dtype=torch.float32)[:, None] / 255
        made = raw if raw.shape[-1] == 16 else functional.interpolate(raw, (16, 16), mode="area")
        return made, torch.tensor(arrays[f"y_{split}"][:most]).long()

    descriptor = TaskDescriptor(task_id=name, input_shape=(1, 16, 16), output_dim=10, classes=tuple("0123456789"))
    return Task(descriptor=descriptor, train=images("train", count), test=images("test", 2000))


PAIRS: dict[str, Callable[[], tuple[Task, Task]]] = {
    "mnist-usps": lambda: (mnist(), usps()),
    "usps-mnist": lambda: (usps(), mnist()),
    "digits-rotated": lambda: (digits(), digits("rotated")),
    "digits-inverted": lambda: (digits(), digits("inverted")),
}


def mnist() -> Task:
    """2000 images."""
    return stored("mnist", "mnist_20k_10k.npz", 2000)


def usps() -> Task:
    """1800 images."""
    return stored("usps", "usps_7291_2007.npz", 1800)


def shown(interval: Any) -> str:
    """A mean with half of its 95 % interval, in per cent."""
    return f"{100 * interval.mean:.1f} ± {100 * (interval.high - interval.low) / 2:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--weight", type=float, help="of the term, instead of each method's own")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(steps=wanted.steps, batch_size=64, learning_rate=0.01, optimizer="sgd", schedule="cosine")
    print(f"{wanted.seeds} seeds, {wanted.steps} steps; load before: {os.getloadavg()}")
    print("| pair | method | target accuracy, % | source accuracy, % | domain accuracy, % | CPU s a seed |")
    print("|---|---|---|---|---|---|")
    for pair in wanted.pairs:
        source, target = PAIRS[pair]()
        with TransferEngine(
            model=ModelSpec(kind=f"{__name__}:network"), seeds=wanted.seeds, discoverers=[], seed=0
        ) as engine:
            for task in (source, target):
                engine.register_task(task)
            for number, name in enumerate(wanted.methods):
                use, weight = METHODS[name]
                begun = time.process_time()
                done = engine.run_stage(
                    "alignment", sources=[source.task_id], targets=[target.task_id], budget=budget,
                    alignment=use, weight=wanted.weight or weight,
                ).record  # fmt: skip
                spent = (time.process_time() - begun) / wanted.seeds
                one, own = target.task_id, source.task_id
                if not number:  # kept in the store since: only the first method pays for them
                    apart = shown(done.domain_accuracy_before)
                    print(f"| {pair} | source only | {shown(done.source_only[one])} "
                          f"| {shown(done.sources_only[own])} | {apart} | |")  # fmt: skip
                    print(f"| {pair} | target supervised | {shown(done.supervised[one])} | | | |", flush=True)
                print(f"| {pair} | {name} | {shown(done.adapted[one])} | {shown(done.sources_adapted[own])} "
                      f"| {shown(done.domain_accuracy)} | {spent:.1f}{' (all three)' if not number else ''} |",
                      flush=True)  # fmt: skip
    print(f"load after: {os.getloadavg()}")


if __name__ == "__main__":
    main()
