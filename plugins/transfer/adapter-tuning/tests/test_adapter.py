"""What adapter transfer leaves alone, what it spends, and what it gains on real digits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.errors import DataError
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import measure_transfer, receive
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_adapter_tuning import AdapterTransfer
from crosstask_adapters import AdaptedLayer
from crosstask_transfer.testing import digits
from crosstask_transfer.testing import trained_digits as source

BUDGET = Budget(steps=60, samples=50, learning_rate=3e-3, evaluate_every=20)
ADAPTERS: dict[str, Mapping[str, Any]] = {
    "lora": {"r": 8}, "bitfit": {}, "bottleneck": {"hidden_dim": 8}, "compacter": {"hidden_dim": 8}, "ia3": {},
}  # fmt: skip
MERGEABLE = ("lora", "bitfit", "ia3")


def method(adapter: str = "lora", **options: Any) -> AdapterTransfer:
    made = AdapterTransfer(adapter={"use": adapter, **ADAPTERS[adapter]}, **options)  # type: ignore[arg-type]
    made.bind(LocalContext())
    return made


def transferred(how: AdapterTransfer, target: Task, budget: Budget = BUDGET) -> tuple[nn.Module, nn.Module]:
    """(the source's model, the target's)."""
    taught = source().model
    assert taught is not None
    model, _, _ = receive(taught, target, seed=0, keep_head=False)
    how.learn(model, taught, target, budget, torch.Generator().manual_seed(1))
    return taught, model


def trunk(model: nn.Module) -> list[torch.Tensor]:
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return [layer.weight.detach() for layer in layers[:-1]]


def test_lora_changes_the_trunk_by_a_matrix_of_its_rank_and_leaves_plain_layers() -> None:
    before = copy.deepcopy(source().model.state_dict())  # type: ignore[union-attr]
    taught, model = transferred(
        AdapterTransfer(adapter={"use": "lora", "r": 3}), digits(parity=True), Budget(steps=40, learning_rate=3e-3)  # type: ignore[arg-type]
    )  # fmt: skip
    assert all(torch.equal(before[name], tensor) for name, tensor in taught.state_dict().items())
    for old, new in zip(trunk(taught), trunk(model), strict=True):
        change = torch.linalg.svdvals((new - old).double())
        assert change[2] > 1e-4
        assert change[3] < 1e-5
    assert not any(isinstance(module, AdaptedLayer) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_it_gains_where_the_source_helps_and_its_model_can_be_a_source_again(adapter: str) -> None:
    target = digits(parity=True)
    _, model = transferred(method(adapter), target)
    result = measure_transfer(method(adapter), source(), target, BUDGET, 2, "test")
    assert result.coefficient.mean > 0, result.coefficient
    assert any(isinstance(module, AdaptedLayer) for module in model.modules()) == (adapter not in MERGEABLE)
    middle = copy.copy(target)
    middle.model = model
    again, _, _ = receive(model, digits("faded"), seed=0, keep_head=False)
    method(adapter).learn(again, model, digits("faded"), BUDGET, torch.Generator().manual_seed(2))
    assert evaluate(again, digits("faded"), "test") > 0.3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_every_step_of_the_budget_is_spent(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = torch.optim.Optimizer.zero_grad
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda *a, **k: taken.append(1) or step(*a, **k))
    transferred(method(head_share=share), digits(parity=True), Budget(steps=21, learning_rate=3e-3))
    assert len(taken) == 21


def test_a_broken_run_leaves_no_adapter_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*args: object, **kwargs: object) -> None:
        raise DataError("no")

    monkeypatch.setattr("crosstask_adapter_tuning.adapter.fit", stops)
    taught = source().model
    assert taught is not None
    model, _, _ = receive(taught, digits(parity=True), seed=0, keep_head=False)
    with pytest.raises(DataError, match="no"):
        method().learn(model, taught, digits(parity=True), BUDGET, torch.Generator())
    assert not any(isinstance(module, AdaptedLayer) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
