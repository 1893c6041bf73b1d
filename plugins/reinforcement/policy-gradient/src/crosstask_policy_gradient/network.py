"""`MultiTaskPolicyNetwork`: one trunk, and for each task a head for what to do and one for what it is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask_reinforcement.layers import action_dims as action_dims_of
from crosstask_reinforcement.layers import rate, size, task_number, widths
from crosstask_reinforcement.layers import states as rows_of

FORBIDDEN = -1e8
"""The logit of an action that a task does not have. Finite: an entropy of 0 * -inf is not a number."""


@attrs.frozen(eq=False)
class Layout:
    """Which rows of a batch are of which task, so that heads of all tasks are applied in one product [T, n, …].

    Rows that lie in the order of the tasks, as many of each, are so as they are. Others are gathered: `gather` [T * n]
    are rows (any, where a task has fewer than the longest), `place` [B] where each row went.
    """

    tasks: Tensor
    count: int
    gather: Tensor | None = None
    place: Tensor | None = None

    @classmethod
    def of(cls, tasks: Tensor, count: int) -> Layout:
        """For the tasks [B] of a batch, of `count` tasks. DataError for a number that is none of them."""
        if tasks.dtype != torch.long or tasks.ndim != 1:
            raise DataError(f"tasks must be whole numbers [B], got {tasks.dtype} of shape {tuple(tasks.shape)}")
        if len(tasks) and (int(tasks.min()) < 0 or int(tasks.max()) >= count):
            raise DataError(f"tasks are numbered 0 to {count - 1}, got {int(tasks.min())} to {int(tasks.max())}")
        counts = torch.bincount(tasks, minlength=count)
        longest = int(counts.max())
        if int(counts.min()) == longest and bool((tasks[1:] >= tasks[:-1]).all()):
            return cls(tasks, count)
        order = torch.argsort(tasks, stable=True)
        begins = torch.cumsum(counts, 0) - counts
        within = torch.arange(len(tasks), device=tasks.device) - begins[tasks[order]]
        place = torch.empty_like(order)
        place[order] = tasks[order] * longest + within
        gather = torch.zeros(count * longest, dtype=torch.long, device=tasks.device)
        gather[place] = torch.arange(len(tasks), device=tasks.device)
        return cls(tasks, count, gather, place)

    def split(self, rows: Tensor) -> Tensor:
        """Rows [B, F] as [T, n, F]."""
        return (rows if self.gather is None else rows[self.gather]).view(self.count, -1, rows.shape[1])

    def join(self, parts: Tensor) -> Tensor:
        """[T, n, F] as rows [B, F]."""
        rows = parts.reshape(-1, parts.shape[2])
        return rows if self.place is None else rows[self.place]

    def means(self, values: Tensor) -> Tensor:
        """The mean [T] of values [B] in each task; 0 for one that is absent."""
        if self.gather is None:
            return values.view(self.count, -1).mean(1)
        sums = torch.zeros(self.count, dtype=values.dtype, device=values.device).index_add(0, self.tasks, values)
        return sums / torch.bincount(self.tasks, minlength=self.count).clamp(min=1)


class _Heads(nn.Module):
    """A small network for each task, their weights [T, in, out] in one tensor for each layer."""

    def __init__(self, tasks: int, sizes: Sequence[int], gain: float, dropout: float) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            layer = torch.empty(tasks, inputs, outputs)
            for weight in layer:
                nn.init.orthogonal_(weight, gain if place == len(sizes) - 2 else math.sqrt(2))
            self.weights.append(nn.Parameter(layer))
            self.biases.append(nn.Parameter(torch.zeros(tasks, 1, outputs)))
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """[T, n, in] to [T, n, out]."""
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            features = torch.baddbmm(bias, features, weight)
            if place < last:
                features = torch.tanh(features)
                if self.dropout:
                    features = functional.dropout(features, self.dropout, self.training)
        return features


class MultiTaskPolicyNetwork(nn.Module):
    """Actor and critic heads of several tasks over one trunk.

    `action_dims` are the numbers of actions by task. Policies are logits, never probabilities: where a softmax has
    become 0 its logarithm is -inf, and that of logits is not. `shared_dims` are the widths of the trunk, `task_dims`
    of the hidden layers of each head. `dropout_rate` is 0 by default, because under dropout two log-probabilities of
    the same action differ, and the ratio of a policy to itself is not 1. `task_blind`: all tasks share the heads of the
    first, a control that is not told where it acts.

    Tasks are told by name, or, where rows are of several, by numbers [B] in the order of `action_dims`, or by a name
    for each row. A single state [S] gives answers without the batch. Hidden layers are tanh, weights orthogonal.
    """

    def __init__(
        self,
        state_dim: int,
        action_dims: Mapping[str, int],
        shared_dims: Sequence[int] = (128, 64),
        task_dims: Sequence[int] = (32,),
        dropout_rate: float = 0.0,
        *,
        task_blind: bool = False,
    ) -> None:
        super().__init__()
        who = "MultiTaskPolicyNetwork"
        state_dim = size(state_dim, f"{who}: state_dim")
        self.action_dims = action_dims_of(action_dims, f"{who}: action_dims")
        shared_dims = widths(shared_dims, f"{who}: shared_dims")
        task_dims = tuple(size(each, f"{who}: task_dims") for each in task_dims)
        dropout_rate = rate(dropout_rate, f"{who}: dropout_rate")
        self.state_dim, self.task_blind = state_dim, task_blind
        self.tasks = tuple(self.action_dims)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((state_dim, *shared_dims), shared_dims, strict=False):
            linear = nn.Linear(inputs, outputs)
            nn.init.orthogonal_(linear.weight, math.sqrt(2))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh(), *([nn.Dropout(dropout_rate)] if dropout_rate else [])]
        self.shared = nn.Sequential(*layers)
        heads, hidden = 1 if task_blind else len(self.tasks), (shared_dims[-1], *task_dims)
        most = max(self.action_dims.values())
        self.policy = _Heads(heads, (*hidden, most), 0.01, dropout_rate)
        self.value = _Heads(heads, (*hidden, 1), 1.0, dropout_rate)
        allowed = torch.arange(most)[None] < torch.tensor(list(self.action_dims.values()))[:, None]
        self.uneven = not bool(allowed.all())
        self.register_buffer("allowed", allowed, persistent=False)
        self._last: tuple[Tensor, int, Layout] | None = None

    # --- As one task sees it

    def forward(self, state: Tensor, task_name: str) -> tuple[Tensor, Tensor]:
        """(logits [B, A], value [B, 1]) of one task."""
        states = self._states(state)
        logits, value = self.outputs(states, self.layout(task_name, len(states)))
        logits, value = logits[:, : self.action_dims[task_name]], value[:, None]
        return (logits[0], value[0]) if state.ndim == 1 else (logits, value)

    def get_action(
        self,
        state: Tensor,
        task_name: str,
        deterministic: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(action [B], its log-probability [B]); `decide` gives the value, too."""
        action, log_prob, _ = self.decide(state, task_name, deterministic, generator=generator)
        return action, log_prob

    # --- Rows of several tasks

    def decide(
        self,
        states: Tensor,
        task_ids: Any,
        deterministic: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(actions [B], log-probabilities [B], values [B]): drawn from the policy, or the most probable ones."""
        rows = self._states(states)
        logits, value = self.outputs(rows, self.layout(task_ids, len(rows)))
        logs = functional.log_softmax(logits, dim=1)
        if deterministic:
            action = logs.argmax(1)
        else:  # the largest of logits with Gumbel noise is a draw from their softmax
            noise = torch.empty_like(logs).exponential_(generator=generator)
            action = (logs.detach() - noise.log()).argmax(1)
        log_prob = logs.gather(1, action[:, None])[:, 0]
        return (action[0], log_prob[0], value[0]) if states.ndim == 1 else (action, log_prob, value)

    def evaluate(self, states: Tensor, actions: Tensor, task_ids: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probabilities [B] of the actions [B], entropies [B], values [B]) of states [B, S], each by its own
        task's heads.
        """
        rows = self._states(states)
        if actions.shape != states.shape[:-1]:
            raise DataError(
                f"evaluate: actions must be [B] like the states, got {tuple(actions.shape)} for {tuple(states.shape)}"
            )
        layout = self.layout(task_ids, len(rows))
        chosen = actions.reshape(-1)
        if len(chosen) and (int(chosen.min()) < 0 or not bool(self._allowed()[layout.tasks, chosen].all())):
            raise DataError(f"evaluate: an action is none of its task's: actions by task are {self.action_dims}")
        log_prob, entropy, value = self.judge(rows, chosen, layout)
        return (log_prob[0], entropy[0], value[0]) if states.ndim == 1 else (log_prob, entropy, value)

    # --- For loops that have checked what they give

    def outputs(self, states: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """(logits [B, most actions], values [B]); an action that a task does not have has the logit `FORBIDDEN`."""
        features = self.shared(states)
        if self.task_blind:
            logits, value = self.policy(features[None])[0], self.value(features[None])[0]
        else:
            parts = layout.split(features)
            logits, value = layout.join(self.policy(parts)), layout.join(self.value(parts))
        if self.uneven:
            logits = logits.masked_fill(~self._allowed()[layout.tasks], FORBIDDEN)
        return logits, value[:, 0]

    def judge(self, states: Tensor, actions: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """As `evaluate`, for a layout that is known."""
        logits, value = self.outputs(states, layout)
        logs = functional.log_softmax(logits, dim=1)
        entropy = -(logs.exp() * logs).sum(1)
        return logs.gather(1, actions[:, None])[:, 0], entropy, value

    def layout(self, task_ids: Any, rows: int) -> Layout:
        """Which row is of which task; that of the same tensor is found once."""
        if isinstance(task_ids, str):
            task_ids = torch.full((rows,), self._number(task_ids), device=self._allowed().device)
        elif not isinstance(task_ids, Tensor):
            numbers = [self._number(each) if isinstance(each, str) else each for each in task_ids]
            task_ids = torch.tensor(numbers, dtype=torch.long, device=self._allowed().device)
        if len(task_ids) != rows:
            raise DataError(f"{rows} states, but tasks for {len(task_ids)}")
        if self._last is not None and self._last[0] is task_ids and self._last[1] == task_ids._version:
            return self._last[2]
        made = Layout.of(task_ids, len(self.tasks))
        self._last = (task_ids, task_ids._version, made)
        return made

    def _allowed(self) -> Tensor:
        return cast(Tensor, self.allowed)

    def _number(self, name: str) -> int:
        return task_number(name, self.action_dims, "MultiTaskPolicyNetwork")

    def _states(self, states: Tensor) -> Tensor:
        return rows_of(states, self.state_dim, "MultiTaskPolicyNetwork")[0]
