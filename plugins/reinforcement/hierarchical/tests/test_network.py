"""`HierarchicalMultiTaskRL`, with each fault of its usual form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from crosstask.errors import CrosstaskError
from crosstask_hierarchical import HierarchicalMultiTaskRL

ACTIONS = {"pole": 2, "arm": 3, "car": 4}
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def network(**given: Any) -> HierarchicalMultiTaskRL:
    torch.manual_seed(0)
    small = {"meta_dims": [12, 8], "task_dims": [10, 6]}
    return HierarchicalMultiTaskRL(**{"state_dim": 4, "task_action_dims": ACTIONS, **small, **given})


def test_sizes_and_defaults_are_those_of_the_specification() -> None:
    made = HierarchicalMultiTaskRL(4, 3, ACTIONS)
    assert (made.meta_dims, made.task_dims, made.dropout_rate, made.meta_action_dim) == ([128, 64], [64, 32], 0.2, 3)
    assert [layer.p for layer in made.meta if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    made.meta_dims.append(1)
    assert HierarchicalMultiTaskRL(4, task_action_dims=ACTIONS).meta_dims == [128, 64]


def test_answers_are_logits_of_the_choices_and_of_every_controller() -> None:
    made = network().eval()
    meta = made(X)
    again, tasks = made(X, level="task")
    assert torch.equal(meta, again)
    assert meta.shape == (40, 3)
    assert {name: tuple(each.shape) for name, each in tasks.items()} == {
        "pole": (40, 2),
        "arm": (40, 3),
        "car": (40, 4),
    }
    assert float(meta.detach().min()) < 0
    single, alone = made(X[0], "task")
    assert (single.shape, made(X[0]).shape) == ((3,), (3,))
    for name, each in tasks.items():
        torch.testing.assert_close(alone[name], each[0])
        assert bool((each.detach() != 0).any(dim=1).all())  # masked rows of zeros would be no distribution


def test_the_choice_has_a_gradient_so_that_the_meta_controller_is_trained() -> None:
    made = network()
    *_, log_meta, log_task = made.get_hierarchical_action(X, generator=torch.Generator().manual_seed(0))
    assert log_meta.requires_grad
    log_meta.sum().backward(retain_graph=True)
    assert float(made.meta_policy.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert made.goals.grad is None
    log_task.sum().backward()
    assert float(made.goals.grad.abs().sum()) > 0  # type: ignore[union-attr]  # goals are learned


def test_the_action_is_drawn_by_the_controller_of_the_choice_that_is_returned() -> None:
    """Each controller is made to do one thing only: what is done tells which of them did it."""
    made = network()
    with torch.no_grad():
        for number, controller in enumerate(made.each_controller()):
            nn.init.zeros_(controller.policy.weight)
            controller.policy.bias.copy_(torch.full((number + 2,), -50.0))
            controller.policy.bias[(number + 1) if number else 0] = 50.0
    generator = torch.Generator().manual_seed(0)
    doing = torch.tensor([0, 2, 3])
    seen = set()
    for _ in range(10):
        meta, action, _, log_task = made.get_hierarchical_action(X, generator=generator)
        assert torch.equal(action, doing[meta])
        torch.testing.assert_close(log_task, torch.zeros(40))
        seen |= set(meta.tolist())
    assert seen == {0, 1, 2}


def test_log_probabilities_are_those_of_the_distributions_and_the_same_again() -> None:
    """In training mode, too: dropout would give two log-probabilities of one state and choice."""
    made = network().train()
    meta, action, log_meta, log_task = made.get_hierarchical_action(X, generator=torch.Generator().manual_seed(1))
    judged = made.evaluate(X, meta, action)
    assert made.training
    torch.testing.assert_close(judged.log_prob_meta, log_meta)
    torch.testing.assert_close(judged.log_prob_task, log_task)
    logits, tasks = made.eval()(X, "task")
    torch.testing.assert_close(log_meta, Categorical(logits=logits).log_prob(meta))
    torch.testing.assert_close(judged.entropy_meta, Categorical(logits=logits).entropy())
    for row, number in enumerate(meta.tolist()):
        own = Categorical(logits=tasks[list(ACTIONS)[number]][row])
        torch.testing.assert_close(log_task[row], own.log_prob(action[row]))
        torch.testing.assert_close(judged.entropy_task[row], own.entropy())
    assert judged.value_meta.shape == judged.value_task.shape == (40,)  # not [B, 1], which would broadcast


def test_batches_and_single_states_are_answered() -> None:
    made = network()
    for rows in (1, 40):
        assert [each.shape for each in made.get_hierarchical_action(X[:rows])] == [(rows,)] * 4
    for deterministic in (False, True):
        assert [each.ndim for each in made.get_hierarchical_action(X[0], deterministic)] == [0] * 4
    meta, action, *_ = made.get_hierarchical_action(X, deterministic=True)
    logits, tasks = made.eval()(X, "task")
    assert torch.equal(meta, logits.argmax(1))
    for row, number in enumerate(meta.tolist()):
        assert int(action[row]) == int(tasks[list(ACTIONS)[number]][row].argmax())


def test_goals_and_task_layers_may_have_different_widths() -> None:
    made = network(meta_dims=[5], task_dims=[11])
    assert made.goals.shape == (3, 5)
    assert made.get_hierarchical_action(X)[0].shape == (40,)


def test_every_choice_is_a_task_so_that_one_is_always_chosen() -> None:
    with pytest.raises(CrosstaskError, match="meta_action_dim must be the number of tasks, 3"):
        network(meta_action_dim=5)
    assert network(meta_action_dim=3).meta_action_dim == network().meta_action_dim == 3


def test_what_a_place_does_not_allow_is_never_done() -> None:
    made = network()
    allowed = torch.full((40,), 2)
    policy, _ = made.act(X, torch.full((40,), 2), allowed)
    assert bool((policy.probs[:, 2:] == 0).all())
    judged = made.evaluate(X, torch.full((40,), 2), torch.ones(40).long(), allowed=allowed)
    assert bool(judged.entropy_task.isfinite().all())
    judged.entropy_task.sum().backward()
    assert bool(made.goals.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HierarchicalMultiTaskRL(4), "task_action_dims must say how many actions each task has"),
        (lambda: network()(X, "tasks"), "level cannot be 'tasks'; did you mean 'task'"),
        (lambda: network()(X[:, :2]), r"state must be \[B, 4\]"),
        (lambda: network().evaluate(X, torch.full((40,), 3), torch.zeros(40).long()), "metas: task_ids must be from 0"),
        (
            lambda: network().evaluate(X, torch.zeros(40).long(), torch.full((40,), 2)),
            "that the chosen controllers have",
        ),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        call()
