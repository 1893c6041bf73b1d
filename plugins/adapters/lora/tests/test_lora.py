"""Low-rank adaptation: the equation at every kind of layer, tied weights, merging, and training on digits."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask_adapters import LayersHandle
from crosstask_adapters.testing import accuracy, digits, drawn, learn, mlp, seeded
from crosstask_adapters.testing import stirred as stir
from crosstask_lora import LoRA

DOUBLE = torch.float64


def adapt(model: nn.Module, *targets: str, seed: int = 0, stirred: bool = True, **options: Any) -> LayersHandle:
    """A LoRA on a model; `stirred`: with both factors drawn, so that it does something."""
    handle = LoRA(**options).attach(model, list(targets), seeded(seed))
    return stir(handle, seed + 1, 0.3) if stirred else handle


def change_of(handle: LayersHandle, name: str) -> Tensor:
    """alpha / r * B A from the state, [out, in]."""
    state, part = handle.state(), handle.parts[name]
    return part.alpha / part.r * state[f"{name}.up"] @ state[f"{name}.down"]  # type: ignore[operator,no-any-return]


# --- the equation


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 7),
    inner=st.integers(1, 7),
    rows=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    alpha=st.floats(0.1, 50),
    bias=st.booleans(),
    data=st.data(),
)
def test_linear_is_equation_3(out: int, inner: int, rows: list[int], alpha: float, bias: bool, data: Any) -> None:
    r = data.draw(st.integers(1, min(out, inner)))
    layer = drawn(nn.Sequential(nn.Linear(inner, out, bias=bias)))
    weight, offset = layer[0].weight.detach().clone(), layer[0].bias
    handle = adapt(layer, "0", r=r, alpha=alpha)
    x = torch.randn(*rows, inner, generator=seeded(5), dtype=DOUBLE)
    torch.testing.assert_close(layer(x), functional.linear(x, weight + change_of(handle, "0"), offset))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), bias=False), (2, 4, 7, 8)),
        (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (2, 4, 6, 6)),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
        (nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3)),
    ],
    ids=["1d-strided", "2d-dilated", "circular", "grouped", "depthwise", "3d"],
)
def test_convolution_is_one_with_the_changed_weight(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = drawn(nn.Sequential(layer))
    plain = copy.deepcopy(model)
    handle = adapt(model, "0", r=3, alpha=2.0)
    with torch.no_grad():
        plain[0].weight += change_of(handle, "0").view_as(plain[0].weight)
    x = torch.randn(*shape, generator=seeded(5), dtype=DOUBLE)
    torch.testing.assert_close(model(x), plain(x))
    handle.merge()
    torch.testing.assert_close(model(x), plain(x))


def test_embedding_looks_up_changed_rows() -> None:
    model = drawn(nn.Sequential(nn.Embedding(9, 5, padding_idx=0)))
    weight = model[0].weight.detach().clone()
    handle = adapt(model, "0", r=2, alpha=3.0)
    tokens = torch.tensor([[0, 3, 8], [1, 1, 2]])
    torch.testing.assert_close(model(tokens), (weight + change_of(handle, "0"))[tokens])
    model(tokens).sum().backward()
    assert not handle.parts["0"].up.grad[0].any()  # type: ignore[index,union-attr]  # padding learns nothing


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}], ids=["packed", "apart"])
@pytest.mark.parametrize("train", [True, False])
def test_attention_reads_the_changed_projections(widths: dict[str, int], train: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.attention(q, k, v, need_weights=False)[0]  # type: ignore[no-any-return]

    model = drawn(Model())
    plain = copy.deepcopy(model)
    handle = adapt(model, "attention", r=2, alpha=5.0)
    assert set(handle.parts) == {"attention", "attention.out_proj"}
    with torch.no_grad():
        for name, part in handle.parts["attention"].projections.items():  # type: ignore[operator,union-attr]
            getattr(plain.attention, name).add_(2.5 * part.up @ part.down)  # type: ignore[operator]
        plain.attention.out_proj.weight += change_of(handle, "attention.out_proj")  # type: ignore[union-attr,operator]
    sizes = (8, widths.get("kdim", 8), widths.get("vdim", 8))
    given = [torch.randn(3, 5, n, generator=seeded(n), dtype=DOUBLE) for n in sizes]
    torch.testing.assert_close(model.train(train)(*given), plain.train(train)(*given))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # torch's own path to itself
@pytest.mark.parametrize("nested", [True, False])
def test_the_fused_encoder_reads_the_changed_weights(nested: bool) -> None:
    """In evaluation without gradients torch takes a kernel that never calls the layers."""
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = drawn(nn.TransformerEncoder(block, 2, enable_nested_tensor=nested))
    plain = copy.deepcopy(model)
    handle = adapt(model, r=2)
    with torch.no_grad():
        for name, part in handle.parts.items():
            layer = plain.get_submodule(name)
            for key in ("weight", "in_proj_weight"):
                if (p := layer._parameters.get(key)) is not None:
                    p.copy_(part.change(layer, key, p))
    x = torch.randn(3, 5, 8, generator=seeded(5), dtype=DOUBLE)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
    slow = model.train()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(slow, plain.train()(x, src_key_padding_mask=padding))
    with torch.no_grad():
        fast = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[~padding], slow[~padding])
    with torch.no_grad():
        handle.disable()
        bare = model(x)
        handle.detach()
        assert torch.equal(bare, model(x))


# --- as it starts, and how it is drawn


def test_it_starts_as_the_base_and_the_same_for_a_seed() -> None:
    x = torch.randn(4, 64, generator=seeded())
    states = []
    for seed in (0, 0, 1):
        model = drawn(mlp()).float()
        bare = model(x)
        handle = adapt(model, seed=seed, stirred=False)
        assert torch.equal(model(x), bare)
        assert not handle.state()["0.up"].any()
        states.append(handle.state()["0.down"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_scale_is_alpha_over_r() -> None:
    answers = []
    for r, alpha in ((1, 4.0), (2, 8.0)):
        model = drawn(nn.Sequential(nn.Linear(3, 3)))
        handle = adapt(model, r=r, alpha=alpha, stirred=False)
        with torch.no_grad():
            for p in handle.parameters():
                p.zero_()
            handle.parts["0"].up[:, 0] = 1  # type: ignore[index,operator]
            handle.parts["0"].down[0] = 1  # type: ignore[index,operator]
        answers.append(model(torch.ones(1, 3, dtype=DOUBLE)))
    assert torch.equal(*answers)


def test_dropout_falls_on_the_adapter_alone_and_in_training() -> None:
    torch.manual_seed(0)
    model = drawn(nn.Sequential(nn.Linear(400, 3)))
    x = torch.randn(1, 400, generator=seeded(), dtype=DOUBLE)
    bare = model(x)
    handle = adapt(model, r=2, dropout=0.5)
    more = model.eval()(x) - bare
    assert torch.equal(model(x) - bare, more)
    trained = torch.cat([model.train()(x) for _ in range(400)]) - bare
    assert trained.std(0).min() > 0
    error = trained.std(0) / 20
    assert ((trained.mean(0) - more[0]).abs() < 5 * error).all()  # dropout keeps the mean
    with torch.no_grad():
        handle.parts["0"].up.zero_()  # type: ignore[operator,union-attr]
    assert torch.equal(model(x), bare)


def test_dropout_where_only_weights_are_read() -> None:
    torch.manual_seed(0)
    model = drawn(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, batch_first=True)}))
    adapt(model, "a", r=2, dropout=0.5)
    x = torch.randn(1, 4, 8, dtype=DOUBLE)
    assert not torch.equal(model.train()["a"](x, x, x)[0], model["a"](x, x, x)[0])
    assert torch.equal(model.eval()["a"](x, x, x)[0], model["a"](x, x, x)[0])


# --- tied weights


class Tied(nn.Module):
    """A small language model whose output layer has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.tokens(tokens)))
        return out


