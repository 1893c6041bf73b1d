"""Gymnasium's vector environments in each autoreset mode; copies of several tasks side by side."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from crosstask.errors import DataError
from crosstask_reinforcement.copies import Places, VectorCopies
from crosstask_reinforcement.testing import LENGTH, LIMIT, corridor, corridors
from crosstask_reinforcement.worlds import CartPoleWorld, SwingUpWorld

RIGHT = np.array([1, 1])


def vector(mode: AutoresetMode, make: Any = corridor) -> Any:
    return SyncVectorEnv([make, make], autoreset_mode=mode)


def walked(mode: AutoresetMode, steps: int = 40, seed: int = 3) -> list[tuple[Any, ...]]:
    """(seen before, action, reward, led to, terminated) of every valid step of the first copy, always to the right."""
    copies = VectorCopies(vector(mode))
    seen, found = copies.reset(seed), []
    for _ in range(steps):
        made = copies.step(RIGHT)
        if made.valid[0]:
            found.append((seen[0, 0], made.rewards[0], made.following[0, 0], made.terminated[0], made.truncated[0]))
        else:
            assert (made.terminated[0], made.truncated[0]) == (False, False)
        seen = made.observations
    return found


def test_every_autoreset_mode_gives_the_same_transitions() -> None:
    """SAME_STEP, NEXT_STEP and DISABLED hide an episode's end in different places; the transitions are the same."""
    same, following, own = (
        walked(m) for m in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
    )
    assert same == own
    assert 0 < len(following) < len(same)  # each end cost it one step
    assert following == same[: len(following)]
    assert any(ended for *_, ended, _ in same)
    for seen, reward, led_to, ended, _ in same:
        assert led_to == seen + 1 / LENGTH  # the final place at an end, never the first of the next episode
        assert (reward == 1.0) == ended == (led_to == 1.0)


def test_a_cut_off_episode_is_no_terminated_one() -> None:
    copies = VectorCopies(vector(AutoresetMode.SAME_STEP))
    copies.reset(0)
    made = [copies.step(np.array([step % 2, step % 2])) for step in range(LIMIT)]
    assert [bool(m.truncated[0]) for m in made] == [False] * (LIMIT - 1) + [True]
    assert not any(m.terminated.any() for m in made)
    assert abs(made[-1].following[0, 0]) < 1


def test_other_vector_environments_are_refused() -> None:
    with pytest.raises(DataError, match="observations must be vectors and actions discrete"):
        VectorCopies(vector(AutoresetMode.SAME_STEP, functools.partial(gymnasium.make, "Pendulum-v1")))
    silent = vector(AutoresetMode.SAME_STEP)
    silent.metadata = {}
    with pytest.raises(DataError, match="do not say its autoreset_mode"):
        VectorCopies(silent)


def test_gymnasium_s_environments_give_what_the_batched_ones_do() -> None:
    """The corridors stepped one by one, and together: the same but for where episodes begin."""
    found = corridors()
    slow = Places([attrs.evolve(each, copies=None) for each in found.values()], [2, 2, 2])
    fast = Places(list(found.values()), [2, 2, 2])
    assert slow.reset(0).shape == fast.reset(0).shape == (6, 3)
    for actions in (np.zeros(6, dtype=int), np.ones(6, dtype=int)):
        for _ in range(LIMIT):
            ours, theirs = fast.step(actions), slow.step(actions)
            for made in (ours, theirs):
                paid = made.rewards > 0
                np.testing.assert_array_equal(made.following[paid][:, 0] > 0, np.repeat([True, False, True], 2)[paid])
                assert (made.following[:4, 2] == 0).all()
                assert (made.following[4:, 2] == 0.5).all()


def test_tasks_of_two_kinds_lie_side_by_side() -> None:
    found = {
        **CartPoleWorld(poles={"pole": {}}).environments(),
        **SwingUpWorld(tasks=["acrobot", "car"]).environments(),
    }
    chosen = [found["car"], found["pole"], found["acrobot"]]
    places = Places(chosen, [1, 2, 1])
    assert places.tasks.tolist() == [0, 1, 1, 2]
    first = places.reset(0)
    assert first.shape == (4, 6)
    assert (first[0, 2:] == 0).all()
    assert (first[1:3, 4:] == 0).all()
    made = places.step(np.array([0, 1, 0, 2]))
    assert made.rewards.tolist() == [-1, 1, 1, -1]
    kept = places.state_dict()
    again = [places.step(np.array([0, 1, 0, 2])).observations for _ in range(3)]
    np.testing.assert_array_equal(places.load_state_dict(kept), made.observations)
    np.testing.assert_array_equal([places.step(np.array([0, 1, 0, 2])).observations for _ in range(3)], again)


def test_places_that_cannot_be() -> None:
    chosen = list(corridors().values())
    with pytest.raises(DataError, match="of each at least one"):
        Places(chosen, [1, 0, 1])
    with pytest.raises(DataError, match="observations of 3 numbers do not fit into 2"):
        Places(chosen, [1, 1, 1], state_dim=2)

    def broken() -> Any:
        raise RuntimeError("no such thing")

    with pytest.raises(DataError, match="'right' cannot be made: RuntimeError: no such thing"):
        Places([attrs.evolve(chosen[0], make=broken, copies=None)], [1])
