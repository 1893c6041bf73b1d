"""Copies that plugins make of a user's model whose trunk torch.jit has made: they can be trained as the model can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from crosstask import Budget, Task, TaskDescriptor, TransferEngine
from crosstask.context import LocalContext
from crosstask.learning.own_models import prepare_model
from crosstask.stages import _copied
from crosstask.testing import blobs
from crosstask_continual import ContinualLearner, split_by_classes
from crosstask_distillers import Representation, Strategy, WeightPrior
from crosstask_distillers.alignment import align
from crosstask_ensemble.module import Ensemble
from crosstask_knowledge_composition.pieces import adapted
from crosstask_meta.adaptation import with_parameters
from crosstask_multitask.stages import copies_of

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # torch deprecates it


def model(outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = torch.jit.script(nn.Sequential(nn.Linear(2, 8), nn.ReLU()))
        return nn.Sequential(trunk, nn.Linear(8, outputs))


def owned(name: str = "a") -> Task:
    task = blobs(name)
    task.model = model()
    prepare_model(task)
    return task


def applied(distiller: Any) -> nn.Module:
    """What a distiller makes of a model; its knowledge is of another of the same architecture."""
    tasks = [owned(), owned("b")]
    distiller.bind(LocalContext(seed=0))
    made: nn.Module = distiller.apply(model(), distiller.distill(tasks, None), 0.5)
    return made


COPIES: dict[str, Callable[[], nn.Module]] = {
    "ensemble": lambda: Ensemble([model(), model()], [torch.eye(3)] * 2, [1.0, 1.0], True),
    "adaptation": lambda: with_parameters(model(), {}),
    "multitask": lambda: copies_of(model(), 2, 0)[1],
    "composition": lambda: adapted(owned(), [], 2)[0],
    "alignment of units": lambda: align(model(), model())[0],
    "stages": lambda: _copied(model()),
    "representation": lambda: applied(Representation(steps=2, held_out=0)),
    "prior": lambda: applied(WeightPrior(held_out=0)),
    "strategy": lambda: applied(Strategy(budget=Budget(steps=2), rates=(1e-3, 1e-2))),
}


@pytest.mark.parametrize("what", COPIES)
def test_copies_learn_as_the_model_does(what: str) -> None:
    made = COPIES[what]()
    assert len(list(made.parameters())) >= 4
    assert all(p.is_leaf and p.requires_grad for p in made.parameters())


def test_lwf_keeps_a_teacher_of_it() -> None:
    inputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    task = Task(
        descriptor=TaskDescriptor(task_id="four", input_shape=(2,), output_dim=4),
        train=(inputs, torch.arange(40) % 4),
        test=(inputs, torch.arange(40) % 4),
    )
    made = ContinualLearner(model(4), "lwf", scenario="task")
    for part in split_by_classes(task, 2):
        made.train_task(part, num_epochs=1)
    assert made.scores().accuracy is not None


def test_sites_of_a_federation_begin_with_it() -> None:
    with TransferEngine(discoverers=[], seeds=1, budget=Budget(steps=2)) as engine:
        engine.register_task(blobs("a"), model())
        for number, name in enumerate("bc"):
            engine.register_task(blobs(name, seed=number + 1))
        found = engine.run_stage(
            "federated", source="a", tasks=["b", "c"], federation={"use": "fedavg", "keep": ["head"]}, rounds=1,
            budget=Budget(steps=2),
        ).record  # fmt: skip
    assert not found.lost
