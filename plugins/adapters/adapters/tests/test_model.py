"""A frozen model with adapters by name: switching, merging, a choice for each sample, heads of their own, files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, DataError, OptionError, StoreError
from crosstask.manifest import Extension, Plugin
from crosstask.registry import Registry
from crosstask_adapters import AdapterConfig, AdapterModel, base_state
from crosstask_adapters.testing import REFERENCE


def context() -> LocalContext:
    registry = Registry()
    registry.register(REFERENCE)
    return LocalContext(registry=registry)


SHIFT = AdapterConfig(adapter_type="shifts", target_modules=("body",))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.body(x).tanh())
        return out if scale is None else out * scale


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.linspace(-1, 1, 24).view(6, 4)


def model_with(**configs: AdapterConfig) -> AdapterModel:
    """Adapters with weights that do something, on the same base each time."""
    model = AdapterModel(net(), configs, context()).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.adapter_parameters():
            p.add_(torch.randn_like(p))
    return model


@torch.no_grad()
def answer(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    return model(*args, **kwargs).clone()  # type: ignore[no-any-return]


def alone(model: AdapterModel, name: str | None, x: Tensor = X) -> Tensor:
    before = [n for n in model.adapters if model._entries[n].enabled]
    model.use(*([name] if name else []))
    found = answer(model, x)
    model.use(*before)
    return found


# --- which there are


def test_names_and_configurations() -> None:
    model = model_with(one=SHIFT)
    model.add_adapter("two", AdapterConfig(adapter_type="factors", hidden_dim=3))
    assert list(model.adapters) == ["one", "two"]
    assert float(model.handle("two").state()["head.factor"]) == 3
    for wrong, message in (("one", "there is an adapter 'one' already"), ("a/b", "cannot be called 'a/b'")):
        with pytest.raises(DataError, match=message):
            model.add_adapter(wrong, SHIFT)
    with pytest.raises(DataError, match="no adapter 'twoo'; did you mean 'two'"):
        model.use("twoo")
    with pytest.raises(OptionError, match="'r'"):
        model.add_adapter("three", AdapterConfig(adapter_type="factors", lora_r=3))
    model.remove_adapter("one")
    assert list(model.adapters) == ["two"]


def test_a_single_configuration_is_named_by_its_type() -> None:
    assert list(AdapterModel(net(), SHIFT, context()).adapters) == ["shifts"]


def test_without_a_type_it_is_the_one_that_a_manifest_marks(tmp_path: Path) -> None:
    """Files name it: where they are read, another may be the default."""
    registry = Registry()
    registry.register(REFERENCE)
    marked = Extension("adapter", "usual", "crosstask_adapters.testing:Factors", summary="For tests.", default=True)
    registry.register(Plugin("usual", [marked], api=(2, 0)))
    model = AdapterModel(net(), AdapterConfig(hidden_dim=3), LocalContext(registry=registry))
    assert list(model.adapters) == ["usual"]
    assert float(model.handle("usual").state()["head.factor"]) == 3
    model.save(tmp_path)
    told = json.loads((tmp_path / "adapters.json").read_text())
    assert told["adapters"]["usual"]["config"]["adapter_type"] == "usual"
    with pytest.raises(CrosstaskError, match="no installed plugin marks"):
        AdapterModel(net(), AdapterConfig(), context())


def test_only_layers_of_a_width() -> None:
    model = model_with(a=AdapterConfig(adapter_type="shifts", input_dim=6))
    assert set(model.handle("a").state()) == {"body.2.shift", "head.shift"}


def test_targets_that_match_nothing_name_the_nearest_and_change_nothing() -> None:
    base = net()
    before = copy.deepcopy(base.state_dict())
    for config, message in (
        (
            AdapterConfig(adapter_type="shifts", target_modules=("boddy",)),
            r"'boddy' matches no module of Net.*'body",
        ),
        (
            AdapterConfig(adapter_type="shifts", target_modules=("body.1",)),
            "is a BatchNorm1d; this adapter works on",
        ),
        (AdapterConfig(adapter_type="shifts", modules_to_save=("hat",)), "'hat' matches no module of Net"),
        (AdapterConfig(adapter_type="shifts", target_modules=("body",), modules_to_save=("hed",)), "'hed'.*'head'"),
    ):
        with pytest.raises(DataError, match=message):
            AdapterModel(base, config, context())
        assert type(base.head) is nn.Linear
        assert all(p.requires_grad for p in base.parameters())
    assert all(torch.equal(before[n], t) for n, t in base.state_dict().items())


# --- switching and merging


def test_switching() -> None:
    model = model_with(one=SHIFT, two=SHIFT, three=AdapterConfig(adapter_type="waves"))
    bare = answer(net(), X)
    every = answer(model, X)
    singles = [alone(model, n) for n in model.adapters]
    assert len({tuple(t.flatten().tolist()) for t in (bare, every, *singles)}) == 5
    assert torch.equal(answer(model, X), every)
    model.disable_adapters("one", "three")
    assert torch.equal(answer(model, X), singles[1])
    model.disable_adapters()
    assert torch.equal(answer(model, X), bare)
    model.enable_adapters("one")
    assert torch.equal(answer(model, X), singles[0])
    model.enable_adapters()
    assert torch.equal(answer(model, X), every)
    model.use()
    assert torch.equal(answer(model, X), bare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_merge_and_unmerge_are_exact(dtype: torch.dtype) -> None:
    model = model_with(one=SHIFT, two=SHIFT).to(dtype)
    before = {n: t.clone() for n, t in base_state(model.base).items()}
    adapted = answer(model, X.to(dtype))
    model.merge("one")
    model.merge()
    assert not torch.equal(model.base.body[0]._parameters["bias"], before["body.0.bias"])  # type: ignore[index,union-attr,arg-type]
    if dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(answer(model, X.to(dtype)), adapted)
    assert all(torch.equal(before[n], t) for n, t in base_state(model.base).items())  # seen through the merge
    model.unmerge("two")
    model.unmerge()
    assert torch.equal(answer(model, X.to(dtype)), adapted)
    model.remove_adapter("one")
    model.remove_adapter("two")
    assert all(torch.equal(before[n], t) for n, t in model.base.state_dict().items())


def test_of_adapters_whose_order_matters_the_first_is_merged_first() -> None:
    model = model_with(shift=SHIFT, double=AdapterConfig(adapter_type="factors", target_modules=("body",)))
    adapted = answer(model, X)
    with pytest.raises(DataError, match=r"acts before this one: merge that first"):
        model.merge("double")
    assert torch.equal(answer(model, X), adapted)
    model.merge("shift")
    model.merge("double")
    torch.testing.assert_close(answer(model, X), adapted)


def test_if_one_cannot_be_merged_none_is() -> None:
    model = model_with(shift=SHIFT, wave=AdapterConfig(adapter_type="waves"))
    adapted = answer(model, X)
    with pytest.raises(DataError, match=r"a Wave is no change of the weights of 'body\.0': it cannot be merged"):
        model.merge()
    assert torch.equal(answer(model, X), adapted)
    assert torch.equal(model.base.body[0]._parameters["bias"], net().body[0].bias)  # type: ignore[index,union-attr,arg-type]


def test_disabling_one_that_is_merged_takes_it_out() -> None:
    model = model_with(one=SHIFT)
    model.merge()
    model.disable_adapters()
    assert torch.equal(answer(model, X), answer(net(), X))


def test_copies_have_switches_of_their_own() -> None:
    model = model_with(one=SHIFT)
    adapted = answer(model, X)
    other = copy.deepcopy(model)
    model.disable_adapters()
    assert torch.equal(answer(other, X), adapted)
    other.merge()
    other.unmerge()
    assert torch.equal(answer(other, X), adapted)


# --- training


def test_the_base_is_frozen_and_its_statistics_stay() -> None:
    model = model_with(one=SHIFT)
    own = {id(p) for p in model.adapter_parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == own
    before = copy.deepcopy(net().state_dict())
    model.train()(X).square().sum().backward()
    assert all(torch.equal(before[n], t) for n, t in base_state(model.base).items())
    model.remove_adapter("one")
    model.train()(X)
    assert not torch.equal(before["body.1.running_mean"], model.base.body[1].running_mean)  # type: ignore[index,union-attr,arg-type]


def test_parts_without_gradient_are_told() -> None:
    model = model_with(one=SHIFT, two=AdapterConfig(adapter_type="shifts"))
    model(X).sum().backward()
    model.check_gradients()
    model.zero_grad(set_to_none=True)
    model.disable_adapters("one")
    model(X).sum().backward()
    model.check_gradients("two")
    with pytest.raises(DataError, match=r"'one' gets no gradient at body\.0, body\.2: it is disabled or merged"):
        model.check_gradients()
    model.zero_grad(set_to_none=True)
    model.base.body(X).sum().backward()  # type: ignore[operator]
    with pytest.raises(DataError, match="'two' gets no gradient at head"):
        model.check_gradients("two")


def test_heads_of_their_own() -> None:
    config = AdapterConfig(adapter_type="shifts", modules_to_save=("head",))
    model = model_with(one=config, two=config, three=SHIFT)
    before = copy.deepcopy(net().state_dict())
    optimizer = torch.optim.SGD(model.adapter_parameters("one"), lr=0.5)
    model.use("one")
    others = [alone(model, n) for n in ("two", "three", None)]
    model(X).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.saved("one").parts["head"].own["weight"], before["head.weight"])  # type: ignore[index,union-attr]
    assert all(torch.equal(alone(model, n), t) for n, t in zip(("two", "three", None), others, strict=True))
    assert all(torch.equal(before[n], t) for n, t in base_state(model.base).items())
    adapted = alone(model, "one")
    model.merge("one")
    torch.testing.assert_close(answer(model, X), adapted)
    model.unmerge()
    assert torch.equal(answer(model, X), adapted)


# --- an adapter for each sample

CHOICE = ["one", None, "two", "two", "one", None]
HEADED = AdapterConfig(adapter_type="shifts", target_modules=("body",), modules_to_save=("head",))


@pytest.mark.parametrize(
    "configs",
    [
        {"one": SHIFT, "two": SHIFT},
        {"one": SHIFT, "two": AdapterConfig(adapter_type="shifts")},
        {"one": SHIFT, "two": AdapterConfig(adapter_type="waves")},
        {"one": AdapterConfig(adapter_type="factors"), "two": AdapterConfig(adapter_type="factors")},
        {"one": HEADED, "two": HEADED},
        {"one": HEADED, "two": SHIFT},
    ],
    ids=["alike", "other-layers", "other-kinds", "weights-only", "heads", "one-head"],
)
def test_each_sample_is_answered_as_by_its_adapter_alone(configs: dict[str, AdapterConfig]) -> None:
    model = model_with(**configs, idle=SHIFT)
    together = answer(model, X)
    found = answer(model, X, adapters=CHOICE)
    for row, name in enumerate(CHOICE):
        torch.testing.assert_close(found[row], alone(model, name)[row])
    scaled = answer(model, X, scale=torch.arange(6.0)[:, None], adapters=CHOICE)
    torch.testing.assert_close(scaled, found * torch.arange(6.0)[:, None])
    assert torch.equal(answer(model, X), together)  # what was enabled is so again


def test_layers_that_are_called_with_other_rows_are_answered_in_parts() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # a row per position, not per sample
            return {"y": y, "both": (y.sum(1), [y.mean(2)])}

    torch.manual_seed(0)
    model = AdapterModel(Flat(), {n: AdapterConfig(adapter_type="shifts") for n in ("one", "two")}, context())
    with torch.no_grad():
        for k, p in enumerate(model.adapter_parameters()):
            p.add_(k + 1.0)
    x = torch.randn(3, 2, 4)
    found = model(x, adapters=["two", None, "one"])
    for row, name in enumerate(("two", None, "one")):
        model.use(*([name] if name else []))
        wanted = model(x)
        torch.testing.assert_close(found["y"][row], wanted["y"][row])
        torch.testing.assert_close(found["both"][0][row], wanted["both"][0][row])
        torch.testing.assert_close(found["both"][1][0][row], wanted["both"][1][0][row])


def test_wrong_choices_are_refused() -> None:
    model = model_with(one=SHIFT, two=SHIFT)
    with pytest.raises(DataError, match="5 names of adapters for 6 samples"):
        model(X, adapters=CHOICE[:5])
    with pytest.raises(DataError, match="no adapter 'on'; did you mean 'one'"):
        model(X, adapters=["on"] * 6)
    model.merge("two")
    with pytest.raises(DataError, match="chosen by sample while 'two' is merged"):
        model(X, adapters=CHOICE)


# --- files


def test_files_hold_the_adapters_and_nothing_else(tmp_path: Path) -> None:
    model = model_with(one=HEADED, two=AdapterConfig(adapter_type="waves"), three=SHIFT)
    model.use("one", "three")
    model.merge("three")
    merged = answer(model, X)
    model.save(tmp_path, "one", "two", "three")
    model.unmerge()
    assert sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) < 2500
    again = AdapterModel.load(net(), tmp_path, context()).eval()
    assert again.adapters == model.adapters
    assert torch.equal(answer(again, X), answer(model, X))
    torch.testing.assert_close(answer(again, X), merged)
    for name in model.adapters:
        assert torch.equal(alone(again, name), alone(model, name))
    model.save(tmp_path / "part", "two")
    assert list(AdapterModel.load(net(), tmp_path / "part", context()).adapters) == ["two"]


def test_another_base_is_refused(tmp_path: Path) -> None:
    model = model_with(one=SHIFT)
    model.save(tmp_path)
    shifted = net()
    with torch.no_grad():
        shifted.head.bias[0] += 1
    wider = net()
    wider.head = nn.Linear(6, 4)
    for base, message in (
        (shifted, "made for another base: it has the same layers but other weights"),
        (net().double(), "made for another base: it has the same layers but other weights"),
        (wider, "made for another base: the names or shapes of its weights are not those of this one"),
    ):
        with pytest.raises(DataError, match=message):
            AdapterModel.load(base, tmp_path, context())
        assert type(base.head) is nn.Linear
    assert list(AdapterModel.load(shifted, tmp_path, context(), any_base=True).adapters) == ["one"]
    adapted = net()
    AdapterModel(adapted, SHIFT, context())
    assert list(AdapterModel.load(adapted, tmp_path, context()).adapters) == ["one"]  # its own weights are the same


def test_torn_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = model_with(one=HEADED)
    model.save(tmp_path)
    whole = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    told = json.loads(whole["adapters.json"])

    def attempt(name: str, content: bytes | None, error: type[Exception], message: str) -> None:
        for each, data in whole.items():
            (tmp_path / each).write_bytes(data)
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content)
        base = net()
        with pytest.raises(error, match=message):
            AdapterModel.load(base, tmp_path, context())
        assert type(base.head) is nn.Linear

    changed = copy.deepcopy(told)
    changed["adapters"]["one"]["config"]["lora_s"] = 3
    plain = copy.deepcopy(told)
    plain["adapters"]["one"]["config"]["modules_to_save"] = []
    attempt("adapters.json", None, StoreError, "cannot read adapters")
    attempt("adapters.json", b"{", StoreError, "cannot read adapters")
    attempt("adapters.json", b"[]", StoreError, "cannot read adapters")
    attempt("adapters.json", b"[" * 100_000, StoreError, "cannot read adapters")
    attempt("adapters.json", json.dumps(told | {"format": 9}).encode(), StoreError, "format 9, this version reads 1")
    attempt("adapters.json", json.dumps(changed).encode(), OptionError, "lora_s")
    attempt("adapters.json", json.dumps(plain).encode(), DataError, "its configuration describes no such thing")
    attempt("one.safetensors", None, StoreError, "cannot read adapter 'one'")
    attempt("one.safetensors", whole["one.safetensors"][:40], StoreError, "cannot read adapter 'one'")


# --- layers


def test_a_part_with_adapters_of_its_own_is_refused() -> None:
    base = net()
    handle = context().component("adapter", "shifts").attach(base.body, [], torch.Generator())  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="already has adapters of its own"):
        AdapterModel(base, SHIFT, context())
    handle.detach()
    assert list(AdapterModel(base, SHIFT, context()).adapters) == ["shifts"]
