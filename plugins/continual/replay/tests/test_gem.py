"""GEM: its quadratic program against other solvers and the paper's equations, and what it keeps on digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from torch import Tensor

from crosstask.errors import RunError
from crosstask_continual import Batch
from crosstask_continual.testing import accuracy, forgetting, learned, pairs
from crosstask_replay import GEM
from crosstask_replay.gem import projection_weights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), tasks=st.integers(1, 6), margin=st.sampled_from([0.0, 0.5]), scale=st.integers(-6, 6)
)
def test_the_dual_against_another_solver(seed: int, tasks: int, margin: float, scale: int) -> None:
    """½ |Gᵀv + g|² with v >= margin is a nonnegative least-squares problem in v - margin, which scipy solves."""
    rng = np.random.default_rng(seed)
    g_rows, g = 10.0**scale * rng.standard_normal((tasks, 20)), rng.standard_normal(20)
    found = projection_weights(g_rows @ g_rows.T, g_rows @ g, margin)
    expected = margin + nnls(g_rows.T, -(g + margin * g_rows.sum(0)))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * expected.max() + 1e-12)


def test_the_projection_is_the_nearest_that_points_against_no_task() -> None:
    """The primal, by a general solver: min ½ |z - g|² with Gz >= 0."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        g_rows, g = rng.standard_normal((3, 6)), rng.standard_normal(6)
        z = g + projection_weights(g_rows @ g_rows.T, g_rows @ g) @ g_rows
        found = minimize(
            lambda x, g=g: 0.5 * float(((x - g) ** 2).sum()),
            g,
            jac=lambda x, g=g: x - g,
            constraints={"type": "ineq", "fun": lambda x, rows=g_rows: rows @ x, "jac": lambda _, rows=g_rows: rows},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(z, found.x, atol=1e-5)
        assert (g_rows @ z > -1e-8).all()


def test_one_task_is_the_projection_of_agem() -> None:
    """In closed form: g - (gᵀr / rᵀr) r; with a margin at least that much of r is added."""
    r, g = np.array([3.0, 4.0]), np.array([-1.0, 0.5])
    v = projection_weights(np.array([[r @ r]]), np.array([r @ g]))
    assert v[0] == pytest.approx(-(r @ g) / (r @ r), rel=1e-8)
    assert projection_weights(np.array([[r @ r]]), np.array([r @ g]), 0.5)[0] == pytest.approx(0.5)


def test_tasks_without_a_gradient_or_with_the_same() -> None:
    assert projection_weights(np.zeros((2, 2)), np.zeros(2)).tolist() == [0, 0]
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    g = np.array([-2.0, 1.0])
    z = g + projection_weights(rows @ rows.T, rows @ g) @ rows
    np.testing.assert_allclose(z, [0, 1], atol=1e-6)


def samples(memory: dict[str, Tensor], task: int) -> Batch:
    rows = memory["task_ids"] == task
    return Batch(memory["inputs"][rows], memory["targets"][rows], memory["task_ids"][rows])


def at_the_third_task(strategy: GEM) -> tuple[Any, list[Any], list[list[Tensor]]]:
    """A model that has learned two tasks and begins a third, its parameters, and the gradients of both memories."""
    made = learned(strategy, "domain", count=2, epochs=2)
    model, task = made.model, pairs()[2]
    model.add(task, 0)
    strategy.task_begins(model, task)
    parameters = list(model.parameters())
    kept = [samples(strategy.memory, number) for number in (0, 1)]
    against = [list(torch.autograd.grad(model.loss(model(b.inputs), b), parameters)) for b in kept]
    return model, parameters, against


def test_a_step_of_the_model_points_against_no_memory() -> None:
    strategy = GEM(buffer_size=100, margin=0.0)
    model, parameters, against = at_the_third_task(strategy)
    for signs in ((-1, -0.5), (1, -2), (0.1, 0.2)):
        for p, a, b in zip(parameters, *against, strict=True):
            p.grad = signs[0] * a + signs[1] * b
        before = torch.cat([p.grad.flatten() for p in parameters])
        rows = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in against])
        strategy.after_backward(model)
        after = torch.cat([p.grad.flatten() for p in parameters])
        products, lengths = rows @ after, rows.norm(dim=1) * before.norm()
        assert bool((products >= -1e-4 * lengths).all())
        if bool((rows @ before >= 0).all()):
            assert torch.equal(before, after)
        else:
            expected = (
                before.double()
                + torch.as_tensor(nnls(rows.T.double().numpy(), -before.double().numpy())[0]) @ rows.double()
            )
            torch.testing.assert_close(after.double(), expected, atol=1e-4 * float(before.norm()), rtol=1e-3)


def test_a_weight_that_the_step_does_not_use_may_still_be_corrected() -> None:
    """Its gradient counts as zero; an earlier task's does not."""
    strategy = GEM(buffer_size=60, margin=0.0)
    model, parameters, against = at_the_third_task(strategy)
    for p, a in zip(parameters[1:], against[0][1:], strict=True):
        p.grad = -a
    parameters[0].grad = None
    strategy.after_backward(model)
    assert parameters[0].grad is not None
    assert bool(parameters[0].grad.any())


def test_the_memory_is_shared_evenly() -> None:
    strategy = GEM(buffer_size=90)
    made = learned(strategy, "task", count=3, epochs=1)
    assert torch.bincount(strategy.memory["task_ids"]).tolist() == [30, 30, 30]
    for number, task in enumerate(pairs()[:3]):
        known = {(*x.flatten().tolist(), y) for x, y in zip(*_columns(task), strict=True)}
        kept = samples(strategy.memory, number)
        labels = (kept.targets - 2 * number).tolist()
        assert {(*x.flatten().tolist(), y) for x, y in zip(kept.inputs, labels, strict=True)} <= known
    assert len(made.matrix) == 3


def _columns(task: Any) -> tuple[Tensor, list[int]]:
    data = task.data("train")
    return data.inputs, data.targets.tolist()


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    strategy = GEM(buffer_size=60)
    model, parameters, _ = at_the_third_task(strategy)
    for p in parameters:
        p.grad = torch.full_like(p, float("nan"))
    with pytest.raises(RunError, match="a gradient is not finite"):
        strategy.after_backward(model)


@pytest.mark.parametrize("replay_size", [None, 30])
def test_forgets_less_than_without(replay_size: int | None) -> None:
    none, kept = learned(), learned(GEM(buffer_size=200, replay_size=replay_size))
    assert forgetting(none) > 0.07
    assert forgetting(kept) < 0.5 * forgetting(none)
    assert accuracy(kept) > accuracy(none) + 0.03
