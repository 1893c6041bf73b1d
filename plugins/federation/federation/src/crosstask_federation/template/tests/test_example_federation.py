"""Every check of the contract, and what is special about this federation."""

import pytest
import torch

from crosstask.testing import conformance
from crosstask_example_federation import ExampleFederation
from crosstask_federation import Gathered, State

test_conformance = conformance(ExampleFederation)


def test_votes_count_by_samples() -> None:
    state = State({"weights/w": torch.zeros(2)})
    votes = Gathered(("a", "b"), torch.tensor([0.75, 0.25]), total={"signs/w": torch.tensor([0.5, 1.0])})
    moved = ExampleFederation(step=0.1).merge(state, votes).shared["weights/w"]
    assert moved.tolist() == pytest.approx([0.05, 0.1])
