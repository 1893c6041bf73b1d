"""Prototypical networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.options import component, option
from crosstask_fewshot.metric import MetricLearner, class_sums


@component
class PrototypicalNetwork(MetricLearner):
    """A class is the mean of its support features; a query belongs to the nearest one.

    Snell, Swersky, Zemel (2017), arXiv:1703.05175, algorithm 1: log-probabilities are log_softmax(-d²) of the Euclidean
    distances d. With `distance="cosine"` they are log_softmax of `scale` times the cosine. Training with more classes
    in an episode than the test has makes better features (their section 3).
    """

    distance: str = option("euclidean", choices=("euclidean", "cosine"), help="how far a query is from a prototype")
    scale: float = option(10.0, gt=0, help="factor of the cosine; no use to Euclidean distances")

    def _scores(self, model: nn.Module, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        sums, counts = class_sums(support.flatten(2), members)
        prototypes, query = sums / counts[:, :, None], query.flatten(2)
        if self.distance == "cosine":
            cosine = functional.normalize(query, dim=2) @ functional.normalize(prototypes, dim=2).transpose(1, 2)
            return torch.log_softmax(self.scale * cosine, dim=2)
        # -d² = 2 q·p - p·p - q·q, and log_softmax takes no notice of q·q
        near = 2 * query @ prototypes.transpose(1, 2) - prototypes.square().sum(2)[:, None]
        return torch.log_softmax(near, dim=2)
