"""`hierarchical` in corridors of which the state says which way pays."""

from __future__ import annotations

import copy
import functools
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from crosstask.errors import CrosstaskError, RunError
from crosstask_hierarchical import Hierarchical
from crosstask_reinforcement import Situation, TaskSpace
from crosstask_reinforcement.testing import LENGTH, Corridors, corridors
from crosstask_reinforcement.training import Runner, evaluate, train

SMALL: dict[str, Any] = {
    "meta_dims": (16,), "task_dims": (16,), "learning_rate": 1e-2, "steps": 12, "option_length": 2, "gamma": 0.9,
}  # fmt: skip


class Shown(Corridors):
    """What is observed is the place, and which end pays."""

    def seen(self, state: Any) -> Any:
        made = super().seen(state)
        made[:, 1] = self.constants["towards"]
        return made


def shown() -> list[Any]:
    return [attrs.evolve(corridors()[name], copies=Shown) for name in ("right", "left")]


def always(action: int, states: Tensor) -> Tensor:
    return torch.tensor([9.0, -9.0] if action == 0 else [-9.0, 9.0]).expand(len(states), -1)


WALKS = {"right": functools.partial(always, 1), "left": functools.partial(always, 0)}


def picks(agent: Hierarchical) -> float:
    """The share of all places in which the controller of the state's own task is picked."""
    places = torch.arange(-LENGTH + 1, LENGTH) / LENGTH
    states = torch.cat([torch.stack([places, torch.full_like(places, way)], dim=1) for way in (1.0, -1.0)])
    right = torch.arange(2).repeat_interleave(len(places))
    starts = torch.ones(len(states), dtype=torch.bool)
    made = agent.act(Situation(states, right * 0, starts), False, torch.Generator())
    return float((made.extras["meta"] == right).float().mean())


def test_it_learns_from_the_state_which_policy_to_pick() -> None:
    agent = Hierarchical(**SMALL, sub_share=0, told=False).give(WALKS)
    assert picks(agent.prepare([e.space for e in shown()])) < 0.9
    made = train(agent, shown(), steps=1200, copies=8, evaluate_every=1200, episodes=8, stop=False)
    assert {name: curve.final for name, curve in made.curves.items()} == {"right": 1.0, "left": 1.0}
    assert picks(agent) >= 0.95


def test_values_of_the_meta_controller_are_those_in_closed_form() -> None:
    """One policy that walks straight to the end: after k steps 1, which is worth g^(k - 1)."""
    one = shown()[:1]
    agent = Hierarchical(**{**SMALL, "epochs": 8}, sub_share=0, trace=0.0, told=False).give({"right": WALKS["right"]})
    train(agent, one, steps=1500, copies=8, evaluate_every=1500, episodes=2, stop=False)
    places = torch.arange(-1, LENGTH)
    _, values = agent.network.choose(torch.stack([places / LENGTH, torch.ones(len(places))], dim=1))
    right = 0.9 ** (LENGTH - places - 1.0)
    torch.testing.assert_close(values.detach(), right, atol=0.04, rtol=0)


def test_controllers_learn_in_their_own_task_first_and_then_stand_still() -> None:
    agent = Hierarchical(**SMALL, sub_share=0.5, told=False).prepare([e.space for e in shown()], seed=0)
    runner = Runner(agent, shown(), 8, seed=0)

    def weights(what: str) -> list[Tensor]:
        return [p.detach().clone() for n, p in agent.network.named_parameters() if n.startswith(what)]

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    meta = weights("meta")
    for number in range(1, 9):
        made = runner.collect(12, learned=number / 16)
        assert torch.equal(made.extras["meta"], made.tasks.expand(12, -1))
        assert set(runner.learn(made)) == {"task_loss", "task_entropy"}
    assert same(meta, weights("meta"))
    subs = weights("controllers")
    for number in range(9, 14):
        assert set(runner.learn(runner.collect(12, learned=number / 16))) == {"meta_loss", "meta_entropy"}
    assert same(subs, weights("controllers"))
    assert not same(meta, weights("meta"))


