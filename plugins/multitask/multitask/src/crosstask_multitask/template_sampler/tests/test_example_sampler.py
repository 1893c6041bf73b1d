"""Every check of the contract, and what is special about this sampler."""

import torch

from crosstask.testing import conformance
from crosstask_example_sampler import ExampleSampler

test_conformance = conformance(ExampleSampler)


def test_a_large_loss_is_drawn_more_often() -> None:
    rng = torch.Generator().manual_seed(0)
    history = {"hard": [0.9], "easy": [0.1]}
    drawn = [ExampleSampler().sample(["hard", "easy"], history, rng)[0] for _ in range(500)]
    assert 0.85 < drawn.count("hard") / 500 < 0.95
