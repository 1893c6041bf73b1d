"""Several tasks over several modalities: ids, texts and numbers."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_multimodal.face import MultiModalMultiTask
    from crosstask_multimodal.multimodal import MultiModal, MultiModalModule
    from crosstask_multimodal.trunk import MultiModalNetwork, MultiModalTrunk, network

_PUBLIC = {
    "MultiModal": "multimodal",
    "MultiModalModule": "multimodal",
    "MultiModalMultiTask": "face",
    "MultiModalNetwork": "trunk",
    "MultiModalTrunk": "trunk",
    "network": "trunk",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
