"""Adapters: a few trainable weights beside a frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdapterHandle(ABC):
    """An adapter that sits on a model. The base weights are frozen and never written, except between `merge` and
    `unmerge`, which restores them bit for bit.
    """

    model: nn.Module

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What training the adapter trains."""

    @abstractmethod
    def enable(self) -> None:
        """The adapter takes part in the forward pass (as after `attach`)."""

    @abstractmethod
    def disable(self) -> None:
        """The model answers exactly as it did without the adapter."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The adapter's own tensors by name; nothing of the base."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the tensors that `state` gave. DataError names what is missing, left over or of another shape."""

    @abstractmethod
    def detach(self) -> None:
        """Take the adapter off: the model is again what it was, its weights trainable where they were."""

    def merge(self) -> None:
        """Fold the adapter into the base weights, so that the forward pass costs nothing more. DataError if this kind
        of adapter cannot be.
        """
        from crosstask.errors import DataError

        raise DataError(f"a {type(self).__name__} cannot be merged into the weights of the model")

    def unmerge(self) -> None:
        """Undo `merge`: the base weights are bit for bit what they were. Nothing to do if nothing is merged."""
        return


class Adapter(Component):
    """Puts adapters on models.

    Capabilities: `mergeable` (its handles merge and unmerge).
    """

    point: ClassVar[str] = "adapter"

    @abstractmethod
    @hook(first=True)
    def attach(self, model: nn.Module, targets: Sequence[str]) -> AdapterHandle:
        """Adapt `model` in place and freeze its own weights.

        `targets` name modules: their full names, or patterns with `*`; none means the adapter's own choice. DataError
        if a target matches nothing the adapter can work on, with the nearest names.
        """
