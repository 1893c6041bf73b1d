"""The ridge regression and its leave-one-out figures against scikit-learn and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from crosstask.errors import DataError
from crosstask_knowledge_composition import stitching
from crosstask_knowledge_composition.stitching import stitch


@given(st.integers(0, 10**6), st.sampled_from([3, 12, 40]))
@settings(max_examples=6, deadline=None)
def test_weights_and_what_is_carried(seed: int, width: int) -> None:
    """For fewer features than samples and for more; the penalty is the one that scikit-learn does best with."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, width)) * rng.uniform(0.1, 3, width) + 5
    y = x @ rng.normal(size=(width, 2)) + rng.normal(size=(20, 2))
    largest = float(np.linalg.svd(x - x.mean(0))[1].max() ** 2)

    def missed(strength: float) -> np.ndarray:
        wrong = np.zeros((20, 2))
        for n in range(20):
            rest = np.arange(20) != n
            wrong[n] = y[n] - Ridge(strength * largest).fit(x[rest], y[rest]).predict(x[n : n + 1])[0]
        return (wrong**2).sum(0)

    alone = sum((y[n] - y[np.arange(20) != n].mean(0)) ** 2 for n in range(20))
    best = min(stitching.STRENGTHS, key=lambda s: float((missed(s) / alone).sum()))
    found = stitch(torch.tensor(x), torch.tensor(y))
    fitted = Ridge(best * largest).fit(x, y)
    np.testing.assert_allclose(found.weight, fitted.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bias, fitted.intercept_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.carried, np.clip(1 - missed(best) / alone, 0, 1), atol=1e-6)


def test_a_linear_head_behind_stitched_features_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "STRENGTHS", (1e-3,))
    generator = torch.Generator().manual_seed(0)
    f, g = (torch.randn(50, k, generator=generator, dtype=torch.float64) for k in (6, 9))
    head = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    direct, through = stitch(f, g @ head), stitch(f, g)
    torch.testing.assert_close(direct.weight, head.T @ through.weight)
    torch.testing.assert_close(direct.bias, head.T @ through.bias)


def test_a_map_that_is_there_is_found_and_noise_is_not_carried() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = torch.cat([x @ torch.randn(4, 2, generator=generator) + 1, torch.randn(200, 1, generator=generator)], dim=1)
    found = stitch(x, y)
    assert found.carried[:2].min() > 0.999
    assert found.carried[2] < 0.05
    constant = stitch(x, torch.full((200, 1), 3.0))
    torch.testing.assert_close(constant.bias, torch.tensor([3.0], dtype=torch.float64))
    with pytest.raises(DataError, match="at least 4 inputs that both have seen, got 3"):
        stitch(x[:3], y[:3])
