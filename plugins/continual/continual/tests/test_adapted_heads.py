"""Heads under the adapters of the family `adapters` grow: old outputs bit for bit, saved and read again, with every
strategy. They need those packages; without them there is nothing to check here.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Registry
from crosstask.errors import DataError
from crosstask_continual import ContinualLearner, resize_head
from crosstask_continual.heads import outputs_of
from crosstask_continual.testing import digits, network, pairs

adapters = pytest.importorskip("crosstask_adapters")

IMAGES = digits().data("test").inputs[:40]
CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {"adapter_type": "lora", "lora_r": 2},
    "lora, own head": {"adapter_type": "lora", "lora_r": 2, "modules_to_save": ("head",)},
    "bitfit": {"adapter_type": "bitfit"},
    "ia3": {"adapter_type": "ia3"},
    "prefix, own head": {"adapter_type": "prefix", "modules_to_save": ("head",)},
    "prefix": {"adapter_type": "prefix"},
}


class Rows(nn.Module):
    """An image as the sequence of its rows, seen by one attention layer; the head takes their mean."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.flatten(1).view(len(inputs), 8, 8)
        out: Tensor = self.head((rows + self.attention(rows, rows, rows)[0]).mean(1))
        return out


def base(kind: str, outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return Rows(outputs) if kind.startswith("prefix") else network(outputs)


def adapted(kind: str) -> Any:
    config = CONFIGS[kind]
    if config["adapter_type"] not in Registry.installed().names("adapter"):
        pytest.skip("not installed")
    return adapters.AdapterModel(base(kind), adapters.AdapterConfig(**config))


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        if p.requires_grad:
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_growth_leaves_old_outputs_and_the_base_bit_for_bit(kind: str) -> None:
    model = adapted(kind)
    stirred(model)
    digests = adapters.base_digests(model.base)
    answers = model(IMAGES)
    for outputs in (4, 6):
        resize_head(model, outputs, seed=0)
        assert outputs_of(model) == outputs
        assert torch.equal(model(IMAGES)[:, : answers.shape[1]], answers)
        answers = model(IMAGES)
    if kind != "prefix":  # whose head no adapter is on: it is frozen, and the rows are the base's
        assert adapters.base_digests(model.base) == digests


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "prefix"])
def test_what_has_grown_is_saved_and_read_again(kind: str, tmp_path: Path) -> None:
    model = adapted(kind)
    learner = ContinualLearner(model, None, grow=True, learning_rate=3e-3, batch_size=32)
    before = {name: value.clone() for name, value in base(kind).state_dict().items()}
    for task in pairs()[:3]:
        learner.train_task(task, num_epochs=2)
    own = dict(adapters.base_state(model.base))
    assert before.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in before.items())
    model.save(tmp_path)
    again = adapters.AdapterModel.load(base(kind), tmp_path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    resize_head(again, 9, seed=1)  # and it goes on growing
    assert torch.equal(again(IMAGES)[:, :6], model(IMAGES))


def test_an_absorbed_adapter_leaves_what_has_grown_and_a_detached_one_takes_it_along() -> None:
    kept = stirred(adapted("lora"))
    resize_head(kept, 5, seed=0)
    answers = kept(IMAGES)
    gone: Any = copy.deepcopy(kept)
    whole: Any = kept
    whole.handle("lora").absorb()
    torch.testing.assert_close(whole.base(IMAGES), answers, atol=1e-5, rtol=1e-5)
    gone.remove_adapter("lora")
    assert torch.equal(gone.base(IMAGES), base("lora")(IMAGES))


def test_a_state_that_does_not_fit_adds_nothing() -> None:
    grown, fresh = stirred(adapted("lora")), adapted("lora")
    resize_head(grown, 5, seed=0)
    state = grown.handle("lora").state()  # type: ignore[operator]
    state.pop("head.up")
    names = list(fresh.state_dict())
    with pytest.raises(DataError, match=r"needs tensors that are not there: head\.up"):
        fresh.handle("lora").load_state(state)
    assert [name for name in fresh.state_dict() if "grown" in name] == []
    assert list(fresh.state_dict()) == names
    assert torch.equal(fresh(IMAGES), base("lora")(IMAGES))


@pytest.mark.parametrize("strategy", ["ewc", "mas", "si", "lwf", "replay", "der++", "gem", "agem"])
def test_every_strategy_goes_on_with_a_head_that_grows_under_an_adapter(strategy: str) -> None:
    if strategy not in Registry.installed().names("continual"):
        pytest.skip("not installed")

    def learner() -> ContinualLearner:
        chosen: Any = {"use": strategy, "strength": 1.0} if strategy in ("ewc", "mas") else strategy
        return ContinualLearner(adapted("lora"), chosen, grow=True, learning_rate=1e-3, batch_size=32)

    through, again = learner(), learner()
    for number, task in enumerate(pairs()[:3]):
        if number == 2:
            taken = copy.deepcopy(through.state_dict())
        through.train_task(task, num_epochs=2)
    again.load_state_dict(taken)
    for task in pairs()[:3]:
        again.train_task(task, num_epochs=2)
    assert again.matrix == through.matrix
    theirs = through.model.network.state_dict()
    assert any(".grown.1." in name for name in theirs)
    for name, value in again.model.network.state_dict().items():
        assert torch.equal(value, theirs[name])


def test_a_convolution_as_head_under_lora() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = nn.Sequential(OrderedDict(trunk=nn.Conv2d(1, 4, 3), head=head))
    config = adapters.AdapterConfig(adapter_type="lora", lora_r=2, target_modules=("head",))
    model = stirred(adapters.AdapterModel(made, config))
    answers = model(IMAGES)
    resize_head(model, 5, seed=0)
    assert torch.equal(model(IMAGES)[:, :2], answers)
    assert model(IMAGES).shape == (40, 5)
