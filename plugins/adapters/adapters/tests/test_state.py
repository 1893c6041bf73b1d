"""An adapter's state: parameters, and buffers that are drawn once and never trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import DataError, StoreError
from crosstask.registry import Registry
from crosstask.testing import full_disk
from crosstask_adapters import AdapterConfig, AdapterModel, LayerAdapter, LayersHandle
from crosstask_adapters.testing import REFERENCE, FrozenRanks, drawn, seeded, stirred

X = torch.linspace(-1, 1, 30, dtype=torch.double).view(6, 5)


def base() -> nn.Module:
    return drawn(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))


def attached(seed: int) -> tuple[nn.Module, LayersHandle]:
    model = base()
    return model, stirred(FrozenRanks(r=3).attach(model, [], seeded(seed)), seed)


def test_it_is_the_equation() -> None:
    """W + diag(b) B diag(d) A, with the same A and B for both layers."""
    model, handle = attached(0)
    plain = base()
    shared = handle.parts["0"].projections
    assert handle.parts["2"].projections is shared
    with torch.no_grad():
        for name, part in handle.parts.items():
            layer: Any = plain.get_submodule(name)
            out, inner = layer.weight.shape
            own: Any = part
            up, down = shared.up[:out], shared.down[:, :inner]  # type: ignore[union-attr,index]
            layer.weight += torch.diag(own.outside) @ up @ torch.diag(own.inside) @ down
    torch.testing.assert_close(model(X), plain(X))
    handle.merge()
    torch.testing.assert_close(model(X), plain(X))


def test_it_comes_back_under_another_seed() -> None:
    model, handle = attached(0)
    other, received = attached(1)
    assert not torch.equal(other(X), model(X))
    received.load_state(handle.state())
    assert torch.equal(other(X), model(X))
    trained = {name for name, p in received.named_parameters().items() if p.requires_grad}
    assert trained == {"0.inside", "0.outside", "2.inside", "2.outside"}


def test_what_layers_share_is_stored_once_wherever_the_model_was_moved() -> None:
    names = {"0.inside", "0.outside", "2.inside", "2.outside", "0.projections.down", "0.projections.up"}
    model, handle = attached(0)
    assert set(handle.state()) == names
    model.float()  # buffers are other tensors now
    assert set(handle.state()) == names
    assert {t.dtype for t in handle.state().values()} == {torch.float32}
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(X.float()), model(X.float()))


def test_a_state_without_them_is_refused() -> None:
    _, handle = attached(0)
    short = {name: t for name, t in handle.state().items() if "projections" not in name}
    with pytest.raises(DataError, match=r"needs tensors that are not there: 0\.projections\.down, 0\.projections\.up"):
        handle.load_state(short)


def test_loading_into_one_that_is_merged_writes_the_weights() -> None:
    model, handle = attached(0)
    other, received = attached(1)
    received.merge()
    received.load_state(handle.state())
    torch.testing.assert_close(other(X), model(X))
    received.detach()
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), base().parameters(), strict=True))


@pytest.mark.parametrize("merged", [False, True])
def test_files_bring_it_back_under_another_seed(tmp_path: Path, merged: bool) -> None:
    registry = Registry()
    registry.register(REFERENCE)
    config = AdapterConfig(adapter_type="frozen_ranks", options={"r": 3}, modules_to_save=("2",))
    model = AdapterModel(base(), {"one": config, "two": config}, LocalContext(seed=5, registry=registry))
    for name in model.adapters:
        stirred(model.handle(name))
    if merged:
        model.merge("one")
    model.save(tmp_path)
    again = AdapterModel.load(base(), tmp_path, LocalContext(seed=6, registry=registry))
    for name in model.adapters:
        states = [each.handle(name).state() for each in (model, again)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    model.unmerge()
    assert torch.equal(again(X), model(X))


class Counting(LayerAdapter):
    """Counts its calls, for itself."""

    count: Tensor
    scratch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)
        self.register_buffer("nothing", None)

    def around(self, layer: nn.Module, inner: Any, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return inner(*args, **kwargs) + self.height


def test_buffers_that_are_for_the_moment_stay_out() -> None:
    model = base()
    handle = LayersHandle(model, {"0": Counting()})
    model(X)
    assert {name: float(t) for name, t in handle.state().items()} == {"0.height": 0.0, "0.count": 1.0}


def test_on_a_full_disk_no_adapter_is_written_and_those_that_were_there_stay(tmp_path: Path) -> None:
    registry = Registry()
    registry.register(REFERENCE)
    config = AdapterConfig(adapter_type="frozen_ranks", options={"r": 3})
    model = AdapterModel(base(), {"one": config, "two": config}, LocalContext(seed=5, registry=registry))
    folder = tmp_path / "adapters"
    for there in (False, True):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert bool(before) == there
        for name in model.adapters:
            stirred(model.handle(name))
        size = len((folder / "adapters.json").read_bytes()) if there else 0
        with full_disk(size + 10), pytest.raises(StoreError, match=r"cannot write .*adapters.*bytes free, .* needed\)"):
            model.save(folder)
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
        model.save(folder)
