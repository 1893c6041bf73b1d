"""The kit of recommenders catches what it says: each check has a wrong recommender, which fails no other."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.options import component, option
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_recommenders.contract import Recommender
from crosstask_recommenders.support import Support
from crosstask_recommenders.testing import REFERENCE, Levels, ReferenceRecommender

wrong = SelfTest(ReferenceRecommender, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_claims_a_feedback")
class TakesWhatItDoesNotClaim(ReferenceRecommender):
    capabilities = frozenset({"explicit"})

    def fit(self, interactions: Any) -> nn.Module:
        if interactions.feedback == "explicit":
            return super().fit(interactions)
        return Levels(torch.ones(interactions.items + 1))


@wrong.caught_by("check_scores")
class KeepsAGraph(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        found = super().score(model, support, items)
        return found.requires_grad_() if items.shape[1] == 5 and len(items) == 3 else found


@wrong.caught_by("check_ratings_are_in_their_units")
class RatingsAsRanks(ReferenceRecommender):
    capabilities = frozenset({"explicit"})

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        return super().score(model, support, items) - 3


@wrong.caught_by("check_users_stand_alone")
class MeanOfTheBatch(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        found = super().score(model, support, items)
        return found - found.mean() + model.get_buffer("expected").mean()


@wrong.caught_by("check_order_of_support")
class TheFirstCountsMost(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        return super().score(model, support, items) + 0.01 * support.items[:, :1]


@wrong.caught_by("check_unknown_item")
class NothingForTheUnknown(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        return super().score(model, support, items).masked_fill(items == 0, torch.nan)


@wrong.caught_by("check_item_out_of_range_refused")
class LastForAnyOther(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        clamped = Support(support.items.clamp_max(12), support.ratings, support.mask)
        return super().score(model, clamped, items.clamp_max(12))


@wrong.caught_by("check_model_untouched")
class LearnsWhileItScores(ReferenceRecommender):
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        found = super().score(model, support, items)
        if len(items) == 3 and support.mask.shape[1] == 4:
            model.get_buffer("calls").add_(1)
        return found

    def fit(self, interactions: Any) -> nn.Module:
        made = super().fit(interactions)
        made.register_buffer("calls", torch.zeros(()))
        return made


@component
class Stronger(ReferenceRecommender):
    """The reference, with less behind a mean."""

    shrink: float = option(0.5, gt=0, help="ratings behind a mean")


def stronger(interactions: Any, support: Support, items: Tensor) -> Tensor:
    made = Stronger()
    return made.score(made.fit(interactions), support, items)


@wrong.caught_by("check_agrees_with_twin", twin=stronger)
class UnlikeItsTwin(ReferenceRecommender):
    """The reference."""


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()


def test_one_that_claims_nothing_is_told_so() -> None:
    from crosstask.testing.kit import run_checks

    @component
    class Silent(ReferenceRecommender):
        """Claims nothing."""

        capabilities: ClassVar[frozenset[str]] = frozenset()

    failed = {o.name: o.message for o in run_checks(Silent) if not o.ok}
    assert "claims neither explicit nor implicit" in failed["check_claims_a_feedback"]
    assert issubclass(Silent, Recommender)
