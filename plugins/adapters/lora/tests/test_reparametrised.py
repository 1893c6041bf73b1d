"""Layers whose weights are computed, shared, lazy or called by keyword: every adapter on each of them.

A new adapter changes nothing, one that is trained acts as its equation says, and what cannot be is a sentence.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune

from crosstask.errors import DataError
from crosstask_adapters import AdapterConfig, AdapterModel, own_tensor
from crosstask_adapters.testing import seeded, stirred
from crosstask_lora import LoRA

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


class Unit(nn.Module):
    """A parametrization of one's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.norm()


class Standardised(nn.Linear):
    """A weight that is a property of the class."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        self.raw = nn.Parameter(self._parameters.pop("weight").detach().clone())  # type: ignore[union-attr]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.raw - self.raw.mean(1, keepdim=True)


class Buffered(nn.Linear):
    """A weight that is never trained."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        weight = self._parameters.pop("weight")
        assert weight is not None
        self.register_buffer("weight", weight.detach().clone())


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(8, 8), "weight", amount=0.4)  # type: ignore[no-any-return,no-untyped-call]


def parametrized(name: str) -> nn.Module:
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, name, Unit())
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "own": lambda: parametrized("weight"),
    "bias": lambda: parametrized("bias"),
    "old weight_norm": lambda: nn.utils.weight_norm(nn.Linear(8, 8)),
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "pruned": pruned,
    "property": lambda: Standardised(8, 8),
    "buffer": lambda: Buffered(8, 8),
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 2}, "bitfit": {}, "ia3": {}, "bottleneck": {"hidden_dim": 4},
    "compacter": {"hidden_dim": 4, "options": {"n": 2}}, "multimodal": {"hidden_dim": 4},
}  # fmt: skip


def network(layer: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(LAYERS[layer](), nn.Tanh(), nn.Linear(8, 8)).eval()


X = torch.randn(6, 8, generator=seeded())


@torch.no_grad()
def answer(model: nn.Module, x: Tensor = X) -> Tensor:
    return model(x).clone()  # type: ignore[no-any-return]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_computed_weights(kind: str, layer: str) -> None:
    base = network(layer)
    bare, before = answer(base), state_of(base)
    model = AdapterModel(base, AdapterConfig(adapter_type=kind, **KINDS[kind]))
    torch.testing.assert_close(answer(model), bare)
    optimizer = torch.optim.SGD(model.adapter_parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(X).square().sum().backward()
        optimizer.step()
    model.check_gradients()
    model.eval()
    adapted = answer(model)
    assert not torch.allclose(adapted, bare, atol=1e-4)
    assert torch.equal(answer(copy.deepcopy(model)), adapted)
    model.disable_adapters()
    torch.testing.assert_close(answer(model), bare, rtol=0, atol=0)
    model.enable_adapters()
    try:
        model.merge()
        torch.testing.assert_close(answer(model), adapted)
        model.unmerge()
    except DataError:
        pass
    assert torch.equal(answer(model), adapted)
    absorbed = copy.deepcopy(model)
    absorbed.handle(kind).absorb()
    torch.testing.assert_close(answer(absorbed), adapted)
    model.remove_adapter(kind)
    assert torch.equal(answer(base), bare)
    after = state_of(base)
    assert list(after) == list(before)
    assert all(torch.equal(before[n], after[n]) for n in before)
    for p in base.parameters():
        assert p.requires_grad


@pytest.mark.parametrize("layer", LAYERS)
def test_lora_on_a_computed_weight_is_equation_3(layer: str) -> None:
    base = network(layer)
    answer(base)  # hooks compute at a call
    weight, bias = (base[0].weight.detach().clone(), base[0].bias.detach().clone())  # type: ignore[index,union-attr,operator]
    handle = stirred(LoRA(r=2, alpha=6.0).attach(base, ["0"], seeded()), scale=0.3)
    state = handle.state()
    changed = weight + 3.0 * state["0.up"] @ state["0.down"]
    wanted = torch.tanh(X @ changed.T + bias) @ base[2].weight.T + base[2].bias  # type: ignore[index,union-attr,operator]
    torch.testing.assert_close(base(X), wanted)
    torch.testing.assert_close(base[0].weight, changed)  # type: ignore[index,union-attr]  # who reads it, reads this
    torch.testing.assert_close(own_tensor(base[0], "weight"), weight)  # type: ignore[index,arg-type]
    if layer != "bias":
        with pytest.raises(DataError, match=r"the weight of '0' is computed from others .* before the adapter is att"):
            handle.merge()


@pytest.mark.parametrize("layer", ["weight_norm", "old weight_norm", "spectral_norm"])
def test_heads_of_their_own_with_computed_weights(layer: str) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8), LAYERS[layer]()).eval()
    bare = answer(base)
    config = AdapterConfig(lora_r=2, target_modules=("0",), modules_to_save=("1",))
    model = AdapterModel(base, {"one": config, "two": config})
    torch.testing.assert_close(answer(model), bare)
    for number, name in enumerate(("one", "two")):
        stirred(model.saved(name), seed=number)
    alone = {}
    for name in ("one", "two", None):
        model.use(*([name] if name else []))
        alone[name] = answer(model)
    assert len({tuple(t.flatten().tolist()) for t in alone.values()}) == 3
    names = ["one", None, "two", "two", "one", None]
    mixed = model(X, adapters=names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row])
    for name in ("one", "two"):
        model.remove_adapter(name)
    torch.testing.assert_close(answer(base), bare, rtol=0, atol=0)


