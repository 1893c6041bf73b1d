"""Krum against its definition, word for word, and against TorchJD's where the two agree."""

import pytest
import torch
from torch import Tensor, nn

from crosstask import DataError, OptionError
from crosstask.learning.gradients import MatrixGradients
from crosstask_robust import Krum


def draw(tasks: int, size: int, seed: int) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(matrix: Tensor, wrong: int, selected: int) -> Tensor:
    scores = []
    for i, row in enumerate(matrix):
        squares = sorted(float((row - other).square().sum()) for j, other in enumerate(matrix) if j != i)
        scores.append((sum(squares[: len(matrix) - wrong - 2]), i))
    return torch.stack([matrix[i] for _, i in sorted(scores)[:selected]]).mean(dim=0)


@pytest.mark.parametrize(("tasks", "wrong", "selected"), [(3, 0, 1), (5, 1, 1), (5, 0, 3), (9, 3, 4), (9, 6, 2)])
def test_values_by_definition(tasks: int, wrong: int, selected: int) -> None:
    for seed in range(5):
        matrix = draw(tasks, 12, seed)
        found = Krum(byzantine=wrong, selected=selected).combine(matrix)
        torch.testing.assert_close(found, by_definition(matrix, wrong, selected))
        if wrong == (tasks - 3) // 2:
            assert torch.equal(found, Krum(selected=selected).combine(matrix))


def test_values_of_torchjd() -> None:
    """It adds up distances, the paper their squares: mostly the same choice, and otherwise that of another power."""
    peer = pytest.importorskip("torchjd.aggregation").Krum
    same = []
    for seed in range(20):
        matrix = draw(7, 6, seed)
        found, theirs = Krum(byzantine=1).combine(matrix), peer(1)(matrix)
        same.append(torch.allclose(found, theirs))
        nearest = torch.cdist(matrix, matrix).sort(dim=1)[0][:, 1:5]
        assert torch.equal(theirs, matrix[nearest.sum(dim=1).argmin()])
        assert torch.equal(found, matrix[nearest.square().sum(dim=1).argmin()])
    assert 10 < sum(same) < 20


def test_wrong_gradients_are_not_followed() -> None:
    right = torch.tensor([1.0, -2.0, 0.5]) + 0.1 * draw(6, 3, 0).float()
    lies = torch.tensor([[1e6, 0.0, 0.0], [0.0, -1e3, 1e3], [-1.0, 2.0, -0.5]])
    found = Krum(byzantine=3, selected=3).combine(torch.cat([lies, right]))
    torch.testing.assert_close(found, torch.tensor([1.0, -2.0, 0.5]), rtol=0, atol=0.2)


def test_errors() -> None:
    with pytest.raises(OptionError, match="byzantine must be >= 0"):
        Krum(byzantine=-1)
    with pytest.raises(OptionError, match="selected must be >= 1"):
        Krum(selected=0)
    with pytest.raises(DataError, match="with 2 gradients that may be wrong and 1 selected it needs at least 5 tasks"):
        Krum(byzantine=2).balance(torch.ones(4), MatrixGradients(torch.eye(4)))
    with pytest.raises(DataError, match="6 selected it needs at least 6 tasks, got 4"):
        Krum(selected=6).balance(torch.ones(4), MatrixGradients(torch.eye(4)))
    shared = nn.Parameter(torch.ones(2))
    with pytest.raises(DataError, match="needs at least 3 tasks, got 2"):
        Krum().backward([shared.sum(), shared.square().sum()], [shared])
