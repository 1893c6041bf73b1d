"""Collecting, evaluating, whole trainings; what is the same when they are done again, or go on after a stop."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest
import torch

from crosstask.errors import DataError, PluginError
from crosstask.options import component
from crosstask_reinforcement.contract import Agent, Decision, Rollout, Situation, TaskSpace
from crosstask_reinforcement.testing import LENGTH, ReferenceAgent, corridors
from crosstask_reinforcement.training import Runner, Trained, evaluate, train

BOTH = [corridors()["right"], corridors()["left"]]


@component
class Marches(ReferenceAgent):
    """Always to the right; it notes what it is told, and remembers how often it has acted in each place."""

    told: ClassVar[list[Situation]] = []

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        self.told.append(situation)
        before = situation.memory.get("acted", torch.zeros(len(situation), dtype=torch.long))
        acted = torch.where(situation.starts, 1, before + 1)
        return Decision(torch.ones(len(situation), dtype=torch.long), {"acted": acted}, {"acted": acted})

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        return {"progress": rollout.progress}


def prepared(agent: Any) -> Any:
    return agent.prepare([each.space for each in BOTH])


def test_a_rollout_holds_what_happened() -> None:
    runner = Runner(prepared(Marches()), BOTH, copies=3, seed=0)
    made = runner.collect(9, progress=0.25)
    assert made.observations.shape == (9, 6, 2)
    assert made.tasks.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.progress == 0.25
    assert made.steps == runner.steps == 54
    torch.testing.assert_close(made.following[..., 0], made.observations[..., 0] + 1 / LENGTH)
    assert torch.equal(made.terminated, made.following[..., 0] == 1.0)
    assert not made.truncated.any()
    paid = made.terminated & (made.tasks == 0)
    assert torch.equal(made.rewards > 0, paid)
    begun = torch.zeros_like(made.starts)
    begun[0], begun[1:] = True, made.terminated[:-1]
    assert torch.equal(made.starts, begun)
    torch.testing.assert_close(made.observations[1:][~made.terminated[:-1]], made.following[:-1][~made.terminated[:-1]])
    ends = {name: [value for _, value in found] for name, found in runner.finished.items()}
    assert set(ends["right"]) == {1.0}
    assert set(ends["left"]) == {0.0}
    for place in range(6):  # memory goes on within an episode, and `starts` says where the next begins
        since = 0
        for step in range(9):
            since = 1 if made.starts[step, place] else since + 1
            assert int(made.extras["acted"][step, place]) == since
    later = runner.collect(2)
    assert torch.equal(later.starts[0], made.terminated[-1])
    moves = made.transitions()
    assert len(moves) == 54
    assert torch.equal(moves[3].observations, made.observations[0, 3])
    assert moves.tasks[3] == 1


def test_greedy_episodes_are_played_to_their_ends_and_once() -> None:
    found = evaluate(prepared(Marches()), BOTH, episodes=5, seed=1)
    assert found == {"right": (1.0,) * 5, "left": (0.0,) * 5}


def test_in_gymnasium_s_next_step_mode_nothing_is_counted_twice() -> None:
    """An environment whose copies spend a step on beginning anew."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    from crosstask_reinforcement.copies import VectorCopies

    def copies(environments: Any, counts: Any) -> Any:
        ((one,), (count,)) = environments, counts
        return VectorCopies(SyncVectorEnv([one.make] * count, autoreset_mode=AutoresetMode.NEXT_STEP))

    one = attrs.evolve(BOTH[0], copies=copies)
    agent = Marches().prepare([one.space])
    runner = Runner(agent, [one], copies=2, seed=0)
    made = runner.collect(30)
    assert made.steps == int(made.valid.sum()) < 60
    assert not made.ends[~made.valid].any()
    assert torch.equal(made.valid[1:], ~made.ends[:-1])
    assert torch.equal(made.starts[1:], ~made.valid[:-1] | made.ends[:-1])
    assert {value for _, value in runner.finished["right"]} == {1.0}
    assert evaluate(agent, [one], episodes=3) == {"right": (1.0,) * 3}


