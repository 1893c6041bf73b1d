"""CORAL in closed form, beside numpy's covariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crosstask.errors import DataError
from crosstask_coral import CORAL, coral_loss


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_diagonal_case_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # covariance [[2, 0], [0, 0]]
    y = torch.tensor([[0.0, 3.0], [0.0, -3.0]])  # covariance [[0, 0], [0, 18]]
    assert float(coral_loss(x, y)) == pytest.approx((2**2 + 18**2) / (4 * 2**2))


def test_it_is_the_difference_of_numpys_covariances() -> None:
    x, y = rows(9, 4, 0), 2 * rows(7, 4, 1) + 3
    apart = np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)
    assert float(coral_loss(x, y)) == pytest.approx((apart**2).sum() / 64, rel=1e-12)


def test_the_gradient_is_that_of_the_paper() -> None:
    """Equation 4 of Sun and Saenko 2016, the symmetric part written out."""
    x, y = rows(9, 4, 0).requires_grad_(), rows(7, 4, 1)
    (found,) = torch.autograd.grad(coral_loss(x, y), x)
    apart = torch.tensor(np.cov(x.detach().numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False))
    wanted = (x.detach() - x.detach().mean(0)) @ apart / (4**2 * 8)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_features_far_from_the_origin_keep_their_covariance() -> None:
    x, y = rows(50, 3, 0), 2 * rows(50, 3, 1)
    far = coral_loss((x + 3000).float(), (y + 3000).float())
    assert float(far) == pytest.approx(float(coral_loss(x, y)), rel=1e-2)


def test_means_count_only_if_wanted() -> None:
    x, domain = rows(20, 3, 0).float(), torch.arange(20) // 10
    shifted = torch.where(domain[:, None] == 1, x + 2, x)
    assert float(CORAL().loss(shifted, domain)) == pytest.approx(float(CORAL().loss(x, domain)), rel=1e-4)
    apart = (shifted[:10].mean(0) - shifted[10:].mean(0)).square().mean() / 4
    more = float(CORAL(means=True).loss(shifted, domain) - CORAL().loss(shifted, domain))
    assert more == pytest.approx(float(apart), rel=1e-4)


def test_what_has_no_covariance() -> None:
    with pytest.raises(DataError, match="a covariance needs at least 2 rows, got 1 of y"):
        coral_loss(rows(3, 2, 0), rows(1, 2, 0))
    with pytest.raises(DataError, match="rows of 2 features cannot be compared with rows of 3"):
        coral_loss(rows(3, 2, 0), rows(3, 3, 0))
    with pytest.raises(DataError, match="at least 2 rows of each domain"):
        CORAL().loss(rows(3, 2, 0), torch.tensor([0, 0, 1]))
