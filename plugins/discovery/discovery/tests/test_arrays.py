"""What estimators take: tensors or arrays of any kind, checked."""

import numpy as np
import pytest
import torch

from crosstask.errors import DataError
from crosstask_discovery.arrays import (
    View,
    centred,
    class_numbers,
    features_and_labels,
    left_spectrum,
    matrix,
    one_hot,
    scaled,
    targets,
    view,
)


def test_rows_are_flattened_in_float64() -> None:
    given = torch.arange(24, dtype=torch.bfloat16, requires_grad=True).reshape(2, 3, 4)
    assert matrix(given).dtype == np.float64
    assert matrix(given).tolist() == np.arange(24.0).reshape(2, 12).tolist()
    for wrong in (np.zeros((0, 3)), np.float64(2.0)):
        with pytest.raises(DataError, match="one row per sample"):
            matrix(wrong)
    with pytest.raises(DataError, match="outputs hold NaN or infinite values"):
        matrix([[1.0, np.inf]], "outputs")


def test_labels_are_numbered_without_gaps() -> None:
    rows, numbers = features_and_labels([[4.0, -8.0], [2.0, 0.0]], torch.tensor([7.0, 3.0]))
    assert rows.tolist() == [[0.5, -1.0], [0.25, 0.0]]
    assert numbers.tolist() == [1, 0]
    with pytest.raises(DataError, match="labels must be integers"):
        class_numbers([0.5, 1.0], 2)
    with pytest.raises(DataError, match=r"3 samples need labels of shape \(3,\), got \(2,\)"):
        class_numbers([0, 1], 3)


def test_targets_are_classes_or_values() -> None:
    members, classes = targets([5, 2, 5], 3)
    assert classes
    assert members.tolist() == one_hot(np.array([1, 0, 1])).tolist() == [[0, 1], [1, 0], [0, 1]]
    values, classes = targets(torch.tensor([2.0, -4.0]), 2)
    assert not classes
    assert values.tolist() == [[0.5], [-1.0]]
    with pytest.raises(DataError, match="3 samples need 3 targets, got 2"):
        targets([1.0, 2.0], 3)


def test_scale_and_mean() -> None:
    assert scaled(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]
    rows = np.column_stack([np.full(5, 0.1 + 0.2), np.arange(5.0)])
    assert centred(rows)[:, 0].tolist() == [0.0] * 5, "what varies by rounding only"
    assert centred(rows)[:, 1].tolist() == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_the_spectrum_is_that_of_the_rank(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(shape[0], 4)) @ rng.normal(size=(4, shape[1]))
    left, squares = left_spectrum(rows)
    assert left.shape == (shape[0], 4)
    assert np.allclose((left * squares) @ left.T, rows @ rows.T)


def test_a_view_is_made_once() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3)) + 5
    looked = view(features)
    assert view(looked) is looked
    assert isinstance(looked, View)
    assert len(looked) == 6
    rows = features / np.abs(features).max()
    moved = rows - rows.mean(axis=0)
    assert np.allclose(looked.centred, moved)
    assert np.allclose(looked.kernel, moved @ moved.T)
    left, squares = looked.spectrum
    assert np.allclose((left * squares) @ left.T, moved @ moved.T)
    assert looked.spectrum[0] is left
    assert looked.kernel is looked.kernel
    with pytest.raises(DataError, match="features hold NaN"):
        view([[1.0, np.nan]])
