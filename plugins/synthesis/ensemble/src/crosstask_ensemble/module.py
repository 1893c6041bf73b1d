"""The ensemble as a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import copy_of, forward
from crosstask.records import Provenance
from crosstask_synthesis.outputs import two_sided

Inputs = Tensor | MultiInput


class Ensemble(nn.Module):
    """Outputs of several models, averaged per output of the new task: [N, …] to [N, K], or [N, K, …] for `dim` = 1.

    Member m's output j counts for output k of the new task with weight `shares[m][j, k]`; for each k they sum to one.
    With `centred`, the mean over a member's outputs is taken off first and the rest divided by the member's scale:
    models trained longer, or with other numbers of classes, then speak equally loud. A member's single logit counts as
    two, and with `single` the answer for two classes is one logit [N, 1]: how far the second is above the first.
    """

    whole_inputs = True

    scales: Tensor
    sharpness: Tensor
    """Factor of the outputs under which their softmax is a probability; 1 where nothing was known to fit it to."""

    provenance: Provenance

    def __init__(
        self,
        models: Sequence[nn.Module],
        shares: Sequence[Tensor],
        scales: Sequence[float],
        centred: bool,
        dim: int = -1,
        single: bool = False,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy_of(model) for model in models)
        for number, share in enumerate(shares):  # [outputs of the member, K]: members differ in their outputs
            self.register_buffer(f"share{number}", share)
        self.register_buffer("scales", torch.tensor(list(scales)))
        self.register_buffer("sharpness", torch.ones(()))
        self.centred, self.dim, self.single = centred, dim, single
        self.outputs = 1 if single else shares[0].shape[1]
        self.train(False)

    def train(self, mode: bool = True) -> Ensemble:
        """Members stay in evaluation mode: they are used as they were trained."""
        self.training = mode
        for member in self.members:
            member.eval()
        return self

    def forward(self, inputs: Inputs) -> Tensor:
        total = self._total(inputs)
        return total[:, 1:] - total[:, :1] if self.single else total

    def _total(self, inputs: Inputs) -> Tensor:
        total: Tensor | None = None
        for part in self._parts(inputs):
            total = part if total is None else total + part
        assert total is not None
        return total

    def _parts(self, inputs: Inputs) -> Iterator[Tensor]:
        """What each member adds to the outputs."""
        for number, member in enumerate(self.members):
            outputs = forward(member, inputs)
            if self.centred:
                outputs = two_sided(outputs)
                outputs = (outputs - outputs.mean(dim=self.dim, keepdim=True)) / self.scales[number].to(outputs)
            if self.dim == -1:
                yield outputs @ self.get_buffer(f"share{number}").to(outputs)
            else:
                moved = outputs.movedim(self.dim, -1) @ self.get_buffer(f"share{number}").to(outputs)
                yield moved.movedim(-1, self.dim)

    @torch.no_grad()
    def confidence(self, inputs: Inputs) -> Tensor:
        """[N] (for dense predictions [N, …]), for each input how likely the class is right that the ensemble gives it:
        the largest softmax of the outputs times `sharpness`. DataError for values and several labels: see `spread`.
        """
        if not self.centred:
            raise DataError(
                "an ensemble for values or several labels has no classes to be sure of; `spread` says how far its "
                "members differ"
            )
        total = self._total(inputs)
        return (total * self.sharpness.to(total)).softmax(self.dim).amax(self.dim)

    @torch.no_grad()
    def spread(self, inputs: Inputs) -> Tensor:
        """[N, K], the weighted standard deviation between the members that own an output: 0 where there is only one.
        Outputs of two classes are given by two, also where the answer is a single logit.
        """
        parts = [part.movedim(self.dim, -1) for part in self._parts(inputs)]
        weights = torch.stack([self.get_buffer(f"share{n}").sum(0) for n in range(len(self.members))]).to(parts[0])
        weights = weights.reshape(len(parts), *[1] * (parts[0].ndim - 1), -1)
        said = torch.stack(parts) / weights.clamp_min(1e-12)
        return (weights * (said - sum(parts)).square()).sum(0).sqrt().movedim(-1, self.dim)
