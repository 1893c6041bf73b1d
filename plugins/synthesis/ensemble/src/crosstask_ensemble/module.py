"""The ensemble as a module."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.records import Provenance


class Ensemble(nn.Module):
    """Outputs of several models, averaged per output of the new task: [N, …] to [N, K].

    Member m's output j counts for output k of the new task with weight `shares[m][j, k]`; for each k they sum to one.
    With `centred`, the mean over a member's outputs is taken off first and the rest divided by the member's scale:
    models trained longer, or with other numbers of classes, then speak equally loud.
    """

    scales: Tensor
    sharpness: Tensor
    """Factor of the outputs under which their softmax is a probability; 1 where nothing was known to fit it to."""

    provenance: Provenance

    def __init__(self, models: Sequence[nn.Module], shares: Sequence[Tensor], scales: Sequence[float], centred: bool):
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(model) for model in models)
        for number, share in enumerate(shares):  # [outputs of the member, K]: members differ in their outputs
            self.register_buffer(f"share{number}", share)
        self.register_buffer("scales", torch.tensor(list(scales)))
        self.register_buffer("sharpness", torch.ones(()))
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
        for part in self._parts(inputs):
            total = part if total is None else total + part
        assert total is not None
        return total

    def _parts(self, inputs: Tensor) -> Iterator[Tensor]:
        """What each member adds to the outputs."""
        for number, member in enumerate(self.members):
            outputs = member(inputs)
            if self.centred:
                outputs = (outputs - outputs.mean(dim=1, keepdim=True)) / self.scales[number].to(outputs)
            yield outputs @ self.get_buffer(f"share{number}").to(outputs)

    @torch.no_grad()
    def confidence(self, inputs: Tensor) -> Tensor:
        """[N], for each input how likely the class is right that the ensemble gives it: the largest softmax of the
        outputs times `sharpness`. DataError for regression: see `spread`.
        """
        if not self.centred:
            raise DataError(
                "an ensemble for regression has no classes to be sure of; `spread` says how far members differ"
            )
        return (self(inputs) * self.sharpness.to(inputs)).softmax(1).amax(1)

    @torch.no_grad()
    def spread(self, inputs: Tensor) -> Tensor:
        """[N, K], the weighted standard deviation between the members that own an output: 0 where there is only one."""
        weights = torch.stack([self.get_buffer(f"share{n}").sum(0) for n in range(len(self.members))]).to(inputs)
        said = torch.stack(list(self._parts(inputs))) / weights[:, None].clamp_min(1e-12)
        return (weights[:, None] * (said - self(inputs)).square()).sum(0).sqrt()
