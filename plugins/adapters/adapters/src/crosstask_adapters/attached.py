"""One adapter of an `AdapterModel`: what its component gave, its own heads, and whether it acts."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor

from crosstask.errors import DataError
from crosstask.points.adapter import AdapterHandle
from crosstask_adapters.config import AdapterConfig
from crosstask_adapters.handle import LayersHandle


@attrs.define
class Attached:
    """An adapter that sits on a model."""

    config: AdapterConfig
    handle: AdapterHandle
    saved: LayersHandle | None
    """The adapter's own heads."""
    own: bool = False
    """Whether it is a user's module, which no component makes."""
    enabled: bool = True
    merged: bool = False

    @property
    def handles(self) -> list[AdapterHandle]:
        return [self.handle] if self.saved is None else [self.handle, self.saved]

    def enable(self, on: bool) -> None:
        """Whether it takes part; one that is merged is taken out of the weights when it does not."""
        for handle in self.handles:
            if on:
                handle.enable()
            else:
                handle.disable()
        self.enabled, self.merged = on, self.merged and on

    def state(self) -> dict[str, Tensor]:
        """Its tensors and those of its heads, each a copy of its own: files hold no tensors that share memory."""
        found = {f"adapter:{name}": tensor for name, tensor in self.handle.state().items()}
        if self.saved is not None:
            found |= {f"saved:{name}": tensor for name, tensor in self.saved.state().items()}
        return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave. DataError names what is missing, left over or of another shape."""
        parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "saved": {}}
        for key, tensor in state.items():
            part, _, rest = key.partition(":")
            if part not in parts or (part == "saved" and self.saved is None):
                raise DataError(f"no place for {key!r}: its configuration describes no such thing")
            parts[part][rest] = tensor
        self.handle.load_state(parts["adapter"])
        if self.saved is not None:
            self.saved.load_state(parts["saved"])
