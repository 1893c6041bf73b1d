"""`distilled_q` on a chain whose values are known, and with teachers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crosstask.errors import CrosstaskError, RunError
from crosstask_distilled_q import DistilledQ
from crosstask_reinforcement import Rollout, Situation, TaskSpace
from crosstask_reinforcement.testing import corridors
from crosstask_reinforcement.training import train

LENGTH, GAMMA = 4, 0.8
SPACES = [TaskSpace("chain", LENGTH, 2), TaskSpace("wide chain", LENGTH, 3)]
SMALL: dict[str, Any] = {
    "shared_dims": (16,), "task_dims": (16,), "batch_size": 32, "warmup": 32, "gamma": GAMMA, "learning_rate": 1e-2,
    "target_rate": 0.1, "updates": 0.5, "steps": 12,
}  # fmt: skip


def chain(seed: int, *, steps: int = 16, places: int = 8, cut: int = 0) -> Rollout:
    """Places 0 … 3 of a chain, at random: action 0 goes back (at 0 it stays), 1 on, 2 (of the second task only) stays.
    Going on from 3 pays 1 and ends the task; each other step costs 0.05. With `cut` episodes are cut off every so many
    steps.
    """
    rng = np.random.default_rng(seed)
    tasks = np.arange(places) % 2
    place = rng.integers(LENGTH, size=places)
    parts: dict[str, list[Any]] = {k: [] for k in ("at", "action", "reward", "ended", "cut", "next")}
    for step in range(steps):
        action = rng.integers(2 + tasks)
        moved = np.maximum(place + np.array([-1, 1, 0])[action], 0)
        ended = moved == LENGTH
        truncated = np.full(places, bool(cut) and (step + 1) % max(cut, 1) == 0) & ~ended
        for name, value in zip(
            parts, (place, action, np.where(ended, 1.0, -0.05), ended, truncated, moved), strict=True
        ):
            parts[name].append(value)
        place = np.where(ended | truncated, rng.integers(LENGTH, size=places), moved)
    made = {name: torch.from_numpy(np.array(value)) for name, value in parts.items()}
    states = torch.eye(LENGTH + 1)[:, :LENGTH]
    states[LENGTH] = 9.0  # what follows the end has no value, whatever it looks like
    return Rollout(
        observations=states[made["at"]],
        actions=made["action"],
        rewards=made["reward"].float(),
        terminated=made["ended"],
        truncated=made["cut"],
        following=states[made["next"]],
        valid=torch.ones_like(made["ended"]),
        starts=torch.zeros_like(made["ended"]),
        tasks=torch.from_numpy(tasks),
    )


def right_values(actions: int) -> np.ndarray:
    """Q* [LENGTH, actions], by iterating Bellman's equation until nothing changes."""
    q = np.zeros((LENGTH, actions))
    for _ in range(200):
        value = np.append(q.max(axis=1), 0.0)
        for place in range(LENGTH):
            for action in range(actions):
                moved = max(place + (-1, 1, 0)[action], 0)
                q[place, action] = (1.0 if moved == LENGTH else -0.05) + GAMMA * value[moved]
    return q


def learned(agent: DistilledQ, rollouts: int, **kind: Any) -> DistilledQ:
    generator = torch.Generator().manual_seed(0)
    agent.prepare(SPACES, seed=0)
    for number in range(rollouts):
        agent.learn(chain(number, **kind), generator)
    return agent


def test_the_values_of_a_chain_are_those_of_bellmans_equation() -> None:
    assert right_values(2)[3, 1] == 1.0  # by hand: one step from the end, and two
    assert right_values(2)[2, 1] == pytest.approx(-0.05 + GAMMA)
    agent = learned(DistilledQ(**SMALL), 6)
    for name, actions in (("chain", 2), ("wide chain", 3)):
        found = agent.network(torch.eye(LENGTH), name).detach().numpy()
        np.testing.assert_allclose(found, right_values(actions), atol=0.03)


def test_episodes_that_are_cut_off_do_not_change_what_states_are_worth() -> None:
    """A quarter of all steps is cut off; taken for ends they would be worth 0 afterwards."""
    agent = learned(DistilledQ(**SMALL, double=False), 5, cut=4)
    found = agent.network(torch.eye(LENGTH), "chain").detach().numpy()
    np.testing.assert_allclose(found[:, 1], right_values(2)[:, 1], atol=0.03)


def test_actions_that_a_task_lacks_are_never_chosen() -> None:
    agent = learned(DistilledQ(**SMALL, epsilon_end=1.0), 1)
    situation = Situation(torch.eye(LENGTH).repeat(50, 1), torch.zeros(200).long(), torch.ones(200).bool(), {}, 1.0)
    for explore in (True, False):
        assert int(agent.act(situation, explore, torch.Generator().manual_seed(0)).actions.max()) < 2
    wide = Situation(situation.observations, torch.ones(200).long(), situation.starts, {}, 1.0)
    assert set(agent.act(wide, True, torch.Generator().manual_seed(0)).actions.tolist()) == {0, 1, 2}


