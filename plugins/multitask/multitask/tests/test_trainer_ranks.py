"""Two processes that train together are one with the whole batch. The file is also what torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, state
from crosstask.points.balancer import Balancer, Direction
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskModule, MultiTaskTrainer

RANKS = 2


@component
class ByNorm(Balancer):
    """Weights from the Gram matrix, and a pull toward what was before: all that can go wrong."""

    before: Tensor | None = state()

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        weights = 1 / gradients.gramian.diagonal().sqrt()
        if self.before is not None:
            weights = weights + gradients.dot(self.before).tanh()
        self.before = gradients.assemble(weights, None)
        return Direction(weights=weights, vector=0.1 * self.before)


class Joint(MultiTaskModule):
    """A trunk and two heads, in double precision; the trunk's first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 5))
        self.trunk[0].requires_grad_(False)
        self.heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(2))
        self.double()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.heads[int(name)](self.trunk(batch)) for name, batch in inputs.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[int(task_id)].parameters()


def train_jointly() -> list[Tensor]:
    """A trainer's parameters and figures after some steps."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 6, generator=generator).double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    try:
        tasks = [
            Task(
                descriptor=TaskDescriptor(task_id=str(n), task_type="regression", input_shape=(6,), output_dim=2),
                train=(inputs, torch.stack([inputs.sin().sum(1), (n * inputs).cos().sum(1)], 1)),
            )
            for n in range(2)
        ]
        budget = Budget(steps=7, batch_size=16, evaluate_every=3)
        trainer = MultiTaskTrainer(Joint(), tasks, ByNorm(), budget, LocalContext())
        trainer.fit()
    finally:
        torch.set_default_dtype(before)
    figures = [*trainer.history.values(), *trainer.conflicts.values()]
    return [*(p.detach() for p in trainer.module.parameters()), *(torch.tensor(f).double() for f in figures)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[list[Tensor]]:
    """What two gloo processes made, started by torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"trainer-{rank}") for rank in range(RANKS)]


def test_two_trainers_are_one(outcomes: list[list[Tensor]]) -> None:
    expected = train_jointly()
    for rank in outcomes:
        for found, alone in zip(rank, expected, strict=True):
            torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-9)


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    torch.save(train_jointly(), Path(sys.argv[1]) / f"trainer-{distributed.get_rank()}")
    distributed.destroy_process_group()
