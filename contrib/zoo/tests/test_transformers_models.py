"""Folders that `save_pretrained` writes, beside what transformers itself makes of them."""

import json

import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)  # fmt: skip

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, PluginError
from crosstask_zoo import TransformersModels, TransformersTrunk
from crosstask_zoo.saved import library
from crosstask_zoo.transformers_models import image_input, trunk_in

IDS = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
MASK = (IDS != 0).long()
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models") / "bert"
    model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=3, **TINY)).eval()
    model.save_pretrained(place)
    return place, model


def pooled(states, mask):
    return torch.stack([row[seen > 0].mean(0) for row, seen in zip(states, mask, strict=True)])


def test_what_is_known_before_it_is_loaded(bert, tmp_path):
    place, model = bert
    saved = TransformersModels.recognise(place)
    assert (saved.name, saved.library, saved.architecture) == ("bert", "transformers", "BertForSequenceClassification")
    assert saved.parameters == sum(p.numel() for p in model.parameters())
    assert TransformersModels.recognise(tmp_path) is None
    (tmp_path / "config.json").write_text("[1]", "utf-8")
    assert TransformersModels.recognise(tmp_path) is None


@torch.no_grad()
def test_features_are_means_over_what_the_mask_shows(bert):
    place, model = bert
    trunk = TransformersModels.open(TransformersModels.recognise(place)).eval().trunk
    states = model.bert(input_ids=IDS, attention_mask=MASK).last_hidden_state
    expected = pooled(states, MASK)
    given = MultiInput({"input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS)})
    assert torch.allclose(trunk(given), expected, atol=1e-6)
    assert torch.allclose(trunk(IDS), expected, atol=1e-6)  # padding is known by its number
    assert torch.allclose(trunk(MultiInput({"0": IDS}, named=False)), expected, atol=1e-6)
    longer = torch.nn.functional.pad(IDS, (0, 3))
    assert torch.allclose(trunk(longer), expected, atol=1e-5)
    for pooling, places in (("first", [0, 0]), ("last", [2, 4])):
        found = trunk_in(place, pooling=pooling).eval()(given)
        assert torch.allclose(found, states[[0, 1], places], atol=1e-6)


@torch.no_grad()
def test_decoders_and_encoders():
    torch.manual_seed(0)
    gpt = GPT2Model(GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=8)).eval()
    states = gpt(input_ids=IDS).last_hidden_state
    assert torch.allclose(TransformersTrunk(gpt).eval()(IDS), states.mean(1), atol=1e-6)  # it has no padding
    t5 = T5Model(T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()
    states = t5.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    trunk = TransformersTrunk(t5).eval()
    assert torch.allclose(trunk(IDS), pooled(states, MASK), atol=1e-6)
    assert trunk.width == 16


@torch.no_grad()
def test_images_are_prepared_as_the_folder_says(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(image_size=16, patch_size=8, num_labels=3, **TINY)
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    plain = model.vit(pixel_values=images).last_hidden_state[:, 0]
    assert torch.allclose(trunk_in(tmp_path).eval()(images), plain, atol=1e-5)
    told = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told), "utf-8")
    shape = (1, 3, 1, 1)
    normalised = (images - torch.tensor(told["image_mean"]).reshape(shape)) / torch.tensor(told["image_std"]).reshape(
        shape
    )
    states = model.vit(pixel_values=normalised).last_hidden_state
    expected = states[:, 0]  # its class token
    assert torch.allclose(trunk_in(tmp_path, pooling="mean").eval()(images), states.mean(1), atol=1e-5)
    trunk = trunk_in(tmp_path).eval()
    assert torch.allclose(trunk(images), expected, atol=1e-5)
    assert torch.allclose(trunk(MultiInput({"pixel_values": images})), expected, atol=1e-5)
    conv = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8, 8, 12], depths=[1, 1, 1, 1])).eval()
    trunk = TransformersTrunk(conv, images=image_input(conv.config, {})).eval()
    large = torch.rand(1, 3, 224, 224)
    assert torch.allclose(trunk(large), conv(pixel_values=large).last_hidden_state.mean((2, 3)), atol=1e-5)
    assert trunk.width == 12


def test_preprocessors_of_every_form():
    config = ViTConfig(image_size=20)
    assert image_input(config, {}).size == (20, 20)
    crop = image_input(config, {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": 20})
    assert (crop.size, crop.resize, crop.mode) == ((20, 20), (24, 24), "center")
    crop = image_input(
        config, {"size": {"height": 24, "width": 30}, "do_center_crop": True, "crop_size": {"height": 8, "width": 9}}
    )
    assert (crop.size, crop.resize, crop.mode) == ((8, 9), (24, 30), "squash")
    as_it_is = image_input(config, {"do_resize": False, "size": 24, "do_normalize": False, "image_mean": [0.5] * 3})
    assert (as_it_is.size, float(as_it_is.mean.sum())) == ((20, 20), 0.0)
    own = ViTImageProcessor(size={"height": 20, "width": 20}).to_dict()
    assert image_input(config, own).interpolation == "bilinear"
    assert torch.allclose(image_input(config, own).mean.flatten(), torch.tensor(own["image_mean"]))


def test_what_cannot_be_read(bert, tmp_path):
    _place, model = bert
    with pytest.raises(DataError, match="unknown pooling 'men'; did you mean 'mean'"):
        TransformersTrunk(model.bert, pooling="men")
    with pytest.raises(DataError, match="no folder"):
        TransformersModels(folder=tmp_path / "nowhere").load()
    with pytest.raises(DataError, match=r"no folder in .* holds a model that transformers has saved"):
        TransformersModels(folder=tmp_path).load()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    with pytest.raises(DataError, match="holds no weights"):
        TransformersModels.recognise(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"only pytorch_model.bin, which would have to be unpickled"):
        TransformersModels.recognise(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(DataError, match="cannot be read"):
        TransformersModels.recognise(tmp_path)
    with pytest.raises(DataError, match="transformers cannot load"):
        trunk_in(tmp_path)


def test_samples_that_do_not_fit(bert):
    trunk = TransformersTrunk(bert[1].bert).eval()
    with pytest.raises(DataError, match="BertModel takes 'input_ids', the samples have words"):
        trunk(MultiInput({"words": IDS}))
    with pytest.raises(DataError, match=r"gives no last hidden states of tokens or places \(none\)"):
        trunk._pooled(None, None)
    with pytest.raises(DataError, match="states of 5 tokens for a mask of 4"):
        trunk._pooled(torch.zeros(2, 5, 3), MASK[:, :4])
    other = torch.nn.Linear(2, 2)
    other.config, other.main_input_name = transformers.PreTrainedConfig(), "input_ids"
    with pytest.raises(DataError, match="does not say how wide"):
        TransformersTrunk(other)


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(
        PluginError, match="crosstask-zoo needs nowhere_to_be_found for this: pip install nowhere_to_be"
    ):
        library("nowhere_to_be_found", "crosstask-zoo")
    (tmp_path / "broken_inside.py").write_text("import what_it_lacks", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="what_it_lacks"):  # that one is not this one's to explain
        library("broken_inside", "crosstask-zoo")
