"""A zoo of twelve small models on real data, for tests, examples and benchmarks: three architectures of transformers
and three of timm, each with random weights and briefly trained ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.learning.modules import seeded
from crosstask_zoo.saved import library

TRAINED = 900
"""Of scikit-learn's digits the first so many are what the zoo's models have seen."""
STEPS = {"vit": 250, "deit": 250, "convnext": 60, "timm_vit": 250, "timm_resnet": 50, "timm_efficientnet": 50}
"""Batches of 64 that the trained models were trained for."""


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits as images [1797, 1, 32, 32] from 0 to 1, and which digit each is."""
    datasets = library("sklearn.datasets", "crosstask-timm's testing")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.as_tensor(pixels / 16).float().reshape(-1, 1, 8, 8)
    return nn.functional.interpolate(images, (32, 32), mode="bilinear"), torch.as_tensor(labels)


def twelve(folder: str | Path, seed: int = 0, share: float = 1.0) -> list[str]:
    """Write the zoo into a folder: what each library's own saving writes. `share` of the steps of training are done.
    The names, `…-random` and `…-trained`.
    """
    images, labels = (each[:TRAINED] for each in digits())
    names = []
    for kind, count in STEPS.items():
        for steps in (0, round(count * share)):
            with seeded(seed):
                model = _made(kind)
                _train(model, images, labels, steps, kind.startswith("timm"))
            name = f"{kind}-{'trained' if steps else 'random'}"
            names.append(name)
            if kind.startswith("timm"):
                library("timm.models", "crosstask-timm").save_for_hf(
                    model, Path(folder) / name, safe_serialization=True
                )
            else:
                model.save_pretrained(Path(folder) / name)
    return names


def _made(kind: str) -> Any:
    if kind.startswith("timm"):
        timm, name = library("timm", "crosstask-timm"), f"test_{kind.removeprefix('timm_')}"
        own = {"img_size": 32, "patch_size": 16, "depth": 2} if kind == "timm_vit" else {}
        overlay = {"input_size": (1, 32, 32), "crop_pct": 1.0, "mean": (0.5,), "std": (0.5,)}
        return timm.create_model(name, in_chans=1, num_classes=10, pretrained_cfg_overlay=overlay, **own)
    hugging = library("transformers", "crosstask-zoo")
    images = {"image_size": 32, "patch_size": 16, "num_channels": 1, "num_labels": 10}
    if kind == "vit":
        config = hugging.ViTConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, **images
        )
        return hugging.ViTForImageClassification(config)
    if kind == "deit":
        config = hugging.DeiTConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, **images
        )
        return hugging.DeiTForImageClassification(config)
    config = hugging.ConvNextV2Config(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], **{**images, "patch_size": 2})
    return hugging.ConvNextV2ForImageClassification(config)


def _train(model: nn.Module, images: Tensor, labels: Tensor, steps: int, centred: bool) -> None:
    """As its users train it: those of timm see what its transform makes of the images, from -1 to 1."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for _ in range(steps):
        rows = torch.randint(0, len(images), (64,))
        seen = images[rows] * 2 - 1 if centred else images[rows]
        outputs: Any = model(seen)
        loss = nn.functional.cross_entropy(getattr(outputs, "logits", outputs), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
