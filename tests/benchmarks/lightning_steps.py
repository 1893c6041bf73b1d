"""What balancing costs in Lightning: a step beside the plain Trainer with the summed loss, and beside TorchJD.

    OMP_NUM_THREADS=1 python tests/benchmarks/lightning_steps.py [--steps 60] [--repeats 7]

One thread, CPU time of `fit` from the fourth batch on, trainers in turn, the median of repeats. TorchJD is used as its
documentation says for Lightning: manual optimisation, `mtl_backward` and `jac_to_grad`. By hand: the same balancer in a
plain loop; what is left beside it is Lightning and the callback.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchjd.aggregation import UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward

from crosstask.context import LocalContext
from crosstask_lightning import Balance

TASKS, WARM = 3, 3


class Net(LightningModule):
    """A trunk of `depth` layers and three heads."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())))
        self.heads = nn.ModuleList(nn.Linear(width, 5) for _ in range(TASKS))

    def losses(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.trunk(batch[0])
        return features, {
            f"task{n}": nn.functional.cross_entropy(head(features), batch[1][:, n]) for n, head in enumerate(self.heads)
        }

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.losses(batch)[1]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-2)


class Summed(Net):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return torch.stack(list(self.losses(batch)[1].values())).sum()


class TorchJD(Net):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.automatic_optimization = False
        self.aggregator = UPGrad()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        features, losses = self.losses(batch)
        mtl_backward(list(losses.values()), features=features)
        jac_to_grad(self.trunk.parameters(), self.aggregator)
        optimizer.step()


class Clock(Callback):
    begin = end = 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM:
            self.begin = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.end = time.process_time()


def fit(module: LightningModule, data: TensorDataset, callbacks: list[Any], rows: int, accumulated: int = 1) -> float:
    """CPU milliseconds of a batch."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=[clock, *callbacks], accumulate_grad_batches=accumulated,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=rows))
    return 1000 * (clock.end - clock.begin) / (len(data) // rows - WARM)


def by_hand(module: Net, data: TensorDataset, name: str, rows: int) -> float:
    balancer: Any = LocalContext().component("balancer", name)
    optimizer, begin = module.configure_optimizers(), 0.0
    for step, batch in enumerate(DataLoader(data, batch_size=rows)):
        if step == WARM:
            begin = time.process_time()
        optimizer.zero_grad()
        balancer.backward(module.losses(batch)[1], module.trunk.parameters())
        optimizer.step()
    return 1000 * (time.process_time() - begin) / (len(data) // rows - WARM)


def kinds_of(sizes: tuple[int, int], rows: int, data: TensorDataset) -> dict[str, Callable[[], float]]:
    """What is compared, and how each is measured."""

    def balanced(name: str, accumulated: int = 1) -> Callable[[], float]:
        return lambda: fit(Net(*sizes), data, [Balance(name)], rows, accumulated)

    return {
        "summed loss": lambda: fit(Summed(*sizes), data, [], rows),
        **{f"Balance, {name}": balanced(name) for name in ("equal", "dwa", "pcgrad", "rgb", "upgrad")},
        "by hand, upgrad": lambda: by_hand(Net(*sizes), data, "upgrad", rows),
        "TorchJD, UPGrad": lambda: fit(TorchJD(*sizes), data, [], rows),
        "summed loss, two batches a step": lambda: fit(Summed(*sizes), data, [], rows, 2),
        "Balance, upgrad, two batches a step": balanced("upgrad", 2),
    }


def main(steps: int, repeats: int) -> None:
    for width, depth, rows in ((64, 2, 32), (512, 4, 128)):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn((steps + WARM) * rows, width, generator=generator)
        data = TensorDataset(x, torch.randint(0, 5, (len(x), TASKS), generator=generator))
        kinds = kinds_of((width, depth), rows, data)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(repeats + 1):
            for kind, measure in kinds.items():
                spent = measure()
                if turn:
                    found[kind].append(spent)
        plain = statistics.median(found["summed loss"])
        print(f"\n| {TASKS} losses, {depth} layers of {width}, batches of {rows} | ms CPU a batch | ratio |")
        print("|---|---|---|")
        for kind, values in found.items():
            print(f"| {kind} | {statistics.median(values):.2f} | {statistics.median(values) / plain:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(options.steps, options.repeats)
