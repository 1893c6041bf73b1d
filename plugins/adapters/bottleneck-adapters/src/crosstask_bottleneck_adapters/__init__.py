"""Adapters that rescale or refine the activations of layers."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "LanguageAdapter": "alone",
    "MultiModalAdapter": "alone",
    "VisionAdapter": "alone",
    "Bottleneck": "bottleneck",
    "LinearBottleneck": "bottleneck",
    "Compacter": "compacter",
    "IA3": "ia3",
    "Multimodal": "multimodal",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_bottleneck_adapters.alone import LanguageAdapter, MultiModalAdapter, VisionAdapter
    from crosstask_bottleneck_adapters.bottleneck import Bottleneck, LinearBottleneck
    from crosstask_bottleneck_adapters.compacter import Compacter
    from crosstask_bottleneck_adapters.ia3 import IA3
    from crosstask_bottleneck_adapters.multimodal import Multimodal
