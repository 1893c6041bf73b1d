"""Recommenders whose users are tasks of a meta-learner, on features of items that the training users give."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes
from crosstask.learning.modules import seeded
from crosstask.options import component, option
from crosstask_meta_recommenders.faces import (
    MAMLRecommender,
    PrototypicalNetworkRecommender,
    ReptileRecommender,
)
from crosstask_recommenders import Interactions, ItemTable, Recommender, Support, check_items, item_table


class Users(nn.Module):
    """What is learned: features [items + 1, F] and expected ratings [items + 1] of items, the network of a user."""

    features: Tensor
    prior: Tensor
    scale: Tensor
    rest: Tensor
    anchors: Tensor
    values: Tensor

    def __init__(self, face: Any, implicit: bool, **kept: Tensor) -> None:
        super().__init__()
        self.face, self.implicit = face, implicit
        for name, tensor in kept.items():
            self.register_buffer(name, tensor)


@attrs.frozen(eq=False)
class Rows:
    """Features [B, S, F], targets [B, S] and mask [B, S] of a side of episodes."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor

    def beside(self, other: Rows) -> Rows:
        """Both, for the same users."""
        mine, theirs = (self.inputs, self.targets, self.mask), (other.inputs, other.targets, other.mask)
        return Rows(*(torch.cat([one, two], dim=1) for one, two in zip(mine, theirs, strict=True)))


@component
class MetaUsers(Recommender):
    """Base of the recommenders that learn from users as tasks.

    An item is described by the factors, the bias and the popularity that a factorisation of the training table finds,
    and by the table's side information; a user's network maps that to how far the rating lies from the expected one
    (of implicit feedback: to whether the item was taken, beside sampled negatives). In training the description of
    a rated item is made without that rating.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit", "implicit"})

    factors: int = option(16, ge=1, help="numbers that describe an item, beside bias, popularity and side information")
    item_decay: float = option(5.0, gt=0, help="ridge of the factorisation that describes items")
    hidden_dims: tuple[int, ...] = option((64,), ge=1, help="widths of the network")
    dropout_rate: float = option(0.0, ge=0, lt=1, help="of the network")
    steps: int = option(600, ge=1, help="meta-steps")
    meta_batch: int = option(64, ge=1, help="users of a meta-step")
    support: int = option(10, ge=1, help="support ratings of a training user, at most; their number is drawn")
    queries: int = option(10, ge=1, help="queries of a training user, at most")
    negatives: int = option(4, ge=1, help="implicit: for each support rating and query")

    @abstractmethod
    def _face(self, inputs: int, ways: int | None) -> Any:
        """The recommender of vectors with so many features, for ratings (None) or so many classes."""

    def _prepared(self, targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(targets of rows as the learner takes them, anchors [C, F], the value of each class [C]) from how far
        ratings lie from what is expected, [N], and their features [N, F]. Without classes the last two are empty.
        """
        return targets, features[:0], targets[:0]

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        table, generator = interactions, self.context.generator("meta users")
        implicit = table.feedback == "implicit"
        told = _at_unit_length(item_table(table, self.factors, generator, item_decay=self.item_decay))
        scale = (table.rating - told.own_prior).std(correction=0).clamp_min(1e-6)
        if implicit:
            targets, anchors, values = (
                torch.ones(len(table), dtype=torch.long),
                self._anchors(told, table),
                torch.empty(0),
            )
        else:
            targets, anchors, values = self._prepared((table.rating - told.own_prior) / scale, told.own_features)
        rest = torch.randint(1, table.items + 1, (self.support * self.negatives,), generator=generator)
        with seeded(self.context.seed_for("meta users", "network")):
            ways = 2 if implicit else len(values) or None
            face = self._face(told.features.shape[1], ways)
        kept = {"features": told.features, "prior": told.prior, "scale": scale, "rest": rest}
        model = Users(face, implicit, anchors=anchors, values=values, **kept)
        draw = _Draw(table, told.own_features, targets, model, generator, self)
        face.train()
        for _ in range(self.steps):
            face.learner.meta_train_step(draw.episodes(ways))
        model.eval()
        return model

    def _anchors(self, told: ItemTable, table: Interactions) -> Tensor:
        return told.features[:0]

    @torch.no_grad()
    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Users, model)
        for asked in (items, support.items[support.mask]):
            check_items(asked, len(made.features) - 1, self.origin)
        known = torch.where(support.mask, support.items, 0)
        values = (support.ratings - made.prior[known]) / made.scale
        side = Rows(made.features[known], self._targets(made, values), support.mask)
        if made.implicit:
            side = side.beside(self._negative(made, known, support.mask))
        side = _anchored(side, made)
        asked = made.features[items]
        ways = 2 if made.implicit else len(made.values) or None
        blank = side.targets.new_zeros(items.shape)
        episodes = Episodes(side.inputs, side.targets, asked, blank, ways, side.mask, torch.ones_like(items).bool())
        outputs = made.face.learner.predict(episodes)
        return self._answer(made, outputs, items)

    def _targets(self, model: Users, values: Tensor) -> Tensor:
        """Targets of support ratings that lie so far from what is expected."""
        return torch.ones_like(values, dtype=torch.long) if model.implicit else values

    def _negative(self, model: Users, known: Tensor, mask: Tensor) -> Rows:
        """Items of the same list for every user that the user's support set does not hold, so many for each of it."""
        items = model.rest[None].expand(len(known), -1)
        free = ~(items[:, :, None] == torch.where(mask, known, 0)[:, None, :]).any(2)
        there = free & (free.cumsum(1) <= self.negatives * mask.sum(1)[:, None])
        return Rows(model.features[items], torch.zeros_like(items), there)

    def _answer(self, model: Users, outputs: Tensor, items: Tensor) -> Tensor:
        """Scores [B, K] from outputs [B, K, …]."""
        if model.implicit:
            return outputs[..., 1] - outputs[..., 0]
        return model.prior[items] + model.scale * outputs[..., 0]


