"""A model of a zoo: a trunk that makes features of samples, computed once, and a head."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import Headless, head_of
from crosstask.learning.transferring import weights_digest
from crosstask_zoo.cache import Batch, FeatureCache

FEW = 8
"""Batches of fewer samples are looks at a model's shapes: they are not kept."""


class Trunk(nn.Module):
    """Makes features [N, F] of samples: of images as tensors from 0 to 1, of token ids, of what the model takes.

    With a cache (`remember_in`), features of samples that are only looked at (evaluation mode, no gradient) are
    computed once. They are those of the weights as they were then: with others (a copy that was trained or drawn anew,
    an adapter attached) they are computed, and not kept. What must see inside (hooks, autocast, torch.func, a compiler)
    is let in.
    """

    whole_inputs = True
    """Several inputs come as one `MultiInput`."""
    width: int
    """F."""
    _cache: FeatureCache | None = None
    _known: str = ""
    _alone: bool | None = None
    _crosstask_aside = ("_cache", "_known", "_alone")

    @abstractmethod
    def features(self, inputs: Batch) -> Tensor:
        """Features [N, F] of samples."""

    def remember_in(self, cache: FeatureCache | None) -> None:
        """Keep features there, of the weights that the trunk has now."""
        self._cache, self._known, self._alone = cache, "" if cache is None else weights_digest(self), None

    def forward(self, inputs: Batch) -> Tensor:
        if self._cache is None or not self._may_be_kept(inputs) or weights_digest(self) != self._known:
            return self.features(inputs)
        if self._alone is None:
            self._alone = self._each_alone(inputs)
        return self._cache.features(self._known, inputs, self.features) if self._alone else self.features(inputs)

    def _may_be_kept(self, inputs: Batch) -> bool:
        """Whether nobody looks inside, and the answer follows from weights and samples alone."""
        if len(inputs) < FEW or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        if torch.is_autocast_enabled(inputs.device.type) or inputs.device.type == "meta":
            return False
        functorch: Any = torch._C._functorch
        if functorch.peek_interpreter_stack() is not None:  # torch.func: values that cannot be looked at
            return False
        if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return False
        inside = [module for module in self.modules() if module is not self]
        return not self.training and not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in inside)

    def _each_alone(self, inputs: Batch) -> bool:
        """Whether the features of a sample depend on it alone, not on its batch, nor on chance."""
        some = inputs[torch.arange(4, device=inputs.device)]
        together, alone = self.features(some), self.features(some[torch.arange(1, device=inputs.device)])
        return torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-4)


class Given(Trunk):
    """Any torch module without its head. `crosstask.learning.modules.locate_head` says which is the head, where it is
    not the one called `head` or declared last.
    """

    own_head: nn.Linear | None
    """The head that was left out, if it is a linear layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        head = head_of(model)
        weight = next((p for p in head.parameters() if p.ndim > 1), None)
        if weight is None:
            raise DataError(
                f"the head of {type(model).__name__} has no weights: how wide its features are is not known"
            )
        self.body = Headless(model)
        self.width = int(weight.shape[1])
        self.__dict__["own_head"] = head if isinstance(head, nn.Linear) else None  # no part of the trunk

    def features(self, inputs: Batch) -> Tensor:
        features: Tensor = self.body(inputs)
        return features.flatten(1)


class ZooModel(nn.Module):
    """A trunk and a linear head on its features: what is registered with an engine, transferred and fine-tuned."""

    whole_inputs = True

    def __init__(self, trunk: Trunk, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.labelled = head is not None
        """Whether the head has learned something: else the model has lost its own."""
        self.head = copy.deepcopy(head) if head is not None else _silent(trunk.width)

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        answer: Tensor = self.head(self.trunk(inputs))
        return answer


def _silent(width: int) -> nn.Linear:
    """A head that says nothing, made without drawing a number."""
    made = nn.utils.skip_init(nn.Linear, width, 1)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made
