"""Spaces of networks: what a search for a task's model chooses from."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, nearest
from crosstask.learning.models import ModelSpec
from crosstask.options import option, record, unstructure
from crosstask.records import Budget
from crosstask_search.parameter import Parameter, hashable
from crosstask_search.space import SearchSpace

TUNABLE = ("learning_rate", "batch_size", "optimizer", "weight_decay")
"""Fields of a `Budget` that a search may choose. Not its steps: every trial spends the same."""


@record
class ModelSpace:
    """Networks to choose from, and what else of a training is chosen with them.

    `mlp`, `conv`: `ModelSpec`s of one to `max_layers` layers (parameter `layers`), each with one of `widths` (`width1`,
    `width2`, …). `package.module:function`: your own networks; the function is called with (input_shape, output_dim)
    and a value of each of `parameters` by name. `tune` names fields of the `Budget`.
    """

    kind: str = option("mlp", help="mlp, conv or package.module:function")
    max_layers: int = option(3, ge=1, help="layers of an mlp or conv")
    widths: tuple[int, ...] = option((16, 32, 64, 128), ge=1, help="widths of a layer of an mlp or conv")
    parameters: dict[str, Parameter] = option(factory=dict, help="what your own function can be called with")
    tune: dict[str, Parameter] = option(factory=dict, help=f"of the budget: {', '.join(TUNABLE)}")
    forbidden: tuple[dict[str, Any], ...] = option((), help="see SearchSpace")
    valid: Any = option(None, help="see SearchSpace")

    def __attrs_post_init__(self) -> None:
        own = ":" in self.kind
        if not own and self.kind not in ("mlp", "conv"):
            raise OptionError(f"ModelSpace: kind must be 'mlp', 'conv' or 'package.module:function', got {self.kind!r}")
        if own != bool(self.parameters):
            raise OptionError(
                f"ModelSpace: parameters say what a function of your own can be called with; kind is {self.kind!r}"
            )
        if not own and not self.widths:
            raise OptionError("ModelSpace: widths must name at least one width")
        for name in self.tune:
            if name not in TUNABLE:
                raise OptionError(f"ModelSpace: tune cannot be {name!r}{nearest(name, TUNABLE)}")
            if name in self.parameters:
                raise OptionError(f"ModelSpace: {name!r} is both in parameters and in tune")

    def __unstructure__(self) -> dict[str, Any]:
        plain = {f.name: unstructure(getattr(self, f.name)) for f in attrs.fields(type(self)) if f.name != "valid"}
        if self.valid is None:
            return plain
        named = f"{self.valid.__module__}:{self.valid.__qualname__}" if callable(self.valid) else self.valid
        return {**plain, "valid": named}

    def space(self, task: TaskDescriptor) -> SearchSpace:
        """The search space for a task: no deeper than its images allow. OptionError if no network fits."""
        parameters = dict(self.parameters)
        if ":" not in self.kind:
            most = self.max_layers
            if self.kind == "conv":
                if len(task.input_shape) != 3:
                    raise OptionError(
                        f"task {task.task_id!r}: 'conv' needs inputs of shape (channels, height, width), "
                        f"got {task.input_shape}"
                    )
                most = min(most, int(math.log2(min(task.input_shape[1:]))))
                if most < 1:
                    raise OptionError(
                        f"task {task.task_id!r}: images of {task.input_shape[1:]} are too small for 'conv'"
                    )
            depths = tuple(range(1, most + 1))
            parameters["layers"] = Parameter(choices=depths)
            for depth in depths:
                when = {"layers": depths[depth - 1 :]} if depth > 1 else {}
                parameters[f"width{depth}"] = Parameter(choices=self.widths, when=when)
        made = SearchSpace(parameters=parameters | self.tune, forbidden=self.forbidden, valid=self.valid)
        made.require_points()
        return made

    def require_specs(self) -> None:
        """OptionError if a network of a function of your own could not be told as a `ModelSpec`, which another process
        and another task build it from: the function is not found by its name or does not take the parameters, or a
        choice of theirs is no plain data.
        """
        if ":" not in self.kind:
            return
        module, _, function = self.kind.partition(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except Exception as error:  # a module of the user's: whatever it raises is why it cannot be used
            raise OptionError(f"kind {self.kind!r} cannot be imported: {type(error).__name__}: {error}") from None
        for name, parameter in self.parameters.items():
            for value in parameter.choices:
                if hashable(unstructure(value)) != value:
                    raise OptionError(
                        f"parameters: {name!r} cannot be {value!r}: the network that is found is told by its choices, "
                        "which are numbers, strings, true, false or lists of them"
                    )
        space = SearchSpace(parameters=self.parameters | self.tune, forbidden=self.forbidden, valid=self.valid)
        (point,) = space.sample(np.random.default_rng(0))
        try:
            inspect.signature(make).bind((1,), 1, **self.model(point).arguments)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"kind {self.kind!r} must take (input_shape, output_dim) and the parameters by name: {error}"
            ) from None

    def model(self, point: Mapping[str, Any]) -> ModelSpec:
        """The network that a point describes."""
        if ":" in self.kind:
            return ModelSpec(kind=self.kind, arguments={n: v for n, v in point.items() if n not in self.tune})
        widths = tuple(point[f"width{depth + 1}"] for depth in range(point["layers"]))
        return ModelSpec(kind=self.kind, hidden=widths)

    def budget(self, point: Mapping[str, Any], budget: Budget) -> Budget:
        """The budget with what the point says of it."""
        return attrs.evolve(budget, **{name: point[name] for name in self.tune if name in point})
