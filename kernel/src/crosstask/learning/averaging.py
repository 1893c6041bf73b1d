"""Models whose weights are the means of others'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.modules import load_matching
from crosstask.learning.own_models import copied


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have tensors of the same names and shapes, and the same whole numbers that steer, so that
    they have a mean.
    """
    ours, theirs = ({n: v.shape for n, v in m.state_dict().items() if isinstance(v, Tensor)} for m in (one, other))
    return ours == theirs and _steered_apart(one.state_dict(), other.state_dict()) is None


def steers(kind: torch.dtype, shape: Sequence[int]) -> bool:
    """Whether a tensor of this type and shape, parameter or buffer, steers what a model does by whole numbers (an order
    of inputs, a mask), which have no mean. A single one without a dimension is a count, as BatchNorm has of batches.
    """
    return not (kind.is_floating_point or kind.is_complex) and len(shape) > 0


def _steered_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The name of whole numbers that differ between two models' states."""
    for name, value in one.items():
        theirs = other.get(name)
        if not (isinstance(value, Tensor) and isinstance(theirs, Tensor)) or name.endswith("_extra_state"):
            continue
        if steers(value.dtype, value.shape) and not torch.equal(value, theirs.to(value.device)):
            return name
    return None


def mean_weights(models: Sequence[nn.Module]) -> nn.Module:
    """A model whose weights and statistics are the means of these models', which are `alike`: of one the model itself.
    Means are taken in double precision; counts are those of the first.

    DataError where other whole numbers, an order of inputs, say, are not the same in all: they have no mean.
    """
    if len(models) == 1:
        return models[0]
    made, states = copied(models[0]), [model.state_dict() for model in models]
    for state in states[1:]:
        if name := _steered_apart(states[0], state):
            raise DataError(
                f"these models' weights have no mean: {name!r} holds whole numbers, which must be the same in all, and "
                "here they are not"
            )
    mean = {
        name: torch.stack([state[name].to(value.device, _precise(value)) for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    }
    load_matching(made, mean)
    return made


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def greedy_mean(models: Sequence[nn.Module], score: Callable[[nn.Module], float]) -> tuple[nn.Module, list[int]]:
    """(the mean of some of the models' weights, which ones): the best by `score`, and in the order of their scores each
    with which the mean scores no worse (Wortsman et al. 2022, recipe 1). Those that are not `alike` the best are
    passed over.

    For models in memory of which each can be run; what merges files tensor by tensor keeps a running mean instead.
    """

    def mean_of(numbers: Sequence[int]) -> nn.Module:
        return mean_weights([models[n] for n in numbers])

    taken = greedy(models, lambda numbers: score(mean_of(numbers)))
    return mean_of(taken), taken


def greedy(models: Sequence[nn.Module], score: Callable[[Sequence[int]], float]) -> list[int]:
    """Which models `greedy_mean` takes, the best first; `score` is that of the mean of some, by their numbers."""
    alone = [score([number]) for number in range(len(models))]
    first, *others = sorted(range(len(models)), key=lambda number: -alone[number])
    taken, level = [first], alone[first]
    for number in others:
        if alike(models[number], models[first]) and (value := score([*taken, number])) >= level:
            taken, level = [*taken, number], value
    return taken
