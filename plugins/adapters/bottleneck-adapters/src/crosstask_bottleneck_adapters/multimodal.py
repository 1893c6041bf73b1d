"""The `multimodal` adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.points.adapter import Adapter
from crosstask_adapters import LayerAdapter, LayersHandle, match_targets
from crosstask_bottleneck_adapters.bottleneck import ACTIVATIONS, BottleneckLayer
from crosstask_bottleneck_adapters.places import WHAT, OutputAdapter, fits, sublayers, width_of


class FusionLayer(OutputAdapter):
    """y + g f(y) + (1 - g) h(y), with f for language, h for vision and the gate g = sigmoid(w y + b) at each position.

    The gate starts at a half, f and h at zero.
    """

    def __init__(self, language: BottleneckLayer, vision: BottleneckLayer) -> None:
        super().__init__()
        self.language, self.vision = language, vision
        self.gate = nn.Parameter(torch.zeros_like(language.down[:1]))
        self.gate_bias = nn.Parameter(torch.zeros_like(language.down_bias[:1]))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        for part in (self.language, self.vision):
            part.reset_parameters()
        nn.init.zeros_(self.gate)
        nn.init.zeros_(self.gate_bias)

    def more(self, y: Tensor) -> Tensor:
        gate = torch.sigmoid(functional.linear(y, self.gate, self.gate_bias))
        return torch.lerp(self.vision.more(y), self.language.more(y), gate)


@component
class Multimodal(Adapter):
    """Bottlenecks (Houlsby et al. 2019) for a model of text and images: one kind in the layers that `language` names,
    one in those that `vision` names, and in all others, which see both, the two with a gate between them that looks at
    each position.

    Targets, or without any the same choice as `bottleneck`'s, say which layers are adapted at all. It cannot be merged.
    """

    hidden_dim: int = option(64, ge=1, help="width of the hidden layers")
    activation: str = option("relu", choices=tuple(ACTIVATIONS), help="between the two layers")
    language: tuple[str, ...] = option((), help="modules that see text only: names, their ends, patterns")
    vision: tuple[str, ...] = option((), help="modules that see images only")

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        text, images = (
            set(match_targets(model, own, fits(model), WHAT)) if own else set() for own in (self.language, self.vision)
        )
        if both := sorted(text & images):
            raise DataError(f"multimodal: {both[0]!r} is named both for language and for vision; leave it out of both")
        parts: dict[str, LayerAdapter] = {}
        for name in match_targets(model, targets, fits(model), WHAT, sublayers(model)):
            layer = model.get_submodule(name)
            width, like = width_of(layer), next(layer.parameters())
            one, *other = (
                BottleneckLayer(width, self.hidden_dim, self.activation, like, generator)
                for _ in range(1 if name in text | images else 2)
            )
            parts[name] = FusionLayer(one, other[0]) if other else one
        return LayersHandle(model, parts)
