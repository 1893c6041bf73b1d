"""Every check of the contract, and what is special about this component."""

import torch

from crosstask.testing import conformance
from crosstask_example_example_family import ExampleExampleFamily

test_conformance = conformance(ExampleExampleFamily)


def test_the_second_place_is_enough() -> None:
    outputs = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert ExampleExampleFamily(most=2).measure(outputs, torch.tensor([1, 2])) == 0.5
