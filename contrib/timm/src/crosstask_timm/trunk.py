"""A model of timm as the trunk of a zoo's: its own transform, its features before the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import seeded
from crosstask_zoo.cache import Batch
from crosstask_zoo.images import ImageInput
from crosstask_zoo.saved import library
from crosstask_zoo.trunk import Trunk, ZooModel


class TimmTrunk(Trunk):
    """A model of timm without its classifier: `forward_features`, then `forward_head(pre_logits=True)`.

    Images [N, C, H, W] from 0 to 1 are resized, cut and normalised as the model's own data config says, or to
    `image_size` where that is given (the model must take it).
    """

    def __init__(self, model: nn.Module, *, image_size: int | None = None) -> None:
        super().__init__()
        own: Any = model
        self.images = image_input(own, image_size)
        own.reset_classifier(0)
        self.body: Any = own
        self.width = int(getattr(own, "head_hidden_size", None) or own.num_features)

    def features(self, inputs: Batch) -> Tensor:
        if isinstance(inputs, MultiInput):
            inputs = next(iter(inputs.parts.values()))
        answer: Tensor = self.body.forward_head(self.body.forward_features(self.images(inputs)), pre_logits=True)
        return answer.flatten(1)


def timm_model(model: str | Path | nn.Module, *, image_size: int | None = None, **options: Any) -> ZooModel:
    """A model of timm by name (`pretrained=True` and other options go to `timm.create_model`), from the folder that
    `timm.models.save_for_hf` wrote, or one that you have: its classifier is kept as the head where it is one linear
    layer on the features. DataError where timm cannot make it.
    """
    made: Any = model
    if not isinstance(model, nn.Module):
        timm = library("timm", "crosstask-timm")
        name = f"local-dir:{model}" if Path(model).is_dir() else str(model)
        usual = {"pretrained": True} if Path(model).is_dir() else {}
        try:
            with seeded(0):  # what no file gives is drawn, the same every time
                made = timm.create_model(name, **usual, **options)
        except Exception as error:  # an unknown name, a foreign config, weights that do not fit it
            told = str(error).strip().splitlines()
            raise DataError(f"timm cannot make {model}: {told[0] if told else type(error).__name__}") from error
    classifier = made.get_classifier()
    trunk = TimmTrunk(made, image_size=image_size)
    fits = isinstance(classifier, nn.Linear) and classifier.in_features == trunk.width
    return ZooModel(trunk, classifier if fits else None)


def image_input(model: Any, image_size: int | None = None) -> ImageInput:
    """The transform of evaluation that a model's config tells of, as tensor operations (`timm.data.create_transform`
    makes the same one for pictures).
    """
    data = library("timm.data", "crosstask-timm")
    told = data.resolve_model_data_config(model)
    channels, high, wide = told["input_size"]
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if own is not None:  # made for another size than its architecture's usual one
        high, wide = own
    if image_size is not None:
        high, wide = image_size, image_size
    crop = told["crop_pct"] or 1.0
    resize = (int(high / crop), int(wide / crop))
    return ImageInput(
        getattr(model, "in_chans", None) or channels,
        (high, wide),
        resize=resize,
        mode=told["crop_mode"],
        interpolation=told["interpolation"],
        mean=told["mean"],
        std=told["std"],
    )
