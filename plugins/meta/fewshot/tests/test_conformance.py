"""Each does what the contract of meta-learners says; prototypes leave the weights that the paper's formula leaves."""

import torch
from torch import nn
from torch.nn import functional

from crosstask.learning.episodes import Episodes
from crosstask.testing import conformance
from crosstask_fewshot import MatchingNetwork, PrototypicalNetwork, RelationNetwork


def prototypes(model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> None:
    """Algorithm 1 of Snell et al., one episode after the other, features of all of them in one pass."""
    inputs = torch.cat([episodes.support_inputs, episodes.query_inputs], dim=1)
    features = model(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    shots = episodes.support_inputs.shape[1]
    losses = []
    for number, own in enumerate(features):
        labels = episodes.support_targets[number]
        means = torch.stack([own[:shots][labels == c].mean(0) for c in range(int(labels.max()) + 1)])
        distances = (own[shots:, None] - means[None]).square().sum(2)
        losses.append(functional.nll_loss((-distances).log_softmax(1), episodes.query_targets[number]))
    optimizer.zero_grad()
    torch.stack(losses).mean().backward()
    optimizer.step()


test_prototypical = conformance(PrototypicalNetwork, twin=prototypes)
test_cosine = conformance(PrototypicalNetwork, options={"distance": "cosine"})
test_matching = conformance(MatchingNetwork)
test_relation = conformance(RelationNetwork)
