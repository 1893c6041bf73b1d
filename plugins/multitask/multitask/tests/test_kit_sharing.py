"""The kit of sharing architectures catches what it says: each wrong one fails one check, and no other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.options import component
from crosstask.tasks import Task
from crosstask.testing.selftest import SelfTest
from crosstask_multitask import MultiTaskModule
from crosstask_multitask.testing import Heads, ReferenceSharing

wrong = SelfTest(ReferenceSharing)

Inputs = Mapping[str, Tensor]
Outputs = dict[str, Tensor]


class ChangedHeads(Heads):
    """Heads whose forward pass, or whose parameters, `Altered` changes."""

    def __init__(self, inner: Heads) -> None:
        super().__init__(inner.trunk, dict(inner.heads.items()))


class Altered(ReferenceSharing):
    """Builds modules of another class."""

    module: ClassVar[Any] = ChangedHeads

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        made: MultiTaskModule = self.module(super().build(tasks, trunk))
        return made


def altered(check: str) -> Any:
    """Wraps a module class in a sharing component that must fail this check."""

    def note(module: type) -> type:
        made: Any = component(type(f"Builds{module.__name__}", (Altered,), {"module": module, "__doc__": "Wrong."}))
        # Where pickle finds it
        made.__module__, made.__qualname__ = __name__, made.__name__
        globals()[made.__name__] = made
        wrong.add(check, made)
        return module

    return note


@altered("check_outputs_of_each_task")
class AndOneForAll(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        out = super().forward(inputs)
        return {**out, "all": next(iter(out.values()))} if len(out) == 5 else out


@altered("check_subset_of_tasks")
class DependsOnCompany(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out * len(inputs) for task, out in super().forward(inputs).items()}


@altered("check_outputs_are_logits")
class Probabilities(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out.softmax(dim=1) for task, out in super().forward(inputs).items()}


@altered("check_parameters_are_shared_or_of_one_task")
class ForgetsAParameter(ChangedHeads):
    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return itertools.islice(super().shared_parameters(), 1, None)


@altered("check_gradients_reach_their_parameters")
class SwapsHeads(ChangedHeads):
    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        names = list(self.heads)
        return super().task_parameters(names[names.index(task_id) - 1])


@altered("check_rows_of_a_batch")
class AnswersForTheWholeBatch(ChangedHeads):
    def on_rows(self, inputs: Inputs, rows: Any) -> Outputs:
        return self(inputs)


@altered("check_adds_a_task")
class AddsToTheOthers(ChangedHeads):
    def add_task(self, task: Task) -> None:
        first = next(iter(self.heads.values()))
        self.heads[task.task_id] = nn.Linear(first.in_features, task.descriptor.output_dim)
        first.bias.add_(1.0)


@altered("check_unknown_task_refused")
class AnswersForAnyTask(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        known = {task: batch for task, batch in inputs.items() if task in self.heads}
        return {task: torch.zeros(len(batch), 1) for task, batch in inputs.items()} | super().forward(known)


@altered("check_float64")
class GivesFloat32(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out.float() for task, out in super().forward(inputs).items()}


@altered("check_cuda")
class AnswersOnTheCpu(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out.cpu() for task, out in super().forward(inputs).items()}


@wrong.caught_by("check_frozen_weights_stay_frozen")
class Thaws(ReferenceSharing):
    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        return super().build(tasks, trunk.requires_grad_(True))


@wrong.caught_by("check_module_state_round_trip")
class WeightsOutsideTheState(ReferenceSharing):
    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        built: Any = super().build(tasks, trunk)
        made = Offset(built)
        made.offset = float(torch.rand((), generator=self.context.generator("offset")))
        return made


class Offset(ChangedHeads):
    offset: float

    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out + self.offset for task, out in super().forward(inputs).items()}


@wrong.caught_by("check_no_tasks_refused")
class BuildsForNobody(ReferenceSharing):
    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        return super().build(tasks, trunk) if tasks else Heads(trunk, {})


def built_otherwise(tasks: Any, trunk: Any) -> Any:
    built: Any = ReferenceSharing().build(tasks, trunk)
    return DependsOnCompany(built)


@wrong.caught_by("check_agrees_with_twin", twin=built_otherwise)
class SharingUnlikeItsTwin(ReferenceSharing):
    pass


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
