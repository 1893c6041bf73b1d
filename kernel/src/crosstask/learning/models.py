"""The networks that runs train by default, described by data."""

from __future__ import annotations

import importlib
import itertools
from collections import OrderedDict
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import CrosstaskError, DataError, OptionError, told
from crosstask.identity import identity_of
from crosstask.learning.modules import head_keys, know, seeded
from crosstask.options import option, options_of, record, structure


class Network(nn.Sequential):
    """A trunk and a head. Whole numbers are taken as numbers, several inputs side by side."""

    whole_inputs = True
    """Several inputs come as one `MultiInput`."""

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        given = inputs.flatten(1) if isinstance(inputs, MultiInput) else inputs
        if not given.is_floating_point():
            given = given.to(next(self.parameters()).dtype)
        outputs: Tensor = super().forward(given)  # type: ignore[no-untyped-call]
        return outputs


@record
class ModelSpec:
    """A network for any task: a trunk by `kind` and a linear head named `head`.

    `mlp`: flattened input, a ReLU layer per entry of `hidden`. `conv`: 3x3 convolutions of these widths, each followed
    by ReLU and 2x2 max pooling, then global averaging. `package.module:function`: your own, called with
    (input_shape, output_dim) and `arguments` by name, returning a module with a linear layer for a head.
    """

    kind: str = option("mlp", help="mlp, conv or package.module:function")
    hidden: tuple[int, ...] = option((64, 64), ge=1, help="widths of the layers")
    arguments: dict[str, Any] = option(factory=dict, help="what your own function is called with besides the shapes")

    def __attrs_post_init__(self) -> None:
        if self.kind not in ("mlp", "conv") and ":" not in self.kind:
            raise OptionError(f"ModelSpec: kind must be 'mlp', 'conv' or 'package.module:function', got {self.kind!r}")
        if not self.hidden:
            raise OptionError("ModelSpec: hidden must name at least one layer")
        if self.arguments and ":" not in self.kind:
            raise OptionError(f"ModelSpec: arguments are for your own function, {self.kind!r} takes none")

    def __key__(self) -> dict[str, Any]:
        """For keys of stored results: with the code of your own function, which may be edited."""
        told = options_of(self)
        if ":" not in self.kind:
            return told
        module, _, function = self.kind.partition(":")
        try:
            return {**told, "code": identity_of(getattr(importlib.import_module(module), function))}
        except (ImportError, AttributeError):  # `build` says so when it is needed
            return told

    def build(self, task: TaskDescriptor, seed: int) -> nn.Module:
        """The network for a task, initialised from `seed`. DataError if the task's shapes are unknown or do not fit."""
        if not task.input_dim or task.output_dim is None:
            raise DataError(f"task {task.task_id!r}: a model needs input_shape and output_dim in the descriptor")
        if ":" not in self.kind and task.task_type in ("segmentation", "token_classification"):
            raise DataError(
                f"task {task.task_id!r}: {self.kind!r} gives one answer per sample, a {task.task_type} task needs one "
                "for every place; give it a model of its own: Task(model=...) or Task(build=...)"
            )
        with seeded(structure(seed, int, "the seed of a model")):
            if ":" in self.kind:
                model = self._own(task)
                if not isinstance(model, nn.Module):
                    raise DataError(f"{self.kind} returned a {type(model).__name__}, not a torch module")
                head_keys(model)
                return self._noted(model, task)
            try:
                layers = self._mlp(task.input_dim) if self.kind == "mlp" else self._conv(task)
                head = nn.Linear(self.hidden[-1], task.output_dim)
            except (RuntimeError, TypeError, MemoryError) as error:  # torch refuses a size
                shape = task.input_shape or task.input_shapes
                size = f"of inputs {shape}, widths {self.hidden} and {task.output_dim} outputs"
                raise DataError(f"task {task.task_id!r}: a network {size} cannot be had: {error}") from None
            return self._noted(Network(OrderedDict(trunk=nn.Sequential(*layers), head=head)), task)

    def _own(self, task: TaskDescriptor) -> Any:
        """What the user's own function makes."""
        module, _, function = self.kind.partition(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise DataError(f"model {self.kind!r} cannot be imported: {error}") from error
        try:
            return make(task.input_shape or task.input_shapes, task.output_dim, **self.arguments)
        except CrosstaskError:
            raise
        except Exception as error:  # the user's own code
            raise DataError(f"model {self.kind!r} cannot be made for task {task.task_id!r}: {told(error)}") from error

    def _noted(self, model: nn.Module, task: TaskDescriptor) -> nn.Module:
        """The model, with how it was made kept on it: its file says so."""
        shapes = attrs.evolve(task, performance_history=(), transfer_efficiency={}, embedding=None)
        know(model, made={"spec": options_of(self), "descriptor": shapes.to_json()})
        return model

    def _mlp(self, numbers: int) -> list[nn.Module]:
        widths = (numbers, *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return layers

    def _conv(self, task: TaskDescriptor) -> list[nn.Module]:
        if len(task.input_shape) != 3:
            raise DataError(
                f"task {task.task_id!r}: 'conv' needs inputs of shape (channels, height, width), got {task.input_shape}"
            )
        smallest = min(task.input_shape[1:])
        if smallest < 2 ** len(self.hidden):
            raise DataError(
                f"task {task.task_id!r}: {len(self.hidden)} poolings need images of at least {2 ** len(self.hidden)} "
                f"pixels, got {smallest}"
            )
        widths = (task.input_shape[0], *self.hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def optimizer_for(
    name: str, parameters: list[nn.Parameter], learning_rate: float, weight_decay: float, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """A torch optimiser by the name a `Budget` uses; `fused`: in torch's own form of one pass."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9, fused=fused)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)
