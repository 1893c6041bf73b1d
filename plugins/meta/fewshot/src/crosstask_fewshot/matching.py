"""Matching networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.options import component, option
from crosstask_fewshot.metric import MetricLearner


@component
class MatchingNetwork(MetricLearner):
    """The class of a query is a weighted vote of the support samples; weights are softmax of cosine similarities.

    Vinyals et al. (2016), arXiv:1606.04080, equations 1 and 2, without the full context embeddings of their section
    2.1.2, which helped them little on Omniglot. The paper has `scale` 1; with a larger one the nearest samples decide.
    """

    scale: float = option(10.0, gt=0, help="factor of the cosine similarities")

    def _scores(self, model: nn.Module, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        one, other = functional.normalize(query.flatten(2), dim=2), functional.normalize(support.flatten(2), dim=2)
        cosines = (self.scale * one @ other.transpose(1, 2)).masked_fill(~members.any(2)[:, None], -torch.inf)
        attention = torch.log_softmax(cosines, dim=2)  # [B, Q, S]; padding has none of it
        votes = attention[:, :, :, None].masked_fill(members[:, None] == 0, -torch.inf)
        return votes.logsumexp(dim=2)
