"""`distilled_q`: Q-learning in several tasks with one network, and single-task teachers distilled into it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask import component, option
from crosstask.errors import DataError, OptionError, RunError, nearest
from crosstask_distilled_q.memory import Experience, ReplayMemory, experience, td_targets
from crosstask_distilled_q.network import MultiTaskDistilledQNetwork, TaskAttention
from crosstask_reinforcement.contract import Agent, Decision, Rollout, Situation, TaskSpace
from crosstask_reinforcement.layers import stack

Teacher = Callable[[Tensor], Tensor]
"""Values [B, A] of a task's actions in states [B, S]."""


class Learner(MultiTaskDistilledQNetwork):
    """The student and, where the agent trains them itself, a teacher for each task: networks that share nothing."""

    def __init__(self, *args: Any, teachers: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.teachers = nn.ModuleList()
        if teachers:
            widths = (self.state_dim, *self.shared_dims)
            self.teachers.extend(
                nn.Sequential(*stack(widths), nn.Linear(widths[-1], count)) for count in self.action_dims.values()
            )

    def evaluate_teachers(self, states: Tensor, task_ids: Tensor) -> Tensor:
        """Values [B, A] as `evaluate` gives them, of each task's own teacher."""
        values = states.new_full((len(states), int(self._counts.max())), -math.inf)
        for number, (teacher, count) in enumerate(zip(self.teachers, self.action_dims.values(), strict=True)):
            if len(rows := (task_ids == number).nonzero()[:, 0]):
                values[rows, :count] = teacher(states[rows])
        return values

    def student_parameters(self) -> list[nn.Parameter]:
        """All but the teachers'."""
        return [p for name, p in self.named_parameters() if not name.startswith("teachers.")]


@component
class DistilledQ(Agent):
    """Deep Q-learning in several tasks (Mnih et al. 2015) with one network, to which teachers may be distilled.

        agent = DistilledQ(teacher_share=0.5).prepare(spaces)  # first trains teachers, then one student of them
        agent = DistilledQ(td=False).teach({"pole": network, …}).prepare(spaces)  # policy distillation alone

    Each task has a memory of its own, from which every update draws `batch_size` pieces; the loss is the mean over the
    tasks of Huber's loss against the targets of a network that follows slowly, and, with teachers, the distillation
    loss of `MultiTaskDistilledQNetwork` beside it. `teacher_share` of the training goes to teachers of its own, one for
    each task, which act meanwhile; then they are fixed, and the student learns from them and from the memories.
    """

    capabilities = frozenset({"off_policy"})
    shared_modules: ClassVar[tuple[str, ...]] = ("shared", "attention")

    shared_dims: tuple[int, ...] = option((256, 128), ge=1, help="widths of the layers that all tasks share")
    task_dims: tuple[int, ...] = option((64,), ge=1, help="widths of each task's own layers")
    heads: int | None = option(None, ge=1, help="of the attention; must divide the last of shared_dims")
    dropout_rate: float = option(0.0, ge=0, lt=1, help="share of dropped units while learning")
    gamma: float = option(0.99, ge=0, le=1, help="discount of a step")
    n_steps: int = option(1, ge=1, help="rewards that are summed before a value is bootstrapped")
    double: bool = option(True, help="the learning network chooses the action whose value the target network tells")
    learning_rate: float = option(1e-3, gt=0, help="of Adam")
    max_grad_norm: float = option(10.0, gt=0, help="gradients are cut to this norm")
    capacity: int = option(50_000, ge=1, help="of each task's memory")
    batch_size: int = option(64, ge=1, help="pieces of each task in an update")
    warmup: int = option(100, ge=1, help="pieces of a task that are remembered before it is learned")
    steps: int = option(32, ge=1, help="steps of each place between learning")
    updates: float = option(0.25, gt=0, help="updates for each step of a task")
    target_rate: float = option(0.01, gt=0, le=1, help="part of the way that the target network follows in an update")
    epsilon_start: float = option(1.0, ge=0, le=1, help="share of random actions at the start")
    epsilon_end: float = option(0.05, ge=0, le=1, help="share of random actions at last")
    epsilon_share: float = option(0.3, gt=0, le=1, help="part of the training in which it falls")
    td: bool = option(True, help="the student learns from rewards, too; without it, from teachers alone")
    teacher_share: float = option(0.0, ge=0, lt=1, help="part of the training that goes to teachers of its own")
    distillation_weight: float = option(0.5, ge=0, help="of the distillation loss beside the TD loss")
    temperature: float = option(0.01, gt=0, help="that sharpens the teacher's values")
    student_temperature: float | None = option(None, gt=0, help="that of the student's; None: the same")

    def __attrs_post_init__(self) -> None:
        self._given: dict[str, Teacher] = {}
        self._taught: tuple[str, ...] = ()
        if self.warmup > self.capacity:
            raise OptionError(f"{self.origin}: warmup ({self.warmup}) must not be more than capacity ({self.capacity})")
        if self.n_steps > self.steps:
            raise OptionError(f"{self.origin}: n_steps ({self.n_steps}) must not be more than steps ({self.steps})")
        if self.heads is not None:
            TaskAttention(self.shared_dims[-1], self.heads)

    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        return Learner(
            max(space.state_dim for space in spaces),
            {space.task_id: space.actions for space in spaces},
            self.shared_dims,
            self.task_dims,
            self.distillation_weight,
            self.dropout_rate,
            heads=self.heads,
            temperature=self.temperature,
            student_temperature=self.student_temperature,
            teachers=self.teacher_share > 0,
        ).eval()

    def start(self) -> None:
        net = self._net
        self._memories = [ReplayMemory(self.capacity, number) for number in range(len(self.spaces))]
        self._target = copy.deepcopy(net).requires_grad_(False)
        self._learning: dict[str, tuple[list[Tensor], list[Tensor]]] = {}  # what learns, and what follows it
        self._learning["student"] = ([*net.student_parameters()], [*self._target.student_parameters()])
        if len(net.teachers):
            self._learning["teachers"] = ([*net.teachers.parameters()], [*self._target.teachers.parameters()])
        self._optimizers = {
            name: torch.optim.Adam(own, lr=self.learning_rate, fused=True) for name, (own, _) in self._learning.items()
        }
        self._check_teachers(self._given)
        self._taught = tuple(self._given)
        self._credit, self._teaching = 0.0, len(net.teachers) > 0

    def rollout_steps(self) -> int:
        return self.steps

    @property
    def _net(self) -> Learner:
        net = self.network
        assert isinstance(net, Learner)
        return net

    # --- Teachers

    def teach(self, teachers: Mapping[str, Teacher]) -> DistilledQ:
        """Learn from these from now on: by task id a module or a function that gives values [B, A] for states [B, S].

        Other tasks learn from rewards alone. Nothing in a teacher changes. Teachers stay when the agent is prepared
        anew; they are not part of its state: after `load_state_dict` they must have been given, too. DataError for an
        unknown task, no teacher at all, and an agent that trains teachers of its own.
        """
        if self.teacher_share:
            raise DataError(f"{self.origin} trains teachers of its own (teacher_share is {self.teacher_share})")
        if not teachers:
            raise DataError(f"{self.origin}: teach needs at least one teacher")
        for name, teacher in teachers.items():
            if not callable(teacher):
                raise DataError(f"{self.origin}: the teacher of {name!r} must be called with states, got {teacher!r}")
        if self.spaces:
            self._check_teachers(teachers)
        self._given, self._taught = dict(teachers), tuple(teachers)
        return self

    def _check_teachers(self, teachers: Mapping[str, Teacher]) -> None:
        known = [space.task_id for space in self.spaces]
        for name in teachers:
            if name not in known:
                raise DataError(f"{self.origin}: teachers: no task {name!r}{nearest(name, known)}")
        missing = [name for name in known if name not in teachers]
        if teachers and missing and not self.td:
            raise DataError(f"{self.origin}: task {missing[0]!r} has no teacher, and with td = false nothing to learn")

    def _told(self, number: int, states: Tensor) -> Tensor | None:
        """The teacher's values [B, A] of a task, if it has one."""
        space = self.spaces[number]
        if len(self._net.teachers):
            found: Tensor = self._target.teachers[number](states)  # the average over the last updates
            return found
        teacher = self._given.get(space.task_id)
        if teacher is None:
            return None
        with torch.no_grad():
            told = teacher(states[:, : space.state_dim])
        if not isinstance(told, Tensor) or told.shape != (len(states), space.actions):
            shape = tuple(told.shape) if isinstance(told, Tensor) else type(told).__name__
            right = f"[{len(states)}, {space.actions}]"
            raise DataError(f"{self.origin}: the teacher of {space.task_id!r} must give {right}, got {shape}")
        return told

    # --- Acting

    def epsilon(self, progress: float) -> float:
        """The share of random actions at this part of the training."""
        part = min(1.0, progress / self.epsilon_share)
        return self.epsilon_start + part * (self.epsilon_end - self.epsilon_start)

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        net = self._net
        with torch.no_grad():
            ask = net.evaluate_teachers if self._teaching else net.evaluate
            actions = ask(situation.observations.to(net.tokens), situation.tasks).argmax(dim=1)
        if explore:
            draws = torch.rand((2, len(situation)), generator=generator).to(actions.device)
            counts = net._counts[situation.tasks]
            anything = (draws[0] * counts).long().clamp_max(counts - 1)
            actions = torch.where(draws[1] < self.epsilon(situation.progress), anything, actions)
        return Decision(actions)

    # --- Learning

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        if missing := [name for name in self._taught if name not in self._given]:
            raise DataError(f"{self.origin} had a teacher of {missing[0]!r}: call teach again after load_state_dict")
        if not self.td and not self._given and not len(self._net.teachers):
            raise DataError(
                f"{self.origin}: with td = false teachers alone are learned from: call teach, or set teacher_share"
            )
        found = experience(rollout, self.gamma, self.n_steps)
        for number, memory in enumerate(self._memories):
            memory.add(found[found.tasks == number])
        teaching = self._teaching
        metrics: dict[str, list[float]] = {}
        ready = [number for number, memory in enumerate(self._memories) if len(memory) >= self.warmup]
        if ready:
            self._credit += self.updates * rollout.steps / len(self.spaces)
        with torch.random.fork_rng(devices=[], enabled=bool(self.dropout_rate)):
            if self.dropout_rate:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            self._net.train()
            while self._credit >= 1:
                self._credit -= 1
                for name, value in self._update(ready, teaching, generator).items():
                    metrics.setdefault(name, []).append(value)
            self._net.eval()
        self._teaching = len(self._net.teachers) > 0 and rollout.progress < self.teacher_share
        means = {name: sum(values) / len(values) for name, values in metrics.items()}
        return {"epsilon": self.epsilon(rollout.progress), **means}

    def _update(self, ready: Sequence[int], teaching: bool, generator: torch.Generator) -> dict[str, float]:
        drawn = [self._memories[number].sample(self.batch_size, generator) for number in ready]
        batch = Experience.joined(drawn)
        ask = self._net.evaluate_teachers if teaching else self._net.evaluate
        values = ask(batch.observations, batch.tasks)
        losses: dict[str, Tensor] = {}
        if teaching or self.td:
            losses["td_loss"] = functional.smooth_l1_loss(
                values.gather(1, batch.actions[:, None])[:, 0], self._targets(batch, teaching)
            )
        if not teaching:
            parts = zip(ready, drawn, values.split(self.batch_size), strict=True)
            lessons = [self._lesson(number, part, own) for number, part, own in parts]
            if told := [lesson for lesson in lessons if lesson is not None]:
                losses["distillation_loss"] = torch.stack(told).sum() / len(ready)
        loss = torch.stack(list(losses.values())).sum()
        if not bool(loss.isfinite()):
            raise RunError(
                f"{self.origin}: the loss is {float(loss.detach())}; try a learning_rate below {self.learning_rate}"
            )
        who = "teachers" if teaching else "student"
        (own, follow), optimizer = self._learning[who], self._optimizers[who]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(own, self.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(follow, own, self.target_rate)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _targets(self, batch: Experience, teaching: bool) -> Tensor:
        net, target = self._net, self._target
        follows, learns = (
            (target.evaluate_teachers, net.evaluate_teachers) if teaching else (target.evaluate, net.evaluate)
        )
        with torch.no_grad():
            chosen = learns(batch.following, batch.tasks) if self.double else None
            return td_targets(batch.rewards, batch.discounts, follows(batch.following, batch.tasks), chosen)

    def _lesson(self, number: int, part: Experience, values: Tensor) -> Tensor | None:
        """The distillation loss of a task, if it has a teacher, for the student's values [N, A]."""
        told = self._told(number, part.observations)
        if told is None:
            return None
        space = self.spaces[number]
        return self._net.weighted_divergence(values[:, : space.actions], told, f"the teacher of {space.task_id!r}")

    # --- What survives

    def own_state(self) -> dict[str, Any]:
        return {
            "memories": [memory.state_dict() for memory in self._memories],
            "target": {name: value.clone() for name, value in self._target.state_dict().items()},
            "optimizers": {name: copy.deepcopy(each.state_dict()) for name, each in self._optimizers.items()},
            "credit": self._credit,
            "teaching": self._teaching,
            "taught": list(self._taught),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        for memory, kept in zip(self._memories, state["memories"], strict=True):
            memory.load_state_dict(kept)
        self._target.load_state_dict(state["target"])
        for name, kept in state["optimizers"].items():
            self._optimizers[name].load_state_dict(copy.deepcopy(kept))
        self._credit, self._teaching = state["credit"], state["teaching"]
        self._taught = tuple(state["taught"])
