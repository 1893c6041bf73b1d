"""Models of transformers, from the folders that `save_pretrained` writes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, nearest
from crosstask.learning.modules import seeded
from crosstask.options import component
from crosstask_zoo.cache import Batch
from crosstask_zoo.images import ImageInput
from crosstask_zoo.saved import Saved, SavedModels, config_of, library, parameters_in, told_in, weights_in
from crosstask_zoo.trunk import Trunk, ZooModel

RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers of what interpolates."""
POOLINGS = ("mean", "first", "last")


class TransformersTrunk(Trunk):
    """A model without a head (`AutoModel`), its last hidden states pooled to one vector for each sample.

    `mean`: over the tokens that the attention mask shows (without a mask, those that are not padding); `first`, `last`:
    of one token. By default the mean; of images with a class token that token, which their own classifiers read. Maps
    [N, C, H, W] are averaged. Of an encoder and decoder the encoder is taken. Inputs are token ids, or a mapping as
    tokenisers give it; of models of images, images from 0 to 1, normalised as `images` says.
    """

    def __init__(self, body: nn.Module, *, pooling: str | None = None, images: ImageInput | None = None) -> None:
        super().__init__()
        if pooling is None:
            pooling = "first" if hasattr(getattr(body, "embeddings", None), "cls_token") else "mean"
        if pooling not in POOLINGS:
            raise DataError(f"unknown pooling {pooling!r}{nearest(pooling, POOLINGS)}")
        own: Any = body
        config = own.config
        self.body: Any = own.get_encoder() if getattr(config, "is_encoder_decoder", False) else own
        self.pooling, self.images = pooling, images
        self.main = str(own.main_input_name)
        self._takes = frozenset(inspect.signature(self.body.forward).parameters)
        width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
        sizes = getattr(config, "hidden_sizes", None) or ()
        found = width if isinstance(width, int) else next(iter(reversed(sizes)), None)
        if not isinstance(found, int):
            raise DataError(f"the config of {type(own).__name__} does not say how wide its hidden states are")
        self.width = found

    def features(self, inputs: Batch) -> Tensor:
        parts = dict(inputs.parts) if isinstance(inputs, MultiInput) else {self.main: inputs}
        if isinstance(inputs, MultiInput) and not inputs.named:
            parts = {self.main: next(iter(parts.values()))}
        if self.main not in parts:
            raise DataError(f"{type(self.body).__name__} takes {self.main!r}, the samples have {', '.join(parts)}")
        mask = parts.get("attention_mask")
        if self.images is not None:
            parts[self.main] = self.images(parts[self.main])
        elif self.main == "input_ids":
            parts[self.main] = ids = parts[self.main].long()
            padding = getattr(self.body.config, "pad_token_id", None)
            if mask is None and padding is not None:
                mask = (ids != padding).long()
            if mask is not None:
                parts["attention_mask"] = mask = mask.long()
        answer = self.body(**{name: value for name, value in parts.items() if name in self._takes})
        return self._pooled(getattr(answer, "last_hidden_state", None), mask)

    def _pooled(self, states: Tensor | None, mask: Tensor | None) -> Tensor:
        who = type(self.body).__name__
        if states is None or states.ndim not in (3, 4):
            got = "none" if states is None else f"shape {tuple(states.shape)}"
            raise DataError(f"{who} gives no last hidden states of tokens or places ({got}): no features can be made")
        if states.ndim == 4:
            return states.mean((2, 3))
        if mask is None:
            mask = states.new_ones(states.shape[:2])
        if mask.shape != states.shape[:2]:
            raise DataError(f"{who} gives states of {states.shape[1]} tokens for a mask of {mask.shape[1]}")
        seen = mask > 0
        if self.pooling == "mean":
            weights = seen.to(states.dtype)
            return (states * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp_min(1)
        places = torch.arange(seen.shape[1], device=seen.device)
        last = torch.where(seen, places, -1).amax(1).clamp_min(0)
        first = torch.where(seen, places, seen.shape[1] - 1).amin(1)
        return states[torch.arange(len(states), device=states.device), first if self.pooling == "first" else last]


@component
class TransformersModels(SavedModels):
    """Of the folders in `folder`, those that `save_pretrained` has written, as tasks without data.

    The heads are left out: what a model gives is its pooled last hidden states (see `TransformersTrunk`). Images are
    normalised and resized as `preprocessor_config.json` says.
    """

    library: ClassVar[str] = "transformers"

    @classmethod
    def recognise(cls, place: Path) -> Saved | None:
        told = config_of(place)
        if not isinstance(told.get("model_type"), str):
            return None
        named = told.get("architectures") or [told["model_type"]]
        return Saved(place.name, cls.library, str(named[0]), place, parameters_in(place))

    @classmethod
    def open(cls, saved: Saved) -> ZooModel:
        return ZooModel(trunk_in(_placed(saved)))


def _placed(saved: Saved) -> Path:
    assert saved.place is not None  # it was recognised there
    return saved.place


def trunk_in(place: Path, *, pooling: str | None = None) -> TransformersTrunk:
    """The model in a folder, without its head. DataError where transformers cannot load it."""
    transformers = library("transformers", "crosstask-zoo")
    weights_in(place)
    logging = transformers.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # that the head was left out is what was asked for
    logging.disable_progress_bar()
    try:
        with seeded(0):  # what the file lacks (a pooler, which is not used) is drawn, the same every time
            body = transformers.AutoModel.from_pretrained(
                str(place), local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
    except Exception as error:  # of a foreign config, or weights that do not fit it
        told = str(error).strip().splitlines()
        raise DataError(f"transformers cannot load {place}: {told[0] if told else type(error).__name__}") from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
    images = None
    if body.main_input_name == "pixel_values":
        images = image_input(body.config, told_in(place / "preprocessor_config.json"))
    return TransformersTrunk(body, pooling=pooling, images=images)


def image_input(config: Any, told: dict[str, Any]) -> ImageInput:
    """Images as a preprocessor's config says, or, without one, of the size that the model's config says."""
    channels = getattr(config, "num_channels", 3)
    size, own = told.get("size"), getattr(config, "image_size", None)
    own = tuple(own) if isinstance(own, list | tuple) else (own, own) if own else None
    mode, resize = "squash", None
    if isinstance(size, int):
        resize = (size, size)
    elif isinstance(size, dict) and "height" in size:
        resize = (size["height"], size["width"])
    elif isinstance(size, dict) and "shortest_edge" in size:
        resize, mode = (size["shortest_edge"],) * 2, "center"
    if told.get("do_resize") is False:
        resize = None
    final, crop = resize or own, told.get("crop_size")
    if told.get("do_center_crop") and crop:
        final = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
    normalised = told.get("do_normalize", bool(told))
    return ImageInput(
        channels,
        final,
        resize=resize,
        mode=mode,
        interpolation=RESAMPLE.get(told.get("resample", 2), "bilinear"),
        mean=told.get("image_mean", ()) if normalised else (),
        std=told.get("image_std", ()) if normalised else (),
    )
