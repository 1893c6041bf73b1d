"""What is known of a new task, and the ways by which a head comes onto a trunk."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.modules import head_of
from crosstask.learning.training import predict
from crosstask.tasks import Task
from crosstask_knowledge_composition.stitching import Stitch, stitch
from crosstask_synthesis.outputs import is_single, two_sided

OWN, SEEN, ANCHORED, STRANGE = range(4)
"""How an owner's outputs come onto a trunk, best first: it is the trunk's own head, of the new task's domain; both
models saw inputs of that domain; through classes known in both domains; as it is in the owner's domain, another one."""


@attrs.frozen(eq=False)
class Trunk:
    """A module from inputs to features, the task whose own head fits it, and the tasks that its pieces are from."""

    name: str
    module: nn.Module
    owner: Task | None
    pieces: list[str]
    notes: list[str]


class Scene:
    """What is known of a new task: sources, inputs of its domain, labelled samples by class and domain."""

    def __init__(
        self, new_task: TaskDescriptor, able: list[Task], seen: Tensor | MultiInput | None, samples: int
    ) -> None:
        self.new_task, self.able, self.seen, self.samples = new_task, able, seen, samples
        self.loud: dict[str, float] = {}

    def output(self, place: int) -> str:
        return self.new_task.classes[place] if self.new_task.classes else f"output {place}"

    def inputs_of(self, task: Task) -> Tensor | MultiInput | None:
        return task.data("train").inputs[: self.samples] if task.has_data("train") else None

    def logits(self, task: Task, inputs: Tensor | MultiInput) -> Tensor:
        """A model's outputs [N, K], for classes centred and divided by their root mean square on its own domain."""
        assert task.model is not None
        found = predict(task.model, inputs).to("cpu", torch.float64)
        if task.descriptor.task_type != "classification":
            return found.flatten(1)
        found = two_sided(found)
        return (found - found.mean(1, keepdim=True)) / self._loudness(task, found)

    def _loudness(self, task: Task, logits: Tensor) -> float:
        if task.task_id not in self.loud:
            own = self.seen if near(task, self.new_task) and self.seen is not None else self.inputs_of(task)
            if own is not None:
                assert task.model is not None
                logits = two_sided(predict(task.model, own).to("cpu", torch.float64))
            spread = (logits - logits.mean(1, keepdim=True)).square().mean().sqrt()
            self.loud[task.task_id] = max(float(spread), 1e-6)
        return self.loud[task.task_id]

    def onto(self, trunk: Trunk, owner: Task) -> tuple[Stitch, int]:
        """(the owner's outputs as a linear map of the trunk's features, the way it was found)."""
        if trunk.owner is owner:
            own = self._own_head(owner)
            if own is not None:
                return own, OWN if near(owner, self.new_task) else STRANGE
        if near(owner, self.new_task) and self.seen is not None:
            return self._stitched(trunk, owner, self.seen), SEEN
        anchored = self._anchored(trunk, owner)
        if anchored is not None:
            return anchored, ANCHORED
        inputs = self.inputs_of(owner)
        inputs = inputs if inputs is not None else self.seen
        if inputs is None:
            raise DataError(
                f"the head of {owner.task_id!r} cannot be stitched onto the trunk of {trunk.name} without inputs: give "
                "unlabelled inputs of the new task, or sources with training data"
            )
        return self._stitched(trunk, owner, inputs), STRANGE

    def _own_head(self, owner: Task) -> Stitch | None:
        assert owner.model is not None
        head = head_of(owner.model)
        if not isinstance(head, nn.Linear):
            return None
        weight = head.weight.detach().to("cpu", torch.float64)
        bias = torch.zeros(len(weight), dtype=weight.dtype)
        bias = bias if head.bias is None else head.bias.detach().to(bias)
        if is_single(owner.descriptor):
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        if owner.descriptor.task_type == "classification":
            inputs = self.seen if self.seen is not None else self.inputs_of(owner)
            loud = (
                self._loudness(owner, two_sided(predict(owner.model, inputs).to(weight))) if inputs is not None else 1.0
            )
            weight, bias = (weight - weight.mean(0)) / loud, (bias - bias.mean()) / loud
        return Stitch(weight, bias, torch.ones(len(weight), dtype=weight.dtype))

    def _stitched(self, trunk: Trunk, owner: Task, inputs: Tensor | MultiInput) -> Stitch:
        return stitch(predict(trunk.module, inputs), self.logits(owner, inputs))

    def _anchored(self, trunk: Trunk, owner: Task) -> Stitch | None:
        """Through the labels that most classes share between a source of the new task's domain and one of the owner's.

        What is carried is the share of the owner's variance that these labels explain, times the share of that which
        the features predict.
        """
        if owner.descriptor.task_type != "classification":
            return None
        pairs = [
            (here, there)
            for here in self.able
            for there in self.able
            if near(here, self.new_task) and there.descriptor.domain == owner.descriptor.domain and here is not there
        ]
        pairs = [(a, b) for a, b in pairs if len(_shared(a, b)) > 1 and a.has_data("train") and b.has_data("train")]
        if not pairs:
            return None
        here, there = max(pairs, key=lambda pair: len(_shared(*pair)))
        names = sorted(_shared(here, there))
        x, x_labels = _of(here, names, self.samples)
        y, y_labels = _of(there, names, self.samples)
        said = self.logits(owner, y)
        means = torch.stack([said[y_labels == k].mean(0) for k in range(len(names))])
        if not torch.isfinite(means).all():  # a class without a sample
            return None
        explained = (means[y_labels] - said.mean(0)).square().sum(0) / (said - said.mean(0)).square().sum(0)
        found = stitch(predict(trunk.module, x), means[x_labels])
        return attrs.evolve(found, carried=found.carried * explained.nan_to_num(0.0).clamp(0, 1))

    def labelled(self) -> tuple[Tensor | MultiInput, Tensor] | None:
        """Training samples of the new task's classes from sources of its domain, labelled by its own numbers; None if
        fewer than five of a class.
        """
        names = list(self.new_task.classes)
        parts = [_of(t, names, self.samples) for t in self.able if near(t, self.new_task) and t.has_data("train")]
        parts = [(x, y) for x, y in parts if len(y)]
        if not parts:
            return None
        kind = kind_of(parts[0][0] if self.seen is None else self.seen)
        parts = [(x, y) for x, y in parts if kind_of(x) == kind]
        if not parts:
            return None
        inputs, labels = joined([x for x, _ in parts]), torch.cat([y for _, y in parts])
        return (inputs, labels) if int(torch.bincount(labels, minlength=len(names)).min()) >= 5 else None


def near(task: Task, new_task: TaskDescriptor) -> bool:
    return task.descriptor.domain == new_task.domain


def _shared(one: Task, other: Task) -> set[str]:
    return set(one.descriptor.classes) & set(other.descriptor.classes)


def _of(task: Task, names: list[str], most: int) -> tuple[Tensor | MultiInput, Tensor]:
    """(training inputs of a task's classes `names`, their places in `names`)."""
    data = task.data("train")
    places = [names.index(c) if c in names else -1 for c in task.descriptor.classes]
    labels = torch.tensor(places)[data.targets.cpu()] if places else torch.full((len(data.targets),), -1)
    chosen = (labels >= 0).nonzero()[:most, 0]
    return data.inputs[chosen.to(data.inputs.device)], labels[chosen]
