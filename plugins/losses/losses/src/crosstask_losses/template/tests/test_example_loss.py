"""Every check of the contract, and what is special about this objective."""

import torch

from crosstask.testing import conformance
from crosstask_example_loss import ExampleLoss
from crosstask_losses import LossAggregator

test_conformance = conformance(ExampleLoss)


def test_an_error_that_is_always_the_same_costs_nothing() -> None:
    observations = torch.rand(4, 3, 1, 2, 2)
    outputs = {"reconstructions": [frame + 0.5 for frame in observations.unbind(1)], "state": [torch.ones(4, 2)] * 3}
    losses, _ = LossAggregator([ExampleLoss()]).compute_losses(outputs, observations)
    assert losses["flow_error"] < 1e-12
    assert losses["largest_state"] == 1
