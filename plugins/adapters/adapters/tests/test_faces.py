"""The calls that the documentation shows, as it shows them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask_adapters import AdapterConfig, AdapterModel, AdapterType, BaseAdapter

for package in ("crosstask_lora", "crosstask_bitfit", "crosstask_bottleneck_adapters", "crosstask_prefix"):
    pytest.importorskip(package)


def base(width: int = 512) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 16)).eval()


def stir(model: AdapterModel) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.adapter_parameters():
            p.add_(0.3 * torch.randn_like(p))


X = torch.linspace(-1, 1, 64).view(4, 16)


@torch.no_grad()
def answer(model: nn.Module) -> Tensor:
    return model(X).clone()  # type: ignore[no-any-return]


def test_lora_as_the_guide_shows_it() -> None:
    config = AdapterConfig(adapter_type=AdapterType.LORA, input_dim=512, lora_r=8, lora_alpha=16)
    network = base()
    weight = network[2].weight.detach().clone()  # type: ignore[index,union-attr,operator]
    model = AdapterModel(network, config)
    assert list(model.adapters) == ["lora"]
    assert sum(p.numel() for p in model.adapter_parameters()) == 8 * (512 + 16)  # the layer that takes 512 features
    torch.testing.assert_close(answer(model), answer(base()))
    stir(model)
    state = model.handle("lora").state()
    hidden = network[0](X).relu()  # type: ignore[index,operator]
    wanted = hidden @ (weight + 2 * state["2.up"] @ state["2.down"]).T + network[2].bias  # type: ignore[index,union-attr,operator]
    torch.testing.assert_close(answer(model), wanted)


def test_several_are_named_by_their_types() -> None:
    model = AdapterModel(
        base(),
        [
            AdapterConfig(adapter_type=AdapterType.LORA, lora_r=2),
            AdapterConfig(adapter_type=AdapterType.ADAPTER, hidden_dim=4),
            AdapterConfig(adapter_type="lora", lora_r=3),
            AdapterConfig(adapter_type="adapter"),
        ],
    )
    assert list(model.adapters) == ["lora", "bottleneck", "lora_2", "bottleneck_2"]
    bare = answer(base())
    torch.testing.assert_close(answer(model), bare)
    stir(model)
    every = answer(model)
    model.disable_adapters([AdapterType.LORA])
    assert [n for n, e in model._entries.items() if e.enabled] == ["bottleneck", "bottleneck_2"]
    model.disable_adapters("adapter")
    assert torch.equal(answer(model), bare)
    model.enable_adapters([AdapterType.LORA, "bottleneck"], "bottleneck_2")
    assert torch.equal(answer(model), every)
    model.use(AdapterType.ADAPTER)
    assert [n for n, e in model._entries.items() if e.enabled] == ["bottleneck", "bottleneck_2"]
    model.disable_adapters([])
    assert [n for n, e in model._entries.items() if e.enabled] == ["bottleneck", "bottleneck_2"]
    model.use(AdapterType.LORA)
    model.merge([AdapterType.LORA])
    with pytest.raises(DataError, match="acts after this one is merged into '0': unmerge it first"):
        model.enable_adapters("bottleneck")
    model.unmerge()
    model.enable_adapters()
    assert torch.equal(answer(model), every)
    with pytest.raises(DataError, match="no adapter 'prefix'"):
        model.enable_adapters([AdapterType.PREFIX])
    with pytest.raises(DataError, match="no adapter 'lora_3'; did you mean 'lora"):
        model.enable_adapters(["lora_3"])
    with pytest.raises(DataError, match="adapters go by their names or types, got 3"):
        model.enable_adapters([3])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", list(AdapterType))
def test_every_type_is_there(kind: AdapterType, tmp_path: Path) -> None:
    network: Any = base(64)
    if kind is AdapterType.PREFIX:
        layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)
        network = nn.Sequential(nn.Unflatten(1, (1, 16)), layer).eval()
    bare = answer(network)
    model = AdapterModel(network, AdapterConfig(adapter_type=kind))
    if kind is not AdapterType.PREFIX:
        torch.testing.assert_close(answer(model), bare)
    (made,) = model.adapters
    assert AdapterType(made) is kind
    stir(model)
    assert not torch.allclose(answer(model), bare)
    model.save(tmp_path)
    model.disable_adapters([kind])
    assert torch.equal(answer(model), bare)
    again = AdapterModel.load(copy.deepcopy(network) if kind is AdapterType.PREFIX else base(64), tmp_path)
    model.enable_adapters([kind])
    torch.testing.assert_close(answer(again), answer(model))


def test_types_that_are_none() -> None:
    with pytest.raises(OptionError, match="adapter_type must be an AdapterType or the name of an adapter, got 3"):
        AdapterConfig(adapter_type=3)  # type: ignore[arg-type]
    with pytest.raises(CrosstaskError, match=r"'lorra'.*did you mean 'lora'"):
        AdapterModel(base(), AdapterConfig(adapter_type="lorra"))
    with pytest.raises(OptionError, match="described by an AdapterConfig or a BaseAdapter, got 'lora'"):
        AdapterModel(base(), ["lora"])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"input_dim=100: no layer of Sequential takes so many .* there are 16, 512"):
        AdapterModel(base(), AdapterConfig(input_dim=100))


def test_input_dim_leaves_containers_alone() -> None:
    class Model(nn.Module):
        num_features = 7

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)  # type: ignore[no-any-return]

    wrapped = nn.Sequential(Model())
    model = AdapterModel(wrapped, AdapterConfig(input_dim=8, lora_r=2))
    assert list(model.handle("lora").parts) == ["0.body.1"]  # type: ignore[attr-defined]


# --- an adapter of one's own


class Scaled(BaseAdapter):
    """x * (1 + s)."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.zeros(self.width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale)


