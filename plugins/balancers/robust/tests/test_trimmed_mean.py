"""The trimmed mean against sorting, and against TorchJD's; the network sorts everything."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from crosstask import OptionError, RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Direction
from crosstask_robust import TrimmedMean
from crosstask_robust.trimmed_mean import BLOCK, network


def draw(tasks: int, size: int, seed: int) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", range(1, 12))
def test_the_network_sorts(count: int) -> None:
    """All of zeros and ones, which is all of everything (Knuth, the zero-one principle)."""
    values = torch.tensor(list(itertools.product((0, 1), repeat=count))).T
    rows = list(values)
    for low, high in network(count):
        rows[low], rows[high] = torch.minimum(rows[low], rows[high]), torch.maximum(rows[low], rows[high])
    assert torch.equal(torch.stack(rows), values.sort(dim=0)[0])


@pytest.mark.parametrize(
    ("tasks", "share", "cut"),
    [(1, 0.5, 0), (2, 0.5, 0), (3, 1 / 3, 1), (4, 0.5, 1), (5, 0.5, 2), (9, 1 / 3, 3), (6, 0.3, 1), (7, 0.1, 0)],
)
def test_values_of_torchjd(tasks: int, share: float, cut: int) -> None:
    peer = pytest.importorskip("torchjd.aggregation").TrimmedMean(cut)
    matrix = draw(tasks, 40, tasks)
    torch.testing.assert_close(TrimmedMean(share=share).combine(matrix), peer(matrix))


def test_a_half_is_the_median_over_blocks() -> None:
    matrix = draw(5, 2 * BLOCK + 7, 0)
    assert torch.equal(TrimmedMean(share=0.5).combine(matrix), matrix.median(dim=0)[0])
    even = draw(6, 30, 1)
    torch.testing.assert_close(TrimmedMean(share=0.5).combine(even), even.quantile(0.5, dim=0))


def test_a_wrong_gradient_moves_little() -> None:
    right = torch.tensor([1.0, -2.0, 0.5]) + 0.1 * draw(4, 3, 0).float()
    lie = torch.tensor([[1e30, -math.inf, math.inf]])
    found = TrimmedMean().combine(torch.cat([right, lie]))
    torch.testing.assert_close(found, torch.tensor([1.0, -2.0, 0.5]), rtol=0, atol=0.2)


def test_without_cutting_no_gradient_is_formed() -> None:
    trunk, head = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    balancer = TrimmedMean()
    weights = balancer.backward([head * trunk.sum(), trunk.square().sum()], [trunk], [head])
    assert weights.tolist() == [0.5, 0.5]
    torch.testing.assert_close(trunk.grad, torch.tensor([2.5, 3.5]))
    assert balancer.last is not None
    assert balancer.last.chosen == "one backward pass over the weighted losses"


def test_errors() -> None:
    for share in (-0.1, 0.6):
        with pytest.raises(OptionError, match="share"):
            TrimmedMean(share=share)
    matrix = draw(3, 4, 0)
    matrix[1, 2] = math.nan
    with pytest.raises(RunError, match="gradient of task b is not finite"):
        TrimmedMean().balance(torch.ones(3), MatrixGradients(matrix, ("a", "b", "c")))
    matrix[1:, 2] = math.inf
    with pytest.raises(RunError, match="gradient of task 1 is not finite"):
        TrimmedMean().balance(torch.ones(3), MatrixGradients(matrix))
    assert isinstance(TrimmedMean().balance(torch.ones(3), MatrixGradients(draw(3, 4, 0))), Direction)
