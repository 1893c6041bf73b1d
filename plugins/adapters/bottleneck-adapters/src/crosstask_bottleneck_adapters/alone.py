"""The adapters for text and for images as modules by themselves, for networks of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosstask.errors import DataError, OptionError, nearest
from crosstask_adapters import AdapterConfig, BaseAdapter
from crosstask_bottleneck_adapters.bottleneck import Bottleneck, BottleneckLayer
from crosstask_bottleneck_adapters.multimodal import FusionLayer

MODALITIES = ("language", "vision")


class _Refining(BaseAdapter):
    """`input_dim`, `hidden_dim` (64) and `options["activation"]` (relu) of the configuration say what it is made of;
    what else belongs to adapters on models is an OptionError. New, it gives what it gets.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        settings = Bottleneck(**{"hidden_dim": config.hidden_dim or 64, **config.options})
        self.hidden, self.activation = settings.hidden_dim, settings.activation

    def _layer(self) -> BottleneckLayer:
        """One more, drawn by torch's own generator, as its layers are."""
        made = BottleneckLayer(self.width, self.hidden, self.activation, torch.empty(0), torch.Generator())
        made.reset_parameters()
        return made

    def _features(self, x: Tensor, channels: bool) -> Tensor:
        """x with its features last. DataError for another width."""
        x = x.movedim(1, -1) if channels else x
        if not x.shape or x.shape[-1] != self.width:
            where = "channels" if channels else "features in its last dimension"
            got = x.shape[-1] if x.shape else 0
            raise DataError(f"{type(self).__name__} takes {self.width} {where} (input_dim), got {got}")
        return x


class LanguageAdapter(_Refining):
    """y + U g(D y + a) + b at each position of x [..., F]."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.layer = self._layer()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer.more(self._features(x, False))


class VisionAdapter(_Refining):
    """The same at each place of an image x [N, F, H, W], or at each patch of x [N, P, F]."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.layer = self._layer()

    def forward(self, x: Tensor) -> Tensor:
        more = self.layer.more(self._features(x, x.dim() == 4))
        return x + (more.movedim(-1, 1) if x.dim() == 4 else more)


class MultiModalAdapter(_Refining):
    """x + g f(x) + (1 - g) h(x) for x [..., F], with f for language, h for vision, and a gate g = sigmoid(w x + b) at
    each position; for what is of one modality, x + f(x) or x + h(x).
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.layer = FusionLayer(self._layer(), self._layer())

    def forward(self, x: Tensor, modality: str | None = None) -> Tensor:
        """`modality`: `language` or `vision` where x is of that alone."""
        x = self._features(x, False)
        if modality is None:
            return x + self.layer.more(x)
        if modality not in MODALITIES:
            raise OptionError(f"modality cannot be {modality!r}{nearest(modality, MODALITIES)}")
        part: Any = getattr(self.layer, modality)
        return x + part.more(x)
