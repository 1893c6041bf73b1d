"""Heads that grow: learned, frozen, adapted, tied, re-parametrised, convolutions, in containers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from crosstask.errors import CrosstaskError, DataError, RunError
from crosstask.options import component
from crosstask.testing.references import ReferenceAdapter
from crosstask_continual import ContinualLearner, ContinualModel, resize_head
from crosstask_continual.heads import Snapshot, output_layer, outputs_of
from crosstask_continual.testing import ReferenceContinual, ReferenceReplay, accuracy, digits, network, pairs

IMAGES = digits().data("test").inputs[:50]


def frozen(outputs: int = 4) -> nn.Module:
    made = network(outputs)
    made.get_submodule("head").requires_grad_(False)
    return made


def adapted(outputs: int = 4) -> nn.Module:
    made = network(outputs)
    handle = ReferenceAdapter().attach(made, [], torch.Generator().manual_seed(0))
    for p in handle.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    return made


def weight_norm(outputs: int = 4) -> nn.Module:
    made = network(outputs)
    parametrizations.weight_norm(made.get_submodule("head"))
    return made


def old_weight_norm(outputs: int = 4) -> nn.Module:
    made = network(outputs)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(made.get_submodule("head"))
    return made


class Tied(nn.Module):
    """The head shares its weight with a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(64, 4, bias=False), nn.Linear(64, 4)
        self.head.weight = self.inner.weight

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        out: Tensor = self.head(flat + self.inner(flat).tanh() @ self.inner.weight)
        return out


