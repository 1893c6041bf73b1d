"""The ensemble as a module."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.records import Provenance


class Ensemble(nn.Module):
    """Outputs of several models, averaged per output of the new task: [N, …] to [N, K].

    Member m's output j counts for output k of the new task with weight `shares[m][j, k]`; for each k they sum to one.
    With `centred`, the mean over a member's outputs is taken off first and the rest divided by the member's scale:
    models trained longer, or with other numbers of classes, then speak equally loud.
    """

    scales: Tensor
    provenance: Provenance

    def __init__(self, models: Sequence[nn.Module], shares: Sequence[Tensor], scales: Sequence[float], centred: bool):
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(model) for model in models)
        for number, share in enumerate(shares):  # [outputs of the member, K]: members differ in their outputs
            self.register_buffer(f"share{number}", share)
        self.register_buffer("scales", torch.tensor(list(scales)))
        self.centred, self.outputs = centred, shares[0].shape[1]
        self.train(False)

    def train(self, mode: bool = True) -> Ensemble:
        """Members stay in evaluation mode: they are used as they were trained."""
        self.training = mode
        for member in self.members:
            member.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        total: Tensor | None = None
        for number, member in enumerate(self.members):
            outputs = member(inputs)
            if self.centred:
                outputs = (outputs - outputs.mean(dim=1, keepdim=True)) / self.scales[number].to(outputs)
            part = outputs @ self.get_buffer(f"share{number}").to(outputs)
            total = part if total is None else total + part
        assert total is not None
        return total
