"""Several LoRAs in one batch: in one pass, and as each alone."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_lora.lora import LinearLowRank


class Mean(nn.Module):
    """An encoder over a sequence and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


def model(base: nn.Module, count: int, **settings: object) -> AdapterModel:
    made = AdapterModel(base.double(), {f"a{k}": AdapterConfig(**settings) for k in range(count)})  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        for p in made.adapter_parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return made


def check(made: AdapterModel, x: Tensor, names: list[str | None]) -> None:
    found = made(x, adapters=names)
    for name in set(names):
        made.use(*([name] if name else []))
        mine = [row for row, n in enumerate(names) if n == name]
        torch.testing.assert_close(found[mine], made(x)[mine])


@settings(max_examples=25, deadline=None)
@given(
    choice=st.lists(st.sampled_from([None, "a0", "a1", "a2"]), min_size=1, max_size=9),
    shape=st.lists(st.integers(1, 3), max_size=2),
)
def test_linear_layers_over_any_shape(choice: list[str | None], shape: list[int]) -> None:
    torch.manual_seed(0)
    made = model(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)), 3, lora_r=2)
    check(made, torch.randn(len(choice), *shape, 5, dtype=torch.double), choice)


NAMES = ["a0", None, "a2", "a1", "a0"]


@pytest.mark.parametrize(
    "targets", [("head",), ("encoder.linear1", "encoder.linear2"), ("encoder",)], ids=["head", "mlp", "attention"]
)
def test_transformers(targets: tuple[str, ...]) -> None:
    """Attention reads weights: its samples are answered in parts."""
    torch.manual_seed(0)
    made = model(Mean(), 3, lora_r=2, target_modules=targets)
    check(made, torch.randn(5, 4, 8, dtype=torch.double), NAMES)


def test_convolutions_and_heads_of_their_own() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    made = model(base, 3, lora_r=2, target_modules=("0",), modules_to_save=("3",))
    check(made, torch.randn(5, 1, 4, 4, dtype=torch.double), NAMES)


def test_other_ranks() -> None:
    torch.manual_seed(0)
    made = model(nn.Sequential(nn.Linear(5, 7)), 2, lora_r=2)
    made.add_adapter("a2", AdapterConfig(lora_r=3))
    check(made, torch.randn(5, 5, dtype=torch.double), NAMES)


def test_one_pass_for_all_of_them_and_gradients_as_apart() -> None:
    torch.manual_seed(0)
    made = model(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)), 3, lora_r=2)
    x = torch.randn(5, 5, dtype=torch.double)
    with mock.patch.object(made.base, "forward", wraps=made.base.forward) as passes:
        made(x, adapters=NAMES).square().sum().backward()
    assert passes.call_count == 1
    mixed = [p.grad.clone() for p in made.adapter_parameters() if p.grad is not None]
    made.zero_grad(set_to_none=True)
    with mock.patch.object(LinearLowRank, "mixed", return_value=None):
        made(x, adapters=NAMES).square().sum().backward()
    apart = [p.grad for p in made.adapter_parameters() if p.grad is not None]
    for one, other in zip(mixed, apart, strict=True):
        torch.testing.assert_close(one, other)
