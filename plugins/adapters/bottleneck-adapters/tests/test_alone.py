"""The adapters for text and images as modules by themselves: their equations, and what they learn in a user's loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError
from crosstask_adapters import AdapterConfig, AdapterModel, AdapterType, BaseAdapter
from crosstask_adapters.testing import accuracy, digits, learn, mlp, seeded
from crosstask_bottleneck_adapters import LanguageAdapter, LinearBottleneck, MultiModalAdapter, VisionAdapter

CONFIG = AdapterConfig(adapter_type=AdapterType.MULTIMODAL, input_dim=6, hidden_dim=3)


def drawn(made: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made.double()


def small(part: Any, y: Tensor) -> Tensor:
    return (y @ part.down.T + part.down_bias).relu() @ part.up.T + part.up_bias  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [LanguageAdapter, VisionAdapter, MultiModalAdapter])
def test_a_new_one_changes_nothing_and_is_drawn_as_torch_draws(kind: type[BaseAdapter]) -> None:
    x = torch.randn(2, 4, 6, generator=seeded())
    torch.manual_seed(0)
    one, other = kind(CONFIG), kind(CONFIG)
    assert torch.equal(one(x), x)
    torch.manual_seed(0)
    again = kind(CONFIG).state_dict()
    assert all(torch.equal(t, again[n]) for n, t in one.state_dict().items())
    assert not all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())
    one(x).square().sum().backward()
    assert all(p.grad is not None for n, p in one.named_parameters() if "up" in n)


def test_each_equation() -> None:
    x = torch.randn(2, 4, 6, generator=seeded(), dtype=torch.double)
    language: Any = drawn(LanguageAdapter(CONFIG))
    torch.testing.assert_close(language(x), x + small(language.layer, x))
    vision: Any = drawn(VisionAdapter(CONFIG))
    torch.testing.assert_close(vision(x), x + small(vision.layer, x))
    image = torch.randn(2, 6, 5, 4, generator=seeded(), dtype=torch.double)
    places = image.permute(0, 2, 3, 1)
    torch.testing.assert_close(vision(image), (places + small(vision.layer, places)).permute(0, 3, 1, 2))
    both: Any = drawn(MultiModalAdapter(CONFIG))
    own = both.layer
    gate = 1 / (1 + torch.exp(-(x @ own.gate.T + own.gate_bias)))
    torch.testing.assert_close(both(x), x + gate * small(own.language, x) + (1 - gate) * small(own.vision, x))
    torch.testing.assert_close(both(x, "vision"), x + small(own.vision, x))


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(OptionError, match=r"LanguageAdapter: config\.input_dim must say how many features"):
        LanguageAdapter(AdapterConfig())
    with pytest.raises(OptionError, match="made from an AdapterConfig, got a int"):
        VisionAdapter(64)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="activation cannot be 'rely'; did you mean 'relu'"):
        VisionAdapter(AdapterConfig(input_dim=4, options={"activation": "rely"}))
    with pytest.raises(DataError, match=r"LanguageAdapter takes 6 features in its last dimension \(input_dim\), got 5"):
        LanguageAdapter(CONFIG)(torch.zeros(2, 5))
    with pytest.raises(DataError, match=r"VisionAdapter takes 6 channels \(input_dim\), got 3"):
        VisionAdapter(CONFIG)(torch.zeros(2, 3, 6, 6))
    with pytest.raises(OptionError, match="modality cannot be 'visoin'; did you mean 'vision'"):
        MultiModalAdapter(CONFIG)(torch.zeros(2, 6), "visoin")


def test_a_gate_learns_digits_of_two_looks() -> None:
    """Half of the images are negatives, which a frozen classifier does not know: an adapter inside mends them."""
    x, y = digits()
    base = mlp()
    learn(base, base.parameters(), x[:1400], y[:1400], rate=3e-3, steps=300)
    mixed = torch.where(torch.arange(len(x))[:, None] % 2 == 0, x, 1 - x)
    adapter = MultiModalAdapter(AdapterConfig(input_dim=64, hidden_dim=64))
    network = nn.Sequential(base[0], adapter, *base[1:])
    base.requires_grad_(False)
    before = accuracy(network, mixed[1400:], y[1400:])
    learn(network, adapter.parameters(), mixed[:1400], y[:1400], rate=1e-2, steps=300)
    assert accuracy(network, mixed[1400:], y[1400:]) > before + 0.25


def test_one_of_them_goes_behind_layers_of_a_model() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 6), nn.Linear(6, 4)).double()
    plain, x = copy.deepcopy(base), torch.randn(3, 1, 6, 6, dtype=torch.double)
    model = AdapterModel(base, {"seen": VisionAdapter(CONFIG)})
    torch.testing.assert_close(model(x), plain(x))
    parts = model.handle("seen").parts  # type: ignore[attr-defined]
    assert list(parts) == ["0", "3"]  # what gives six features or channels
    for part in parts.values():
        drawn(part)
    seen = plain[0](x).permute(0, 2, 3, 1)
    y = (seen + small(parts["0"].adapter.layer, seen)).permute(0, 3, 1, 2)
    y = plain[3](y.relu().flatten(1))
    y = y + small(parts["3"].adapter.layer, y)
    torch.testing.assert_close(model(x), plain[4](y))


def test_linear_is_a_change_of_rank_hidden_dim_of_what_a_layer_gives() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8)).double()
    plain = copy.deepcopy(base)
    handle = LinearBottleneck(hidden_dim=3).attach(base, [], seeded())
    drawn(base[0]._adapters)  # type: ignore[arg-type]
    own: Any = handle.parts["0"]
    with torch.no_grad():
        own.down_bias.zero_()
        own.up_bias.zero_()
    x = torch.randn(20, 8, dtype=torch.double)
    more = (base(x) - plain(x)).detach()
    torch.testing.assert_close(more, plain(x) @ (own.up @ own.down).T)
    assert torch.linalg.matrix_rank(more) == 3
