"""The terms of attention that moves as expected, in slots that look at different things."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crosstask import component, option
from crosstask.errors import DataError
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, Output


@component
class Predictive(Objective):
    """`attention_loss` = lambda_att_dyn `attention_dynamics_loss` - diversity_weight `attention_diversity`.

    - `attention_dynamics_loss`: mean squared difference between the movement of each slot's centre of mass to the next
      time step, as the model predicted it, and as it was. Coordinates are (x, y), from -1 to 1 across the map. What was
      is a target without a gradient: attention that stands still is easy to predict, and useless.
    - `attention_diversity`: 1 - the mean cosine between the maps of two slots, from 0 (all look at the same) to 1 (no
      two at the same place). A bonus, and so subtracted: the loss may be negative.
    """

    total: ClassVar[str] = "attention_loss"
    weighting: ClassVar[dict[str, str]] = {
        "attention_dynamics_loss": "lambda_att_dyn",
        "attention_diversity": "-diversity_weight",
    }
    reads: ClassVar[dict[str, Output]] = {
        "attention": Output("B S h w", "where each slot looks", "map"),
        "predicted_movement": Output(
            "B S 2",
            "(x, y) by which each slot's centre of mass will move to the next step",
            terms=("attention_dynamics_loss",),
            between=True,
        ),
    }

    lambda_att_dyn: float = option(0.1, ge=0, help="weight of attention_dynamics_loss")
    diversity_weight: float = option(0.1, ge=0, help="weight of the bonus attention_diversity")

    def term(self, name: str, given: Given) -> Tensor:
        maps = given.steps("attention")
        return self._diversity(maps) if name == "attention_diversity" else self._dynamics(maps, given)

    def _dynamics(self, maps: Tensor, given: Given) -> Tensor:
        predicted = given.steps("predicted_movement")
        if len(maps) < 2:
            raise DataError(f"{self.origin}: attention_dynamics_loss needs at least two time steps, got one")
        centres = centre_of_mass(maps.detach())
        moved = centres[1:] - centres[:-1]
        return (predicted[: len(moved)] - moved).square().mean()

    def _diversity(self, maps: Tensor) -> Tensor:
        slots = maps.shape[2]
        if slots < 2:
            raise DataError(f"{self.origin}: attention_diversity compares slots, and there is one: switch it off")
        unit = functional.normalize(maps.flatten(3), dim=-1)  # [T, B, S, hw]
        cosines = unit @ unit.mT
        pairs = cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
        return 1 - (pairs / (slots * (slots - 1))).mean()


def centre_of_mass(maps: Tensor) -> Tensor:
    """(x, y) [..., 2] from -1 to 1 of maps [..., h, w] that sum to one."""
    rows, columns = (
        torch.linspace(-1, 1, size).to(maps) if size > 1 else maps.new_zeros(1) for size in maps.shape[-2:]
    )
    return torch.stack([(maps.sum(-2) * columns).sum(-1), (maps.sum(-1) * rows).sum(-1)], -1)
