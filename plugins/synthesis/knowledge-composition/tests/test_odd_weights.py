"""Sources whose first parameter is no real number: whole numbers that steer, complex weights."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.engine import TransferEngine
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask.testing import blobs
from crosstask_knowledge_composition.stitching import stitch


class Picks(nn.Module):
    """Its first parameter holds whole numbers: in which order the inputs are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([1, 0]), requires_grad=False)
        self.body, self.head = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs[:, self.order]).relu())
        return found


class Waves(nn.Module):
    """Its first layer is of complex numbers; their sizes go on."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.head = nn.Linear(2, 8, dtype=torch.complex64), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.wave(inputs.to(torch.complex64)).abs())
        return found


def named(name: str, seed: int) -> Task:
    """Blobs, in all tasks of the same classes."""
    task = blobs(name, seed=seed)
    parts = {split: task.data(split) for split in ("train", "validation", "test")}
    descriptor = attrs.evolve(task.descriptor, classes=("x", "y", "z"))
    return Task(descriptor=descriptor, **{split: (data.inputs, data.targets) for split, data in parts.items()})


@pytest.mark.parametrize("kind", [Picks, Waves])
def test_the_head_is_of_real_numbers(kind: Any) -> None:
    new = named("new", 5)
    with TransferEngine(discoverers=[], seeds=1) as engine:
        for number, name in enumerate("ab"):
            with torch.random.fork_rng():
                torch.manual_seed(number)
                engine.register_task(named(name, number), kind())
        wanted, inputs = Task(descriptor=new.descriptor), new.data("train").inputs[:20]
        made = engine.synthesize_zero_shot_model(wanted, "knowledge_composition", inputs, expect=False)
    assert made.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert made(inputs).shape == (20, 3)


def test_complex_features_cannot_be_stitched() -> None:
    with pytest.raises(DataError, match="features of complex numbers cannot be stitched: let the trunk end in real"):
        stitch(torch.randn(8, 2, dtype=torch.complex64), torch.randn(8, 3))