def _at_unit_length(told: ItemTable) -> ItemTable:
    """The same features, of length 1 on average: the size of a gradient step does not depend on their number."""
    length = told.features.shape[1] ** 0.5
    return attrs.evolve(told, features=told.features / length, own_features=told.own_features / length)


class _Draw:
    """Draws training users, and of each some support ratings and queries."""

    def __init__(
        self, table: Interactions, features: Tensor, targets: Tensor, model: Users, generator: torch.Generator,
        sizes: MetaUsers,
    ) -> None:  # fmt: skip
        self.table, self.features, self.targets = table, features, targets
        self.model, self.generator, self.sizes = model, generator, sizes
        users, self.order, starts = table.by_user()
        counts = starts[1:] - starts[:-1]
        several = counts > 1
        if not bool(several.any()):
            raise DataError(f"{sizes.origin}: no user has two ratings: one is the support of the other")
        if model.implicit:  # of whoever has every item there is no negative
            several &= ~table.has_all(users)
            if not bool(several.any()):
                raise DataError(f"{sizes.origin}: every user of two items has every item: there are no negatives")
        self.users, self.starts, self.counts = users[several], starts[:-1][several], counts[several]

    def episodes(self, ways: int | None) -> Episodes:
        sizes, generator = self.sizes, self.generator
        chosen = torch.randint(0, len(self.users), (sizes.meta_batch,), generator=generator)
        counts, starts = self.counts[chosen], self.starts[chosen]
        keys = torch.rand(len(chosen), int(counts.max()), generator=generator)
        keys = keys.masked_fill(torch.arange(keys.shape[1]) >= counts[:, None], 2.0)
        wide = min(keys.shape[1], sizes.support + sizes.queries)
        places = keys.argsort(dim=1)[:, :wide]
        most = torch.minimum(counts - 1, torch.tensor(sizes.support))
        support = 1 + (torch.rand(len(chosen), generator=generator) * most).long().clamp_max(most - 1)
        at = torch.arange(wide)
        rows = self.order[(starts[:, None] + places).clamp_max(len(self.order) - 1)]
        known = at < support[:, None]
        asked = (at >= support[:, None]) & (at < torch.minimum(counts, support + sizes.queries)[:, None])
        inputs, targets = self.features[rows], self.targets[rows]
        first = Rows(inputs[:, : sizes.support], targets[:, : sizes.support], known[:, : sizes.support])
        second = Rows(inputs, targets, asked)
        if self.model.implicit:
            count = sizes.negatives * (sizes.support + sizes.queries)
            left = int(self.table.left(self.users[chosen]).min())
            drawn = self.table.negatives(self.users[chosen], min(count, left), generator)
            own = torch.arange(drawn.shape[1])
            near = own < sizes.negatives * support[:, None]
            far = ~near & (own < sizes.negatives * (support + asked.sum(1))[:, None])
            made = self.model.features[drawn], torch.zeros_like(drawn)
            first, second = first.beside(Rows(*made, near)), second.beside(Rows(*made, far))
        first = _anchored(first, self.model)
        return Episodes(first.inputs, first.targets, second.inputs, second.targets, ways, first.mask, second.mask)


