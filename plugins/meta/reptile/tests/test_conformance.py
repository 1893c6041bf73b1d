"""Reptile does what the contract of meta-learners says, and leaves the weights that a plain loop leaves."""

import copy

import torch
from torch import nn
from torch.nn import functional

from crosstask.learning.episodes import Episodes
from crosstask.testing import conformance
from crosstask_reptile import Reptile


def loop(model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> None:
    """Trains a copy on each task with an ordinary optimiser; the weights move half the way to the copies' mean."""
    trained = []
    for number in range(len(episodes)):
        own = copy.deepcopy(model)
        inner = torch.optim.SGD(own.parameters(), lr=0.05)
        inputs = torch.cat([episodes.support_inputs[number], episodes.query_inputs[number]])
        targets = torch.cat([episodes.support_targets[number], episodes.query_targets[number]])
        for _ in range(3):
            inner.zero_grad()
            functional.cross_entropy(own(inputs), targets).backward()
            inner.step()
        trained.append([p.detach() for p in own.parameters()])
    with torch.no_grad():
        for parameter, *found in zip(model.parameters(), *trained, strict=True):
            parameter.lerp_(torch.stack(found).mean(0), 0.5)


test_reptile = conformance(Reptile, options={"lr_inner": 0.05, "lr_meta": 0.5, "num_inner_steps": 3}, twin=loop)
test_adam_in_minibatches = conformance(
    Reptile, options={"inner_optimizer": "adam", "inner_batch": 6, "use_queries": False, "lr_meta": 1.0}
)
test_of_the_loop = conformance(Reptile, options={"path": "loop", "tasks_at_once": 3, "lr_inner": 0.1})
