"""A trunk as a chain of stages, copies of it, heads made for it, and parts of a module that are frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, Registry
from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, RunError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless, forward
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskTrainer
from crosstask_multitask.freezing import Freezable
from crosstask_multitask.headed import HeadMaker, key, task_id
from crosstask_multitask.stages import copies_of, stages_of
from crosstask_multitask.testing import ReferenceSharing


class Residual(nn.Sequential):
    """A Sequential that does more than call its layers."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + super().forward(x)  # type: ignore[no-untyped-call]
        return made


def kinds(trunk: nn.Module) -> list[list[str]]:
    return [
        [
            type(layer).__name__
            for layer in (stage if isinstance(stage, nn.Sequential) and type(stage) is not Residual else [stage])
        ]
        for stage in stages_of(trunk)
    ]


@pytest.mark.parametrize(
    ("trunk", "wanted"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4), nn.PReLU()),
         [["Linear", "BatchNorm1d", "ReLU", "Dropout"], ["Linear", "PReLU"]]),
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 4), nn.Identity()),
         [["Flatten", "LayerNorm", "Linear"]]),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4))),
         [["Linear", "Tanh"], ["Linear"]]),
        (nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4), nn.ReLU())), [["Linear"], ["Residual"]]),
        (Residual(nn.Linear(4, 4), nn.Linear(4, 4)), [["Residual"]]),
        (nn.Linear(4, 4), [["Linear"]]),
        (nn.Sequential(), [[]]),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), [["ReLU", "Tanh"]]),
    ],
)  # fmt: skip
def test_stages_one_after_another_are_the_trunk(trunk: nn.Module, wanted: list[list[str]]) -> None:
    trunk.eval()
    assert kinds(trunk) == wanted
    x = torch.randn(3, 4)
    made = x
    for stage in stages_of(trunk):
        made = stage.eval()(made)
    torch.testing.assert_close(made, trunk(x))
    ours = {id(p) for stage in stages_of(trunk) for p in stage.parameters()}
    assert ours == {id(p) for p in trunk.parameters()}


def test_the_first_stage_of_a_kernels_network_takes_whole_numbers_and_several_inputs() -> None:
    described = TaskDescriptor(task_id="a", input_shapes={"left": (2,), "right": (3,)}, output_dim=2)
    trunk = Headless(ModelSpec(hidden=(6, 5)).build(described, 0)).eval()
    batch = MultiInput({"left": torch.arange(6).view(3, 2), "right": torch.randn(3, 3)})
    first, second = stages_of(trunk)
    torch.testing.assert_close(second(forward(first, batch)), trunk(batch))


def test_copies_are_drawn_anew_but_for_what_is_frozen() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    trunk[0].requires_grad_(False)
    before = copy.deepcopy(trunk.state_dict())
    one, two, three = copies_of(trunk, 3, 7)
    assert one is trunk
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    for twin in (two, three):
        assert torch.equal(twin[0].weight, trunk[0].weight)  # type: ignore[index]
        assert not twin[0].weight.requires_grad  # type: ignore[index, union-attr]
        assert not torch.equal(twin[1].weight, trunk[1].weight)  # type: ignore[index]
    assert not torch.equal(two[1].weight, three[1].weight)  # type: ignore[index]
    assert torch.equal(copies_of(trunk, 2, 7)[1][1].weight, two[1].weight)  # type: ignore[index]
    assert torch.equal(copies_of(trunk, 2, 7, fresh=False)[1][1].weight, trunk[1].weight)  # type: ignore[index]


def test_heads_depend_on_the_seed_the_architecture_and_the_task() -> None:
    task = Task(descriptor=TaskDescriptor(task_id="a", input_shape=(4,), output_dim=3))
    trunk = nn.Linear(4, 5)
    one: Any = HeadMaker(0, 1, "x").make(task, trunk)
    fitting: Any = HeadMaker(0, 1, "x").fitting(task, torch.zeros(2, 5))
    assert torch.equal(one.weight, fitting.weight)
    for other in (HeadMaker(0, 2, "x"), HeadMaker(0, 1, "y")):
        assert not torch.equal(one.weight, other.make(task, trunk).weight)  # type: ignore[arg-type]
    double: Any = HeadMaker().make(task, nn.Linear(4, 5).double())
    assert double.weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["a.b", "keys", "100%", "%2E", "task x", "ä b", "a%2Eb"])
def test_any_task_id_is_a_modules_name_and_back(name: str) -> None:
    assert task_id(key(name)) == name
    assert key(name) in nn.ModuleDict({key(name): nn.Identity()})


class Parts(Freezable):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3), nn.Dropout())
        self.right[0].bias.requires_grad_(False)


def test_frozen_parts_stay_in_evaluation_until_they_thaw() -> None:
    module = Parts()
    module.freeze(module.left)
    module.freeze(module.right)
    module.train()
    assert module.training
    assert not module.left.training
    assert not module.right[1].training
    assert not any(p.requires_grad for p in module.parameters())
    module.eval()
    module.thaw()
    assert not module.left.training
    module.train()
    assert module.right[1].training
    assert [p.requires_grad for p in module.parameters()] == [True, True, True, False]


def single(task_outputs: int = 2) -> tuple[Task, Any]:
    x = torch.randn(24, 4)
    descriptor = TaskDescriptor(task_id="a", output_dim=task_outputs)
    task = Task(descriptor=descriptor, train=(x, (x[:, 0] > 0).long()))  # type: ignore[arg-type]
    torch.manual_seed(0)
    return task, ReferenceSharing().build([task], nn.Linear(4, 3).requires_grad_(False))


def test_a_task_by_itself_on_frozen_shared_weights_is_trained_as_by_plain_descent() -> None:
    task, module = single()
    plain = copy.deepcopy(module)
    balancer: Any = Registry.installed().create("balancer", "pcgrad")
    budget = Budget(steps=3, batch_size=24, optimizer="sgd", learning_rate=0.1, evaluate_every=1)
    trainer = MultiTaskTrainer(module, [task], balancer, budget, LocalContext())
    trainer.step(1)
    data, own = task.data("train"), list(plain.task_parameters("a"))
    loss = nn.functional.cross_entropy(plain({"a": data.inputs})["a"], data.targets)
    for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
        parameter.data -= 0.1 * gradient
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    trainer.fit()
    assert trainer.weights == {"a": [1.0] * 2}
    assert trainer.history["a"][0] > trainer.history["a"][2]


def test_a_task_by_itself_whose_loss_is_not_finite_or_that_has_nothing_to_learn_is_told() -> None:
    task, module = single()
    balancer: Any = Registry.installed().create("balancer", "equal")
    made = MultiTaskTrainer(module, [task], balancer, Budget(steps=1), LocalContext())
    with torch.no_grad():
        next(module.task_parameters("a")).fill_(float("nan"))
    with pytest.raises(RunError, match="'a' is nan"):
        made.fit()
    with pytest.raises(DataError, match="no shared weight of the module can be trained"):
        MultiTaskTrainer(module.requires_grad_(False), [task], balancer, Budget(steps=1), LocalContext())
