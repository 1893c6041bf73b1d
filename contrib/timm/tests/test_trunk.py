"""timm's models in a zoo, beside what timm itself makes of pictures."""

import copy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask_timm import TimmModels, TimmTrunk, timm_model
from crosstask_timm.trunk import image_input

TINY = {
    "test_vit": {"img_size": 32, "patch_size": 16, "depth": 1},
    "test_resnet": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_convnext": {},
}
SMOOTH = Image.fromarray(np.random.default_rng(0).integers(60, 196, (12, 15, 3)).astype("uint8"))
PICTURE = SMOOTH.resize((150, 120), Image.Resampling.BICUBIC)
X = torch.as_tensor(np.array(PICTURE)).permute(2, 0, 1)[None].float() / 255


def tiny(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **TINY[name]).eval()


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_features_are_those_before_the_classifier_and_the_head_is_the_classifier(name):
    model = tiny(name)
    made = timm_model(copy.deepcopy(model)).eval()
    seen = made.trunk.images(X)
    features = made.trunk(X)
    assert features.shape == (1, made.trunk.width)
    assert torch.allclose(
        features, model.forward_head(model.forward_features(seen), pre_logits=True).flatten(1), atol=1e-5
    )
    assert torch.allclose(made(X), model(seen), atol=1e-4)
    assert made.labelled
    assert torch.allclose(made.trunk(MultiInput({"image": X})), features)


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 64, 64), "crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic"},
        {"input_size": (3, 48, 64), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"},
        {"input_size": (3, 64, 48), "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bicubic"},
        {"input_size": (3, 80, 80), "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear"},
    ],
)
def test_the_transform_is_timms_own(config):
    model = timm.create_model(
        "test_resnet", pretrained_cfg_overlay={**config, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    )
    data = resolve_model_data_config(model)
    expected = create_transform(**data, is_training=False)(PICTURE)[None]
    found = image_input(model)(X)
    assert found.shape == expected.shape
    apart = (found - expected).abs() * torch.tensor(data["std"]).reshape(1, 3, 1, 1)
    assert apart.max() < 2.5 / 255


def test_sizes():
    assert timm_model(tiny("test_vit")).trunk.images.size == (32, 32)  # as it was made, not as it is usually
    assert timm_model(tiny("test_resnet"), image_size=40).trunk.images.size == (40, 40)
    grey = timm.create_model("test_resnet", in_chans=1, num_classes=5)
    assert timm_model(grey).trunk.images(X).shape[1] == 1
    assert TimmTrunk(tiny("test_resnet")).eval()(X).shape == (1, timm_model(tiny("test_resnet")).trunk.width)


def test_a_model_without_a_linear_classifier_has_no_labels():
    made = timm_model(timm.create_model("test_vit", num_classes=0, **TINY["test_vit"]))
    assert not made.labelled
    assert not made.head.weight.any()


def test_by_name_and_from_a_folder(tmp_path):
    model = tiny("test_vit")
    save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    saved = TimmModels.recognise(tmp_path / "vit")
    assert (saved.name, saved.library, saved.architecture) == ("vit", "timm", "test_vit")
    assert saved.parameters == sum(v.numel() for v in model.state_dict().values())
    again = TimmModels.open(saved).eval()
    with torch.no_grad():
        assert torch.allclose(again(X), model(again.trunk.images(X)), atol=1e-5)
    named = timm_model("test_vit", num_classes=5, **TINY["test_vit"])
    assert type(named.trunk.body) is type(model)
    assert TimmModels.recognise(tmp_path) is None
    with pytest.raises(DataError, match="timm cannot make test_vitt: Unknown model"):
        timm_model("test_vitt")
    (tmp_path / "vit" / "model.safetensors").unlink()
    (tmp_path / "vit" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, which would have to be unpickled"):
        TimmModels.open(saved)
