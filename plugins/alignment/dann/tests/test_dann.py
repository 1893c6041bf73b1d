"""The component: a critic whose gradient comes back reversed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from crosstask_alignment import reversal_strength
from crosstask_dann import DANN

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
DOMAIN = torch.arange(12) % 3


@pytest.mark.parametrize("progress", [0.0, 0.2, 1.0])
def test_the_term_is_the_critics_loss_and_its_gradient_is_reversed(progress: float) -> None:
    made = DANN(hidden_dims=(7,)).prepare(5, 3)
    network: Any = made.network
    x, plain = X.clone().requires_grad_(), X.clone().requires_grad_()
    value = made.loss(x, DOMAIN, progress=progress)
    wanted = functional.cross_entropy(network.layers(plain), DOMAIN)
    assert torch.allclose(value, wanted, atol=1e-6)
    ours = torch.autograd.grad(value, [x, *made.parameters()])
    theirs = torch.autograd.grad(wanted, [plain, *made.parameters()])
    assert torch.allclose(ours[0], -reversal_strength(progress) * theirs[0], atol=1e-8)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_layers_are_those_asked_for() -> None:
    assert [tuple(p.shape) for p in DANN(hidden_dims=(7, 6)).prepare(5, 2).parameters()] == [
        (7, 5), (7,), (6, 7), (6,), (2, 6), (2,)
    ]  # fmt: skip
