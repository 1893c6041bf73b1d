"""Small batches as one large batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosstask.errors import RunError
from crosstask.learning.gradients import AccumulatedLosses


def test_small_batches_are_a_large_one() -> None:
    """Values and gradients of each task are those of the whole; a task may miss a batch, and some parameters."""
    torch.manual_seed(0)
    trunk, one, other = nn.Linear(4, 3).double(), nn.Linear(3, 1).double(), nn.Linear(3, 1).double()
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    parameters = [*trunk.parameters(), *one.parameters(), *other.parameters()]
    x = torch.randn(8, 4, dtype=torch.float64)

    def losses(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        features = trunk(rows).tanh()
        return {"one": one(features).square().mean(), "other": other(features).exp().mean()}

    kept = AccumulatedLosses([*parameters, frozen])
    kept.add({name: loss / 2 for name, loss in losses(x[:4]).items()}, scale=1024.0)
    kept.add({name: loss / 2 for name, loss in losses(x[4:]).items()})
    kept.add({"late": losses(x[:2])["one"]})
    found, whole = kept.losses(), {**losses(x), "late": losses(x[:2])["one"]}
    assert list(found) == ["one", "other", "late"]
    for name, loss in found.items():
        torch.testing.assert_close(loss, whole[name])
        got = torch.autograd.grad(3 * loss, parameters, allow_unused=True)
        expected = torch.autograd.grad(3 * whole[name], parameters, allow_unused=True, retain_graph=True)
        for a, b in zip(got, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b)


def test_parts_of_half_floats_and_of_sparse_gradients_are_added_exactly() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    table = nn.Embedding(5, 2, sparse=True)
    kept = AccumulatedLosses([weight, *table.parameters()])
    for _ in range(300):  # 256 + 1 is 256 in bfloat16
        kept.add({"a": weight.sum().float() + table(torch.tensor([1, 1])).sum()})
    kept.losses()["a"].backward()
    assert table.weight.grad is not None
    assert torch.equal(
        table.weight.grad, torch.tensor([[0, 0], [600, 600], [0, 0], [0, 0], [0, 0]], dtype=torch.float32)
    )
    assert weight.grad is not None
    assert weight.grad.tolist() == [300, 300]


def test_values_of_half_floats_are_added_exactly_and_a_parameter_given_twice_counts_once() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    kept = AccumulatedLosses([weight, weight])
    for _ in range(300):  # 256 + 1 is 256 in bfloat16
        kept.add({"a": weight.sum()})
    found = kept.losses()["a"]
    found.backward()
    assert float(found.detach()) == 300
    assert weight.grad is not None
    assert weight.grad.tolist() == [300]


def test_losses_that_cannot_be_taken_are_told() -> None:
    weight = nn.Parameter(torch.ones(2))
    kept = AccumulatedLosses([weight])
    with pytest.raises(RunError, match="loss 'a' has no graph"):
        kept.add({"a": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"loss 'a' must be a scalar, got shape \(2,\)"):
        kept.add({"a": weight * 2})
    with pytest.raises(RunError, match="loss 'b' is nan"):
        kept.add({"a": weight.sum(), "b": (weight * float("nan")).sum()})
    assert kept.losses() == {}
