"""PCGrad against algorithm 1 done literally on the gradients, and against two tasks by hand."""

import numpy as np
import pytest
import torch

from crosstask.context import LocalContext
from crosstask_pcgrad import PCGrad
from crosstask_pcgrad.pcgrad import surgery


def test_algorithm_1_word_for_word() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 7):
        gradients = rng.normal(size=(count, 4))
        order = np.stack([rng.permutation(count) for _ in range(count)])
        expected = []
        for i in range(count):
            v = gradients[i].copy()
            for j in order[i]:
                if j != i and v @ gradients[j] < 0:
                    v = v - (v @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
            expected.append(v)
        np.testing.assert_allclose(surgery(gradients @ gradients.T, order) @ gradients, expected, atol=1e-12)


def test_two_tasks_by_hand() -> None:
    update = PCGrad().combine(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    # g1 loses -1/2 g2: (1/2, 1/2); g2 loses -1 g1: (0, 1)
    torch.testing.assert_close(update, torch.tensor([0.5, 1.5]))


def test_without_conflict_it_is_the_sum() -> None:
    gradients = torch.rand(6, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PCGrad().combine(gradients), gradients.sum(0))


def test_orders_come_from_the_seed_and_the_state() -> None:
    gradients = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

    def run(seed: int, skip: int = 0) -> list[torch.Tensor]:
        balancer = PCGrad()
        balancer.bind(LocalContext(seed=seed))
        balancer.load_state_dict({"updates": skip})
        return [balancer.combine(gradients) for _ in range(3)]

    same, again, other, later = run(1), run(1), run(2), run(1, skip=1)
    assert all(torch.equal(a, b) for a, b in zip(same, again, strict=True))
    assert not torch.equal(same[0], other[0])
    assert not torch.equal(same[0], same[1])
    assert torch.equal(later[0], same[1])


def test_zero_gradients_and_one_task() -> None:
    torch.testing.assert_close(PCGrad().combine(torch.zeros(3, 4)), torch.zeros(4))
    one = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(PCGrad().combine(one), one[0])


def test_agrees_with_torchjd_where_order_does_not_matter() -> None:
    torchjd = pytest.importorskip("torchjd.aggregation")
    gradients = torch.randn(2, 7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(PCGrad().combine(gradients), torchjd.PCGrad()(gradients))
