"""Every check of the contracts, and what is special about each component."""

import pytest
import torch

from crosstask.testing import conformance
from crosstask_example_family import Balanced, ExampleFamilyStage, Likely

test_balanced = conformance(Balanced)
test_likely = conformance(Likely, options={"temperature": 2.0})
test_stage = conformance(ExampleFamilyStage)

OUTPUTS = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])


def test_each_class_counts_the_same() -> None:
    # right for two of three samples of class 0 (a draw goes to the first class), and for the one of class 1
    targets = torch.tensor([0, 0, 1, 0])
    assert Balanced().measure(OUTPUTS, targets) == pytest.approx((2 / 3 + 0) / 2)


def test_an_infinite_temperature_knows_nothing() -> None:
    assert Likely(temperature=1e9).measure(OUTPUTS, torch.tensor([0, 0, 1, 0])) == pytest.approx(0.5)
