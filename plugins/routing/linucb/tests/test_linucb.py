"""Linear routers: rounding, arguments that are no vectors, states that are none, and what forgetting changes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from crosstask.errors import DataError, PluginError
from crosstask_linucb import DiscountedLinUCB, LinUCB

TOOLS = ("a", "b", "c")


def test_rank_one_updates_stay_least_squares_over_thousands_of_them() -> None:
    rng, router = np.random.default_rng(0), LinUCB(ridge=0.5)
    x, y = rng.standard_normal((3000, 4)) * [1, 10, 0.1, 1], rng.random(3000)
    for row, value in zip(x, y, strict=True):
        router.update(row, "a", float(value))
    wanted = np.linalg.solve(x.T @ x + 0.5 * np.eye(4), x.T @ y)
    assert router.choose(np.ones(4), ("a",)).estimates[0] == pytest.approx(wanted.sum(), rel=1e-9)
    assert np.allclose(router.arms.inverse[0], np.linalg.inv(x.T @ x + 0.5 * np.eye(4)), rtol=1e-8, atol=1e-12)


def test_with_gamma_1_forgetting_is_none() -> None:
    rng, plain, same = np.random.default_rng(1), LinUCB(alpha=0.7), DiscountedLinUCB(alpha=0.7, gamma=1.0)
    for _ in range(150):
        x = rng.standard_normal(3)
        one, two = plain.choose(x, TOOLS), same.choose(x, TOOLS)
        assert one.tool == two.tool
        assert np.allclose(one.estimates, two.estimates, atol=1e-9)
        for router in (plain, same):
            router.update(x, one.tool, float(x[TOOLS.index(one.tool)] > 0))


def test_what_is_forgotten_is_explored_again() -> None:
    """A tool that is not used: its bound grows back to that of the prior, alpha |x| / √ridge."""
    router, x = DiscountedLinUCB(gamma=0.9, alpha=1.0, ridge=4.0), np.array([3.0, 4.0])
    for _ in range(50):
        router.update(x, "a", 0.0)
    _, near = router.sums.look(x, ("a",))
    for _ in range(300):
        router.update(x, "b", 0.0)
    _, far = router.sums.look(x, ("a",))
    assert near[0] < 1.0
    assert far[0] == pytest.approx(5.0 / 2.0, rel=1e-6)


@pytest.mark.parametrize("make", [LinUCB, DiscountedLinUCB])
@pytest.mark.parametrize(
    ("context", "told"),
    [
        ("words", "a context is a vector of numbers, got 'words'"),
        ([[1.0]], r"got shape \(1, 1\)"),
        ([], r"got shape \(0,\)"),
        ([1.0, math.nan], "finite numbers, got nan in it"),
        ([1e200], "finite numbers, got 1e.200 in it"),
    ],
)
def test_contexts_are_checked(make: Any, context: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make().choose(context, TOOLS)


def test_names_and_rewards_are_checked() -> None:
    for tools, told in (("abc", "tools are a tuple of names, got 'abc'"), ((1,), "tuple of names")):
        with pytest.raises(DataError, match=told):
            LinUCB().choose([1.0], tools)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"a reward is a finite number, got 'x{50}"):
        LinUCB().update(np.ones(1), "a", "x" * 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [LinUCB, DiscountedLinUCB])
def test_a_state_with_numbers_that_are_none_is_refused(make: Any) -> None:
    router = make()
    router.update(np.ones(2), "a", 1.0)
    state = json.loads(json.dumps(router.state_dict()))
    (inside,) = state.values()
    inside["vector"] = [[math.nan, 0.0]]
    with pytest.raises(PluginError, match="vector holds numbers that are not finite"):
        make().load_state_dict(state)


@pytest.mark.parametrize("kind", [LinUCB, DiscountedLinUCB])
def test_a_state_goes_on_with_the_ridge_of_who_loads_it(kind: Any) -> None:
    """Whatever the ridge was before: the prior is an option, not something that was learned."""
    rng, states, routers = np.random.default_rng(3), kind(ridge=2.0), kind(ridge=0.5)
    for _ in range(40):
        x, tool, reward = rng.standard_normal(3), TOOLS[int(rng.integers(3))], float(rng.random())
        states.update(x, tool, reward)
        routers.update(x, tool, reward)
    went_on = kind(ridge=0.5)
    went_on.load_state_dict(json.loads(json.dumps(states.state_dict())))
    for _ in range(5):
        x = rng.standard_normal(4)  # a number more, too
        np.testing.assert_allclose(went_on.choose(x, TOOLS).estimates, routers.choose(x, TOOLS).estimates, rtol=1e-9)
        assert went_on.choose(x, TOOLS).tool == routers.choose(x, TOOLS).tool
