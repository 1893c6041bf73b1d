"""Every check of the contract, and what is special about this adapter."""

import torch
from torch import nn

from crosstask.testing import conformance
from crosstask_example_adapter import ExampleAdapter

test_conformance = conformance(ExampleAdapter)


def test_factors_start_where_they_are_told() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    inputs = torch.ones(1, 3)
    before = model(inputs).detach()
    ExampleAdapter(start=2.0).attach(model, [], torch.Generator())
    torch.testing.assert_close(model(inputs).detach(), 2 * before)
