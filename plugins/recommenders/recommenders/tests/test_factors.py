"""Factorisations: each step is the exact minimum, by gradients that autograd computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crosstask_recommenders import Interactions, Support, fit_explicit, fit_implicit, item_table
from crosstask_recommenders.factors import Factors, scores, without_own
from crosstask_recommenders.testing import planted


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def explicit_loss(table: Interactions, offset: float, user: Tensor, item: Tensor) -> Tensor:
    own = scores(item, offset, user[table.user], table.item[:, None])[:, 0]
    biases = user[:, 0].square().sum() + item[:, 0].square().sum()
    factors = 2.0 * user[:, 1:].square().sum() + 3.0 * item[:, 1:].square().sum()
    return (own - table.rating).square().sum() + factors + 0.5 * biases


def test_explicit_comes_to_a_minimum() -> None:
    table = planted()
    found = fit_explicit(table, 3, 2.0, 3.0, 300, seeded(), 0.5)
    user, item = (each.clone().requires_grad_() for each in (found.user, found.item))
    explicit_loss(table, found.offset, user, item).backward()
    assert user.grad is not None
    assert item.grad is not None
    assert float(user.grad[1:].abs().max()) < 1e-3
    assert float(item.grad[1:].abs().max()) < 1e-8  # the last step is theirs: exactly


def test_implicit_comes_to_a_minimum() -> None:
    table = planted("implicit")
    found = fit_implicit(table, 3, 2.0, 3.0, 5.0, 300, seeded())
    user, item = (each.clone().requires_grad_() for each in (found.user, found.item))
    whole = torch.zeros(table.users + 1, table.items + 1, dtype=torch.float64)
    whole[table.user, table.item] = 1
    weight = 1 + 5.0 * whole
    away = (whole - user[:, 1:] @ item[:, 1:].T)[1:, 1:]
    loss = (weight[1:, 1:] * away.square()).sum() + 2.0 * user.square().sum() + 3.0 * item.square().sum()
    loss.backward()
    assert user.grad is not None
    assert item.grad is not None
    assert float(user.grad[1:].abs().max()) < 1e-3
    assert float(item.grad[1:].abs().max()) < 1e-8


@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_a_new_user_is_what_a_known_one_is(feedback: str) -> None:
    """With all of a known user's rows for a support set, users with more rows beside it in the batch."""
    table = planted(feedback)
    fit = fit_explicit if feedback == "explicit" else fit_implicit
    given = (2.0, 3.0) if feedback == "explicit" else (2.0, 3.0, 5.0)
    found = fit(table, 3, *given, 400, seeded())  # type: ignore[operator]
    new = found.users_of(Support.rows_of(table))
    assert torch.allclose(new, found.user[1:], atol=1e-4)


@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_an_item_without_a_row_is_the_item_of_the_table_without_it(feedback: str) -> None:
    table, weight = planted(feedback), 0.0 if feedback == "explicit" else 5.0
    fit = fit_explicit if feedback == "explicit" else fit_implicit
    found = fit(table, 3, *((2.0, 3.0) if not weight else (2.0, 3.0, weight)), 4, seeded())  # type: ignore[operator]
    made = without_own(table, found, 3.0)
    row = 17
    rest = table.take(torch.arange(len(table)) != row)
    rows = rest.item == table.item[row]
    design = found.user[rest.user[rows]].numpy().copy()
    if weight:
        every = found.user[:, 1:].numpy()
        gram = every.T @ every + weight * design[:, 1:].T @ design[:, 1:] + 3.0 * np.eye(3)
        wanted = np.concatenate([[0.0], np.linalg.solve(gram, (1 + weight) * design[:, 1:].sum(0))])
    else:
        left = rest.rating[rows].double().numpy() - found.offset - design[:, 0]
        design[:, 0] = 1
        wanted = np.linalg.solve(design.T @ design + 3.0 * np.eye(4), design.T @ left)
    assert np.allclose(made[row].numpy(), wanted)


def test_features_are_standard_over_the_rows_and_hold_side_information() -> None:
    table = planted()
    plain = item_table(table, 3, seeded())
    assert torch.allclose(plain.own_features.mean(0), torch.zeros(5), atol=1e-4)
    assert torch.allclose(plain.own_features.std(0, correction=0), torch.ones(5), atol=1e-3)
    side = torch.arange(table.items + 1.0)[:, None]
    wide = item_table(Interactions.of(table.user, table.item, table.rating, item_features=side), 3, seeded())
    assert wide.features.shape == (table.items + 1, 6)
    assert torch.allclose(wide.features[:, :5], plain.features, atol=1e-4)
    assert isinstance(fit_explicit(table, 1, 1.0, 1.0, 1, seeded()), Factors)
