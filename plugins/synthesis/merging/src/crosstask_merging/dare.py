"""The `dare` synthesizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from crosstask.options import component, option
from crosstask_merging.merger import Ingredients, Merger, linear


@component
class DARE(Merger):
    """Task arithmetic on task vectors of which a random share is dropped and the rest divided by what is left
    (Yu et al. 2024, equation 3): the same in expectation, with fewer entries that can collide.
    """

    drop: float = option(0.9, ge=0, lt=1, help="probability with which an entry of a task vector is dropped")
    strength: float | None = option(None, help="factor of the sum of task vectors; default: one over their number")

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        factor = 1.0 if self.strength is None else self.strength * len(given.models)
        return given.start(name).add_(linear(self._thinned(name, given), given.weights), alpha=factor)

    def _thinned(self, name: str, given: Ingredients) -> Iterator[Tensor]:
        for number, vector in enumerate(given.vectors(name)):
            yield thin(vector, self.drop, self.context.generator("dare", name, number))


def thin(vector: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """The vector with each entry zero with probability `drop`, else divided by 1 - drop."""
    kept = torch.rand(vector.shape, generator=generator) >= drop
    return torch.where(kept.to(vector.device), vector / (1 - drop), 0)
