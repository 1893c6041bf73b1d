"""Training a part of a model while the rest stays exactly as it is."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TensorData
from crosstask.learning.features import inseparable, received
from crosstask.learning.modules import forward, frozen, head_of
from crosstask.learning.training import History, fit
from crosstask.records import Budget
from crosstask.tasks import Task


class Partial(nn.Module):
    """A model of which only the `live` modules are ever in training mode.

    The others keep evaluation mode whatever `train()` says: a BatchNorm that is not trained does not drift
    either, and dropout below the trained part is off.
    """

    whole_inputs = True

    def __init__(self, model: nn.Module, live: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self._live = list(live)  # in a list, so that they are not registered twice

    def train(self, mode: bool = True) -> Partial:
        self.training = mode
        self.model.eval()
        for module in self._live:
            module.train(mode)
        return self

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return forward(self.model, inputs)


def fit_part(
    model: nn.Module,
    live: Sequence[nn.Module],
    task: Task,
    budget: Budget,
    generator: torch.Generator,
    steps: int,
    rate: float = 1.0,
) -> History:
    """Train the parameters of the `live` modules for so many steps, with `rate` times the budget's learning
    rate.
    """
    trained = {id(p) for module in live for p in module.parameters()}
    rest = [p for p in model.parameters() if id(p) not in trained]
    faster = attrs.evolve(budget, learning_rate=rate * budget.learning_rate)
    mode = model.training
    try:
        with frozen(rest):
            return fit(Partial(model, live), task, faster, generator, steps=steps)
    finally:
        model.train(mode)


def fit_head(
    model: nn.Module, task: Task, budget: Budget, generator: torch.Generator, steps: int, rate: float = 1.0
) -> History:
    """Train the head only. What it receives never changes, and is computed once where that is less work (see
    `features_for`).
    """
    head = head_of(model)
    seen = features_for(model, task, budget, steps)
    if seen is None:
        return fit_part(model, [head], task, budget, generator, steps, rate)
    faster = attrs.evolve(budget, learning_rate=rate * budget.learning_rate)
    mode = head.training
    try:
        return fit(head, seen, faster, generator, steps=steps)
    finally:
        head.train(mode)


MOST = 2**27
"""Numbers (512 MiB of float32) that are kept of features."""


def features_for(model: nn.Module, task: Task, budget: Budget, steps: int) -> Task | None:
    """The task over what the head of `model` receives. None where features must be computed at every step (see
    `crosstask.learning.features.inseparable`), are too many to keep, are of a type that data are not kept in, or fewer
    samples would be seen without.
    """
    train = task.data("train").head(budget.samples)
    data = {"train": train}
    seen = steps * budget.accumulate * min(budget.batch_size, len(train))
    if task.has_data("validation"):
        data["validation"] = task.data("validation")
        seen += len(data["validation"]) * (2 + steps // budget.evaluate_every)
    if sum(map(len, data.values())) >= seen or not len(train) or inseparable(model, train.inputs):
        return None
    first = next(received(model, train.inputs[:1], 1))[0]
    if first.numel() * sum(map(len, data.values())) > MOST:
        return None
    kept = {}
    for split, part in data.items():
        features = torch.cat([found for found, _ in received(model, part.inputs, 1024)])
        if not bool(torch.isfinite(features).all()):
            return None  # the training itself says what comes of it
        kept[split] = TensorData(features, part.targets)
    made = task.over(**kept)
    made.descriptor = attrs.evolve(task.descriptor, input_shape=tuple(first.shape[1:]), input_shapes={})
    # a head in double or half precision cannot take what data are kept in
    return made if made.data("train").inputs.dtype == first.dtype else None