def test_a_tied_weight_has_one_change() -> None:
    model = drawn(Tied())
    plain = copy.deepcopy(model)
    handle = adapt(model, "tokens", "head", r=2)
    assert set(handle.state()) == {"tokens.up", "tokens.down"}
    with torch.no_grad():
        plain.tokens.weight += change_of(handle, "tokens")  # type: ignore[operator,union-attr]
    tokens = torch.tensor([[1, 4, 10]])
    torch.testing.assert_close(model(tokens), plain(tokens))
    handle.merge()
    torch.testing.assert_close(model(tokens), plain(tokens))
    assert model.head.weight is model.tokens.weight


def test_a_tied_weight_of_which_one_place_is_adapted_cannot_be_merged() -> None:
    model = drawn(Tied())
    handle = adapt(model, "head", r=2)
    tokens = torch.tensor([[1, 4, 10]])
    adapted = model(tokens)
    with pytest.raises(DataError, match=r"'head' is also that of 'tokens'.*adapt both or neither"):
        handle.merge()
    assert torch.equal(model(tokens), adapted)


# --- merging, copies


def test_merging_in_half_precision_is_undone_exactly_where_a_subtraction_would_not_be() -> None:
    model = drawn(mlp()).to(torch.float16)
    before = [p.detach().clone() for p in model.parameters()]
    handle = adapt(model, r=4, alpha=300.0)
    change = change_of(handle, "0")
    handle.merge()
    subtracted = model[0]._parameters["weight"] - change  # type: ignore[operator]
    assert not torch.equal(subtracted, before[0])
    handle.unmerge()
    handle.detach()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_two_merge_in_any_order() -> None:
    x = torch.randn(2, 64, generator=seeded(), dtype=DOUBLE)
    for order in ((0, 1), (1, 0)):
        model = drawn(mlp())
        before = copy.deepcopy(model.state_dict())
        handles = [adapt(model, seed=s, r=2) for s in (0, 1)]
        both = model(x)
        for k in order:
            handles[k].merge()
        torch.testing.assert_close(model(x), both)
        for k in order:  # not in the reverse order: nothing is ever subtracted
            handles[k].detach()
        assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def test_adapted_models_can_be_pickled_and_moved() -> None:
    model = drawn(mlp())
    adapt(model, r=2)
    x = torch.randn(2, 64, generator=seeded(), dtype=DOUBLE)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    assert model.float()(x.float()).dtype == torch.float32


