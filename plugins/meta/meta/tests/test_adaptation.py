"""What an inner loop leaves behind, and what is said of one that breaks down."""

from __future__ import annotations

import math

import pytest
import torch

from crosstask.errors import RunError
from crosstask_meta.adaptation import report_divergence, with_parameters
from crosstask_meta.testing import network, seeded


def test_what_divergence_is_reported() -> None:
    good, bad = torch.tensor([[1.0, 1.0], [0.5, 0.6]]), torch.tensor([[1.0, 1.0], [1.0, math.inf]])
    report_divergence("it", "rate", 0.1, good, torch.tensor([20.0, 30.0]))  # hard queries are no divergence
    with pytest.raises(RunError, match=r"episode 1 is inf after 1 inner steps with rate = 0\.1 \(it was 1 before\)"):
        report_divergence("it", "rate", 0.1, bad, torch.ones(2))
    with pytest.raises(RunError, match="episode 0 is nan before the first inner step: inputs, targets or weights"):
        report_divergence("it", "rate", 0.1, torch.full((1, 2), math.nan), torch.ones(2))
    with pytest.warns(RuntimeWarning, match=r"support loss rises from 1 to 30 over 2 inner steps with rate = 0\.1"):
        report_divergence("it", "rate", 0.1, torch.tensor([[1.0], [5.0], [30.0]]), torch.ones(1))


def test_an_adapted_copy_goes_by_the_batch() -> None:
    model = network()
    adapted = with_parameters(model, {"0.bias": torch.full((8,), 3.0)})
    inputs = torch.randn(6, 6, generator=seeded())
    assert torch.equal(adapted[0].bias.detach(), torch.full((8,), 3.0))
    assert not adapted.training
    with torch.no_grad():
        wanted = model.train()(inputs)  # the bias goes with the mean of the batch
    assert torch.allclose(adapted(inputs), wanted, atol=1e-5)
