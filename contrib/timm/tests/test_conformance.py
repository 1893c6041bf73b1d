"""The sources do what their contract says, on models that timm has saved and on pictures in folders."""

import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from crosstask.testing import conformance
from crosstask_timm import ImageFolders, TimmModels

FOLDER = Path(tempfile.mkdtemp(prefix="crosstask-timm-"))
torch.manual_seed(0)
save_for_hf(
    timm.create_model("test_vit", img_size=16, patch_size=8, depth=1), FOLDER / "m" / "v", safe_serialization=True
)
GENERATOR = np.random.default_rng(0)
for kind in ("cat", "dog"):
    (FOLDER / "pets" / kind).mkdir(parents=True)
    for number in range(10):
        picture = Image.fromarray(GENERATOR.integers(0, 256, (9, 12, 3)).astype("uint8"))
        picture.save(FOLDER / "pets" / kind / f"{number}.png")

test_timm_models = conformance(TimmModels, options={"folder": str(FOLDER / "m")})
test_image_folders = conformance(ImageFolders, options={"folder": str(FOLDER / "pets"), "size": 8})
