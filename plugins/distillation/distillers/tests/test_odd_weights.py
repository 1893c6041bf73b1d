"""Models whose first parameter is no real number: whole numbers that steer, complex weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import DataError
from crosstask.learning.own_models import prepare_model
from crosstask.learning.training import evaluate
from crosstask.tasks import Task
from crosstask.testing import blobs
from crosstask_distillers import Representation


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


def owned(kind: Any, name: str, number: int) -> Task:
    task = blobs(name, seed=number)
    with torch.random.fork_rng():
        torch.manual_seed(number)
        task.model = kind()
    prepare_model(task)
    return task


@pytest.mark.parametrize("kind", [Picks, Waves])
def test_a_representation_is_distilled_and_applied(kind: Any) -> None:
    tasks = [owned(kind, name, number) for number, name in enumerate("abc")]
    distiller = Representation(steps=5, held_out=0)
    distiller.bind(LocalContext(seed=0))
    found = distiller.distill(tasks, None)
    assert found.knowledge.source_tasks == ("a", "b", "c")
    assert tasks[0].model is not None
    name = "wave.weight" if kind is Waves else "body.weight"
    before, universal = tasks[0].model.state_dict()[name], found.tensors[f"universal.{name}"]
    assert universal.dtype == before.dtype, "complex weights stay so"
    after = distiller.apply(tasks[0].model, found, 0.25)
    torch.testing.assert_close(after.state_dict()[name], 0.75 * before + 0.25 * universal)
    assert 0 <= evaluate(after, tasks[0]) <= 1


class Sizes(nn.Linear):
    """A complex layer that answers with sizes."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).abs()


def test_complex_features_are_named() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wave = nn.Linear(2, 8, dtype=torch.complex64)
            self.head = Sizes(8, 3, dtype=torch.complex64)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.head(self.wave(inputs.to(torch.complex64)))
            return found

    distiller = Representation(steps=2, held_out=0)
    distiller.bind(LocalContext(seed=0))
    told = r"a gives features of complex numbers, which no linear map of real ones gives; b gives"
    with pytest.raises(DataError, match=told):
        distiller.distill([owned(Whole, "a", 0), owned(Whole, "b", 1)], None)
