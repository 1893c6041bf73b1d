"""Every check of the contract, and what is special about this meta-learner."""

import torch
from torch import nn

from crosstask.descriptors import TensorData
from crosstask.testing import conformance
from crosstask_example_meta_learner import ExampleMetaLearner

test_conformance = conformance(ExampleMetaLearner)


def test_a_small_penalty_fits_the_support_set() -> None:
    generator = torch.Generator().manual_seed(0)
    support = TensorData(torch.randn(6, 10, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2]))
    adapted = ExampleMetaLearner(penalty=1e-4).adapt(nn.Identity(), support, None)
    wanted = nn.functional.one_hot(support.targets).float()
    assert torch.allclose(adapted(support.inputs), wanted, atol=1e-3)
