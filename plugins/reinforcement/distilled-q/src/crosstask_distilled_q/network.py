"""`MultiTaskDistilledQNetwork`: action values of several tasks over one trunk, and attention over the tasks' tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError, of_kind
from crosstask.options import structure
from crosstask_reinforcement.layers import action_dims as counted
from crosstask_reinforcement.layers import rate, size, stack, states, task_number, task_numbers, widths


class TaskAttention(nn.Module):
    """Attention of the tokens of some tasks over those of all tasks, for each state by itself (Vaswani et al. 2017).

    The token of task t for a state with features h is h + e_t, with e_t learned. A projection of it is that of h plus
    that of e_t, so h is projected once for all tasks. `heads` must divide the width; None takes the largest number up
    to 4 that does.
    """

    def __init__(self, width: int, heads: int | None = None) -> None:
        super().__init__()
        if heads is None:
            heads = next(each for each in (4, 3, 2, 1) if width % each == 0)
        elif width % size(heads, "heads"):
            right = ", ".join(str(each) for each in range(1, width + 1) if width % each == 0)
            raise OptionError(f"heads must divide the last of shared_dims, {width}, and {heads} does not; {right} do")
        self.width, self.heads = width, heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor, own: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens find, [B, Q, F], and how they look, [B, heads, Q, T] (rows that sum to 1).

        `features` [B, F] of states; `own` [Q, F] or [B, Q, F]: learned tokens that ask; `tokens` [T, F]: those of all.
        """
        queries = self._split(self._of(self.query, features, own))
        keys, values = (self._split(self._of(part, features, tokens)) for part in (self.key, self.value))
        looks = (queries @ keys.transpose(-1, -2) / math.sqrt(self.width // self.heads)).softmax(dim=-1)
        found = (looks @ values).transpose(1, 2).flatten(2)
        return self.out(found), looks

    @staticmethod
    def _of(part: nn.Linear, features: Tensor, tokens: Tensor) -> Tensor:
        return part(features)[:, None] + functional.linear(tokens, part.weight)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MultiTaskDistilledQNetwork(nn.Module):
    """Action values of each task: a trunk for all, attention over the tasks' tokens, layers of each task.

        net = MultiTaskDistilledQNetwork(4, {"pole": 2, "arm": 3})
        net(states)  # {"pole": [B, 2], "arm": [B, 3]}
        net(states, "arm")  # the same [B, 3]
        loss = td + net.compute_distillation_loss(states, "arm", teacher_values)

    A task's features are its token for the state and what it finds among all tasks' tokens for the same state: those of
    other states play no part. `heads` of the attention must divide the last of `shared_dims`; by default the largest
    number up to 4 that does. A single state [S] is answered as [A].

    `temperature` sharpens the teacher's values, which differ by little where actions are about as good (Rusu et al.
    2016 took .01); the student's are divided by `student_temperature`, the same by default.
    """

    def __init__(
        self,
        state_dim: int,
        action_dims: Mapping[str, int],
        shared_dims: Sequence[int] = (256, 128),
        task_dims: Sequence[int] = (64,),
        distillation_weight: float = 0.5,
        dropout_rate: float = 0.2,
        *,
        heads: int | None = None,
        temperature: float = 0.01,
        student_temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.state_dim = size(state_dim, "state_dim")
        self.action_dims = counted(action_dims, "action_dims")
        self.shared_dims, self.task_dims = (
            list(widths(shared_dims, "shared_dims")),
            list(widths(task_dims, "task_dims")),
        )
        self.dropout_rate = rate(dropout_rate, "dropout_rate")
        self.distillation_weight: float = structure(distillation_weight, float, "distillation_weight")
        if not 0 <= self.distillation_weight < math.inf:
            raise OptionError(f"distillation_weight must be a number of at least 0, got {self.distillation_weight}")
        self.temperature = _temperature(temperature, "temperature")
        self.student_temperature = (
            None if student_temperature is None else _temperature(student_temperature, "student_temperature")
        )
        width = self.shared_dims[-1]
        self.shared = stack((self.state_dim, *self.shared_dims), self.dropout_rate)
        self.attention = TaskAttention(width, heads)
        self.tokens = nn.Parameter(torch.randn(len(self.action_dims), width) / math.sqrt(width))
        self.heads = nn.ModuleList(
            nn.Sequential(*stack((width, *self.task_dims), self.dropout_rate), nn.Linear(self.task_dims[-1], count))
            for count in self.action_dims.values()
        )
        self.register_buffer("_counts", torch.tensor(list(self.action_dims.values())), persistent=False)
        self._counts: Tensor

    # --- What it answers

    @overload
    def forward(self, state: Tensor, task_name: str) -> Tensor: ...

    @overload
    def forward(self, state: Tensor, task_name: None = None) -> dict[str, Tensor]: ...

    def forward(self, state: Tensor, task_name: str | None = None) -> Tensor | dict[str, Tensor]:
        """Values [B, A] of a task's actions in states [B, S]; of all tasks, by name, where none is named."""
        batch, single = self._states(state)
        asked = range(len(self.action_dims)) if task_name is None else [self._number(task_name)]
        features = self._features(self.shared(batch), self.tokens[list(asked)])
        found = [self.heads[number](features[:, at]) for at, number in enumerate(asked)]
        if single:
            found = [values[0] for values in found]
        return found[0] if task_name is not None else dict(zip(self.action_dims, found, strict=True))

    def evaluate(self, states: Tensor, task_ids: Tensor) -> Tensor:
        """Values [B, A] of states that are of different tasks, each by the number of its own; A is the most actions of
        any task, and those that a task lacks are worth minus infinity.
        """
        batch, _ = self._states(states)
        numbers = task_numbers(task_ids, len(self.action_dims), len(batch), type(self).__name__).to(batch.device)
        features = self._features(self.shared(batch), self.tokens[numbers][:, None])[:, 0]
        most = int(self._counts.max())
        values = features.new_full((len(batch), most), -math.inf)
        for number, (head, count) in enumerate(zip(self.heads, self.action_dims.values(), strict=True)):
            if len(rows := (numbers == number).nonzero()[:, 0]):
                values[rows, :count] = head(features[rows])
        return values

    def task_features(self, state: Tensor) -> dict[str, Tensor]:
        """The features [B, F] that each task's own layers see."""
        batch, _ = self._states(state)
        found = self._features(self.shared(batch), self.tokens)
        return dict(zip(self.action_dims, found.unbind(dim=1), strict=True))

    def task_attention(self, state: Tensor) -> Tensor:
        """How much of task j's token task i takes for each state, [B, heads, T, T]: rows sum to 1."""
        batch, _ = self._states(state)
        looks: Tensor = self.attention(self.shared(batch), self.tokens, self.tokens)[1]
        return looks

    def _features(self, shared: Tensor, own: Tensor) -> Tensor:
        """[B, Q, F] of the tasks whose tokens ask: [Q, F], or [B, Q, F] by state."""
        found, _ = self.attention(shared, own, self.tokens)
        made: Tensor = shared[:, None] + own + found
        return made

    # --- What it learns from teachers

    def compute_distillation_loss(
        self,
        state: Tensor,
        target_task: str,
        teacher_q_values: Tensor,
        temperature: float | None = None,
    ) -> Tensor:
        """`distillation_weight` S² KL(softmax(teacher / T) || softmax(student / S)), the mean over states; a scalar.

        `teacher_q_values` [B, A] are constants: nothing flows back into the teacher. T is `temperature`, the network's
        own by default, and S the student's, T where none was given: then it is Hinton's T² KL, whose gradient keeps its
        scale as T grows, and which for large T is the squared difference of the values up to a constant. S = 1 is the
        loss of Rusu et al. (2016), after which the student's outputs are preferences and no longer values.
        DataError for an unknown task, other shapes, and values that are not finite.
        """
        batch, _ = self._states(state)
        sharp = None if temperature is None else _temperature(temperature, "temperature")
        return self.weighted_divergence(self(batch, target_task), teacher_q_values, f"task {target_task!r}", sharp)

    def weighted_divergence(
        self, student: Tensor, teacher: Tensor, who: str, temperature: float | None = None
    ) -> Tensor:
        """The same for values [B, A] of the student that are known already; `who` begins messages."""
        sharp = self.temperature if temperature is None else temperature
        return self.distillation_weight * distillation_loss(student, teacher, sharp, self.student_temperature, who)

    def _states(self, state: Tensor) -> tuple[Tensor, bool]:
        return states(state, self.state_dim, type(self).__name__)

    def _number(self, task_name: str) -> int:
        return task_number(task_name, self.action_dims, type(self).__name__)


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, student_temperature: float | None = None, who: str = "teacher"
) -> Tensor:
    """S² KL(softmax(teacher / T) || softmax(student / S)) of values [B, A], the mean over states."""
    told = of_kind(teacher, Tensor, f"{who}: teacher_q_values")
    if told.ndim == 1:
        told = told[None]
    if told.shape != student.shape:
        raise DataError(
            f"{who}: teacher_q_values must be [{student.shape[0]}, {student.shape[1]}] as the student's, got "
            f"{tuple(teacher.shape)}"
        )
    told = told.detach().to(student)
    if not bool(told.isfinite().all()):
        raise DataError(f"{who}: teacher_q_values are not all finite")
    soft = temperature if student_temperature is None else student_temperature
    right = (told / temperature).log_softmax(dim=-1)
    mine = (student / soft).log_softmax(dim=-1)
    return soft**2 * functional.kl_div(mine, right, reduction="batchmean", log_target=True)


def _temperature(value: float, where: str) -> float:
    found: float = structure(value, float, where)
    if not 0 < found < math.inf:
        raise OptionError(f"{where} must be greater than 0, got {found}")
    return found
