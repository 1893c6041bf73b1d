"""The component over the base's mmd."""

from __future__ import annotations

import pytest
import torch

from crosstask.errors import CrosstaskError, DataError
from crosstask_alignment import mmd
from crosstask_mmd import MMD

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
DOMAIN = torch.arange(30) % 3
Y = X + DOMAIN[:, None]


def test_it_is_the_mean_over_pairs_unbiased_by_default() -> None:
    parts = [Y[number == DOMAIN] for number in range(3)]
    wanted = torch.stack([mmd(parts[a], parts[b], unbiased=True) for a, b in ((0, 1), (0, 2), (1, 2))]).mean()
    assert float(MMD().loss(Y, DOMAIN)) == pytest.approx(float(wanted), rel=1e-6)


def test_its_options_are_those_of_mmd() -> None:
    two = DOMAIN < 2
    wanted = mmd(Y[DOMAIN == 0], Y[DOMAIN == 1], [0.5, 2.0], unbiased=False)
    assert float(MMD(bandwidths=[0.5, 2.0], unbiased=False).loss(Y[two], DOMAIN[two])) == pytest.approx(float(wanted))
    with pytest.raises(CrosstaskError, match="bandwidths must be finite"):
        MMD(bandwidths=[float("inf")])
    with pytest.raises(CrosstaskError, match="bandwidths must be > 0"):
        MMD(bandwidths=[0.0])


def test_a_row_of_a_domain_is_too_few() -> None:
    with pytest.raises(DataError, match="1 row of domain 1 in the batch; it needs at least 2 rows of each domain"):
        MMD().loss(Y[:3], torch.tensor([0, 0, 1]))
