"""Bottleneck, Compacter and IA3: each equation written out, and what they learn on digits."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask.points.adapter import Adapter
from crosstask_adapters import AdapterConfig, AdapterModel, LayersHandle
from crosstask_adapters.testing import accuracy, digits, drawn, learn, mlp, seeded, stirred
from crosstask_bottleneck_adapters import IA3, Bottleneck, Compacter, Multimodal
from crosstask_bottleneck_adapters.compacter import kronecker_sum


def attach(adapter: Adapter, model: nn.Module, *targets: str) -> LayersHandle:
    """On a model, with weights that do something."""
    return stirred(adapter.attach(model, list(targets), seeded()))


# --- bottleneck


@pytest.mark.parametrize(
    ("name", "activation"), [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("tanh", nn.Tanh()), ("linear", nn.Identity())]
)
def test_bottleneck_is_a_small_network_behind_the_layer(name: str, activation: nn.Module) -> None:
    model = drawn(nn.Sequential(nn.Linear(5, 6)))
    plain = copy.deepcopy(model)
    state = attach(Bottleneck(hidden_dim=3, activation=name), model).state()
    small = nn.Sequential(nn.Linear(6, 3), activation, nn.Linear(3, 6)).double()
    small.load_state_dict(
        {
            "0.weight": state["0.down"], "0.bias": state["0.down_bias"],
            "2.weight": state["0.up"], "2.bias": state["0.up_bias"],
        }
    )  # fmt: skip
    x = torch.randn(2, 4, 5, dtype=torch.double)
    y = plain(x)
    torch.testing.assert_close(model(x), y + small(y))


def test_bottleneck_sees_the_channels_of_a_convolution() -> None:
    model = drawn(nn.Sequential(nn.Conv2d(2, 6, 3)))
    plain = copy.deepcopy(model)
    state = attach(Bottleneck(hidden_dim=3), model).state()
    x = torch.randn(2, 2, 5, 5, dtype=torch.double)
    y = plain(x)
    hidden = functional.conv2d(y, state["0.down"][..., None, None], state["0.down_bias"]).relu()
    torch.testing.assert_close(
        model(x), y + functional.conv2d(hidden, state["0.up"][..., None, None], state["0.up_bias"])
    )


def encoder() -> nn.Module:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return drawn(nn.TransformerEncoder(block, 2, enable_nested_tensor=False))


def test_bottleneck_goes_behind_the_two_sublayers_of_a_transformer() -> None:
    model = encoder()
    plain = copy.deepcopy(model).train()
    handle = attach(Bottleneck(hidden_dim=3), model)
    assert list(handle.parts) == [f"layers.{k}.{n}" for k in (0, 1) for n in ("self_attn", "linear2")]
    x = torch.randn(2, 4, 8, dtype=torch.double)

    def more(y: Tensor, where: str) -> Tensor:
        own: Any = handle.parts[where]
        return y + (y @ own.down.T + own.down_bias).relu() @ own.up.T + own.up_bias

    y = x
    for k, layer in enumerate(plain.layers):  # type: ignore[arg-type]
        y = layer.norm1(y + more(layer.self_attn(y, y, y)[0], f"layers.{k}.self_attn"))
        y = layer.norm2(y + more(layer.linear2(layer.linear1(y).relu()), f"layers.{k}.linear2"))
    torch.testing.assert_close(model.train()(x), y)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), y)  # the fused path is off


# --- compacter


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 4), a=st.integers(1, 3), b=st.integers(1, 3), rank=st.integers(1, 2), seed=st.integers(0, 10_000)
)
def test_kronecker_sum_is_the_sum_of_kronecker_products(n: int, a: int, b: int, rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    slow, left, right = (torch.randn(s, dtype=torch.double) for s in ((n, n, n), (n, a, rank), (n, rank, b)))
    wanted = sum(torch.kron(slow[i], left[i] @ right[i]) for i in range(n))
    torch.testing.assert_close(kronecker_sum(slow, left, right), wanted)


def test_compacter_is_a_bottleneck_of_kronecker_products() -> None:
    model = drawn(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 8)))
    plain = copy.deepcopy(model)
    handle = attach(Compacter(hidden_dim=4, n=2, rank=2), model)
    slow: Any = handle.parts["0"].slow
    assert handle.parts["1"].slow is slow
    assert [name for name in handle.state() if name.endswith("slow")] == ["0.slow"]
    x = torch.randn(3, 5, dtype=torch.double)

    def more(y: Tensor, where: str) -> Tensor:
        own: Any = handle.parts[where]
        down = sum(torch.kron(slow[i], own.down_left[i] @ own.down_right[i]) for i in range(2))
        up = sum(torch.kron(slow[i], own.up_left[i] @ own.up_right[i]) for i in range(2))
        return y + functional.gelu(y @ down + own.down_bias) @ up + own.up_bias

    torch.testing.assert_close(model(x), more(plain[1](more(plain[0](x), "0")), "1"))


def test_compacter_is_smaller_and_its_widths_must_fit() -> None:
    def size(adapter: Adapter) -> int:
        handle = adapter.attach(nn.Sequential(*(nn.Linear(256, 256) for _ in range(4))), [], torch.Generator())
        return sum(p.numel() for p in handle.parameters())

    biases = 4 * (64 + 256)
    assert size(Bottleneck(hidden_dim=64)) - biases == 4 * 2 * 64 * 256
    assert size(Compacter(hidden_dim=64)) - biases == 4**3 + 4 * 2 * (256 + 64)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6))
    assert list(attach(Compacter(hidden_dim=4), model).parts) == ["0"]  # of its own choice
    with pytest.raises(DataError, match="'1' gives 6 features, which is no multiple of n=4"):
        attach(Compacter(hidden_dim=4), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6)), "1")
    with pytest.raises(OptionError, match="hidden_dim must be a multiple of n=4, got 6"):
        Compacter(hidden_dim=6)


# --- ia3


class Feed(nn.Module):
    """Names that IA3 knows."""

    def __init__(self) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.fc2, self.other = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(self.fc2((self.k_proj(x) * self.v_proj(x)).tanh()))
        return out


def test_ia3_gives_the_answers_of_pefts() -> None:
    model = drawn(Feed())
    plain = copy.deepcopy(model)
    handle = attach(IA3(), model)
    assert list(handle.parts) == ["k_proj", "v_proj", "fc2"]
    config = peft.IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])
    theirs = peft.get_peft_model(plain, config)
    for name, part in handle.parts.items():
        own: Any = theirs.base_model.model.get_submodule(name).ia3_l["default"]
        own.data = part.scale.detach().reshape(own.shape)  # type: ignore[operator,union-attr]
    x = torch.randn(4, 6, dtype=torch.double)
    torch.testing.assert_close(model(x), theirs(x))
    handle.merge()
    torch.testing.assert_close(model(x), theirs(x))


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}], ids=["packed", "apart"])
def test_ia3_scales_keys_and_values_of_attention(widths: dict[str, int]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True, bias=False, **widths)

        def forward(self, *args: Tensor) -> Tensor:
            return self.inner(*args, need_weights=False)[0]  # type: ignore[no-any-return]

    model = drawn(Model())
    weights = [
        w.clone() for w in (
            (model.inner.q_proj_weight, model.inner.k_proj_weight, model.inner.v_proj_weight)
            if widths else model.inner.in_proj_weight.chunk(3)
        )
    ]  # fmt: skip
    out = model.inner.out_proj.weight
    part: Any = attach(IA3(), model).parts["inner"]
    q, k, v = (torch.randn(2, 3, w.shape[1], dtype=torch.double) for w in weights)
    heads = [
        t.view(2, 3, 2, 4).transpose(1, 2)
        for t in (q @ weights[0].T, part.keys * (k @ weights[1].T), part.values * (v @ weights[2].T))
    ]
    wanted = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2) @ out.T
    torch.testing.assert_close(model(q, k, v), wanted)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["conv", "fc2"], ids=["outputs", "inputs"])
def test_ia3_scales_channels(name: str, groups: int) -> None:
    model = drawn(nn.ModuleDict({name: nn.Conv2d(4, 6, 3, groups=groups)}))
    plain = copy.deepcopy(model)
    handle = attach(IA3(), model)
    scale = handle.state()[f"{name}.scale"][:, None, None]
    x = torch.randn(2, 4, 5, 5, dtype=torch.double)
    wanted = plain[name](x * scale) if name == "fc2" else scale * plain[name](x)
    torch.testing.assert_close(model[name](x), wanted)
    handle.merge()
    torch.testing.assert_close(model[name](x), wanted)


# --- multimodal


class Towers(nn.Module):
    """One half of the inputs to a tower for text, one to a tower for images, and what both give to a head."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.image, self.joint = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.joint(self.text(x[..., :3]).tanh() * self.image(x[..., 3:]).tanh())
        return out


