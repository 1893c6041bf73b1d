"""Batched physics against gymnasium's single environments, step for step; starts, ends and states of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosstask.errors import DataError
from crosstask_reinforcement.contract import Copies, Environment
from crosstask_reinforcement.physics import CartPoles, Physics
from crosstask_reinforcement.worlds import SPREAD, CartPoleWorld, SwingUpWorld, classic


def all_tasks() -> list[Environment]:
    return [*CartPoleWorld().environments().values(), *SwingUpWorld().environments().values()]


@pytest.mark.parametrize("environment", all_tasks(), ids=lambda e: e.task_id)
def test_a_row_is_stepped_as_gymnasium_steps_its_single_environment(environment: Environment) -> None:
    assert environment.copies is not None
    copies: Any = environment.copies([environment], [3])
    observed = copies.reset(7)
    single: Any = environment.make()
    single.reset(seed=0)
    single.unwrapped.state = copies.state[1].copy()
    rng, ends = np.random.default_rng(0), 0
    for step in range(environment.limit + 1):
        actions = rng.integers(environment.space.actions, size=3)
        stepped = copies.step(actions)
        seen, reward, terminated, truncated, _ = single.step(int(actions[1]))
        np.testing.assert_array_equal(stepped.following[1], seen, err_msg=f"step {step}")
        assert (reward, terminated) == (stepped.rewards[1], stepped.terminated[1])
        assert (truncated and not terminated) == stepped.truncated[1]
        observed = stepped.observations
        if terminated or truncated:
            ends += 1
            if step > 100:
                break
            single.reset()
            single.unwrapped.state = copies.state[1].copy()
        else:
            np.testing.assert_array_equal(observed[1], stepped.following[1])
    assert ends > 0


def test_an_end_gives_the_final_observation_and_the_first_of_the_next() -> None:
    (environment,) = CartPoleWorld(poles={"a": {}}, limit=3).environments().values()
    copies = CartPoles([environment], [2])
    copies.reset(0)
    for step in (1, 2, 3):
        before = copies.state.copy()
        stepped = copies.step(np.array([0, 1]))
        assert stepped.truncated.all() == (step == 3)
        assert not stepped.terminated.any()
    moved = before[:, 0] + 0.02 * before[:, 1]
    np.testing.assert_allclose(stepped.following[:, 0], moved, atol=1e-7)
    assert np.abs(stepped.observations).max() <= 0.05
    assert np.array_equal(copies.age, [0, 0])


def test_an_end_that_is_the_task_s_own_is_not_cut_off() -> None:
    """At the very step of the limit, too: what follows has no value then."""
    (environment,) = CartPoleWorld(poles={"a": {}}, limit=5).environments().values()
    copies = CartPoles([environment], [1])
    copies.reset(0)
    copies.state[:] = [2.399, 10.0, 0, 0]
    copies.age[:] = 4
    stepped = copies.step(np.array([1]))
    assert stepped.terminated.all()
    assert not stepped.truncated.any()


def test_a_row_does_not_depend_on_the_others() -> None:
    worlds = CartPoleWorld().environments()
    alone = CartPoles([worlds["usual"]], [2])
    among = CartPoles([worlds["usual"], worlds["moon"]], [2, 3])
    first, second = alone.reset(3), among.reset(3)
    np.testing.assert_array_equal(first, second[:2])
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(2, size=5)
        np.testing.assert_array_equal(alone.step(actions[:2]).observations, among.step(actions).observations[:2])


def test_a_state_is_gone_back_to() -> None:
    (environment,) = CartPoleWorld(poles={"a": {}}).environments().values()
    copies: Physics = CartPoles([environment], [4])
    copies.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        copies.step(rng.integers(2, size=4))
    kept = copies.state_dict()
    actions = rng.integers(2, size=(60, 4))
    first = [copies.step(a).observations for a in actions]
    again = CartPoles([environment], [4])
    again.load_state_dict(kept)
    np.testing.assert_array_equal(np.stack(first), np.stack([again.step(a).observations for a in actions]))


def test_a_force_the_other_way_round_mirrors_the_actions() -> None:
    tasks = CartPoleWorld(poles={"a": {}, "b": {"force_mag": -10.0}}).environments()
    copies = CartPoles(list(tasks.values()), [1, 1])
    copies.reset(0)
    copies.state[1] = copies.state[0]
    stepped = copies.step(np.array([0, 1]))
    np.testing.assert_array_equal(stepped.following[0], stepped.following[1])


def test_constants_that_are_none() -> None:
    with pytest.raises(ValueError, match="CartPoles has no 'lenght'; did you mean 'length'"):
        CartPoleWorld(poles={"a": {"lenght": 1.0}}).environments()
    made = classic("a", CartPoles, {}, limit=5, solved=5, domain="x")
    with pytest.raises(DataError, match="CartPoles has no 'torque'"):
        CartPoles([Environment(descriptor=made.descriptor, make=made.make, limit=5, parameters={"torque": 1})], [1])


def test_copies_that_cannot_say_where_they_are() -> None:
    class Bare(Copies):
        reset: Any = None
        step: Any = None

    with pytest.raises(DataError, match="Bare cannot say where"):
        Bare().state_dict()
    with pytest.raises(DataError, match="cannot go back"):
        Bare().load_state_dict({})


def test_starts_are_spread_as_told_in_rows_and_in_the_single_environment() -> None:
    world = CartPoleWorld(poles={"wide": {}, "own": {"start_x": 0.5}}, starts=SPREAD)
    wide, own = world.environments().values()
    copies = CartPoles([wide, own], [400, 400])
    rows = np.abs(copies.reset(0))
    single: Any = wide.make()
    alone = np.abs([single.reset(seed=seed)[0] for seed in range(200)])
    widths = np.array([1.2, 0.3, 0.08, 0.3])
    for found, most in ((rows[:400], widths), (rows[400:], [0.5, *widths[1:]]), (alone, widths)):
        assert (found <= np.float32(most)).all()
        np.testing.assert_allclose(found.mean(axis=0), np.array(most) / 2, rtol=0.15)  # of a uniform |x|: half