def test_one_of_ones_own() -> None:
    config = AdapterConfig(input_dim=16)
    alone = Scaled(config)
    assert torch.equal(alone(X), X)
    network = base()
    model = AdapterModel(network, {"mine": alone, "low": AdapterConfig(lora_r=2)})
    torch.testing.assert_close(answer(model), answer(base()))
    assert list(model.handle("mine").parts) == ["2"]  # type: ignore[attr-defined]  # it gives 16 features
    stir(model)
    assert not alone.scale.any()  # the model has a copy
    model.use("mine")
    scale = model.handle("mine").state()["2.adapter.scale"]
    torch.testing.assert_close(answer(model), answer(base()) * (1 + scale))
    mixed = model(X, adapters=["mine", None, "low", "mine"])
    for row, name in enumerate(("mine", None, "low", "mine")):
        model.use(*([name] if name else []))
        torch.testing.assert_close(mixed[row], answer(model)[row])
    optimizer = torch.optim.SGD(model.adapter_parameters("mine"), lr=0.1)
    model.use("mine")
    model(X).square().sum().backward()
    model.check_gradients("mine")
    optimizer.step()
    assert list(AdapterModel(base(), [Scaled(config), Scaled(config)]).adapters) == ["scaled", "scaled_2"]


def test_one_of_ones_own_that_cannot_be(tmp_path: Path) -> None:
    class Narrow(BaseAdapter):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., :2]

    with pytest.raises(TypeError, match="abstract"):
        BaseAdapter(AdapterConfig(input_dim=4))  # type: ignore[abstract]
    with pytest.raises(OptionError, match=r"Narrow: config\.input_dim must say how many features it refines"):
        Narrow(AdapterConfig())
    with pytest.raises(DataError, match="Sequential has no layers that give 7 features"):
        AdapterModel(base(), Narrow(AdapterConfig(input_dim=7)))
    model = AdapterModel(base(), Narrow(AdapterConfig(input_dim=16)))
    with pytest.raises(DataError, match=r"Narrow\.forward gave \(4, 2\) for features of shape \(4, 16\)"):
        model(X)
    with pytest.raises(DataError, match="adapter 'narrow' is a module of your own, which no component names"):
        model.save(tmp_path / "no")
    assert not (tmp_path / "no").exists()
