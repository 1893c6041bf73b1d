"""Matrix factorisation by Bayesian personalised ranking."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask_baseline_recommenders.fitted import Fitted
from crosstask_recommenders import Interactions, Recommender, Support, bpr_loss
from crosstask_recommenders.factors import new_users, scores


@component
class BPRMF(Recommender):
    """Factors of users and items, and biases of items, that rank what a user took above sampled negatives, by Adam
    (Rendle et al. 2009).

    Users who have every item say nothing here, and are left out. A new user's vector is a ridge regression to 1 on the
    support items and 0 on all others, as in `biased_mf`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"implicit", "baseline"})

    factors: int = option(16, ge=1, help="numbers of an item, beside its bias")
    epochs: int = option(20, ge=1, help="passes over the table")
    batch_size: int = option(2048, ge=1, help="rows of a step")
    learning_rate: float = option(0.02, gt=0, help="of Adam")
    decay: float = option(1e-3, ge=0, help="of the squares of the factors in a step")
    user_decay: float = option(5.0, gt=0, help="ridge of a new user")
    weight: float = option(10.0, gt=0, help="what a support item weighs more than one that is not")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        generator, table = self.context.generator("bpr"), interactions
        learned = (~table.has_all(table.user)).nonzero().flatten()
        if not len(learned):
            raise DataError(f"{self.origin}: every user has every item: there is nothing to rank below what was taken")
        user, item = (
            (0.1 * torch.randn(size + 1, self.factors, generator=generator)).requires_grad_()
            for size in (table.users, table.items)
        )
        bias = torch.zeros(table.items + 1, requires_grad=True)
        optimizer = torch.optim.Adam([user, item, bias], lr=self.learning_rate)
        for _ in range(self.epochs):
            for places in torch.randperm(len(learned), generator=generator).split(self.batch_size):
                rows = learned[places]
                own = user[table.user[rows]]
                drawn = table.negatives(table.user[rows], 1, generator)[:, 0]
                chosen = item[table.item[rows]], item[drawn]
                one, other = ((own * each).sum(1) for each in chosen)
                loss = bpr_loss(one + bias[table.item[rows]], other + bias[drawn])
                squares = sum(each.square().sum(1).mean() for each in (own, *chosen))
                optimizer.zero_grad()
                (loss + self.decay * squares).backward()
                optimizer.step()
        with torch.no_grad():
            made = torch.cat([bias[:, None], item], dim=1)
            made[0] = 0
        return Fitted(made.detach(), 0.0, self.user_decay, self.weight)

    @torch.no_grad()
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        users = new_users(made.item, 0.0, float(made.get_buffer("decay")), float(made.get_buffer("weight")), support)
        return scores(made.item, 0.0, users, items)
