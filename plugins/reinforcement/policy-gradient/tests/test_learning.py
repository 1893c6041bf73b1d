"""PPO and A2C: losses against their equations, advantages by task, balanced trunks, tasks that are absent, resuming."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from crosstask import TransferEngine
from crosstask.errors import DataError, RecipeError, RunError
from crosstask.options import component
from crosstask.points.balancer import Balancer
from crosstask.testing import reference_registry
from crosstask_policy_gradient import A2C, PPO
from crosstask_policy_gradient.learning import squared_error
from crosstask_policy_gradient.plugin import PLUGIN
from crosstask_reinforcement import Rollout, Runner, gae, train
from crosstask_reinforcement.testing import REFERENCE, corridor_portfolio, corridors

NAMES = ("right", "left", "wide")
SMALL: dict[str, Any] = {"shared_dims": [16], "task_dims": [8]}


def prepared(agent: Any, names: tuple[str, ...] = NAMES) -> Any:
    return agent.prepare([corridors()[name].space for name in names], seed=0)


def rollout(agent: Any, names: tuple[str, ...] = NAMES, steps: int = 14, copies: int = 3) -> Rollout:
    return Runner(agent, [corridors()[name] for name in names], copies, seed=5).collect(steps, learned=0.5)


def weights(agent: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in agent.network.state_dict().items()}


def without(made: Rollout, task: int) -> Rollout:
    rows = made.tasks != task
    cut = {
        field.name: getattr(made, field.name)[:, rows]
        for field in attrs.fields(Rollout)
        if field.name not in ("tasks", "extras", "progress")
    }
    extras = {name: value[:, rows] for name, value in made.extras.items()}
    return attrs.evolve(made, tasks=made.tasks[rows], extras=extras, **cut)


def learned(agent: Any, made: Rollout, times: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(times):
        agent.learn(made, generator)
    return weights(agent)


def by_hand(agent: Any, made: Rollout) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """By task: (advantages that are normalised, returns, numbers of the flat rows), one task after another."""
    network, found = agent.network, ([], [], [])
    for number in range(len(agent.spaces)):
        rows = made.tasks == number
        with torch.no_grad():
            name = agent.spaces[number].task_id
            value = network(made.observations[:, rows].flatten(0, 1), name)[1].view(len(made.rewards), -1)
            after = network(made.following[:, rows].flatten(0, 1), name)[1].view(len(made.rewards), -1)
        cut = (made.terminated[:, rows], made.ends[:, rows])
        advantages = gae(made.rewards[:, rows], value, after, *cut, discount=agent.discount, trace=agent.trace)
        found[1].append((advantages + value).flatten())
        own = advantages.flatten()
        found[0].append((own - own.mean()) / own.std(unbiased=False))
        found[2].append(rows.nonzero().flatten())
    return found


def test_a2c_steps_along_the_gradient_of_its_equation() -> None:
    """The mean over tasks of -log pi A + c (V - R)^2 - e H, written out task by task; one step of Adam moves each
    weight by the sign of its gradient.
    """
    agent = prepared(A2C(**SMALL, entropy=0.1, scale_returns=False, clip_norm=None, anneal=False, learning_rate=1e-3))
    made = rollout(agent)
    twin = copy.deepcopy(agent)
    advantages, returns, rows = by_hand(twin, made)
    losses = []
    for number, name in enumerate(NAMES):
        states, actions = made.observations[:, rows[number]].flatten(0, 1), made.actions[:, rows[number]].flatten()
        logits, value = twin.network(states, name)
        there = torch.distributions.Categorical(logits=logits)
        losses.append(
            (
                -there.log_prob(actions) * advantages[number]
                + 0.5 * (value[:, 0] - returns[number]) ** 2
                - 0.1 * there.entropy()
            ).mean()
        )
    loss = torch.stack(losses).mean()
    loss.backward()
    before = weights(agent)
    metrics = agent.learn(made, torch.Generator())
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, parameter in twin.network.named_parameters():
        step = agent.network.get_parameter(name).detach() - before[name]
        large = parameter.grad.abs() > 1e-3  # where eps is nothing
        torch.testing.assert_close(step[large], -1e-3 * parameter.grad[large].sign(), rtol=0.02, atol=1e-6)


def test_ppo_s_terms_are_the_clipped_surrogate() -> None:
    """Schulman et al. 2017, equation 7: four transitions, by hand."""
    from crosstask_policy_gradient.learning import Batch

    agent = PPO(clip=0.2, value_weight=1.0, entropy=0.5)
    zeros = torch.zeros(4)
    batch = Batch(zeros[:, None], zeros.long(), zeros, torch.tensor([1.0, 1, -1, -1]), zeros, zeros, zeros.long())
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    found = agent.terms(ratio.log(), torch.tensor([2.0, 0, 0, 0]), torch.tensor([0.0, 3, 0, 0]), batch)
    torch.testing.assert_close(found, torch.tensor([-1.2 - 0.5 * 2, -0.5 + 9, 1.5, 0.8]))


def test_the_first_ratio_of_a_rollout_is_one() -> None:
    agent = prepared(PPO(**SMALL))
    made = rollout(agent)
    batch = agent._batch(made)
    log_prob, _, value = agent.network.evaluate(batch.observations, batch.actions, batch.tasks)
    torch.testing.assert_close(log_prob, batch.log_probs)
    torch.testing.assert_close(value, batch.values)


def test_advantages_are_normalised_by_task() -> None:
    """A task whose rewards are a thousand times larger does not drown the others."""
    agent = prepared(PPO(**SMALL, scale_returns=False))
    made = rollout(agent)
    scale = torch.tensor([1.0, 1000, 1])[made.tasks]
    for each in (made, attrs.evolve(made, rewards=(made.rewards + 0.1) * scale)):
        batch = agent._batch(each)
        for number in range(3):
            own = batch.advantages[batch.tasks == number]
            assert float(own.mean()) == pytest.approx(0, abs=1e-5)
            assert float(own.std(unbiased=False)) == pytest.approx(1, abs=1e-3)
    found = by_hand(agent, made)
    torch.testing.assert_close(agent._batch(made).returns.sort().values, torch.cat(found[1]).sort().values)


def test_returns_are_learned_in_units_of_their_deviation() -> None:
    """With `scale_returns` rewards a hundred times larger teach the same values."""
    found = []
    for factor in (1.0, 100.0):
        agent = prepared(PPO(**SMALL))
        made = rollout(agent)
        found.append(agent._batch(attrs.evolve(made, rewards=factor * (made.rewards + 0.1))).returns)
    torch.testing.assert_close(*found)
    same = prepared(PPO(**SMALL))
    made = rollout(same)
    assert torch.isfinite(same._batch(attrs.evolve(made, rewards=torch.zeros_like(made.rewards))).returns).all()


def test_a_running_deviation_is_that_of_all_that_was_seen() -> None:
    agent = prepared(PPO(**SMALL, discount=0.0))
    parts = [rollout(agent) for _ in range(3)]
    parts = [attrs.evolve(p, rewards=torch.randn(p.rewards.shape)) for p in parts]
    for each in parts:
        agent._batch(each)
    for number in range(3):
        seen = torch.cat([p.rewards[:, p.tasks == number].flatten() for p in parts]).double()
        count, mean, squares = agent._scale[number].tolist()
        assert (count, mean) == (len(seen), pytest.approx(float(seen.mean())))
        assert squares / count == pytest.approx(float(seen.var(unbiased=False)))


def test_a_value_column_beside_rows_of_returns_is_refused() -> None:
    """[N, 1] - [N] would be [N, N], and its mean a number that looks like a loss."""
    with pytest.raises(DataError, match=r"values \(4, 1\) and returns \(4,\) must have one shape"):
        squared_error(torch.zeros(4, 1), torch.zeros(4))
    assert squared_error(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [2.0]


def test_a_task_that_is_absent_rests() -> None:
    """Its heads, and what Adam remembers of them, stay bit for bit, though the optimiser has speed in them."""
    agent = prepared(PPO(**SMALL))
    made = rollout(agent)
    before = learned(agent, made)
    adam = copy.deepcopy(agent._adam.state_dict()["state"])
    after = learned(agent, without(made, 1))
    for name, value in after.items():
        if name.startswith("shared"):
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value[1], before[name][1])
            assert not torch.equal(value[0], before[name][0])
    kept = [own["exp_avg"] for own in adam.values() if own["exp_avg"].ndim == 3]
    now = [own["exp_avg"] for own in agent._adam.state_dict()["state"].values() if own["exp_avg"].ndim == 3]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(kept, now, strict=True))


@component
class Noting(Balancer):
    """The sum; it notes which tasks each step had, and how its gradients lie."""

    def balance(self, losses: Tensor, gradients: Any) -> Tensor:
        SEEN.append((gradients.names, tuple(gradients.matrix.shape)))
        return torch.ones_like(losses)


SEEN: list[Any] = []


@pytest.mark.parametrize("agent", [PPO, A2C])
def test_a_balancer_of_ones_learns_as_none(agent: Any) -> None:
    """One gradient of the trunk for each task goes through the balancer, heads get those of their own task."""
    SEEN.clear()
    plain, balanced = prepared(agent(**SMALL)), prepared(agent(**SMALL, balancer=Noting()))
    made = rollout(plain)
    found, wanted = learned(balanced, made), learned(plain, made)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3)
    trunk = sum(p.numel() for p in balanced.network.shared.parameters())
    assert {names for names, _ in SEEN} == {NAMES}
    assert {shape for _, shape in SEEN} == {(3, trunk)}
    learned(balanced, without(made, 0))
    assert SEEN[-1][0] == NAMES[1:]
    blind = prepared(agent(**SMALL, balancer=Noting(), task_blind=True))
    learned(blind, rollout(blind))
    assert SEEN[-1][1] == (3, sum(p.numel() for p in blind.network.parameters()))


@pytest.mark.parametrize("balancer", ["pcgrad", "gradnorm", "uncertainty"])
def test_any_balancer_acts_on_the_trunk_and_learning_goes_on_bit_for_bit(balancer: str) -> None:
    """One that keeps state, and one whose parameters the optimiser trains, too; with dropout, which draws."""
    given = {**SMALL, "balancer": balancer, "dropout_rate": 0.1, "epochs": 4, "learning_rate": 0.02}
    plain, agent = prepared(PPO(**{**given, "balancer": None})), prepared(PPO(**given))
    made = rollout(agent)
    first = learned(agent, made)
    assert not torch.equal(first["shared.0.weight"], learned(plain, made)["shared.0.weight"])
    state = copy.deepcopy(agent.state_dict())
    wanted = learned(agent, made)
    fresh = PPO(**given)
    fresh.load_state_dict(state)
    found = learned(fresh, made)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    begun = prepared(agent)  # afresh: what the balancer had learned is gone, too
    again = learned(begun, made)
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_what_the_global_generator_holds_does_not_matter() -> None:
    found = []
    for seed in (1, 2):
        agent = prepared(PPO(**SMALL, dropout_rate=0.3))
        made = rollout(agent)
        torch.manual_seed(seed)
        found.append(learned(agent, made))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


@pytest.mark.parametrize("balancer", [None, "pcgrad"])
def test_a_loss_that_is_not_finite_is_said(balancer: str | None) -> None:
    agent = prepared(PPO(**SMALL, scale_returns=False, balancer=balancer))
    made = rollout(agent)
    before = weights(agent)
    with pytest.raises(RunError, match="loss is"):
        agent.learn(attrs.evolve(made, rewards=made.rewards * torch.inf), torch.Generator())
    assert all(torch.equal(before[name], value) for name, value in weights(agent).items())


def test_what_it_cannot_learn_from() -> None:
    agent = prepared(PPO(**SMALL))
    made = rollout(agent)
    with pytest.raises(DataError, match="no valid step"):
        agent.learn(attrs.evolve(made, valid=torch.zeros_like(made.valid)), torch.Generator())
    with pytest.raises(DataError, match="lacks the log-probabilities"):
        agent.learn(attrs.evolve(made, extras={}), torch.Generator())
    with pytest.raises(DataError, match="knows no tasks yet"):
        _ = PPO()._adam


def test_batches_hold_every_transition_once_and_as_many_of_each_task() -> None:
    agent = prepared(PPO(**SMALL, epochs=2, batch_size=40))
    batch = agent._batch(rollout(agent))
    parts = list(agent.batches(batch, torch.Generator().manual_seed(0)))
    assert len(parts) == 2 * 3
    for passed in (parts[:3], parts[3:]):
        seen = torch.cat([each.advantages for each in passed])
        assert torch.equal(seen.sort().values, batch.advantages.sort().values)
        assert {tuple(torch.bincount(each.tasks).tolist()) for each in passed} == {(14, 14, 14)}
    assert not torch.equal(parts[0].advantages, parts[3].advantages)


def test_the_step_size_falls_with_progress() -> None:
    agent = prepared(PPO(**SMALL, learning_rate=0.01))
    made = rollout(agent)
    rates = []
    for progress in (0.0, 0.5, 1.0):
        agent.learn(attrs.evolve(made, progress=progress), torch.Generator())
        rates.append(agent._adam.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.005, 1e-5])


def test_a_task_blind_policy_cannot_walk_both_corridors() -> None:
    """Which the one that is told does: they are learned by acting, so the network is trained by something."""
    both = [corridors()["right"], corridors()["left"]]
    settings: dict[str, Any] = {"steps": 6000, "copies": 8, "evaluate_every": 1000, "episodes": 8, "seed": 0}
    told, blind = (train(PPO(**SMALL, task_blind=b), both, **settings) for b in (False, True))
    assert told.solved
    assert not blind.solved


def test_a_balancer_that_is_none_is_said_before_any_work() -> None:
    with TransferEngine(registry=reference_registry(REFERENCE, PLUGIN), discoverers=[]) as engine:
        engine.register(corridor_portfolio())
        with pytest.raises(RecipeError, match=r"agent: .*pcgradd"):
            engine.run_stage("reinforcement", agent={"use": "ppo", "balancer": "pcgradd"})


@pytest.mark.slow
def test_six_cartpoles_are_solved_and_a_blind_policy_fails_the_reversed_one() -> None:
    from crosstask_reinforcement.worlds import CartPoleWorld

    six = list(CartPoleWorld().environments().values())
    made = train(PPO(), six, steps=150_000, seed=0)
    assert made.solved
    assert made.steps <= 150_000
    blind = train(PPO(task_blind=True), six, steps=60_000, seed=0)
    assert min(curve.final for curve in blind.curves.values()) < 200
