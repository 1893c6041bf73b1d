"""The `uniform_soup` synthesizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crosstask.options import component
from crosstask_merging.merger import Ingredients, Merger


@component
class UniformSoup(Merger):
    """The mean of the models' weights (Wortsman et al. 2022, "uniform soup")."""

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        return given.mean(name)
