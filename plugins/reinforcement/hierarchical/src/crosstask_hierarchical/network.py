"""`HierarchicalMultiTaskRL`: a controller that picks which of several controllers acts, and these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, overload

import attrs
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import evaluating
from crosstask_reinforcement.layers import action_dims, rate, size, stack, states, task_numbers, widths

Policy = Callable[[Tensor], Tensor]
"""Logits [B, A] of a task's actions for states [B, S]."""


@attrs.frozen(eq=False)
class Judged:
    """What the network says of states and of what was done there; each [B]."""

    log_prob_meta: Tensor
    log_prob_task: Tensor
    entropy_meta: Tensor
    entropy_task: Tensor
    value_meta: Tensor
    value_task: Tensor


class Controller(nn.Module):
    """Acts in states toward a goal: logits of its actions [B, A], and what it expects [B]."""

    def __init__(self, state_dim: int, goal_dim: int, dims: Sequence[int], actions: int, dropout: float) -> None:
        super().__init__()
        widths = (state_dim + goal_dim, *dims)
        self.trunk, self.policy = stack(widths, dropout), nn.Linear(dims[-1], actions)
        self.value = nn.Sequential(*stack(widths, dropout), nn.Linear(dims[-1], 1))

    def forward(self, state: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """For states [B, S] and one goal [G]."""
        seen = torch.cat((state, goal.expand(len(state), -1)), dim=1)
        return self.policy(self.trunk(seen)), self.value(seen)[:, 0]


class HierarchicalMultiTaskRL(nn.Module):
    """A meta-controller sees the state and chooses the controller that acts; each has a goal, a learned embedding.

        net = HierarchicalMultiTaskRL(4, task_action_dims={"pole": 2, "arm": 3})
        meta, action, log_prob_meta, log_prob_task = net.get_hierarchical_action(states)  # each [B]
        judged = net.evaluate(states, meta, action)  # the same log-probabilities, entropies and values, with gradients

    Choice m is the m-th task's controller: `meta_action_dim` is the number of tasks, and anything else an error. The
    goals have `meta_dims[-1]` numbers, whatever `task_dims` are. Answers are logits. Dropout acts in `forward` while
    training only: the log-probability of what is done does not depend on chance.
    """

    def __init__(
        self,
        state_dim: int,
        meta_action_dim: int | None = None,
        task_action_dims: Mapping[str, int] | None = None,
        meta_dims: Sequence[int] = (128, 64),
        task_dims: Sequence[int] = (64, 32),
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        if task_action_dims is None:
            raise OptionError('task_action_dims must say how many actions each task has: {"task": 2, …}')
        self.state_dim = size(state_dim, "state_dim")
        self.task_action_dims = action_dims(task_action_dims, "task_action_dims")
        count = len(self.task_action_dims)
        self.meta_action_dim = count if meta_action_dim is None else size(meta_action_dim, "meta_action_dim")
        if self.meta_action_dim != count:
            raise OptionError(
                f"meta_action_dim must be the number of tasks, {count}: each choice is a task's controller; got "
                f"{meta_action_dim}"
            )
        self.meta_dims, self.task_dims = list(widths(meta_dims, "meta_dims")), list(widths(task_dims, "task_dims"))
        self.dropout_rate = rate(dropout_rate, "dropout_rate")
        goal_dim = self.meta_dims[-1]
        meta = (self.state_dim, *self.meta_dims)
        self.meta, self.meta_policy = stack(meta, self.dropout_rate), nn.Linear(goal_dim, count)
        # values have layers of their own: their errors are much larger than the gains of a policy, and would drown them
        self.meta_value = nn.Sequential(*stack(meta, self.dropout_rate), nn.Linear(goal_dim, 1))
        self.goals = nn.Parameter(torch.randn(count, goal_dim) / goal_dim**0.5)
        self.controllers = nn.ModuleList(
            Controller(self.state_dim, goal_dim, self.task_dims, actions, self.dropout_rate)
            for actions in self.task_action_dims.values()
        )

    # --- What it answers

    @overload
    def forward(self, state: Tensor, level: Literal["meta"] = "meta") -> Tensor: ...

    @overload
    def forward(self, state: Tensor, level: Literal["task"]) -> tuple[Tensor, dict[str, Tensor]]: ...

    def forward(self, state: Tensor, level: str = "meta") -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, M] of the choices for states [B, S]; at level "task" also those of every controller's actions,
        [B, A] by task, whichever is chosen.
        """
        if level not in ("meta", "task"):
            raise OptionError(f"level cannot be {level!r}{nearest(level, ('meta', 'task'))}")
        batch, single = states(state, self.state_dim, type(self).__name__)
        meta: Tensor = self.meta_policy(self.meta(batch))
        if level == "meta":
            return meta[0] if single else meta
        found = {name: self._controlled(number, batch)[0] for number, name in enumerate(self.task_action_dims)}
        return (meta[0], {name: each[0] for name, each in found.items()}) if single else (meta, found)

    def get_hierarchical_action(
        self, state: Tensor, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(choice, action, log-probability of the choice, of the action), each [B]; scalars for a single state [S].

        The choice is drawn once, and the action by that controller; `deterministic` takes the likeliest of both. The
        log-probabilities have gradients.
        """
        batch, single = states(state, self.state_dim, type(self).__name__)
        with evaluating(self):
            chosen, _ = self.choose(batch)
            meta = draw(chosen, deterministic, generator)
            acted, _ = self.act(batch, meta)
            action = draw(acted, deterministic, generator)
        found = (meta, action, chosen.log_prob(meta), acted.log_prob(action))
        return tuple(each[0] for each in found) if single else found  # type: ignore[return-value]

    def choose(self, batch: Tensor) -> tuple[Categorical, Tensor]:
        """Which choices it would draw in states [B, S], and what it expects there [B]."""
        logits = self.meta_policy(self.meta(batch))
        return Categorical(logits=logits, validate_args=False), self.meta_value(batch)[:, 0]

    def act(
        self,
        batch: Tensor,
        meta: Tensor,
        allowed: Tensor | None = None,
        given: Mapping[int, Policy] | None = None,
    ) -> tuple[Categorical, Tensor]:
        """Which actions the controllers `meta` [B] would draw, each in its rows of states [B, S], and what it expects
        there [B]. What a controller, or the place (`allowed` [B] actions), lacks has probability 0. `given` are
        policies that act in place of controllers, by number.
        """
        most = max(self.task_action_dims.values())
        logits = batch.new_full((len(batch), most), -torch.inf)
        values = batch.new_zeros(len(batch))
        for number in range(self.meta_action_dim):
            rows = (meta == number).nonzero()[:, 0]
            if len(rows):
                own, expected = self._controlled(number, batch[rows])
                if given is not None and number in given:
                    own = given[number](batch[rows])
                logits[rows, : own.shape[1]] = own
                values[rows] = expected
        if allowed is not None:
            logits = logits.masked_fill(torch.arange(most, device=batch.device) >= allowed[:, None], -torch.inf)
        return Categorical(logits=logits, validate_args=False), values

    def evaluate(self, state: Tensor, metas: Tensor, actions: Tensor, *, allowed: Tensor | None = None) -> Judged:
        """What was done in states [B, S]: choices and actions [B]. DataError for ones that there are not."""
        who = type(self).__name__
        batch, _ = states(state, self.state_dim, who)
        metas = task_numbers(metas, self.meta_action_dim, len(batch), f"{who}: metas")
        counts = torch.tensor(list(self.task_action_dims.values()), device=metas.device)[metas]
        if actions.shape != metas.shape or bool(((actions < 0) | (actions >= counts)).any()):
            raise DataError(f"{who}: actions must be [{len(batch)}] of those that the chosen controllers have")
        with evaluating(self):
            chosen, value_meta = self.choose(batch)
            acted, value_task = self.act(batch, metas, allowed)
        return Judged(
            chosen.log_prob(metas),
            acted.log_prob(actions),
            chosen.entropy(),
            entropy(acted),
            value_meta,
            value_task,
        )

    def each_controller(self) -> Iterator[Controller]:
        """The controllers, in the order of the tasks."""
        for controller in self.controllers:
            assert isinstance(controller, Controller)
            yield controller

    def _controlled(self, number: int, batch: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.controllers[number](batch, self.goals[number])
        return found


def draw(of: Categorical, deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
    """The likeliest of each row [B], or one drawn."""
    if deterministic:
        return of.probs.argmax(dim=1)
    return torch.multinomial(of.probs, 1, generator=generator)[:, 0]


def entropy(of: Categorical) -> Tensor:
    """Of each row [B], with choices of probability 0 that add nothing to it or to its gradient."""
    possible = of.logits.isfinite()
    terms = of.probs * of.logits.masked_fill(~possible, 0)
    return -terms.sum(dim=1)
