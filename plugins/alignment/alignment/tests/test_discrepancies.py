"""The maximum mean discrepancy, beside its definition written out, and without the faults of the usual form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from crosstask.errors import CrosstaskError, DataError
from crosstask_alignment import mmd, squared_distances


def rows(count: int, width: int, seed: int, *, spread: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, width, generator=generator, dtype=torch.float64) + shift


def by_definition(x: Tensor, y: Tensor, widths: list[float], unbiased: bool) -> float:
    """Equations 3 and 5 of Gretton et al. 2012, pair by pair."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(np.mean([math.exp(-float((a - b).square().sum()) / (2 * s**2)) for s in widths]))

    def mean(one: Tensor, other: Tensor, apart: bool) -> float:
        return float(
            np.mean([kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if not (apart and i == j)])
        )

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


@pytest.mark.parametrize("unbiased", [False, True])
def test_it_is_the_definition(unbiased: bool) -> None:
    x, y = rows(7, 3, 0), rows(5, 3, 1, shift=0.5)
    assert float(mmd(x, y, [0.5, 1.5], unbiased)) == pytest.approx(by_definition(x, y, [0.5, 1.5], unbiased), abs=1e-12)
    assert float(mmd(x, y, 2.0, unbiased)) == pytest.approx(by_definition(x, y, [2.0], unbiased), abs=1e-12)


def test_bandwidths_are_around_the_median_distance() -> None:
    x, y = rows(6, 3, 0), rows(6, 3, 1, shift=1)
    both = torch.cat([x, y]).numpy()
    distances = [float(np.linalg.norm(a - b)) for i, a in enumerate(both) for b in both[i + 1 :]]
    middle = sorted(distances)[(len(distances) - 1) // 2]  # torch takes the lower of two
    widths = [middle * factor for factor in (0.25, 0.5, 1, 2, 4)]
    assert float(mmd(x, y)) == pytest.approx(by_definition(x, y, widths, False), abs=1e-12)


def test_scale_and_place_of_the_features_change_nothing() -> None:
    x, y = rows(20, 4, 0), rows(20, 4, 1, shift=1)
    assert float(mmd(100 * x + 7, 100 * y + 7)) == pytest.approx(float(mmd(x, y)), rel=1e-9)


def test_spread_features_get_a_gradient_unlike_those_of_one_fixed_bandwidth() -> None:
    x, y = rows(40, 32, 0, spread=10).requires_grad_(), rows(40, 32, 1, spread=10, shift=5)
    (fixed,) = torch.autograd.grad(mmd(x, y, 1.0), x)
    (ours,) = torch.autograd.grad(mmd(x, y), x)
    assert float(fixed.abs().max()) < 1e-100
    assert float(ours.norm()) > 1e-4


def test_equal_distributions_are_told_from_far_ones_in_32_dimensions() -> None:
    equal = [float(mmd(rows(20, 32, 2 * n), rows(20, 32, 2 * n + 1), unbiased=True)) for n in range(30)]
    far = [float(mmd(rows(20, 32, 2 * n), rows(20, 32, 2 * n + 1, shift=3), unbiased=True)) for n in range(5)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / math.sqrt(len(equal))  # none in the mean
    assert min(equal) < 0 < min(far)
    assert min(far) > 20 * max(map(abs, equal))


def test_a_kernel_is_never_above_one_far_from_the_origin() -> None:
    x = rows(30, 32, 0, spread=1e-3).float() + 1000
    distances = squared_distances(x, x)
    assert float(distances.min()) >= 0  # so that no exp(-d²) is above 1
    assert float(mmd(x, x)) == pytest.approx(0, abs=1e-6)
    assert 0 <= float(mmd(x[:15], x[15:], 0.1)) <= 2


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    x, y = rows(30, 8, 0, shift=1000), rows(20, 8, 1, shift=1000)
    wanted = torch.cdist(x, y).square()
    assert torch.allclose(squared_distances(x.float(), y.float()).double(), wanted, rtol=2e-3)
    assert torch.allclose(squared_distances(x, y), wanted, rtol=1e-9)


def test_it_can_be_differentiated_twice() -> None:
    x, y = rows(5, 2, 0).requires_grad_(), rows(4, 2, 1)
    assert torch.autograd.gradgradcheck(lambda a: mmd(a, y, [0.7, 2.0]), x)


def test_half_precision_is_taken_in_float32() -> None:
    x, y = rows(20, 4, 0).bfloat16(), rows(20, 4, 1, shift=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd(x, y)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(mmd(x.float(), y.float())), rel=1e-6)


def test_rows_that_are_all_the_same() -> None:
    same = torch.ones(4, 3)
    assert float(mmd(same, same)) == 0
    assert float(mmd(same, same, unbiased=True)) == 0


@pytest.mark.parametrize(
    ("x", "y", "bandwidths", "unbiased", "message"),
    [
        (torch.ones(1, 2), torch.ones(5, 2), None, True, "unbiased mmd needs at least 2 rows of each .*, got 1 of x"),
        (torch.ones(2, 2), torch.ones(0, 2), None, False, "mmd needs at least 1 rows of each sample, got 0 of y"),
        (torch.ones(2, 2), torch.ones(2, 3), None, False, "rows of 2 features cannot be compared with rows of 3"),
        (torch.ones(2), torch.ones(2, 2), None, False, r"rows \[N, F\], got torch.float32 of shape \(2,\)"),
        (torch.ones(2, 2).long(), torch.ones(2, 2), None, False, "got torch.int64"),
        (torch.ones(2, 2), torch.ones(2, 2), [1.0, 0.0], False, r"positive numbers, at least one, got \(1.0, 0.0\)"),
        (torch.ones(2, 2), torch.ones(2, 2), [], False, "at least one"),
    ],
)
def test_what_cannot_be_compared(x: Tensor, y: Tensor, bandwidths: object, unbiased: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mmd(x, y, bandwidths, unbiased)  # type: ignore[arg-type]


def test_what_is_no_tensor() -> None:
    with pytest.raises(CrosstaskError, match="features x"):
        mmd([[1.0]], torch.ones(2, 2))  # type: ignore[arg-type]
