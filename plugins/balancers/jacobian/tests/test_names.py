"""State by name of those that keep gradients and convex weights."""

import pytest
import torch
from torch import Tensor

from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Direction
from crosstask_jacobian import DBMTL, ExcessMTL, GradVac, MoCo, MoDo, NashMTL, SDMGrad, UPGrad


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_db_mtl_averages_each_task_over_its_own_steps() -> None:
    balancer = DBMTL(beta=0.8, beta_decay=0.5)
    average: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for seed, drawn in enumerate(("ab", "bc", "ca", "ba", "abc")):
        matrix, losses = draw(len(drawn), seed), torch.arange(1.0, len(drawn) + 1, dtype=torch.float64)
        answer = balancer.balance(losses, MatrixGradients(matrix, tuple(drawn)))
        for name, row, loss in zip(drawn, matrix, losses, strict=True):
            steps[name] = steps.get(name, 0) + 1
            new = row / loss
            average[name] = new + 0.8 / steps[name] ** 0.5 * (average.get(name, new) - new)
        longest = max(average[name].norm() for name in drawn)
        assert isinstance(answer, Direction)
        expected = sum(average[name] * longest / average[name].norm() for name in drawn)
        torch.testing.assert_close(answer.vector, expected)


@pytest.mark.parametrize("method", [DBMTL, MoCo, ExcessMTL])
def test_gradients_of_other_parameters_start_anew(method: type) -> None:
    """What tasks share may change, as when one is switched off whose layers only another used."""
    balancer = method()
    for seed, size in enumerate((6, 4, 6)):
        matrix = draw(3, seed)[:, :size]
        answer = balancer.balance(torch.ones(3), MatrixGradients(matrix, tuple("abc")))
        if isinstance(answer, Direction):
            assert answer.vector is not None
            assert answer.vector.shape == (size,)


def test_what_is_kept_of_an_absent_task_does_not_hold_the_others_in_memory() -> None:
    balancer = MoCo()
    for seed, drawn in enumerate(("ab", "bc", "ca")):
        balancer.balance(torch.ones(2), MatrixGradients(draw(2, seed), tuple(drawn)))
    assert all(row.untyped_storage().nbytes() == 6 * 8 for row in balancer.followed.values())


@pytest.mark.parametrize("method", [MoCo, MoDo, SDMGrad, ExcessMTL])
def test_a_step_divides_only_the_weight_of_its_own_tasks(method: type) -> None:
    balancer = method()
    for seed in range(4):
        balancer.balance(torch.ones(3), MatrixGradients(draw(3, seed), tuple("abc")))
    assert sum(balancer.weights.values()) == pytest.approx(3)
    before = dict(balancer.weights)
    balancer.balance(torch.ones(2), MatrixGradients(draw(2, 9), tuple("cb")))
    assert balancer.weights["a"] == before["a"]
    assert sum(balancer.weights.values()) == pytest.approx(3)
    balancer.balance(torch.ones(2), MatrixGradients(draw(2, 10), ("new", "b")))
    assert sum(balancer.weights.values()) == pytest.approx(4)


def test_tasks_that_had_lost_all_weight_begin_evenly() -> None:
    balancer = MoDo()
    balancer.weights = {"a": 3.0, "b": 0.0, "c": 0.0}
    answer = balancer.balance(torch.ones(2).double(), MatrixGradients(1e-9 * draw(2, 0), tuple("bc")))
    torch.testing.assert_close(answer, torch.full((2,), 0.5, dtype=torch.float64))
    assert balancer.weights["b"] > 0


def test_gradvac_remembers_pairs() -> None:
    balancer = GradVac(beta=0.5)
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    balancer.balance(torch.ones(2), MatrixGradients(first, tuple("ab")))
    assert balancer.similarity["a"]["b"] == pytest.approx(0.5 * 0.5**0.5)
    balancer.balance(torch.ones(2), MatrixGradients(first, tuple("cd")))
    assert balancer.similarity["b"]["a"] == pytest.approx(0.5 * 0.5**0.5)
    assert "c" not in balancer.similarity["a"]


def test_nash_solves_again_for_other_tasks() -> None:
    kept, fresh = NashMTL(update_interval=5), NashMTL()
    kept.balance(torch.ones(2), MatrixGradients(draw(2, 0), tuple("ab")))
    again = kept.balance(torch.ones(2).double(), MatrixGradients(draw(2, 1), tuple("ba")))
    assert again.tolist() == pytest.approx([kept.weights["b"], kept.weights["a"]])
    found = kept.balance(torch.ones(2).double(), MatrixGradients(draw(2, 2), tuple("bc")))
    torch.testing.assert_close(found, fresh.balance(torch.ones(2).double(), MatrixGradients(draw(2, 2))))


def test_preferences_by_name() -> None:
    by_name = UPGrad(preferences={"a": 1.0, "b": 3.0, "c": 2.0})
    found = by_name.balance(torch.ones(2).double(), MatrixGradients(draw(2, 3), tuple("cb")))
    expected = UPGrad(preferences=(2.0, 3.0)).balance(torch.ones(2).double(), MatrixGradients(draw(2, 3)))
    torch.testing.assert_close(found, expected)
