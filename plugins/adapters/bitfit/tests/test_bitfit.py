"""Training the biases only: step for step what an optimiser does that is given nothing but the biases."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_adapters.testing import accuracy, digits, learn, mlp
from crosstask_bitfit import BitFit


class Net(nn.Module):
    """A convolution, normalisation, attention and linear layers, most of them with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.body = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.view(-1, 8, 8)).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head(self.body(x).tanh().mean(1))
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def test_it_is_the_training_of_the_biases() -> None:
    model, plain = net(), net()
    handle = BitFit().attach(model, [], torch.Generator())
    biases = [p for name, p in plain.named_parameters() if name.endswith("bias")]
    assert set(handle.parts) == {"conv", "norm", "attention", "attention.out_proj", "head"}
    x, y = digits()
    x = x.double()
    learn(model, handle.parameters(), x, y, rate=0.02, steps=6)
    learn(plain, biases, x, y, rate=0.02, steps=6)
    torch.testing.assert_close(model(x[:50]), plain(x[:50]))
    handle.merge()
    for name, p in plain.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), p.detach())
    torch.testing.assert_close(model(x[:50]), plain(x[:50]))


def test_it_is_small_and_starts_as_the_base() -> None:
    model = net()
    x = digits()[0].double()
    bare = model(x[:9])
    handle = BitFit().attach(model, ["!head"], torch.Generator())
    torch.testing.assert_close(model(x[:9]), bare)
    assert sum(p.numel() for p in handle.parameters()) == 16 + 16 + 48 + 16


def test_layers_without_a_bias_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'body' is a Linear; this adapter works on layers with a bias"):
        BitFit().attach(net(), ["body"], torch.Generator())
    with pytest.raises(DataError, match="has no layers with a bias"):
        BitFit().attach(nn.Sequential(nn.Linear(2, 2, bias=False)), [], torch.Generator())


def test_it_adapts_to_faded_digits() -> None:
    model = mlp()
    x, y = digits()
    faded = x / 3 + 2 / 3
    learn(model, model.parameters(), x[:1400], y[:1400], rate=0.02, steps=150)
    before, without = copy.deepcopy(model.state_dict()), accuracy(model, faded[1400:], y[1400:])
    handle = BitFit().attach(model, [], torch.Generator())
    learn(model, handle.parameters(), faded[:1400], y[:1400], rate=0.02, steps=150)
    assert accuracy(model, faded[1400:], y[1400:]) > without + 0.4
    handle.detach()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_choice_for_each_sample_in_one_pass() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 4))
    model = AdapterModel(base, {n: AdapterConfig(adapter_type="bitfit") for n in ("one", "two")})
    with torch.no_grad():
        for p in model.adapter_parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(3, 1, 8, 8)
    mixed = model(x, adapters=["two", None, "one"])
    for row, name in enumerate(("two", None, "one")):
        model.use(*([name] if name else []))
        torch.testing.assert_close(mixed[row], model(x)[row])