def _anchored(rows: Rows, model: Users) -> Rows:
    """With the anchors as support samples more: one of each class, or, of ratings, some that are as expected."""
    anchors, users = len(model.anchors), len(rows.inputs)
    if not anchors:
        return rows
    labels = (torch.arange(anchors) if rows.targets.dtype == torch.long else torch.zeros(anchors)).expand(users, -1)
    return rows.beside(Rows(model.anchors.expand(users, -1, -1), labels, torch.ones_like(labels, dtype=torch.bool)))


@component
class _Steps(MetaUsers):
    """Base of those that adapt by gradient steps."""

    inner_steps: int = option(5, ge=1, help="gradient steps of a user")
    expected: int = option(3, ge=0, help="explicit: ratings of an average item, as expected, beside those of a user")

    def _prepared(self, targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors are the average item, so that one rating moves a user less far than ten do."""
        return targets, torch.zeros(self.expected, features.shape[1]), targets[:0]


@component
class MAMLUsers(_Steps):
    """A network of items' features from whose weights a few gradient steps on a user's ratings lead to one that is the
    user's own (MAML; for recommendation MeLU, Lee et al. 2019).
    """

    lr_inner: float = option(0.2, gt=0, help="step size of a user's gradient steps")
    lr_meta: float = option(0.003, gt=0, help="step size of the meta-steps (Adam)")

    def _face(self, inputs: int, ways: int | None) -> Any:
        return MAMLRecommender(
            inputs, self.hidden_dims, ways or 1, self.lr_meta, self.lr_inner, self.dropout_rate,
            num_inner_steps=self.inner_steps,
        )  # fmt: skip


@component
class ReptileUsers(_Steps):
    """The same with weights that move toward those which training on each user leads to (Reptile)."""

    lr_inner: float = option(0.05, gt=0, help="step size of a user's gradient steps")
    lr_meta: float = option(0.1, gt=0, le=1, help="part of the way to the mean of the users' weights")

    def _face(self, inputs: int, ways: int | None) -> Any:
        return ReptileRecommender(
            inputs, self.hidden_dims, ways or 1, self.lr_meta, self.lr_inner, self.dropout_rate,
            num_inner_steps=self.inner_steps,
        )  # fmt: skip


@component
class PrototypeUsers(MetaUsers):
    """Classes of items as means of the user's own in a space of features (prototypical networks): `levels` of ratings,
    by how far they lie from what is expected of the item, or taken and not.

    Each class has one anchor, the mean description of its training rows, as a support sample more: a user without
    ratings of a class has a prototype of it all the same. A rating is the mean of the levels by their probabilities.
    """

    lr_meta: float = option(0.003, gt=0, help="step size of the meta-steps (Adam)")
    levels: int = option(3, ge=2, help="classes of explicit ratings, equally large")
    embedding_dim: int = option(32, ge=1, help="of the space of features")

    def _face(self, inputs: int, ways: int | None) -> Any:
        return PrototypicalNetworkRecommender(
            inputs, self.embedding_dim, self.hidden_dims, self.dropout_rate, lr_meta=self.lr_meta
        )

    def _prepared(self, targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        labels = (targets.argsort(stable=True).argsort(stable=True) * self.levels) // len(targets)
        classes = range(self.levels)
        anchors = torch.stack([features[labels == number].mean(0) for number in classes])
        return labels, anchors, torch.stack([targets[labels == number].mean() for number in classes])

    def _anchors(self, told: ItemTable, table: Interactions) -> Tensor:
        return torch.stack([told.features[1:].mean(0), told.own_features.mean(0)])

    def _targets(self, model: Users, values: Tensor) -> Tensor:
        if model.implicit:
            return super()._targets(model, values)
        edges = (model.values[1:] + model.values[:-1]) / 2
        return torch.bucketize(values, edges)

    def _answer(self, model: Users, outputs: Tensor, items: Tensor) -> Tensor:
        if model.implicit:
            return super()._answer(model, outputs, items)
        return model.prior[items] + model.scale * (outputs.exp() @ model.values)
