"""Images as models want them, beside Pillow and what transformers' own processor makes."""

import numpy as np
import pytest
import torch
from PIL import Image

from crosstask.errors import DataError
from crosstask_zoo import ImageInput

GENERATOR = np.random.default_rng(0)
PHOTO = np.kron(GENERATOR.integers(60, 196, (10, 14, 3)), np.ones((6, 6, 1))).astype("uint8")  # 60 x 84, with edges
X = torch.as_tensor(PHOTO).permute(2, 0, 1)[None]


def by_pillow(size, box=None, resample=Image.Resampling.BICUBIC):
    made = Image.fromarray(PHOTO).resize(size, resample)
    made = made if box is None else made.crop(box)
    return torch.as_tensor(np.array(made)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("resample", "name"), [(Image.Resampling.BICUBIC, "bicubic"), (Image.Resampling.BILINEAR, "bilinear")]
)
def test_the_shorter_side_is_resized_and_the_middle_cut_out(resample, name):
    found = ImageInput(3, (28, 28), resize=(32, 32), interpolation=name)(X)
    expected = by_pillow((44, 32), (8, 2, 36, 30), resample)  # 84 * 32 // 60 = 44
    assert (found - expected).abs().max() < 1.5 / 255


def test_what_overshoots_at_an_edge_ends_at_black_and_white():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    made = ImageInput(1, (12, 12))(edge)
    assert (made.min(), made.max()) == (0, 1)
    assert ImageInput(1, (12, 12))(3 * edge).max() == 3  # of values beyond, at their own end


def test_other_ways_to_fit():
    squashed = ImageInput(3, (24, 30), mode="squash")(X)
    assert (squashed - by_pillow((30, 24))).abs().max() < 1.5 / 255
    both = ImageInput(3, (24, 30), resize=(26, 32))(X)  # by the larger ratio: 26 / 60
    assert both.shape == (1, 3, 24, 30)
    inside = ImageInput(3, (32, 32), mode="border")(X)
    high = round(60 * 32 / 84)
    top = (32 - high) // 2
    assert (inside[:, :, top : top + high] - by_pillow((32, high))).abs().max() < 1.5 / 255
    assert inside[:, :, :top].abs().max() == 0
    assert inside[:, :, top + high :].abs().max() == 0
    assert ImageInput(3, (60, 84), interpolation="nearest")(X).equal(X / 255)
    assert ImageInput(3)(X).equal(X / 255)
    with pytest.raises(DataError, match="images are fitted by center, squash, border, not by 'fill'"):
        ImageInput(3, (8, 8), mode="fill")


def test_channels():
    grey = X[:, :1].float() / 255
    assert ImageInput(3)(grey).equal(grey.expand(-1, 3, -1, -1))
    assert ImageInput(1)(grey[:, 0]).equal(grey)
    luma = torch.as_tensor(np.array(Image.fromarray(PHOTO).convert("L")))[None, None] / 255
    assert (ImageInput(1)(X) - luma).abs().max() < 1.5 / 255
    alpha = torch.cat([X, X[:, :1]], 1)
    assert ImageInput(3)(alpha).equal(X / 255)
    assert ImageInput(1)(torch.cat([grey, grey], 1)).equal(grey)
    with pytest.raises(DataError, match="takes images of 3 channels, these have 5"):
        ImageInput(3)(X.repeat(1, 2, 1, 1)[:, :5])
    with pytest.raises(DataError, match=r"images are tensors of shape .* got \(5,\)"):
        ImageInput(3)(torch.zeros(2, 5))
    with pytest.raises(DataError, match=r"floating-point numbers from 0 to 1, or bytes, got torch\.int64"):
        ImageInput(3)(X.long())


def test_normalised_by_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = ImageInput(3, mean=mean, std=std)(X)
    shape = (1, 3, 1, 1)
    assert torch.allclose(found, (X / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape))
    one = ImageInput(1, mean=mean, std=std)(X[:, :1])
    assert torch.allclose(one, (X[:, :1] / 255 - 0.2) / 0.6)


def test_a_sample_does_not_depend_on_its_batch():
    images = torch.cat([X.float() / 255, torch.zeros(1, 3, 60, 84) + 3.0])
    whole = ImageInput(3, (20, 20))(images)
    assert torch.equal(whole[:1], ImageInput(3, (20, 20))(images[:1]))
