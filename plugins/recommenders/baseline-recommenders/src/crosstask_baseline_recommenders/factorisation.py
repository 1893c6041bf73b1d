"""Biased matrix factorisation."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from crosstask.options import component, option
from crosstask_baseline_recommenders.fitted import Fitted
from crosstask_recommenders import Interactions, Recommender, Support, fit_explicit, fit_implicit
from crosstask_recommenders.factors import new_users, scores


@component
class BiasedMF(Recommender):
    """Ratings as μ + b_u + b_i + p_u·q_i (Koren, Bell, Volinsky 2009), found by alternating least squares; of implicit
    feedback the weighted factorisation of Hu, Koren, Volinsky (2008), without biases.

    Each step is an exact minimum, and a new user is one more: a ridge regression on the factors of the support items,
    in closed form.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit", "implicit", "baseline"})

    factors: int = option(16, ge=1, help="numbers of an item, beside its bias")
    user_decay: float = option(5.0, gt=0, help="ridge of users")
    item_decay: float = option(5.0, gt=0, help="ridge of items")
    bias_decay: float = option(4.0, gt=0, help="explicit: ridge of the biases of both")
    weight: float = option(10.0, gt=0, help="implicit: what a pair in the table weighs more than one that is not")
    sweeps: int = option(10, ge=1, help="steps over users and items")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        generator = self.context.generator("biased mf")
        if interactions.feedback == "implicit":
            found = fit_implicit(
                interactions, self.factors, self.user_decay, self.item_decay, self.weight, self.sweeps, generator
            )
        else:
            found = fit_explicit(
                interactions, self.factors, self.user_decay, self.item_decay, self.sweeps, generator, self.bias_decay
            )
        return Fitted(found.item, found.offset, found.user_decay, found.weight, self.bias_decay)

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        names = ("offset", "decay", "weight", "bias_decay")
        offset, decay, weight, bias_decay = (float(made.get_buffer(name)) for name in names)
        users = new_users(made.item, offset, decay, weight, support, bias_decay)
        return scores(made.item, offset, users, items)
