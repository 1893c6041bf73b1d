"""What workers do in the tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor, distributed, nn

from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, state
from crosstask.points.balancer import Balancer, Direction


def node() -> str:
    return ray.get_runtime_context().get_node_id()


def eventually(true: Callable[[], object], seconds: float = 60) -> bool:
    late = time.monotonic() + seconds
    while not true() and time.monotonic() < late:
        time.sleep(0.02)
    return bool(true())


def written(path: Path) -> str:
    assert eventually(lambda: path.exists() and path.read_text().endswith("\n")), path
    return path.read_text().splitlines()[-1]


def count(path: str) -> int:
    """Write down that it was called, and by which process; how often it was."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len(Path(path).read_text().splitlines())


def counted(path: str, value: int) -> int:
    count(path)
    return value


def where_when(begun: str, gate: str, value: int) -> tuple[str, int]:
    """Says that it has begun and where, waits for a file, then its node and the square of a number."""
    with Path(begun).open("a") as file:
        file.write(f"{node()} {os.getpid()}\n")
    if not eventually(lambda: Path(gate).exists(), 120):
        raise TimeoutError(gate)
    return node(), value * value


def refused(path: str) -> None:
    count(path)
    raise LookupError("its own")


def leaves(path: str) -> None:
    count(path)
    time.sleep(0.5)  # so that it is heard that it has begun
    os._exit(3)


def sleeps(path: str, seconds: float) -> None:
    count(path)
    time.sleep(seconds)


def total(values: Tensor, array: np.ndarray, factor: int) -> float:
    return float(values.sum() * factor) + float(array.sum())


def spoils(values: Tensor, array: np.ndarray) -> tuple[float, float]:
    """Writes into what it was given."""
    values += 1
    array *= 2
    return float(values.sum()), float(array.sum())


def passes(*values: Any) -> tuple[Any, ...]:
    return values


def variable(name: str) -> tuple[str | None, int]:
    return os.environ.get(name), torch.get_num_threads()


@component
class ByNorm(Balancer):
    """Weights from the Gram matrix, and a pull toward what was before: all that can go wrong between ranks."""

    before: Tensor | None = state()

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        weights = 1 / gradients.gramian.diagonal().sqrt()
        if self.before is not None:
            weights = weights + gradients.dot(self.before).tanh()
        self.before = gradients.assemble(weights, None)
        return Direction(weights=weights, vector=0.1 * self.before)


def trained(rank: int, ranks: int) -> list[Tensor]:
    """The parameters of a trunk and three heads after four steps on this rank's part of each batch, in double."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5)).double()
    heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(3)).double()
    batches = torch.randn(4, 8, 6).double()
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.05)
    balancer = ByNorm()
    for batch in batches:
        features = trunk(batch.chunk(ranks)[rank])
        losses = [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)]
        optimizer.zero_grad()
        balancer.backward(losses, trunk.parameters())
        optimizer.step()
    return [p.detach() for p in [*trunk.parameters(), *heads.parameters()]]


def trained_together(rank: int, ranks: int, meeting: str) -> tuple[str, list[Tensor]]:
    """In a group of gloo with the other workers, which meet in a file."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    try:
        return node(), trained(rank, ranks)
    finally:
        distributed.destroy_process_group()
