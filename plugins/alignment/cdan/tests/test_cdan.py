"""The multilinear map, its randomised form, and the entropy's weights, beside their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from crosstask_alignment import reversal_strength
from crosstask_cdan import CDAN, ConditionalCritic

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
LOGITS = 2 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
DOMAIN = torch.tensor([0] * 8 + [1] * 4)


def test_the_map_is_the_outer_product() -> None:
    critic = ConditionalCritic(5, 3, 2, (8,), 4096)
    made = critic.map(X, LOGITS.softmax(1))
    assert made.shape == (12, 15)
    for row in range(12):
        assert torch.allclose(made[row], torch.outer(X[row], LOGITS[row].softmax(0)).flatten())


def test_above_its_size_the_map_keeps_inner_products_in_the_mean() -> None:
    torch.manual_seed(0)
    critic = ConditionalCritic(5, 3, 2, (8,), 14)
    assert critic.randomised
    assert critic.map(X, LOGITS.softmax(1)).shape == (12, 14)
    wide = ConditionalCritic(200, 300, 2, (8,), 30_000)
    f, g = torch.randn(2, 200), torch.rand(2, 300)
    one, other = wide.map(f, g)
    wanted = float((f[0] @ f[1]) * (g[0] @ g[1]))
    length = float(f[0].norm() * f[1].norm() * g[0].norm() * g[1].norm())
    assert float(one @ other) == pytest.approx(wanted, abs=5 * length / math.sqrt(30_000))


def test_the_random_matrices_are_fixed_kept_and_not_trained() -> None:
    made = CDAN(size=4).prepare(5, 2, 3)
    assert len(made.parameters()) == 4
    again = CDAN(size=4)
    again.load_state_dict(made.state_dict())
    assert torch.equal(made.loss(X, DOMAIN, LOGITS), again.loss(X, DOMAIN, LOGITS))


@pytest.mark.parametrize("entropy", [True, False])
def test_certain_rows_count_more_within_each_domain(entropy: bool) -> None:
    made = CDAN(entropy=entropy).prepare(5, 2, 3)
    network: Any = made.network
    p = LOGITS.softmax(1)
    losses = functional.cross_entropy(network(X, p, 1.0), DOMAIN, reduction="none")
    weights = 1 + torch.exp((p * p.log()).sum(1)) if entropy else torch.ones(12)
    for number in (0, 1):
        own = number == DOMAIN
        weights[own] = weights[own] / weights[own].mean()
    found, wanted = made.loss(X, DOMAIN, LOGITS).detach(), (weights * losses).mean().detach()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_predictions_are_constants_and_the_features_gradient_is_reversed() -> None:
    made = CDAN(entropy=False).prepare(5, 2, 3)
    network: Any = made.network
    x, logits = X.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    made.loss(x, DOMAIN, logits, 0.1).backward()
    assert logits.grad is None
    plain = X.clone().requires_grad_()
    layers = network.critic.layers(network.map(plain, LOGITS.softmax(1)))
    (gradient,) = torch.autograd.grad(functional.cross_entropy(layers, DOMAIN), plain)
    assert x.grad is not None
    assert torch.allclose(x.grad, -reversal_strength(0.1) * gradient, atol=1e-7)


def test_a_single_logit_is_of_two_classes() -> None:
    one, two = CDAN().prepare(5, 2, 1), CDAN().prepare(5, 2, 2)
    two.load_state_dict({**one.state_dict(), "sizes": [5, 2, 2]})
    logit = LOGITS[:, :1]
    both = torch.cat([torch.zeros_like(logit), logit], 1)
    assert torch.equal(one.loss(X, DOMAIN, logit), two.loss(X, DOMAIN, both))


def test_half_precise_logits() -> None:
    made = CDAN().prepare(5, 2, 3)
    half, single = (float(made.loss(X, DOMAIN, logits).detach()) for logits in (LOGITS.bfloat16(), LOGITS))
    assert half == pytest.approx(single, rel=0.02)
