"""Adapters: a few trainable weights beside a frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook
from crosstask.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class AdapterHandle(ABC):
    """An adapter that sits on a model. The base weights are frozen and never written, except between `merge` and
    `unmerge`, which restores them bit for bit; BatchNorm keeps its statistics while an adapter is trained.
    """

    model: nn.Module
    """The model that it sits on."""

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
        raise DataError(f"a {type(self).__name__} cannot be merged into the weights of the model")

    def unmerge(self) -> None:
        """Undo `merge`: the base weights are bit for bit what they were. Nothing to do if nothing is merged."""
        return

    def absorb(self) -> None:
        """Make the adapter a part of the model for good: the model answers as it does now (a disabled adapter is
        taken off), the handle is spent, and the base weights are trainable where they were. What can be merged leaves
        plain weights.
        """
        raise DataError(f"a {type(self).__name__} cannot become a part of the model")

    def without_gradient(self) -> list[str]:
        """After a backward pass, which parts of the adapter have learned nothing from it: they are out of its path."""
        silent = all(p.grad is None or not bool(p.grad.any()) for p in self.parameters())
        return [type(self).__name__] if silent else []

    def mix(self, handles: Sequence[AdapterHandle], choice: Tensor) -> AbstractContextManager[None] | None:
        """A context in which sample i of a batch is answered by `handles[choice[i]]` alone, and by the bare model where
        choice [N] is -1; this handle is one of them. None if this kind cannot: the batch is then answered in parts.
        """
        return None


class Adapter(Component):
    """Puts adapters on models.

    Capabilities: `mergeable` (its handles merge and unmerge).
    """

    point: ClassVar[str] = "adapter"

    @abstractmethod
    @hook(first=True, returns=AdapterHandle)
    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        """Adapt `model` in place and freeze its own weights; new weights are drawn from `generator`, and the model
        answers at first as it did before (or nearly so, where the method adds inputs of its own).

        `targets` name modules: their full names, the ends of these, or patterns with `*`; a container means all in it,
        and `!name` leaves something out. None, or only those with `!`, means the adapter's own choice. DataError if a
        target matches nothing the adapter can work on, with the nearest names.

        A layer may be used twice, called by keyword, or compute its weight from other parameters (weight_norm): it is
        adapted as any other, or refused with a DataError.
        """
