"""Module surgery that no other test reaches."""

from __future__ import annotations

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
