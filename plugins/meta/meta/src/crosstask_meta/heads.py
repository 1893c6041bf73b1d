"""Whether the head of a model fits the classes of episodes, and putting one that does on a network of features."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.batched import batch_statistics
from crosstask.learning.episodes import Episodes
from crosstask.learning.functional import as_taken, kept_buffers
from crosstask.learning.modules import logits_of, seeded


def answer_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a model answers to two of the inputs, without a gradient; the model is left as it was."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad(), batch_statistics(model), kept_buffers(model):
            found: Tensor = model(as_taken(model, inputs[:2]))
            return found
    finally:
        model.train(mode)


def outputs_of(model: nn.Module, inputs: Tensor) -> int:
    """How many outputs a model has, found by asking it for two of the inputs."""
    return int(logits_of(answer_of(model, inputs), type(model).__name__).shape[-1])


def check_head(model: nn.Module, episodes: Episodes) -> None:
    """DataError unless the model has one output for each class of the episodes, or as many as there are values."""
    check_outputs(outputs_of(model, episodes.query_inputs[0]), episodes.query_targets, episodes.ways)


def check_outputs(outputs: int, targets: Tensor, ways: int | None) -> None:
    """The same of a number of outputs, for learners that look at them when they have been computed anyway."""
    if ways is None:
        wanted = targets[0, 0].numel()
        if outputs != wanted:
            raise DataError(f"the tasks have {wanted} values to predict, the model's head has {outputs} outputs")
    elif outputs != ways:
        raise DataError(
            f"the episodes have {ways} classes, the model's head has {outputs} outputs: they must be as many"
        )


def with_head(network: nn.Module, features: Tensor, ways: int, seed: int) -> nn.Module:
    """A network whose features [N, …] look like these, with a linear head of `ways` outputs, drawn from `seed`."""
    flat = [] if features.ndim == 2 else [("flat", nn.Flatten())]
    with seeded(seed):
        head = nn.Linear(features[0].numel(), ways).to(features)
    return nn.Sequential(OrderedDict([("trunk", network), *flat, ("head", head)]))
