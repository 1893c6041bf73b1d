"""Ratings in one domain with the help of those in another: embeddings and encoders of each, a mapper for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError, of_kind
from crosstask.learning.objectives import mse
from crosstask.options import structure
from crosstask_alignment.critics import Critic
from crosstask_alignment.discrepancies import mmd
from crosstask_cross_domain.checks import check_ids, key, known, layers, rate_of, size_of, widths_of

SPREAD = 0.1
"""Standard deviation of fresh embeddings: an id that was hardly ever seen should not say much."""

Size = int | tuple[int, int]
"""Of a domain: users and items, or one number for both."""


class Table(nn.Embedding):
    """An embedding of each id, small at first, and in the last column a number that is added to predictions."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=SPREAD)
        with torch.no_grad():
            self.weight[:, -1].zero_()


class CrossDomainTransferNetwork(nn.Module):
    """Predicts ratings in every domain; the encoders differ, the mapper to the shared representation is one for all.

        net = CrossDomainTransferNetwork({"novels": (900, 4000)}, {"romance": (900, 1500)})
        outputs = net("novels", "romance", source_users, source_items, target_users, target_items)
        losses = net.losses(outputs, source_ratings, target_ratings, lambda_alignment=0.1, lambda_domain=0.1)
        sum(losses.values()).backward()  # or RGB().backward(losses)

    A domain's size is (users, items), or one number for both: they have tables of their own, with ids from 0. The
    product of a user's and an item's embedding, (1 + u)(1 + v) = 1 + u + v + uv, which holds what each says alone, goes
    through the domain's encoder (`hidden_dims`), the shared mapper (`shared_dims`) and the domain's adapter to the
    prediction, to which a bias of the user and one of the item are added (Koren et al. 2009, equation 4). A critic of
    the domains sees the shared representation with its gradient reversed (Ganin et al. 2016), so that what helps the
    critic makes the domains harder to tell apart. `shared_users`: all domains have the same users, and one table of
    them. OptionError for a domain that is both source and target.
    """

    def __init__(
        self,
        source_vocab_sizes: Mapping[str, Size],
        target_vocab_sizes: Mapping[str, Size],
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        shared_dims: Sequence[int] = (32,),
        dropout_rate: float = 0.2,
        *,
        shared_users: bool = False,
    ) -> None:
        super().__init__()
        width, dropout = size_of("embedding_dim", embedding_dim), rate_of(dropout_rate)
        hidden, shared = widths_of("hidden_dims", hidden_dims), widths_of("shared_dims", shared_dims)
        for told, given in (("source_vocab_sizes", source_vocab_sizes), ("target_vocab_sizes", target_vocab_sizes)):
            if not isinstance(given, Mapping) or not given:
                raise OptionError(f"{told} must give the size of at least one domain by its name, got {given!r}")
        if both := [name for name in source_vocab_sizes if name in target_vocab_sizes]:
            raise OptionError(f"domain {both[0]!r} is both a source and a target: give the two different names")
        self.sizes = {n: _pair(n, size) for n, size in (*source_vocab_sizes.items(), *target_vocab_sizes.items())}
        self.domains, self.shared_users = tuple(self.sizes), shared_users
        """Their names; their numbers for the critic are their places."""
        if shared_users and len({users for users, _ in self.sizes.values()}) > 1:
            told = ", ".join(f"{name} {users}" for name, (users, _) in self.sizes.items())
            raise OptionError(f"shared_users: every domain must have the same number of users, got {told}")
        owners = self.domains[:1] if shared_users else self.domains
        self.users = nn.ModuleDict({key(name): Table(self.sizes[name][0], width + 1) for name in owners})
        self.items = nn.ModuleDict({key(name): Table(self.sizes[name][1], width + 1) for name in self.domains})
        self.encoders = nn.ModuleDict({key(name): layers(width, hidden, dropout) for name in self.domains})
        self.mapper = layers(hidden[-1], shared, dropout)
        self.adapters = nn.ModuleDict(
            {
                key(name): nn.Sequential(layers(shared[-1], shared[-1:], dropout), nn.Linear(shared[-1], 1))
                for name in self.domains
            }
        )
        self.critic = Critic(shared[-1], [max(1, shared[-1] // 2)], len(self.domains), dropout)

    def encode_domain(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """A domain's own representation [B, hidden_dims[-1]] of pairs of users [B] and items [B]."""
        encoded, _ = self._encode(domain, user_ids, item_ids)
        return encoded

    def _encode(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        """A domain's own representation, and the biases [B, 1]."""
        name = known(domain, self.domains)
        users, items = self.sizes[name]
        check_ids(user_ids, users, f"user_ids of domain {name!r}")
        check_ids(item_ids, items, f"item_ids of domain {name!r}")
        if len(user_ids) != len(item_ids):
            raise DataError(f"domain {name!r}: {len(user_ids)} user_ids and {len(item_ids)} item_ids: rows are pairs")
        owner = self.domains[0] if self.shared_users else name
        user, item = self.users[key(owner)](user_ids), self.items[key(name)](item_ids)
        product = (1 + user[:, :-1]) * (1 + item[:, :-1])
        return self.encoders[key(name)](product), user[:, -1:] + item[:, -1:]

    def _share(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The shared representation [B, shared_dims[-1]] and the predictions [B, 1]."""
        encoded, biases = self._encode(domain, user_ids, item_ids)
        shared = self.mapper(encoded)
        return shared, self.adapters[key(domain)](shared) + biases

    def predict(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Predictions [B, 1] in any of the domains."""
        return self._share(domain, user_ids, item_ids)[1]

    def forward(
        self,
        source_domain: str,
        target_domain: str,
        source_user_ids: Tensor,
        source_item_ids: Tensor,
        target_user_ids: Tensor,
        target_item_ids: Tensor,
        alpha: float = 1.0,
    ) -> dict[str, Tensor]:
        """For rows of two domains, whose numbers may differ: `source_predictions` [Bs, 1], `target_predictions`
        [Bt, 1], `source_shared` [Bs, S], `target_shared` [Bt, S], and logits over the domains `source_domain_pred`
        [Bs, n], `target_domain_pred` [Bt, n]. `alpha` is the strength of the reversal
        (`crosstask_alignment.reversal_strength` is a schedule); `domain` [2] holds the two domains' numbers.
        """
        source = known(source_domain, self.domains, "source_domain")
        target = known(target_domain, self.domains, "target_domain")
        if source == target:
            raise DataError(f"source_domain and target_domain are both {source!r}")
        outputs: dict[str, Tensor] = {}
        for told, name, user_ids, item_ids in (
            ("source", source, source_user_ids, source_item_ids),
            ("target", target, target_user_ids, target_item_ids),
        ):
            shared, outputs[f"{told}_predictions"] = self._share(name, user_ids, item_ids)
            outputs[f"{told}_shared"] = shared
            outputs[f"{told}_domain_pred"] = self.critic(shared, alpha)
        numbers = [self.domains.index(source), self.domains.index(target)]
        outputs["domain"] = torch.tensor(numbers, device=outputs["source_shared"].device)
        return outputs

    def compute_domain_alignment_loss(
        self, source_shared: Tensor, target_shared: Tensor, *, unbiased: bool = False
    ) -> Tensor:
        """How far the shared representations [Bs, S] and [Bt, S] are apart: `crosstask_alignment.mmd`, with bandwidths
        around the median distance. `unbiased`: 0 in the mean where they are alike, so it may be negative.
        """
        return mmd(source_shared, target_shared, unbiased=unbiased)

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        source_ratings: Tensor | None,
        target_ratings: Tensor | None,
        *,
        lambda_alignment: float = 1.0,
        lambda_domain: float = 1.0,
        unbiased: bool = False,
    ) -> dict[str, Tensor]:
        """What to minimise, by name and with its weight in it: `source` and `target`, the mean squared errors of
        ratings [B] (NaN: not known), `alignment` and `domain`, the critic's cross entropy, of which both domains are
        half. What has no ratings (None) or the weight 0 is left out. Their sum trains all of the network; a balancer
        takes them as they are.
        """
        found: dict[str, Tensor] = {}
        for told, ratings in (("source", source_ratings), ("target", target_ratings)):
            if ratings is not None:
                of_kind(ratings, Tensor, f"{told}_ratings")
                predicted = outputs[f"{told}_predictions"]
                if ratings.numel() != len(predicted):
                    raise DataError(f"{told}_ratings: {ratings.numel()} for {len(predicted)} predictions")
                if not bool(torch.isnan(ratings).all()):
                    found[told] = mse(predicted, ratings)
        for told, weight in (("lambda_alignment", lambda_alignment), ("lambda_domain", lambda_domain)):
            if not structure(weight, float, told) >= 0:
                raise OptionError(f"{told} must be at least 0, got {weight}")
        if lambda_alignment:
            shared = outputs["source_shared"], outputs["target_shared"]
            found["alignment"] = lambda_alignment * self.compute_domain_alignment_loss(*shared, unbiased=unbiased)
        if lambda_domain:
            each = [functional.cross_entropy(outputs[f"{told}_domain_pred"], number.expand(rows))
                    for told, number in zip(("source", "target"), outputs["domain"], strict=True)
                    if (rows := len(outputs[f"{told}_domain_pred"]))]  # fmt: skip
            found["domain"] = lambda_domain * torch.stack(each).mean()
        return found


def _pair(name: str, size: Size) -> tuple[int, int]:
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise OptionError(f"the size of domain {name!r} must be (users, items) or one number, got {size!r}")
        users, items = size
        return size_of(f"users of domain {name!r}", users), size_of(f"items of domain {name!r}", items)
    return (size_of(f"the size of domain {name!r}", size),) * 2
