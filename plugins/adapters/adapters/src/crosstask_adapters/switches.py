"""Which adapters of a model act: a switch for each, and what all of one model share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
from torch import Tensor, nn

from crosstask.errors import DataError


@attrs.define(eq=False)
class Switch:
    """Whether an adapter acts; shared by all its layers, so that switching costs the same for any model."""

    on: bool = True
    merged: bool = False
    live: bool = True
    """On and not merged: what a layer asks."""
    fusable: bool = True
    """Whether weights say it all, so that a fused kernel may read them."""

    def set(self, *, on: bool | None = None, merged: bool | None = None) -> None:
        self.on = self.on if on is None else on
        self.merged = self.merged if merged is None else merged
        self.live = self.on and not self.merged


class NotPerSampleError(DataError):
    """A layer's first dimension is not that of the samples: it cannot choose an adapter for each."""


@attrs.define(eq=False)
class Host:
    """What the adapters of one model share. Kept in the model itself, so that copies of it have their own."""

    switches: list[Switch] = attrs.field(factory=list)
    mixing: tuple[dict[Switch, int], Tensor] | None = None
    kept: dict[nn.Parameter, Tensor] = attrs.field(factory=dict)
    """The base tensors of merged weights."""
    frozen: list[nn.Parameter] = attrs.field(factory=list)
    """What was trainable before."""
    attached: int = 0
    """How many adapters are being trained or could be: all but those that have become a part of the model."""

    @property
    def unfused(self) -> bool:
        """Whether fused kernels, which know weights only, would get it wrong now."""
        return self.mixing is not None or any(s.live and not s.fusable for s in self.switches)


@contextlib.contextmanager
def mixing(host: Host, index: dict[Switch, int], choice: Tensor) -> Iterator[None]:
    """Inside, sample i of a batch is answered with the adapter whose switch has the number `choice[i]`."""
    before = host.mixing
    host.mixing = ({**(before[0] if before else {}), **index}, choice)
    try:
        yield
    finally:
        host.mixing = before