def tied(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return Tied()


def frozen_convolution(outputs: int = 4) -> nn.Module:
    made = convolution(outputs)
    made.get_submodule("head").requires_grad_(False)
    return made


def convolution(outputs: int = 4) -> nn.Module:
    """A fully convolutional network: the head is a 1x1 convolution, its maps are averaged."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.Conv2d(8, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(trunk=trunk, head=head))


def container(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.ModuleDict({"last": nn.Linear(16, outputs)})["last"])
    return nn.Sequential(OrderedDict(trunk=nn.Flatten(), head=head))


def alone(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


KEEPS = [frozen, adapted, weight_norm, old_weight_norm, tied, frozen_convolution]


@pytest.mark.parametrize("make", KEEPS)
def test_what_is_not_plainly_learned_stays_bit_for_bit(make: Callable[[], nn.Module]) -> None:
    made = make()
    known = made.state_dict()
    before = {name: value.clone() for name, value in known.items()}
    flags = {name: p.requires_grad for name, p in made.named_parameters()}
    answers = [made(IMAGES)]
    for outputs in (6, 9):
        resize_head(made, outputs, seed=0)
        answers.append(made(IMAGES))
        assert answers[-1].shape == (50, outputs)
        assert outputs_of(made) == outputs
        assert torch.equal(answers[-1][:, : answers[-2].shape[1]], answers[-2])
    after = made.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    own = {name: p for name, p in made.named_parameters() if name not in flags}
    assert {name: p.requires_grad for name, p in made.named_parameters() if name in flags} == flags
    assert sum(len(p) for name, p in own.items() if name.endswith("weight")) == 5
    assert all(p.requires_grad for p in own.values())
    again = make()
    for outputs in (6, 9):
        resize_head(again, outputs, seed=7)
    again.load_state_dict(after)
    assert torch.equal(again(IMAGES), answers[-1])
    if make is not old_weight_norm:  # which torch cannot copy
        assert torch.equal(copy.deepcopy(made)(IMAGES), answers[-1])
    with pytest.raises(DataError, match="is frozen or adapted: its 9 outputs cannot become 5"):
        resize_head(made, 5, seed=0)


@pytest.mark.parametrize("make", [network, convolution, container, alone])
def test_a_head_that_is_learned_gets_rows(make: Callable[[int], nn.Module]) -> None:
    made = make(4)
    name, layer = output_layer(made)
    old = [p.detach().clone() for p in layer.parameters()]
    names = list(made.state_dict())
    answers = made(IMAGES)
    resize_head(made, 6, seed=0)
    assert output_layer(made) == (name, layer)
    assert list(made.state_dict()) == names
    for p, value in zip(layer.parameters(), old, strict=True):
        assert torch.equal(p[:4], value)
    assert made(IMAGES).shape == (50, 6)
    torch.testing.assert_close(made(IMAGES)[:, :4], answers)
    resize_head(made, 3, seed=0)
    torch.testing.assert_close(made(IMAGES), answers[:, :3])


def test_no_layer_that_could_grow() -> None:
    with pytest.raises(DataError, match="no module named 'head' and no linear layer"):
        outputs_of(nn.Flatten())
    with pytest.raises(DataError, match="the head 'head' of Sequential has neither a linear nor a convolution layer"):
        outputs_of(nn.Sequential(OrderedDict(trunk=nn.Linear(2, 2), head=nn.ReLU())))
    grouped = nn.Sequential(OrderedDict(trunk=nn.Flatten(), head=nn.Conv2d(8, 4, 1, groups=2)))
    with pytest.raises(DataError, match="'head' of Sequential is a convolution in 2 groups: it cannot have 6 outputs"):
        resize_head(grouped, 6, seed=0)


def test_the_network_under_a_wrapper_is_looked_through() -> None:
    class Wrapper(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

    made = nn.Sequential(OrderedDict(head=nn.Linear(4, 3), later=nn.Linear(9, 9)))
    assert output_layer(Wrapper(made))[0] == "base.head"


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("make", [frozen, adapted, frozen_convolution, container])
def test_learners_grow_them_and_go_on_from_a_state(make: Callable[[int], nn.Module], scenario: str) -> None:
    def learner() -> ContinualLearner:
        return ContinualLearner(
            make(2), [ReferenceContinual(), ReferenceReplay()], scenario=scenario, grow=True, batch_size=32,
            learning_rate=1e-2,
        )  # fmt: skip

    through, again = learner(), learner()
    for task in pairs()[:3]:
        if len(through.matrix) == 2:
            taken = copy.deepcopy(through.state_dict())
        through.train_task(task, num_epochs=3)
    assert through.model.outputs == 6
    if make is not frozen_convolution:  # whose few averaged channels tell little apart
        assert accuracy(through) > (0.65 if scenario == "task" else 0.3)
    again.load_state_dict(taken)
    for task in pairs()[:3]:
        again.train_task(task, num_epochs=3)
    assert again.matrix == through.matrix
    mine, theirs = again.model.network.state_dict(), through.model.network.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.mark.parametrize("make", [network, frozen, adapted, convolution])
def test_a_snapshot_puts_everything_back(make: Callable[[int], nn.Module]) -> None:
    made = make(4).eval()
    names, answers = list(made.state_dict()), made(IMAGES)
    flags = [p.requires_grad for p in made.parameters()]
    kept = Snapshot(made)
    resize_head(made, 6, seed=0)
    made.train().requires_grad_(True)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1)
    made(IMAGES)
    kept.restore()
    assert list(made.state_dict()) == names
    assert torch.equal(made(IMAGES), answers)
    assert [p.requires_grad for p in made.parameters()] == flags
    assert not any(module.training for module in made.modules())


@component
class Breaks(ReferenceContinual):
    """Fails in the middle of its second task."""

    def after_step(self, model: ContinualModel) -> None:
        if model.current == 1:
            raise RunError("in the middle")


@pytest.mark.parametrize("make", [network, frozen, adapted])
def test_a_task_that_fails_has_not_happened(make: Callable[[int], nn.Module]) -> None:
    strategy = Breaks()
    made = ContinualLearner(make(2), [strategy, ReferenceReplay()], grow=True, batch_size=32)
    made.train_task(pairs()[0], num_epochs=1)
    before = copy.deepcopy(made.state_dict())
    answers = made.model.network(IMAGES)
    with pytest.raises(RunError, match="in the middle"):
        made.train_task(pairs()[1], num_epochs=1)
    after = made.state_dict()
    assert _plain(after) == _plain(before)
    assert torch.equal(made.model.network(IMAGES), answers)
    assert made.model.outputs == 2
    strategy.after_step = lambda model: None  # type: ignore[method-assign]
    assert made.train_task(pairs()[1], num_epochs=1).keys() == {"digits:0+1", "digits:2+3"}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def test_an_adapter_that_needs_the_old_width_is_an_error_and_nothing_has_changed() -> None:
    """What stands behind the head and takes as many numbers as it gave."""
    made_for = nn.Sequential(OrderedDict(trunk=nn.Flatten(), head=nn.Sequential(nn.Linear(64, 2), nn.LayerNorm(2))))
    made = ContinualLearner(made_for, None, grow=True, batch_size=32)
    made.train_task(pairs()[0], num_epochs=1)
    answers = made_for(IMAGES)
    with pytest.raises(CrosstaskError, match=r"'digits:2\+3': Sequential cannot answer inputs of shape \(1, 8, 8\)"):
        made.train_task(pairs()[1], num_epochs=1)
    assert torch.equal(made_for(IMAGES), answers)
    assert made.model.tasks == ["digits:0+1"]
