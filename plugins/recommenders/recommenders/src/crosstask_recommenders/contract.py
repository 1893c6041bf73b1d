"""Recommenders: fitted to a table of interactions, they score items for users of a few ratings."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import DataError
from crosstask_recommenders.support import Interactions, Support


class Recommender(Component):
    """Learns from the interactions of many users what a new one, known by a few ratings alone, will like.

    Capabilities: `explicit` (it predicts ratings), `implicit` (it ranks items of users who have taken, or not), and
    `baseline` (a yardstick: what does not beat it is not worth its cost). A recommender is only given feedback that it
    claims. The fitted module keeps what it has learned in its buffers and parameters, and knows no user by name: a user
    is a row of `Support`, whoever it is.
    """

    point: ClassVar[str] = "recommender"

    @abstractmethod
    @hook(first=True, returns=nn.Module)
    def fit(self, interactions: Interactions) -> nn.Module:
        """A module that has learned from these rows, in evaluation mode."""

    @abstractmethod
    @hook(first=True, returns=Tensor)
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        """Scores [B, K] of `items` [B, K] for the users of `support`: of explicit feedback ratings in its units, of
        implicit anything that is higher for what a user will rather take. `model` stays as it was. A user's scores do
        not depend on the others of the batch, nor on what `support.mask` leaves out; item 0, which is not known, gets
        a finite score.
        """

    @final
    def check_feedback(self, interactions: Interactions) -> None:
        """DataError unless the recommender claims the feedback of the table. Every `fit` begins with it."""
        if interactions.feedback not in self.capabilities:
            known = ", ".join(sorted(self.capabilities & {"explicit", "implicit"})) or "none"
            raise DataError(f"{self.origin} takes {known} feedback; this table is of {interactions.feedback} feedback")


def check_items(items: Tensor, count: int, who: str) -> None:
    """DataError for an id that is none of 0 … `count`, or no whole number."""
    if items.is_floating_point() or items.dtype == torch.bool:
        raise DataError(f"{who}: items are whole numbers, got {items.dtype}")
    wrong = (items < 0) | (items > count)
    if bool(wrong.any()):
        number = int(items[wrong][0])
        raise DataError(
            f"{who}: unknown item {number}: it was fitted to items 1 to {count}; item 0 stands for any other"
        )