def test_a_training_ends_where_all_is_solved_and_is_the_same_again() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    settings: dict[str, Any] = {"steps": 6000, "copies": 8, "evaluate_every": 600, "episodes": 6, "seed": 4}
    agent = ReferenceAgent()
    made = train(agent, BOTH, **settings, told=lambda at, means: heard.append((at, means)))
    again = train(ReferenceAgent(), BOTH, **settings)
    assert made.solved
    assert made.steps < 6000
    assert made.all_solved_at == max(filter(None, made.solved_at.values()))
    assert made.all_solved_at <= made.curves["left"].steps[-1] == made.steps
    assert attrs.evolve(made, seconds=0) == attrs.evolve(again, seconds=0)
    assert heard[-1][1] == {name: curve.final for name, curve in made.curves.items()}
    assert set(made.collected) == {"right", "left"}
    longer = train(ReferenceAgent(), BOTH, **{**settings, "stop": False, "steps": 2001})
    assert 2001 - 16 < longer.steps <= 2001
    never = train(ReferenceAgent(), BOTH, **{**settings, "steps": 700}, levels={"right": 2.0, "left": 2.0})
    assert never.solved_at == {"right": None, "left": None}
    assert never.all_solved_at is None


def test_training_goes_on_bit_for_bit_after_a_stop() -> None:
    def went(agent: Any, runner: Runner) -> Any:
        for _ in range(4):
            runner.learn(runner.collect(12))
        return {name: value.clone() for name, value in agent.network.state_dict().items()}

    agent = prepared(ReferenceAgent())
    runner = Runner(agent, BOTH, copies=4, seed=0)
    went(agent, runner)
    kept = agent.state_dict(), runner.state_dict()
    wanted = went(agent, runner)
    fresh = ReferenceAgent()
    fresh.load_state_dict(kept[0])
    other = Runner(fresh, BOTH, copies=4, seed=9)
    other.load_state_dict(kept[1])
    found = went(fresh, other)
    assert all(torch.equal(wanted[name], value) for name, value in found.items())
    assert other.steps == runner.steps
    assert other.finished == runner.finished


def test_an_agent_that_keeps_nothing_goes_on_from_its_weights() -> None:
    @component
    class Plain(Marches):
        own_state = Agent.own_state
        load_own_state = Agent.load_own_state

    unprepared = Plain()
    unprepared.load_state_dict(Plain().state_dict())
    assert unprepared.spaces == ()
    other = Plain()
    other.load_state_dict(prepared(Plain()).state_dict())
    assert [space.task_id for space in other.spaces] == ["right", "left"]


def test_beginning_from_weights_is_seen_before_any_step() -> None:
    settings: dict[str, Any] = {"steps": 6000, "copies": 8, "evaluate_every": 600, "episodes": 6, "seed": 4}
    agent = ReferenceAgent()
    train(agent, BOTH, **settings)
    weights = {name: value.clone() for name, value in agent.network.state_dict().items()}
    whole = train(ReferenceAgent(), BOTH, **settings, start=weights, heads=True)
    assert whole.steps == whole.all_solved_at == 0
    trunk = train(ReferenceAgent(), BOTH, **settings, start=weights)
    assert trunk.curves["right"].steps[0] == 0
    assert trunk.curves["right"].values[0] < 0.9


def test_who_does_not_fit_is_refused() -> None:
    agent = prepared(ReferenceAgent())
    with pytest.raises(DataError, match=r"was prepared for the tasks \['right', 'left'\], not for \['left', 'right'\]"):
        Runner(agent, BOTH[::-1], 2, 0)
    with pytest.raises(DataError, match="3 steps do not suffice for one in each of 8 copies of 2 tasks"):
        train(agent, BOTH, steps=3)
    with pytest.raises(DataError, match="copies must be at least 1, got 0"):
        train(agent, BOTH, steps=3, copies=0)
    with pytest.raises(DataError, match="needs observations and actions"):
        ReferenceAgent().prepare([TaskSpace("a", 0, 2)])
    with pytest.raises(PluginError, match="state lacks network, own"):
        ReferenceAgent().load_state_dict({"spaces": []})

    class Halves(ReferenceAgent):
        def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
            return Decision(torch.full((len(situation),), 0.5))

    with pytest.raises(PluginError, match=r"act must give one whole number for each of 4 places, got torch\.float32"):
        Runner(prepared(component(Halves)()), BOTH, 2, 0).collect(1)


def test_environments_that_cannot_be() -> None:
    good = BOTH[0]
    for changed, message in (
        ({"descriptor": attrs.evolve(good.descriptor, input_shape=(2, 2))}, "observations must be vectors"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ):
        with pytest.raises(DataError, match=message):
            attrs.evolve(good, **changed)


def test_a_curve_says_from_where_on_a_task_stayed_solved() -> None:
    from crosstask_reinforcement.training import _stayed

    assert _stayed([1, 2, 3, 4], [5, 1, 5, 6], 5) == 3
    assert _stayed([1, 2], [5, 1], 5) is None
    assert _stayed([1], [5], None) is None
    assert Trained(curves={}, collected={}, solved_at={}, steps=0, seconds=0, seed=0).all_solved_at is None