def test_pickling_a_parametrized_layer_says_what_to_do() -> None:
    model = AdapterModel(network("weight_norm"), AdapterConfig(lora_r=2))
    with pytest.raises(DataError, match=r"a parametrized Linear cannot be pickled, .* keep its state_dict"):
        pickle.dumps(model)
    again = AdapterModel(network("weight_norm"), AdapterConfig(lora_r=2))
    stirred(model.handle("lora"))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(answer(again), answer(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: nn.utils.weight_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
        lambda layer: delattr(layer, "weight"),
    ],
)
def test_reparametrising_under_an_adapter_is_refused(change: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    LoRA(r=2).attach(model, [], seeded())
    with pytest.raises(DataError, match=r"'weight' of a Linear cannot be taken away .* before they are attached"):
        change(model[0])


# --- what training changes besides parameters


def rows(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(0, 1), layer, nn.Unflatten(0, (6, 8)))


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm1d(8),
        lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
        lambda: rows(parametrizations.spectral_norm(nn.Linear(5, 5))),
        lambda: rows(nn.utils.spectral_norm(nn.Linear(5, 5))),
    ],
    ids=["batch", "instance", "spectral", "old-spectral"],
)  # fmt: skip
def test_what_the_base_keeps_is_kept_in_training(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv1d(4, 8, 1), norm(), nn.Conv1d(8, 3, 1))
    x = torch.randn(6, 4, 5)
    answer(base.train(), x)  # has seen something
    before, twin = state_of(base), copy.deepcopy(base)
    handle = LoRA(r=2).attach(base, ["0", "2"], seeded())
    trained = base.train()(x)
    trained.sum().backward()
    torch.testing.assert_close(trained, base.eval()(x))
    handle.detach()
    assert all(torch.equal(before[n], t) for n, t in base.state_dict().items())
    torch.testing.assert_close(answer(base.train(), x), answer(twin.train(), x))  # and goes on as it would have
    assert all(torch.equal(twin.state_dict()[n], t) for n, t in base.state_dict().items())


