"""Corruptions: in range, the same for the same generator, worse by severity, and what each is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from crosstask.errors import DataError
from crosstask_alignment.testing import digits
from crosstask_shifted import CORRUPTIONS, Range, corrupted, range_of


def made(name: str, severity: int, inputs: Any = None, known: Range | None = None) -> torch.Tensor:
    given = digits().data("test").inputs[:100] if inputs is None else inputs
    return corrupted(name, given, severity, known or range_of(digits()), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_stays_in_range_and_grows_with_severity(name: str) -> None:
    inputs = digits().data("test").inputs[:100]
    moved = [made(name, severity) for severity in range(1, 6)]
    for each in moved:
        assert each.shape == inputs.shape
        assert each.dtype == inputs.dtype
        assert float(each.min()) >= 0
        assert float(each.max()) <= 1
    far = [float((each - inputs).abs().mean()) for each in moved]
    assert all(0 < a <= b for a, b in itertools.pairwise(far))  # a square of 0.2 and of 0.3 of 8 pixels is one of 2
    assert far[-1] > 1.4 * far[0]
    assert torch.equal(made(name, 3), moved[2])


def test_blur_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    inputs = torch.rand(3, 2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(2, 20, 20, dtype=torch.float64)
    known = Range(flat, flat + 1, flat, flat)
    sigma = 0.06 * 20
    theirs = gaussian_filter(inputs.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=int(np.ceil(3 * sigma)))
    assert np.abs(made("blur", 3, inputs, known).numpy() - theirs).max() < 1e-9


def test_rotation_turns_by_the_angle() -> None:
    spot = torch.zeros(40, 1, 41, 41)
    spot[:, :, 20, 35] = 1.0  # to the right of the middle
    flat = torch.zeros(1, 41, 41)
    turned = made("rotation", 4, spot, Range(flat, flat + 1, flat, flat))  # 45 degrees, to either side
    places = turned.flatten(1).argmax(1)
    rows, columns = (places // 41 - 20).double(), (places % 41 - 20).double()
    angles = torch.rad2deg(torch.atan2(rows, columns))
    assert float((angles.abs() - 45).abs().max()) < 4
    assert {int(a.sign()) for a in angles} == {-1, 1}


def test_contrast_and_inversion_in_closed_form() -> None:
    inputs = digits().data("test").inputs[:50]
    mean = inputs.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(made("contrast", 2, inputs), mean + 0.3 * (inputs - mean), atol=1e-6)
    assert torch.allclose(made("inversion", 5, inputs), 1 - inputs, atol=1e-6)
    assert torch.allclose(made("inversion", 1, inputs), 0.8 * inputs + 0.2 * (1 - inputs), atol=1e-6)


def test_occlusion_hides_one_square() -> None:
    inputs = torch.full((30, 1, 10, 10), 0.9)
    flat = torch.zeros(1, 10, 10)
    hidden = made("occlusion", 3, inputs, Range(flat, flat + 1, flat, flat)) == 0.5
    assert {int(each.sum()) for each in hidden} == {16}  # 4 x 4
    assert len({tuple(each.flatten().tolist()) for each in hidden}) > 5  # anywhere


def test_tables_lose_features_and_have_noise_by_column() -> None:
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01]) + 5
    low, high = rows.amin(0), rows.amax(0)
    known = Range(low, high, rows.mean(0), rows.std(0))
    gone = made("dropout", 2, rows, known) == rows.mean(0)
    assert torch.allclose(gone.double().mean(0), torch.full((3,), 0.2).double(), atol=0.03)
    moved = (made("noise", 5, rows, known) - rows).std(0) / rows.std(0)
    assert torch.allclose(moved, torch.full((3,), 0.38), atol=0.03)
    with pytest.raises(DataError, match=r"shape \(3,\) cannot have the corruption 'blur'"):
        made("blur", 1, rows, known)


def test_bad_names_and_severities_are_told() -> None:
    with pytest.raises(DataError, match="images cannot have the corruption 'rotations'; did you mean 'rotation'"):
        made("rotations", 1)
    for severity in (0, 6):
        with pytest.raises(DataError, match=f"severity is 1 to 5, got {severity}"):
            made("noise", severity)
