"""Every check of the contract, and what is special about this agent."""

import torch

from crosstask.testing import conformance
from crosstask_example_agent import ExampleAgent
from crosstask_reinforcement import TaskSpace

test_conformance = conformance(ExampleAgent)


def test_an_action_that_a_task_has_not_is_worth_nothing() -> None:
    agent = ExampleAgent().prepare([TaskSpace("two", 2, 2), TaskSpace("three", 2, 3)])
    values = agent.network(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert values[0, 2] == -1e6
    assert values[1, 2] == 0
