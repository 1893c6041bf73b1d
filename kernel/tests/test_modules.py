"""Module surgery that no other test reaches."""

from __future__ import annotations

import math

import torch
from torch import nn

from crosstask.learning.modules import for_classes, redraw, seeded


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
