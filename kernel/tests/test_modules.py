"""Module surgery that no other test reaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.modules import for_classes, know, locate_head, redraw, replace_head, seeded


def test_outputs_of_the_classes_wanted() -> None:
    model = nn.Linear(2, 3)
    inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    chosen = for_classes(model, ("a", "b", "c"), ("c", "a"))
    assert torch.equal(chosen(inputs), model(inputs)[:, [2, 0]])
    assert for_classes(model, ("a", "b"), ("a", "b")) is model
    assert for_classes(model, ("a", "b"), ()) is model


def test_a_model_with_the_very_weights_of_a_seed_is_drawn_like_any_other() -> None:
    """It was taken for one whose layers do not know how to draw, and drawn from its spread."""
    found = []
    for first in (3, 4):
        with seeded(first):
            model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))
        assert redraw(model, 3) == "reset_parameters"
        found.append(model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=0, atol=0)
    with seeded(3):
        plain = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    torch.testing.assert_close(found[0]["0.weight"], plain[0].weight.detach(), rtol=0, atol=0)


class Turning(nn.Module):
    """Complex weights: of a layer of torch's, and of its own, whose parts have spreads of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(100, 200, dtype=torch.cfloat)
        self.wave = nn.Parameter(3 * torch.randn(100, 100, dtype=torch.cfloat) + (1 - 2j))
        self.flat = nn.Parameter(torch.complex(2 * torch.randn(100, 100), 0.5 * torch.randn(100, 100)))
        self.real = nn.Parameter(torch.complex(torch.randn(50, 50), torch.zeros(50, 50)))
        self.gain, self.one = nn.Parameter(torch.tensor(0.3j)), nn.Parameter(torch.ones(4, dtype=torch.cfloat))
        self.register_buffer("phase", torch.randn(3, dtype=torch.cfloat))
        self.head = nn.Linear(200, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(inputs.to(torch.cfloat) @ self.wave @ self.flat).abs())
        return found


def test_complex_weights_are_drawn_as_the_real_ones_are() -> None:
    """Those of a layer by its own method, with the size that torch gives them (each part that of a real weight); others
    with the mean and the spread of each part, the parts independent. They stayed as they were.
    """
    with seeded(0):
        made = Turning()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    told = redraw(made, 1)
    assert told == (
        "reset_parameters, then the spread of wave, flat, real, then as they are gain, phase (a factory, "
        "Task(build=...), would make them anew)"
    )
    after = {name: tensor.detach() for name, tensor in made.state_dict().items()}
    with seeded(5):
        torchs, plain = nn.Linear(100, 200, dtype=torch.cfloat), nn.Linear(100, 200)
    size = float(after["layer.weight"].abs().square().mean())
    assert size == pytest.approx(float(torchs.weight.detach().abs().square().mean()), rel=0.03)
    assert size == pytest.approx(2 * float(plain.weight.detach().square().mean()), rel=0.03)
    for name in ("layer.weight", "layer.bias", "wave", "flat", "real"):
        assert not torch.equal(after[name], before[name]), name
    for name, spreads in (("wave", (3 / 2**0.5, 3 / 2**0.5)), ("flat", (2.0, 0.5))):
        parts = after[name].real, after[name].imag
        for part, old, spread in zip(parts, (before[name].real, before[name].imag), spreads, strict=True):
            assert float(part.std()) == pytest.approx(spread, rel=0.03)
            assert float(part.mean()) == pytest.approx(float(old.mean()), abs=4 * spread / 100)
        assert abs(float(torch.corrcoef(torch.stack([part.flatten() for part in parts]))[0, 1])) < 0.04
        assert abs(float(torch.corrcoef(torch.stack([parts[0].flatten(), before[name].real.flatten()]))[0, 1])) < 0.04
    assert float((after["wave"] - (1 - 2j)).abs().square().mean()) == pytest.approx(9, rel=0.05)
    assert bool((after["real"].imag == 0).all())
    for name in ("gain", "one", "phase"):
        assert torch.equal(after[name], before[name])
    with seeded(0):
        again = Turning()
    redraw(again, 1)
    assert all(torch.equal(tensor, after[name]) for name, tensor in again.state_dict().items())
    redraw(again, 2)
    assert not torch.equal(again.wave, after["wave"])


@pytest.mark.parametrize("loose", [False, True])
def test_a_new_complex_head_has_both_parts(loose: bool) -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(400, 3, dtype=torch.cfloat))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.weight

    made = (
        Loose()
        if loose
        else nn.Sequential(nn.Linear(400, 400, dtype=torch.cfloat), nn.Linear(400, 3, dtype=torch.cfloat))
    )
    locate_head(made, torch.randn(2, 400, dtype=torch.cfloat))
    weight = next(replace_head(made, 50, 0).parameters()).detach()
    assert sorted(weight.shape) == [50, 400]
    for part in (weight.real, weight.imag):
        assert float(part.square().mean()) == pytest.approx(1 / 400 / 3, rel=0.05)


def test_a_factory_of_complex_weights_must_make_fresh_ones() -> None:
    with seeded(0):
        made = Turning()
    know(made, build=Turning)
    before = made.wave.detach().clone()
    assert redraw(made, 1) == "its factory"
    assert not torch.equal(made.wave, before)
    know(made, build=lambda: made)
    with pytest.raises(DataError, match="returns the weights that the model has"):
        redraw(made, 1)


def test_what_no_layer_draws_is_put_back_before_it_is_drawn_from_its_spread() -> None:
    """Whole numbers and what is not finite, too; half precision; weights that stand in two layers."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.tied = nn.Linear(3, 3), nn.Linear(3, 3)
            self.tied.weight = self.layer.weight
            self.places = nn.Parameter(torch.arange(3), requires_grad=False)
            self.ones = nn.Parameter(torch.ones(3, dtype=torch.half))
            self.holes = nn.Parameter(torch.tensor([math.nan, 1.0, 2.0]))
            self.far = nn.Parameter(torch.tensor([math.inf, 1.0, 2.0]))
            self.nothing = nn.Parameter(torch.empty(0))

    made = Odd()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    redraw(made, 0)
    for name in ("places", "ones", "holes", "far", "nothing"):
        torch.testing.assert_close(made.get_parameter(name).detach(), before[name], equal_nan=True)
    assert made.tied.weight is made.layer.weight
    assert not torch.equal(made.layer.weight, before["layer.weight"])
