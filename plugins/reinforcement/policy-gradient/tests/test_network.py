"""`MultiTaskPolicyNetwork`: the faults of the classic form, which it has not; rows of several tasks at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask_policy_gradient import MultiTaskPolicyNetwork
from crosstask_policy_gradient.network import FORBIDDEN, Layout

ACTIONS = {"a": 2, "b": 4, "c": 3}


def network(**given: Any) -> MultiTaskPolicyNetwork:
    torch.manual_seed(0)
    made = MultiTaskPolicyNetwork(5, ACTIONS, **given)
    with torch.no_grad():
        for weight in made.policy.weights:  # a new policy is almost uniform
            weight.mul_(20)
    return made


def states(count: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_the_signature_is_that_of_the_spec() -> None:
    made = MultiTaskPolicyNetwork(4, {"left": 2, "right": 3})
    sizes = [tuple(layer.weight.shape) for layer in made.shared if isinstance(layer, torch.nn.Linear)]
    assert sizes == [(128, 4), (64, 128)]
    assert [tuple(w.shape) for w in made.policy.weights] == [(2, 64, 32), (2, 32, 3)]
    logits, value = made(torch.zeros(7, 4), "right")
    assert (tuple(logits.shape), tuple(value.shape)) == ((7, 3), (7, 1))
    action, log_prob = made.get_action(torch.zeros(7, 4), "left", deterministic=True)
    assert (tuple(action.shape), tuple(log_prob.shape)) == ((7,), (7,))
    assert made.training


def test_a_softmax_that_became_zero_has_a_finite_logarithm() -> None:
    """The classic form takes the logarithm of a softmax: -inf."""
    made = network()
    with torch.no_grad():
        made.policy.weights[-1].zero_()
        made.policy.biases[-1][0, 0] = torch.tensor([0.0, -500.0, 0, 0])
    log_prob, entropy, _ = made.evaluate(states(2), torch.ones(2, dtype=torch.long), "a")
    assert log_prob.tolist() == [-500.0, -500.0]
    assert torch.isfinite(entropy).all()
    entropy.sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in made.parameters())


def test_two_log_probabilities_of_one_state_do_not_differ_by_dropout() -> None:
    """In training mode, too: a ratio of the policy to itself is exactly 1. With dropout, if it is asked for, not."""
    made = network().train()
    actions = torch.zeros(12, dtype=torch.long)
    first, again = (made.evaluate(states(), actions, "b")[0] for _ in range(2))
    assert torch.equal(torch.exp(first - again), torch.ones(12))
    dropping = network(dropout_rate=0.2).train()
    first, again = (dropping.evaluate(states(), actions, "b")[0] for _ in range(2))
    assert not torch.equal(first, again)
    dropping.eval()
    assert torch.equal(*(dropping.evaluate(states(), actions, "b")[0] for _ in range(2)))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_state_without_a_batch_gets_an_action(deterministic: bool) -> None:
    """The classic form fails where it is deterministic."""
    made = network()
    generator = torch.Generator().manual_seed(0)
    action, log_prob, value = made.decide(states()[3], "c", deterministic, generator=generator)
    assert action.shape == log_prob.shape == value.shape == ()
    logits, alone = made(states()[3], "c")
    assert (tuple(logits.shape), tuple(alone.shape)) == ((3,), (1,))
    torch.testing.assert_close(value, alone[0])
    torch.testing.assert_close(log_prob, functional.log_softmax(logits, 0)[action])
    again = made.evaluate(states()[3], action, "c")
    torch.testing.assert_close(again[0], log_prob)


def test_the_value_is_not_thrown_away() -> None:
    made = network()
    _, _, value = made.decide(states(), "a", True)
    torch.testing.assert_close(value, made(states(), "a")[1][:, 0])
    assert made.decide(states(), "a", True)[1].shape == made.get_action(states(), "a", True)[1].shape


@pytest.mark.parametrize("order", ["sorted", "mixed", "uneven", "one absent"])
def test_rows_of_several_tasks_get_what_each_task_gives_them(order: str) -> None:
    """The classic form takes one task for a batch. Values and log-probabilities are [B], so nothing broadcasts."""
    made, rows = network(), states()
    numbers = {
        "sorted": torch.arange(12) // 4,
        "mixed": torch.arange(12) % 3,
        "uneven": torch.tensor([2, 0, 2, 2, 1, 2, 2, 0, 2, 2, 2, 2]),
        "one absent": torch.tensor([2, 0] * 6),
    }[order]
    actions = torch.arange(12) % 2
    log_prob, entropy, value = made.evaluate(rows, actions, numbers)
    names = [list(ACTIONS)[n] for n in numbers.tolist()]
    assert log_prob.shape == entropy.shape == value.shape == (12,)
    for row, name in enumerate(names):
        logits, own = made(rows[row], name)
        there = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(log_prob[row], there.log_prob(actions[row]))
        torch.testing.assert_close(entropy[row], there.entropy())
        torch.testing.assert_close(value[row], own[0])
    by_name = made.evaluate(rows, actions, names)
    assert all(torch.equal(a, b) for a, b in zip(by_name, (log_prob, entropy, value), strict=True))
    value.sum().backward()
    reached = [n for n in range(3) if bool((made.value.weights[0].grad[n] != 0).any())]  # type: ignore[index]
    assert reached == sorted(set(numbers.tolist()))


def test_drawn_actions_follow_the_softmax_and_their_task() -> None:
    made = network()
    many = states(1).expand(4000, 5)
    for name, count in ACTIONS.items():
        action, log_prob, _ = made.decide(many, name, generator=torch.Generator().manual_seed(3))
        probabilities = made(states(1), name)[0].softmax(1)[0]
        shares = torch.bincount(action, minlength=count) / 4000
        assert len(shares) == count
        assert (shares - probabilities).abs().max() < 4 * math.sqrt(0.25 / 4000)
        torch.testing.assert_close(log_prob.exp(), probabilities[action])
    assert FORBIDDEN < -1e6


def test_a_blind_network_answers_alike_in_all_tasks() -> None:
    made = MultiTaskPolicyNetwork(5, {"a": 2, "b": 2}, task_blind=True)
    assert made.policy.weights[0].shape[0] == 1
    assert all(torch.equal(x, y) for x, y in zip(made(states(), "a"), made(states(), "b"), strict=True))


def test_a_layout_is_found_once_for_one_tensor() -> None:
    made, numbers = network(), torch.arange(12) % 3
    first = made.layout(numbers, 12)
    assert made.layout(numbers, 12) is first
    numbers[0] = 2
    assert made.layout(numbers, 12) is not first
    torch.testing.assert_close(Layout.of(numbers, 3).means(torch.ones(12)), torch.ones(3))
    assert Layout.of(torch.tensor([0, 0, 2]), 3).means(torch.tensor([1.0, 3.0, 5.0])).tolist() == [2, 0, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"state_dim": 0}, "state_dim must be at least 1, got 0"),
        ({"action_dims": {}}, "action_dims must name at least one task"),
        ({"action_dims": {"a": 0}}, "task 'a' must be at least 1"),
        ({"shared_dims": []}, "shared_dims must name at least one layer"),
        ({"task_dims": [0]}, "task_dims must be at least 1"),
        ({"dropout_rate": 1.0}, "dropout_rate must be at least 0 and less than 1"),
    ],
)
def test_sizes_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MultiTaskPolicyNetwork(**{"state_dim": 4, "action_dims": {"a": 2}, **given})


def test_rows_that_do_not_fit() -> None:
    made, rows = network(), states()
    for call, message in (
        (lambda: made(rows, "aa"), "no task 'aa'; did you mean 'a'"),
        (lambda: made(rows[:, :3], "a"), r"must be \[B, 5\] or \[5\], got \(12, 3\)"),
        (lambda: made.evaluate(rows, torch.zeros(12, 1).long(), "a"), r"actions must be \[B\] like the states"),
        (lambda: made.evaluate(rows, torch.full((12,), 2), "a"), "an action is none of its task's"),
        (lambda: made.decide(rows, torch.zeros(11).long()), "12 states, but tasks for 11"),
        (lambda: made.decide(rows, torch.full((12,), 3)), "tasks are numbered 0 to 2, got 3 to 3"),
        (lambda: made.decide(rows, torch.zeros(12)), "tasks must be whole numbers"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_lists_that_were_given_are_not_kept() -> None:
    """The classic form has lists as defaults, which every network shares."""
    widths, actions = [8], {"a": 2}
    made = MultiTaskPolicyNetwork(4, actions, shared_dims=widths, task_dims=[])
    actions["b"], widths[0] = 3, 99
    assert made.action_dims == {"a": 2}
    assert [tuple(w.shape) for w in made.policy.weights] == [(1, 8, 2)]
    assert MultiTaskPolicyNetwork(4, {"a": 2}).state_dict()["shared.0.weight"].shape == (128, 4)
