"""The sources do what their contract says, on models that transformers has saved; `data` is tried in test_zoo.py."""

import tempfile
from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel

from crosstask.testing import conformance
from crosstask_zoo import TransformersModels, ZooSource

FOLDER = Path(tempfile.mkdtemp(prefix="crosstask-zoo-"))
for name in ("one", "two"):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    ViTModel(config).save_pretrained(FOLDER / name)

test_zoo = conformance(ZooSource, options={"folder": str(FOLDER)})
test_transformers_models = conformance(TransformersModels, options={"folder": str(FOLDER)})