def test_a_choice_lasts_and_is_the_one_that_acts() -> None:
    agent = Hierarchical(**{**SMALL, "option_length": 3}, sub_share=0, told=False).give(WALKS)
    runner = Runner(agent.prepare([e.space for e in shown()]), shown(), 4, seed=0)
    made = runner.collect(40)
    meta, begins = made.extras["meta"], made.extras["begins"]
    assert torch.equal(made.actions, 1 - meta)  # what was drawn is what acted
    assert bool(begins[made.starts].all())
    since = torch.zeros(8, dtype=torch.long)
    for step in range(40):
        since = torch.where(made.starts[step], 0, since)
        assert torch.equal(begins[step], since % 3 == 0)
        if step:
            assert bool((meta[step] == meta[step - 1])[~begins[step]].all())
        since = since + 1
    assert 0.2 < float(meta[begins].float().mean()) < 0.8


def test_all_of_it_learns_on_where_nothing_is_frozen() -> None:
    both = shown()
    agent = Hierarchical(**SMALL, sub_share=0.3, freeze=False)
    made = train(agent, both, steps=3000, copies=8, evaluate_every=3000, episodes=8, stop=False, seed=1)
    assert made.solved
    with torch.no_grad():
        assert min(min(values) for values in evaluate(agent, both, 8, seed=5).values()) == 1.0


def test_policies_that_are_given_are_never_trained() -> None:
    agent = Hierarchical(**SMALL, sub_share=0.5).give(WALKS).prepare([e.space for e in shown()])
    assert agent.learn(Runner(agent, shown(), 2, seed=0).collect(4), torch.Generator()) == {}


def test_learning_goes_on_from_its_state_bit_for_bit() -> None:
    spaces = [e.space for e in shown()]
    agent = Hierarchical(**SMALL, sub_share=0).give({"left": WALKS["left"]}).prepare(spaces)
    runner = Runner(agent, shown(), 4, seed=0)
    runner.learn(runner.collect(12))
    state = copy.deepcopy(agent.state_dict())
    fresh = Hierarchical(**SMALL, sub_share=0)
    fresh.load_state_dict(state)
    made = runner.collect(12)
    situation = Situation(made.observations[0], made.tasks, made.starts[0])
    with pytest.raises(CrosstaskError, match="had a policy for 'left': call give again"):
        fresh.act(situation, True, torch.Generator())
    fresh.give({"left": WALKS["left"]})
    for one in (agent, fresh):
        one.learn(made, torch.Generator().manual_seed(2))
    for name, value in agent.network.state_dict().items():
        assert torch.equal(value, fresh.network.state_dict()[name])


def test_the_step_size_falls_while_a_level_learns() -> None:
    agent = Hierarchical(sub_share=0.5, anneal=True)
    assert [agent._left("task", at) for at in (0.0, 0.25, 0.5)] == pytest.approx([1.0, 0.5, 0.01])
    assert [agent._left("meta", at) for at in (0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.5, 0.01])
    assert Hierarchical(sub_share=0.5, freeze=False, anneal=True)._left("task", 0.5) == 0.5
    assert Hierarchical()._left("meta", 0.9) == 1.0


SPACES = [TaskSpace("right", 2, 2), TaskSpace("wide", 3, 3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Hierarchical().give({}), "at least one policy"),
        (lambda: Hierarchical().give({"right": 3}), "must be called with states, got 3"),  # type: ignore[dict-item]
        (lambda: Hierarchical().give({"rigth": WALKS["right"]}).prepare(SPACES), "no task 'rigth'; did you mean"),
        (lambda: Hierarchical().prepare(SPACES).give({"other": WALKS["right"]}), "no task 'other'"),
        (
            lambda: Hierarchical(sub_share=0.5).give({"wide": WALKS["right"]}).prepare(SPACES).act(
                Situation(torch.zeros(4, 3), torch.ones(4).long(), torch.ones(4).bool()), True, torch.Generator()
            ),
            r"the policy of 'wide' must give \[4, 3\], got \(4, 2\)",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        call()


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    agent = Hierarchical(**SMALL).prepare([e.space for e in shown()])
    made = Runner(agent, shown(), 2, seed=0).collect(6)
    with pytest.raises(RunError, match="the loss is nan"):
        agent.learn(attrs.evolve(made, rewards=made.rewards * torch.nan), torch.Generator())
