"""Images as a model wants them: channels, size, normalisation; by tensor operations, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: as PIL makes grey of colours."""
MODES = ("center", "squash", "border")


class ImageInput(nn.Module):
    """Images [N, C, H, W] or [N, H, W], values 0 to 1 (or bytes), as a model takes them: [N, `channels`, *`size`].

    Grey images get equal channels, colours become grey by their luma, an alpha channel is dropped. `center`: the
    shorter side is resized to that of `resize` (by default `size`), the middle of `size` is cut out; `squash`: each
    side is resized to `resize`, the middle cut out; `border`: the longer side, and what is missing is filled
    with the mean. Without `size` images keep theirs. Then (x - `mean`) / `std`, of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int = 3,
        size: tuple[int, int] | None = None,
        *,
        resize: tuple[int, int] | None = None,
        mode: str = "center",
        interpolation: str = "bicubic",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise DataError(f"images are fitted by {', '.join(MODES)}, not by {mode!r}")
        self.channels, self.size, self.mode, self.interpolation = channels, size, mode, interpolation
        self.resize = resize or size
        for name, values, usual in (("mean", mean, 0.0), ("std", std, 1.0)):
            given = torch.tensor([*values] or [usual])
            if len(given) not in (1, channels):  # of a model that was made for other channels
                given = given.mean(0, keepdim=True)
            self.register_buffer(name, given.expand(channels).reshape(1, -1, 1, 1).clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4:
            shape = tuple(images.shape[1:])
            raise DataError(f"images are tensors of shape (channels, height, width) or (height, width), got {shape}")
        if images.dtype == torch.uint8:
            images = images / 255
        if not images.is_floating_point():
            raise DataError(f"images are floating-point numbers from 0 to 1, or bytes, got {images.dtype}")
        images = (self._resized(self._coloured(images.to(self.mean.dtype))) - self.mean) / self.std
        return images if self.size is None else _middle(images, self.size)

    def _coloured(self, images: Tensor) -> Tensor:
        have, want = images.shape[1], self.channels
        if have == want:
            return images
        if have == 4 or (have == 2 and want == 1):
            images, have = images[:, :-1], have - 1
        if have == 3 and want == 1:
            return (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        if have == 1:
            return images.expand(-1, want, -1, -1)
        if have != want:
            raise DataError(f"the model takes images of {want} channels, these have {have}")
        return images

    def _resized(self, images: Tensor) -> Tensor:
        if self.resize is None:
            return images
        have, (high, wide) = images.shape[2:], self.resize
        ratios = (high / have[0], wide / have[1])
        if self.mode == "squash":
            to = (high, wide)
        elif self.mode == "border" or high != wide:
            ratio = min(ratios) if self.mode == "border" else max(ratios)
            to = (round(have[0] * ratio), round(have[1] * ratio))
        else:  # the shorter side exactly, the longer one cut to a whole pixel, as torchvision does
            short = min(have)
            to = (high * have[0] // short, high * have[1] // short)
        if to != tuple(have):
            smooth = self.interpolation in ("bilinear", "bicubic")
            plain = images
            images = nn.functional.interpolate(
                plain, to, mode=self.interpolation, **({"antialias": True, "align_corners": False} if smooth else {})
            )
            if self.interpolation == "bicubic":  # it overshoots at edges; PIL's ends at black and white
                low = plain.amin((1, 2, 3), keepdim=True).clamp_max(0)
                images = images.maximum(low).minimum(plain.amax((1, 2, 3), keepdim=True).clamp_min(1))
        return images


def _middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of images; where they are smaller, with zeros around them."""
    over = [images.shape[2] - size[0], images.shape[3] - size[1]]
    if min(over) < 0:
        top, left = max(0, -over[0]) // 2, max(0, -over[1]) // 2
        down, right = max(0, -over[0]) - top, max(0, -over[1]) - left
        images = nn.functional.pad(images, (left, right, top, down))
    top, left = (round(max(0, each) / 2) for each in over)
    return images[:, :, top : top + size[0], left : left + size[1]]