# --- calls by keyword


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.conv, self.image = nn.Conv1d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)
        self.named = True

    def forward(self, tokens: Tensor) -> Tensor:
        def call(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(input=x) if self.named else layer(x)  # type: ignore[no-any-return]

        x = call(self.body, call(self.tokens, tokens)).transpose(1, 2)
        x = call(self.image, call(self.conv, x)[..., None])[..., 0].transpose(1, 2)
        if self.named:
            x = self.attention(query=x, key=x, value=x, need_weights=False)[0]
        else:
            x = self.attention(x, x, x, need_weights=False)[0]
        return call(self.head, x)


@pytest.mark.parametrize("kind", [*KINDS, "prefix"])
def test_layers_called_by_keyword_answer_as_called_by_place(kind: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (4, 5))
    config = AdapterConfig(adapter_type=kind, modules_to_save=("head",), **KINDS.get(kind, {}))
    if kind == "lora":
        config = AdapterConfig(
            lora_r=2, target_modules=("tokens", "body", "conv", "image", "attention"), modules_to_save=("head",)
        )
    base = Keywords().eval()
    bare = answer(base, tokens)
    model = AdapterModel(base, {"one": config, "two": config}).eval()
    if kind != "prefix":  # which adds inputs of its own
        torch.testing.assert_close(answer(model, tokens), bare)
    for number, name in enumerate(model.adapters):
        stirred(model.handle(name), seed=number, scale=0.2)
        stirred(model.saved(name), seed=number, scale=0.2)
    names = ["one", None, "two", "one"]
    found = {}
    for base.named in (True, False):
        model.use()
        torch.testing.assert_close(answer(model, tokens), bare)
        model.use("two", "one")
        found[base.named] = answer(model, tokens), model(tokens, adapters=names)
    torch.testing.assert_close(found[True], found[False])
    for row, name in enumerate(names):
        model.use(*([name] if name else []))
        torch.testing.assert_close(found[True][1][row], answer(model, tokens)[row])


def test_a_subclass_names_its_input_as_it_likes() -> None:
    class Mine(nn.Linear):
        def forward(self, features: Tensor, double: bool = False) -> Tensor:  # type: ignore[override]
            return super().forward(features) * (1 + double)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Mine(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(features=x, double=True)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Model()
    weight, bias = model.layer.weight.detach().clone(), model.layer.bias
    state = stirred(LoRA(r=2).attach(model, [], seeded())).state()
    torch.testing.assert_close(model(X), 2 * (X @ (weight + 8 * state["layer.up"] @ state["layer.down"]).T + bias))


# --- shared modules, tied weights


def twice() -> nn.Module:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("target", ["0", "2"])
def test_a_module_that_is_used_twice_goes_by_both_names(target: str) -> None:
    model = twice()
    weight = model[0].weight  # type: ignore[index,union-attr]
    before = weight.detach().clone()  # type: ignore[union-attr,operator]
    handle = stirred(LoRA(r=2, alpha=2.0).attach(model, [target], seeded()))
    assert list(handle.parts) == ["0"]
    state = handle.state()
    changed, bias = before + state["0.up"] @ state["0.down"], model[0].bias  # type: ignore[index,union-attr]
    wanted = model[3](torch.tanh(X @ changed.T + bias) @ changed.T + bias)  # type: ignore[index,operator]
    torch.testing.assert_close(model(X), wanted)
    handle.merge()
    torch.testing.assert_close(model(X), wanted)
    handle.detach()
    assert model[0].weight is weight is model[2].weight  # type: ignore[index,union-attr]
    assert torch.equal(model[0].weight, before)  # type: ignore[index,union-attr,arg-type]
    only = LoRA(r=2).attach(model, ["!2"], seeded())
    assert list(only.parts) == ["3"]


@pytest.mark.parametrize("kind", ["ia3", "bitfit"])
def test_two_changes_of_one_weight_cannot_be_merged(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[2].weight, model[2].bias = model[0].weight, model[0].bias  # type: ignore[assignment]
    adapted = AdapterModel(model, AdapterConfig(adapter_type=kind))
    stirred(adapted.handle(kind))
    wanted = answer(adapted)
    with pytest.raises(DataError, match=r"'0' and '2' share their (weight|bias), .* two changes"):
        adapted.merge()
    torch.testing.assert_close(answer(adapted), wanted)
    adapted.handle(kind).absorb()  # stays as layers
    torch.testing.assert_close(answer(adapted), wanted)
    assert model[0].bias.requires_grad


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(tokens)))  # type: ignore[no-any-return]


def test_by_its_own_choice_lora_leaves_the_head_that_shares_an_embedding() -> None:
    model = Language()
    assert list(LoRA(r=2).attach(model, [], seeded()).parts) == ["body"]


def test_absorbing_what_cannot_be_merged_keeps_the_answer() -> None:
    model, tokens = Language(), torch.tensor([[1, 4, 10]])
    handle = stirred(LoRA(r=2).attach(model, ["head"], seeded()))
    wanted = answer(model, tokens)
    handle.absorb()
    torch.testing.assert_close(answer(model, tokens), wanted)
    assert model.body.weight.requires_grad


def test_absorbing_a_disabled_adapter_keeps_the_answer() -> None:
    model = twice()
    bare = answer(model)
    handle = stirred(LoRA(r=2).attach(model, [], seeded()))
    handle.disable()
    handle.absorb()
    assert torch.equal(answer(model), bare)
    assert type(model[0]) is nn.Linear  # type: ignore[index]
    assert all(p.requires_grad for p in model.parameters())


# --- recurrent layers, lazy layers


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_of_their_own_act(kind: type[nn.RNNBase]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    base, x = Model(), torch.randn(3, 5, 4)
    plain, bare = copy.deepcopy(base), answer(base, x)
    model = AdapterModel(base, AdapterConfig(lora_r=2, modules_to_save=("rnn",)))
    assert torch.equal(answer(model, x), bare)
    own = stirred(model.saved("lora"), scale=0.3)
    plain.rnn.load_state_dict({n.removeprefix("rnn.own."): t for n, t in own.state().items()})
    model(x).sum().backward()
    assert not own.without_gradient()
    torch.testing.assert_close(answer(model, x), answer(plain, x))
    model.double()
    torch.testing.assert_close(answer(model, x.double()), answer(plain.double(), x.double()))
    model.float()
    model.remove_adapter("lora")
    assert torch.equal(answer(base, x), bare)


@pytest.mark.parametrize("kind", [*KINDS, "prefix"])
def test_lazy_layers_want_a_batch_first(kind: str) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.LazyLinear(8), nn.Unflatten(0, (2, 3)), block, nn.Flatten(0, 1), nn.LazyBatchNorm1d())

    model = made()
    config = AdapterConfig(adapter_type=kind, **KINDS.get(kind, {}))
    with pytest.raises(DataError, match="'0' is a LazyLinear that has no weights yet: send a batch through the model"):
        AdapterModel(model, config)
    model(X)
    bare = answer(model.eval())
    adapted = AdapterModel(model, config)
    if kind != "prefix":
        torch.testing.assert_close(answer(adapted.eval()), bare)


# --- functional calls


def test_functional_calls_and_vmap_over_adapted_models() -> None:
    models = []  # with a module that is used twice: torch's own tying would leave it with the replaced weights
    x = X.double()
    for seed in (1, 2, 3):
        model = twice().double()
        stirred(LoRA(r=2).attach(model, [], seeded()), seed, 0.3)
        models.append(model)
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]

    def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(models[0], (p, b), (x,), tie_weights=False)  # type: ignore[no-any-return]

    together = vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)
    for row, model in zip(together, models, strict=True):
        torch.testing.assert_close(row, model(x))
    own = {n: p.detach() for n, p in models[0].named_parameters() if p.requires_grad}

    def first(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(models[0], p, (x,), tie_weights=False)  # type: ignore[no-any-return]

    for only in ("up", "down"):  # of some, the others as they are in the model
        some = {n: p for n, p in parameters.items() if n in own and n.endswith(only)}
        apart = [first({n: t[k] for n, t in some.items()}, x) for k in range(3)]
        torch.testing.assert_close(vmap(first, in_dims=(0, None))(some, x), torch.stack(apart))
    per_sample = vmap(torch.func.grad(lambda p, x: first(p, x).square().sum()), in_dims=(None, 0))(own, x)
    models[0](x).square().sum().backward()
    trained = dict(models[0].named_parameters())
    for name in own:
        torch.testing.assert_close(per_sample[name].sum(0), trained[name].grad)
    assert torch.equal(answer(models[0], x), answer(copy.deepcopy(models[0]), x))


# --- state


def test_the_state_of_a_merged_model_is_that_of_a_plain_one() -> None:
    """Its adapters are in the weights: beside them they would count twice where the state is loaded."""
    model = twice()
    handle = stirred(LoRA(r=2).attach(model, [], seeded()))
    wanted = answer(model)
    both = twice()
    LoRA(r=2).attach(both, [], seeded(9))
    both.load_state_dict(model.state_dict())
    torch.testing.assert_close(answer(both), wanted)
    handle.merge()
    plain = twice()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(answer(plain), wanted)
    with pytest.raises(RuntimeError, match="Missing key"):
        both.load_state_dict(model.state_dict())
    with pytest.raises(DataError, match="unmerge them first"):
        model.load_state_dict(plain.state_dict())
    handle.unmerge()
    torch.testing.assert_close(answer(model), wanted)
