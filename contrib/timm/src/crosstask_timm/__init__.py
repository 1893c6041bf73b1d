"""Image models of timm in a zoo, and folders of images as tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_timm.images import ImageFolders
    from crosstask_timm.models import TimmModels
    from crosstask_timm.trunk import TimmTrunk, timm_model

__all__ = ["ImageFolders", "TimmModels", "TimmTrunk", "timm_model"]

__getattr__ = lazily(
    __name__,
    {"ImageFolders": "images", "TimmModels": "models", "TimmTrunk": "trunk", "timm_model": "trunk"},
)
