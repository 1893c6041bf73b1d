"""Every check of the contract, and what is special about this alignment."""

import pytest
import torch

from crosstask.testing import conformance
from crosstask_example_alignment import ExampleAlignment

test_conformance = conformance(ExampleAlignment)


def test_a_shift_costs_its_square() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    features, domain = torch.cat([rows, rows + 2]), torch.arange(60) // 30
    assert float(ExampleAlignment(levels=5).loss(features, domain)) == pytest.approx(4, rel=1e-5)
