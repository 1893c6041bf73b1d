"""The kit of sharing architectures catches what it says: each wrong one fails one check, and no other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.options import component
from crosstask.tasks import Task
from crosstask.testing.kit import CheckFailure, Subject
from crosstask.testing.selftest import SelfTest
from crosstask_multitask import MultiTaskModule, SharingMatrix
from crosstask_multitask.kit_sharing import SharingKit
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
        if task.task_id in self.heads:
            raise DataError(f"there is a task {task.task_id!r}")
        first = next(iter(self.heads.values()))
        self.heads[task.task_id] = nn.Linear(first.in_features, task.descriptor.output_dim)
        first.bias.add_(1.0)


@altered("check_a_task_is_added_once")
class AddsTwice(ChangedHeads):
    def add_task(self, task: Task) -> None:
        self.heads[task.task_id] = nn.Linear(self.heads[next(iter(self.heads))].in_features, task.descriptor.output_dim)


@altered("check_samples_stand_alone")
class CentresItsBatch(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        return {task: out - out.mean(dim=0) for task, out in super().forward(inputs).items()}


class Learned(ChangedHeads):
    """Says something of sharing."""

    name = "Shares"

    def learned(self, inputs: Inputs) -> Any:
        return [SharingMatrix(name=self.name, rows=tuple(self.heads)[:1], columns=("a",), values=((self.value(),),))]

    def value(self) -> float:
        return 1.0


@altered("check_learned")
class LearnedNothingFinite(Learned):
    def value(self) -> float:
        return float("nan")


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


class LearnedOfOtherTasks(Learned):
    name = "Shares of each task"


class LearnsWhenAsked(Learned):
    def value(self) -> float:
        next(self.parameters()).add_(1)
        return 1.0


class TrainsWhenAsked(Learned):
    def value(self) -> float:
        self.train()
        return 1.0


class TellsNoMatrix(ChangedHeads):
    def learned(self, inputs: Inputs) -> Any:
        return {"Shares": 1.0}


class SaysItTwice(Learned):
    def learned(self, inputs: Inputs) -> Any:
        return 2 * super().learned(inputs)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (LearnedOfOtherTasks, "has the rows"),
        (LearnsWhenAsked, "changes the module"),
        (TrainsWhenAsked, "another mode"),
        (TellsNoMatrix, "a list of SharingMatrix"),
        (SaysItTwice, "two matrices have one name"),
    ],
)
def test_check_learned_sees(module: type, told: str) -> None:
    made: Any = component(type(f"Builds{module.__name__}", (Altered,), {"module": module, "__doc__": "Wrong."}))
    with pytest.raises(CheckFailure, match=told):
        SharingKit(Subject(component=made)).check_learned()


class LooksAtOtherTasks(ChangedHeads):
    def forward(self, inputs: Inputs) -> Outputs:
        ends = {task: batch.sum() for task, batch in inputs.items()}
        return {
            task: out + sum(end for other, end in ends.items() if other != task)
            for task, out in super().forward(inputs).items()
        }


def test_check_samples_stand_alone_sees_other_tasks_too() -> None:
    made: Any = component(type("Builds", (Altered,), {"module": LooksAtOtherTasks, "__doc__": "Wrong."}))
    with pytest.raises(CheckFailure, match="depend on the samples of"):
        SharingKit(Subject(component=made)).check_samples_stand_alone()


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
