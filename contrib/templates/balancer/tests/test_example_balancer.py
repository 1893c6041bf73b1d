"""Every check of the contract, and what is special about this balancer."""

import torch

from crosstask.testing import conformance
from crosstask_example_balancer import ExampleBalancer

test_conformance = conformance(ExampleBalancer)


def test_power_one_makes_gradients_equally_long() -> None:
    gradients = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.1]])
    update = ExampleBalancer().combine(gradients)
    torch.testing.assert_close(update, torch.tensor([0.6, 0.8, 1.0]))
