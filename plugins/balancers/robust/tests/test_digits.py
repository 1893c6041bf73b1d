"""Five sites with scikit-learn's digits, one of which is wrong: what each aggregator makes of it."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.points.balancer import Balancer
from crosstask_robust import Krum, TrimmedMean

SITES = 5


class Mean(Balancer):
    """What the others are compared with."""

    def combine(self, gradients: Tensor) -> Tensor:
        return gradients.mean(dim=0)


def accuracy(balancer: Balancer, wrong: int, seed: int = 0, steps: int = 150) -> float:
    """Of a network that all sites train together; `wrong` of them send a long gradient of random labels."""
    pixels, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=draws)
    sites, test = order[: 240 * SITES].chunk(SITES), order[240 * SITES :]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        losses = []
        for number, site in enumerate(sites):
            rows = site[torch.randint(len(site), (32,), generator=draws)]
            lies = torch.randint(10, (32,), generator=draws)
            loss = nn.functional.cross_entropy(model(inputs[rows]), lies if number < wrong else labels[rows])
            losses.append(20 * loss if number < wrong else loss)
        optimizer.zero_grad()
        balancer.backward(losses, list(model.parameters()), [])
        optimizer.step()
    with torch.no_grad():
        return float((model(inputs[test]).argmax(1) == labels[test]).double().mean())


@pytest.mark.parametrize("balancer", [Krum(selected=3), TrimmedMean(), TrimmedMean(share=0.5)], ids=repr)
def test_a_wrong_site_does_not_spoil_the_others(balancer: Balancer) -> None:
    assert accuracy(balancer, wrong=1) > 0.85


def test_it_does_spoil_the_mean() -> None:
    assert accuracy(Mean(), wrong=1) < 0.5
