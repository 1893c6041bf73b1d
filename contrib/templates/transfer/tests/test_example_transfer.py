"""Every check of the contract, and what is special about this transfer."""

import torch

from crosstask.records import Budget
from crosstask.testing import conformance, small_portfolio
from crosstask_example_transfer import ExampleTransfer

test_conformance = conformance(ExampleTransfer)


def test_with_share_one_the_trunk_is_left_alone() -> None:
    task = small_portfolio()["moons"]
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    ExampleTransfer(share=1.0).learn(task.model, task.model, task, Budget(steps=5), torch.Generator().manual_seed(0))
    changed = {name for name, tensor in task.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