# --- what cannot be


def test_what_cannot_be_adapted_is_refused() -> None:
    model = nn.ModuleDict(
        {"encoder": nn.Linear(8, 4), "norm": nn.LayerNorm(4), "tokens": nn.Embedding(5, 4, max_norm=1.0)}
    )
    with pytest.raises(DataError, match=r"target 'encodr' matches no module of ModuleDict; did you mean 'encoder'"):
        adapt(model, "encodr")
    with pytest.raises(DataError, match=r"'norm' is a LayerNorm; this adapter works on linear, convolution, embedding"):
        adapt(model, "norm")
    with pytest.raises(DataError, match=r"r=5 is more than the 4 that a change of 'encoder' can have"):
        adapt(model, "encoder", r=5)
    with pytest.raises(DataError, match="max_norm rescales its weight"):
        adapt(model, "tokens", r=2)
    with pytest.raises(DataError, match="has no linear, convolution, embedding and attention layers"):
        adapt(nn.Sequential(nn.ReLU()))
    with pytest.raises(OptionError, match="dropout"):
        LoRA(dropout=1.0)
    assert all(p.requires_grad for p in model.parameters())  # nothing was touched
    assert type(model["encoder"]) is nn.Linear


def test_targets() -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model = nn.ModuleDict({"one": copy.deepcopy(block), "two": copy.deepcopy(block), "head": nn.Linear(8, 8)})
    for targets, wanted in (
        ((), ["one.0", "one.1", "two.0", "two.1", "head"]),
        (("one",), ["one.0", "one.1"]),
        (("1",), ["one.1", "two.1"]),
        (("*.0", "head"), ["one.0", "two.0", "head"]),
        (("!two", "!head"), ["one.0", "one.1"]),
        (("one", "two", "!two.1"), ["one.0", "one.1", "two.0"]),
    ):
        handle = adapt(model, *targets)
        assert list(handle.parts) == wanted
        handle.detach()


# --- on real data


def test_it_learns_turned_digits_and_leaves_the_base_alone() -> None:
    x, y = digits()
    turned = x.view(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)
    model = mlp()
    learn(model, model.parameters(), x[:1400], y[:1400], rate=1e-2, steps=300)
    before = copy.deepcopy(model.state_dict())
    upright = accuracy(model, x[1400:], y[1400:])
    handle = LoRA(r=8).attach(model, [], seeded())
    assert accuracy(model, turned[1400:], y[1400:]) < 0.4
    learn(model, handle.parameters(), turned[:1400], y[:1400], rate=1e-2, steps=300)
    assert accuracy(model, turned[1400:], y[1400:]) > 0.8
    handle.disable()
    assert accuracy(model, x[1400:], y[1400:]) == upright
    handle.detach()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