def test_multimodal_gates_where_layers_see_both() -> None:
    model = drawn(Towers())
    plain = copy.deepcopy(model)
    handle = attach(Multimodal(hidden_dim=2, language=("text",), vision=("image",)), model)
    assert {name: type(part).__name__ for name, part in handle.parts.items()} == {
        "text": "BottleneckLayer", "image": "BottleneckLayer", "joint": "FusionLayer",
    }  # fmt: skip

    def small(own: Any, y: Tensor) -> Tensor:
        return (y @ own.down.T + own.down_bias).relu() @ own.up.T + own.up_bias

    x = torch.randn(2, 3, 8, dtype=torch.double)
    text, image = plain.text(x[..., :3]), plain.image(x[..., 3:])
    text, image = text + small(handle.parts["text"], text), image + small(handle.parts["image"], image)
    y = plain.joint(text.tanh() * image.tanh())
    own: Any = handle.parts["joint"]
    gate = 1 / (1 + torch.exp(-(y @ own.gate.T + own.gate_bias)))
    torch.testing.assert_close(model(x), y + gate * small(own.language, y) + (1 - gate) * small(own.vision, y))
    assert list(attach(Multimodal(), drawn(Towers()), "!joint").parts) == ["text", "image"]


def test_multimodal_gate_learns_which_of_the_two_a_position_needs() -> None:
    """Positions of two kinds, that must be changed in opposite ways."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(400, 4)
    x[:, 0] = torch.where(torch.arange(400) % 2 == 0, 2.0, -2.0)
    with torch.no_grad():
        wanted = model(x) + x[:, :1] * model(x).relu()
    handle = Multimodal(hidden_dim=8).attach(model, [], torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(handle.parameters(), lr=2e-2)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_multimodal_towers_are_checked() -> None:
    with pytest.raises(DataError, match="'text' is named both for language and for vision"):
        attach(Multimodal(language=("text",), vision=("*e*t*",)), Towers())
    with pytest.raises(DataError, match="target 'txt' matches no module of Towers; did you mean 'text'"):
        attach(Multimodal(language=("txt",)), Towers())


# --- all of them

EACH = {
    "bottleneck": {"hidden_dim": 8},
    "compacter": {"hidden_dim": 8, "n": 2},
    "ia3": {},
    "multimodal": {"hidden_dim": 4},
}


@pytest.mark.parametrize("kind", EACH)
def test_a_choice_for_each_sample(kind: str) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 6), nn.Linear(6, 4)).double()
    configs = {n: AdapterConfig(adapter_type=kind, options=EACH[kind]) for n in ("one", "two")}
    model = AdapterModel(base, configs)
    with torch.no_grad():
        for p in model.adapter_parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(4, 1, 8, 8, dtype=torch.double)
    names = ["two", None, "one", "two"]
    mixed = model(x, adapters=names)
    for row, name in enumerate(names):
        model.use(*([name] if name else []))
        torch.testing.assert_close(mixed[row], model(x)[row])


@pytest.mark.parametrize(("kind", "gain"), [("bottleneck", 0.3), ("compacter", 0.2), ("ia3", 0.06)])
def test_it_learns_digits_seen_from_the_wrong_side_and_leaves_the_base_alone(kind: str, gain: float) -> None:
    x, y = digits()
    flipped = x.view(-1, 8, 8).flip(1).reshape(-1, 64)
    model = mlp()
    learn(model, model.parameters(), x[:1400], y[:1400], rate=3e-3, steps=150)
    before, without = copy.deepcopy(model.state_dict()), accuracy(model, flipped[1400:], y[1400:])
    made = {"bottleneck": Bottleneck, "compacter": Compacter, "ia3": IA3}[kind](**EACH[kind])
    handle = made.attach(model, ["0", "2"], seeded())
    learn(model, handle.parameters(), flipped[:1400], y[:1400], rate=1e-2, steps=150)
    # in that order they have 2192, 440 and 128 weights
    assert accuracy(model, flipped[1400:], y[1400:]) > without + gain
    handle.detach()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
