"""One trunk trained on several tasks at once, each with a head of its own."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor, TensorData
from crosstask.errors import DataError
from crosstask.learning.features import inseparable
from crosstask.learning.modules import Headless, forward, head_of, load_matching
from crosstask.learning.objectives import called, loss_of
from crosstask.learning.training import fit
from crosstask.learning.transferring import fresh_model
from crosstask.records import Budget
from crosstask.tasks import Task


class ManyHeads(nn.Module):
    """A trunk, and heads whose outputs [N, C1], [N, C2], … stand side by side."""

    whole_inputs = True

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        features = forward(self.trunk, inputs)
        return torch.cat([head(features) for head in self.heads], dim=1)


def train_jointly(model: nn.Module, tasks: Sequence[Task], budget: Budget, seed: int) -> nn.Module:
    """A network of the architecture of `model`, with fresh weights and the head of the first task, whose trunk has been
    trained on all tasks: with each a head of its own, on batches of `batch_size` samples for every task from all their
    samples, the loss being the mean over the tasks in a batch. Of a single task that is training it from scratch.

    DataError if the tasks cannot share a trunk.
    """
    networks = [fresh_model(model, task, seed + number) for number, task in enumerate(tasks)]
    first, data = networks[0], [task.data("train").head(budget.samples) for task in tasks]
    inputs = [part.inputs for part in data]
    if reason := inseparable(first, inputs[0]):
        raise DataError(f"no joint training: {reason}")
    outputs = [task.descriptor.output_dim or 0 for task in tasks]
    trunk = Headless(first)
    net = ManyHeads(trunk, [head_of(network) for network in networks])
    pooled = Task(
        descriptor=TaskDescriptor(task_id=" + ".join(task.task_id for task in tasks), task_type="joint"),
        train=TensorData(_joined(inputs, tasks), torch.arange(sum(map(len, inputs)))),  # type: ignore[arg-type]
        loss=_Loss(tasks, [part.targets for part in data], outputs),
    )
    each = attrs.evolve(
        budget, batch_size=budget.batch_size * len(tasks), evaluate_every=budget.steps, patience=None, samples=None
    )
    fit(net, pooled, each, torch.Generator().manual_seed(seed), curve_split=None)
    load_matching(first, trunk.model.state_dict())  # the head is the first network's own
    return first.eval()


class _Loss:
    """The mean of the tasks' losses on a batch of samples of all of them, which are known by their numbers [B]."""

    def __init__(self, tasks: Sequence[Task], targets: Sequence[Tensor], outputs: Sequence[int]) -> None:
        self.tasks, self.targets, self.outputs = tasks, targets, outputs
        self.losses = [loss_of(task) for task in tasks]

    def __call__(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        found: list[Tensor] = []
        start, column = 0, 0
        for task, width, loss, targets in zip(self.tasks, self.outputs, self.losses, self.targets, strict=True):
            own = (numbers >= start) & (numbers < start + len(targets))
            if bool(own.any()):
                wanted = targets[(numbers[own] - start).to(targets.device)].to(outputs.device)
                found.append(called("loss", loss, task, outputs[own][:, column : column + width], wanted))
            start, column = start + len(targets), column + width
        return torch.stack([value.reshape(()) for value in found]).mean()


def _joined(inputs: Sequence[Tensor | MultiInput], tasks: Sequence[Task]) -> Tensor | MultiInput:
    """All samples one after another. DataError where they are not of one shape."""
    shapes = {str(each.shapes if isinstance(each, MultiInput) else tuple(each.shape[1:])) for each in inputs}
    if len(shapes) > 1:
        names = ", ".join(repr(task.task_id) for task in tasks)
        raise DataError(f"no joint training of {names}: their inputs have shapes {', '.join(sorted(shapes))}")
    if len(inputs) == 1:
        return inputs[0]
    if isinstance(inputs[0], MultiInput):
        several = [each for each in inputs if isinstance(each, MultiInput)]
        parts = {name: torch.cat([each.parts[name] for each in several]) for name in inputs[0].parts}
        return MultiInput(parts, named=inputs[0].named)
    return torch.cat([each for each in inputs if isinstance(each, Tensor)])