def test_the_share_of_random_actions_falls_and_then_stays() -> None:
    agent = DistilledQ(epsilon_start=1.0, epsilon_end=0.1, epsilon_share=0.5)
    assert [agent.epsilon(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


# --- Teachers


def teacher(actions: int) -> Any:
    values = torch.from_numpy(right_values(actions)).float()
    return lambda states: states @ values


def test_a_student_that_sees_no_reward_acts_as_its_teachers() -> None:
    agent = DistilledQ(**{**SMALL, "td": False, "student_temperature": 1.0, "dropout_rate": 0.1})
    agent.teach({"chain": teacher(2), "wide chain": lambda states: -teacher(3)(states)})
    agent.prepare(SPACES)  # teachers stay
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        metrics = agent.learn(chain(number), generator)
        assert "td_loss" not in metrics
        assert metrics["distillation_loss"] >= 0
    states = torch.eye(LENGTH)
    assert agent.network(states, "chain").argmax(1).tolist() == right_values(2).argmax(1).tolist()
    assert agent.network(states, "wide chain").argmax(1).tolist() == right_values(3).argmin(1).tolist()


def test_teachers_and_rewards_together_and_a_task_without_a_teacher() -> None:
    agent = DistilledQ(**SMALL).prepare(SPACES)
    agent.teach({"chain": teacher(2)})
    generator = torch.Generator().manual_seed(0)
    metrics = agent.learn(chain(0), generator)
    assert {"td_loss", "distillation_loss"} <= set(metrics)
    state = copy.deepcopy(agent.state_dict())
    fresh = DistilledQ(**SMALL)
    fresh.load_state_dict(state)
    with pytest.raises(CrosstaskError, match="had a teacher of 'chain': call teach"):
        fresh.learn(chain(1), generator)
    fresh.teach({"chain": teacher(2)})
    for one in (agent, fresh):
        one.learn(chain(1), torch.Generator().manual_seed(1))
    for name, value in agent.network.state_dict().items():
        assert torch.equal(value, fresh.network.state_dict()[name])


def test_teachers_of_its_own_come_first_and_then_stand_still() -> None:
    agent = DistilledQ(**SMALL, teacher_share=0.5, td=False, student_temperature=1.0).prepare(SPACES)
    generator = torch.Generator().manual_seed(0)

    def weights(which: str) -> list[Tensor]:
        return [p.clone() for n, p in agent.network.named_parameters() if n.startswith("teachers.") == (which == "t")]

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    situation = Situation(torch.eye(LENGTH), torch.zeros(LENGTH).long(), torch.ones(LENGTH).bool())
    before = weights("s")
    for number in range(10):
        made = chain(number)
        metrics = agent.learn(Rollout(**{**vars_of(made), "progress": 0.05 * (number + 1)}), generator)
        assert set(metrics) == {"epsilon", "td_loss"}
    assert same(before, weights("s"))
    acting = agent.act(situation, False, generator).actions
    taught = weights("t")
    agent.load_state_dict(copy.deepcopy(agent.state_dict()))
    for number in range(10, 14):
        made = chain(number)
        metrics = agent.learn(Rollout(**{**vars_of(made), "progress": 0.05 * (number + 1)}), generator)
        assert set(metrics) == {"epsilon", "distillation_loss"}
    assert same(taught, weights("t"))
    assert not same(before, weights("s"))
    student = agent.act(situation, False, generator).actions
    right = right_values(2).argmax(1).tolist()
    assert student.tolist() == right
    assert len(acting) == LENGTH


def vars_of(made: Rollout) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Rollout.__annotations__}


def test_it_learns_in_environments_with_teachers_of_its_own() -> None:
    """Corridors, of which one has to be walked the other way."""
    both = [corridors()[name] for name in ("right", "left")]
    agent = DistilledQ(**{**SMALL, "updates": 0.25, "teacher_share": 0.5, "student_temperature": 1.0})
    made = train(agent, both, steps=2400, copies=8, evaluate_every=2400, episodes=8, stop=False)
    assert {name: curve.final for name, curve in made.curves.items()} == {"right": 1.0, "left": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DistilledQ(warmup=10, capacity=5), r"warmup \(10\) must not be more than capacity \(5\)"),
        (lambda: DistilledQ(n_steps=9, steps=8), r"n_steps \(9\) must not be more than steps \(8\)"),
        (lambda: DistilledQ(shared_dims=(10,), heads=4), "heads must divide the last of shared_dims, 10"),
        (lambda: DistilledQ(teacher_share=0.5).teach({"chain": teacher(2)}), "trains teachers of its own"),
        (lambda: DistilledQ().teach({}), "at least one teacher"),
        (lambda: DistilledQ().teach({"chain": 3}), "must be called with states, got 3"),  # type: ignore[dict-item]
        (lambda: DistilledQ().prepare(SPACES).teach({"chian": teacher(2)}), "no task 'chian'; did you mean 'chain'"),
        (lambda: DistilledQ().teach({"other": teacher(2)}).prepare(SPACES), "no task 'other'"),
        (lambda: DistilledQ(td=False).prepare(SPACES).teach({"chain": teacher(2)}), "'wide chain' has no teacher"),
        (lambda: learned(DistilledQ(td=False), 1), "teachers alone are learned from"),
        (lambda: learned(DistilledQ(**SMALL).teach({"chain": teacher(3)}), 1), r"must give \[32, 2\], got \(32, 3\)"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        call()


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    made = chain(0)
    agent = DistilledQ(**SMALL).prepare(SPACES)
    with pytest.raises(RunError, match="the loss is nan"):
        agent.learn(Rollout(**{**vars_of(made), "rewards": made.rewards * torch.nan}), torch.Generator())
