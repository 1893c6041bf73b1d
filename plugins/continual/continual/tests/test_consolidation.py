"""Penalties on complex weights: both parts of each are held as pairs of real weights are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crosstask_continual.consolidation import Pull, fitted


def weighted(pairs: bool, seed: int, rows: int = 3) -> nn.Module:
    made = nn.Module()
    drawn = torch.randn(rows, 2, 2, generator=torch.Generator().manual_seed(seed))
    made.weight = nn.Parameter(drawn if pairs else torch.view_as_complex(drawn))
    return made


@pytest.mark.parametrize("proximal", [False, True])
def test_complex_weights_are_pulled_as_pairs_of_real_ones(proximal: bool) -> None:
    importance = torch.rand(3, 2, generator=torch.Generator().manual_seed(2))

    def pulled(pairs: bool) -> Tensor:
        model, centre = weighted(pairs, 0), weighted(pairs, 1).weight.detach()
        held = importance[..., None].expand(3, 2, 2).contiguous() if pairs else importance
        pull = Pull(model, {"weight": held}, {"weight": centre})
        if proximal:
            pull.step(0.5)
            found = model.weight.detach()
        else:
            pull.add_gradient(0.5)
            assert model.weight.grad is not None
            found = model.weight.grad
        return torch.view_as_real(found) if found.is_complex() else found  # type: ignore[arg-type, operator]

    torch.testing.assert_close(pulled(False), pulled(True))


def test_importance_of_complex_weights_stays_real_where_a_head_grows() -> None:
    found = fitted({"weight": torch.ones(3, 2)}, weighted(False, 0, rows=4))["weight"]
    assert torch.equal(found, torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]]))
