"""Matrix factorisation by alternating least squares: each step is the exact minimum; a new user is one step more."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from crosstask_recommenders.support import Interactions, Support


@attrs.frozen(eq=False)
class Factors:
    """What a factorisation found: `offset`, vectors of items [items + 1, 1 + d] (bias first) and of users
    [users + 1, 1 + d]. Row 0, of the unknown, is zeros. `user_decay` is the ridge of a user's step, `weight` what an
    observed pair weighs beside one that is not (implicit; 0: only what is observed counts), `bias_decay` the ridge of
    biases where it is another (explicit).
    """

    offset: float
    item: Tensor
    user: Tensor
    user_decay: float
    weight: float = 0.0
    bias_decay: float | None = None

    def users_of(self, support: Support) -> Tensor:
        """Vectors [B, 1 + d] of new users: the minimum of their own part of the objective."""
        return new_users(self.item, self.offset, self.user_decay, self.weight, support, self.bias_decay)


def new_users(
    item: Tensor, offset: float, decay: float, weight: float, support: Support, bias_decay: float | None = None
) -> Tensor:
    """Vectors [B, 1 + d] of users by their support, see `Factors`."""
    known = item[support.items] * support.mask[..., None]
    if weight:
        rows = known[..., 1:]
        gram = item[:, 1:].T @ item[:, 1:] + weight * rows.mT @ rows
        made = _solved(gram, (1 + weight) * rows.sum(1), decay)
        return torch.cat([made.new_zeros(len(made), 1), made], dim=1)
    design = torch.cat([torch.ones_like(known[..., :1]), known[..., 1:]], dim=2) * support.mask[..., None]
    left = (support.ratings.to(item) - offset - item[support.items][..., 0]) * support.mask
    ridge = _ridge(decay, bias_decay, design)
    return _solved(design.mT @ design, (design * left[..., None]).sum(1), ridge)


def scores(item: Tensor, offset: float, users: Tensor, items: Tensor) -> Tensor:
    """offset + b_u + b_i + p_u·q_i [B, K] of user vectors [B, 1 + d] and items [B, K]."""
    own = item[items]
    return offset + users[:, None, 0] + own[..., 0] + (own[..., 1:] * users[:, None, 1:]).sum(-1)


def _ridge(decay: float, bias_decay: float | None, like: Tensor) -> Tensor:
    """The ridge [1 + d] of a vector, its bias first."""
    made = like.new_full(like.shape[-1:], decay)
    made[0] = decay if bias_decay is None else bias_decay
    return made


def _solved(gram: Tensor, right: Tensor, decay: float | Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve(
        gram + decay * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), right
    )
    return found


def _sums(design: Tensor, target: Tensor, where: Tensor, count: int, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """(Σ z zᵀ [count, k, k], Σ z y [count, k]) of the rows z [N, k] of each place."""
    size = design.shape[1]
    gram, right = design.new_zeros(count, size, size), design.new_zeros(count, size)
    for rows in torch.split(torch.arange(len(design)), 1 << 16):  # outer products of a part at a time
        own = design[rows]
        gram.index_add_(0, where[rows], weight * own[:, :, None] * own[:, None, :])
    right.index_add_(0, where, design * target[:, None])
    return gram, right


def _ones(vectors: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(vectors[:, :1]), vectors[:, 1:]], dim=1)


def fit_explicit(
    table: Interactions, factors: int, user_decay: float, item_decay: float, sweeps: int, generator: torch.Generator,
    bias_decay: float | None = None,
) -> Factors:  # fmt: skip
    """The factorisation r ≈ μ + b_u + b_i + p_u·q_i of a table of ratings (Koren, Bell, Volinsky 2009, Computer 42(8)).

    Minimises Σ (r - μ - b_u - b_i - p_u·q_i)² + `user_decay` Σ (b_u² + |p_u|²) + `item_decay` Σ (b_i² + |q_i|²) over
    users and items in turn, `sweeps` times, from small random q; with `bias_decay` for the biases of both.
    """
    offset, rating = float(table.rating.double().mean()), table.rating.double()
    item = torch.randn(table.items + 1, 1 + factors, generator=generator, dtype=torch.float64) / math.sqrt(10)
    item[:, 0], item[0] = 0, 0
    user = torch.zeros(table.users + 1, 1 + factors, dtype=torch.float64)
    for _ in range(sweeps):
        for mine, other, own, others, decay in (
            (user, item, table.user, table.item, user_decay), (item, user, table.item, table.user, item_decay),
        ):  # fmt: skip
            gram, right = _sums(_ones(other[others]), rating - offset - other[others, 0], own, len(mine))
            mine.copy_(_solved(gram, right, _ridge(decay, bias_decay, right)))
            mine[0] = 0
    return Factors(offset, item, user, user_decay, bias_decay=bias_decay)


def without_own(table: Interactions, found: Factors, item_decay: float) -> Tensor:
    """Vectors [N, 1 + d] of the item of each row as its last step finds them without that row: what a user's rating
    says of the item is not in them (but for what it says through the user's own vector).
    """
    user, where, weight = found.user, table.item, found.weight
    if weight:
        rows = user[table.user][:, 1:]
        gram, right = _sums(
            rows, (1 + weight) * torch.ones(len(rows), dtype=rows.dtype), where, len(found.item), weight
        )
        gram = gram + user[:, 1:].T @ user[:, 1:]
        made = _without(gram, right, where, rows, (1 + weight) * rows, item_decay, weight)
        return torch.cat([made.new_zeros(len(made), 1), made], dim=1)
    design = _ones(user[table.user])
    target = table.rating.double() - found.offset - user[table.user, 0]
    gram, right = _sums(design, target, where, len(found.item))
    return _without(gram, right, where, design, design * target[:, None], _ridge(item_decay, found.bias_decay, design))


def _without(
    gram: Tensor, right: Tensor, where: Tensor, design: Tensor, own: Tensor, ridge: float | Tensor, weight: float = 1.0
) -> Tensor:
    """The solution for the place of each row without that row's part of the sums, some rows at a time."""
    made = torch.empty_like(own)
    for rows in torch.split(torch.arange(len(own)), 1 << 14):
        z = design[rows]
        left = gram[where[rows]] - weight * z[:, :, None] * z[:, None, :]
        made[rows] = _solved(left, right[where[rows]] - own[rows], ridge)
    return made


def fit_implicit(
    table: Interactions, factors: int, user_decay: float, item_decay: float, weight: float, sweeps: int,
    generator: torch.Generator,
) -> Factors:  # fmt: skip
    """The factorisation of Hu, Koren, Volinsky (2008, ICDM): every pair counts, 1 where it is in the table with the
    weight 1 + `weight`, and 0 elsewhere with the weight 1; no biases.
    """
    item = torch.randn(table.items + 1, 1 + factors, generator=generator, dtype=torch.float64) / math.sqrt(10 * factors)
    item[:, 0], item[0] = 0, 0
    user = torch.zeros(table.users + 1, 1 + factors, dtype=torch.float64)
    for _ in range(sweeps):
        for mine, other, own, others, decay in (
            (user, item, table.user, table.item, user_decay), (item, user, table.item, table.user, item_decay),
        ):  # fmt: skip
            rows = other[others][:, 1:]
            ones = (1 + weight) * torch.ones(len(rows), dtype=rows.dtype)
            gram, right = _sums(rows, ones, own, len(mine), weight)
            mine[:, 1:] = _solved(gram + other[:, 1:].T @ other[:, 1:], right, decay)
            mine[0] = 0
    return Factors(0.0, item, user, user_decay, weight)
