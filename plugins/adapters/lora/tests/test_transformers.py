"""On models of transformers, small and with random weights: where adapters go, what they change, and PEFT's answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_adapters import AdapterConfig, AdapterModel, LayersHandle, base_state
from crosstask_adapters.testing import seeded, stirred
from crosstask_lora import LoRA, load_peft, save_peft

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it

TOKENS = {"input_ids": torch.arange(2, 12).view(2, 5)}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)}
TEXT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Tensor]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT, TOKENS),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, TOKENS),
    "llama": ("LlamaForCausalLM", "LlamaConfig", TEXT | {"num_key_value_heads": 1}, TOKENS),
    "t5": (
        "T5ForSequenceClassification", "T5Config",
        {
            "vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "eos_token_id": 1,
            "pad_token_id": 0, "decoder_start_token_id": 0,
        },
        {"input_ids": torch.tensor([[2, 3, 4, 5, 1], [6, 7, 8, 9, 1]])},
    ),
    "vit": (
        "ViTForImageClassification", "ViTConfig",
        {k: v for k, v in TEXT.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}, IMAGES,
    ),
    "convnext": (
        "ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [8, 12, 16, 16], "depths": [1, 1, 1, 1]},
        IMAGES,
    ),
    "swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4},
        IMAGES,
    ),
    "resnet": (
        "ResNetForImageClassification", "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}, IMAGES,
    ),
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 2}, "bitfit": {}, "ia3": {}, "bottleneck": {"hidden_dim": 4},
    "compacter": {"hidden_dim": 4, "options": {"n": 2}},
}  # fmt: skip


def network(name: str) -> Any:
    made, config, sizes, _ = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, made)(getattr(transformers, config)(**sizes)).double().eval()
    with torch.no_grad():  # nothing at zero, and nothing so small that a change would not show
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def inputs(name: str) -> dict[str, Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in MODELS[name][3].items()}


@torch.no_grad()
def answer(model: nn.Module, name: str) -> Tensor:
    return model(**inputs(name)).logits.clone()  # type: ignore[no-any-return]


def head(model: nn.Module) -> str:
    """The last layer with weights, which is not tied."""
    return next(n for n in ("classifier", "classification_head", "lm_head", "score") if hasattr(model, n))


def check(name: str, kind: str, save: tuple[str, ...]) -> None:
    base = network(name)
    bare = answer(base, name)
    before = {n: t.clone() for n, t in base_state(base).items()}
    config = AdapterConfig(adapter_type=kind, modules_to_save=save, **KINDS[kind])
    model = AdapterModel(base, config)
    torch.testing.assert_close(answer(model, name), bare)
    optimizer = torch.optim.SGD(model.adapter_parameters(), lr=1.0)
    torch.manual_seed(0)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(**inputs(name)).logits.square().sum().backward()
        optimizer.step()
    model.eval()
    after = base_state(base)
    assert list(after) == list(before)
    assert all(torch.equal(before[n], after[n]) for n in before)
    adapted = answer(model, name)
    assert not torch.allclose(adapted, bare)
    model.disable_adapters()
    assert torch.equal(answer(model, name), bare)
    model.enable_adapters()
    torch.testing.assert_close(answer(copy.deepcopy(model), name), adapted)
    if kind in ("lora", "bitfit", "ia3"):
        model.merge()
        torch.testing.assert_close(answer(model, name), adapted)
        model.unmerge()
    assert torch.equal(answer(model, name), adapted)
    if not save:
        absorbed = copy.deepcopy(model)
        absorbed.handle(kind).absorb()
        torch.testing.assert_close(answer(absorbed, name), adapted)
    model.remove_adapter(kind)
    assert torch.equal(answer(base, name), bare)
    assert type(base) is getattr(transformers, MODELS[name][0])


@pytest.mark.parametrize("name", MODELS)
def test_lora_and_a_head_of_its_own(name: str) -> None:
    save = () if name == "gpt2" else (head(network(name)),)
    check(name, "lora", save)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lora"])
def test_others(name: str, kind: str) -> None:
    if (kind, name) == ("bitfit", "llama"):
        with pytest.raises(DataError, match="LlamaForCausalLM has no layers with a bias to adapt"):
            AdapterModel(network(name), AdapterConfig(adapter_type=kind))
        return
    check(name, kind, ())


def test_where_lora_goes_in_gpt2() -> None:
    """Its linear layers are `Conv1D`, with weights [in, out]; its head is tied to the embedding."""
    parts = LoRA(r=2).attach(network("gpt2"), [], seeded()).parts
    wanted = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert list(parts) == [f"transformer.h.{k}.{n}" for k in (0, 1) for n in wanted]


def test_on_a_transposed_layer_it_is_equation_3() -> None:
    torch.manual_seed(0)
    layer = transformers.pytorch_utils.Conv1D(6, 4).double()  # gives 6, takes 4
    model = nn.Sequential(layer)
    weight = layer.weight.detach().clone()
    handle = stirred(LoRA(r=2, alpha=3.0).attach(model, [], seeded()))
    state, x = handle.state(), torch.randn(5, 4, dtype=torch.double)
    assert {n: tuple(t.shape) for n, t in state.items()} == {"0.up": (6, 2), "0.down": (2, 4)}
    wanted = x @ (weight + 1.5 * (state["0.up"] @ state["0.down"]).T) + layer.bias
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(layer(x=x), wanted)
    handle.merge()
    torch.testing.assert_close(layer._parameters["weight"], weight + 1.5 * (state["0.up"] @ state["0.down"]).T)
    torch.testing.assert_close(model(x), wanted)
    handle.detach()
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("inside", [True, False], ids=["inputs", "outputs"])
def test_ia3_on_a_transposed_layer(inside: bool) -> None:
    torch.manual_seed(0)
    layer = transformers.pytorch_utils.Conv1D(6, 4).double()
    name = "c_proj" if inside else "c_attn"
    model = nn.ModuleDict({name: layer})
    plain, x = copy.deepcopy(layer), torch.randn(2, 5, 4, dtype=torch.double)
    adapted = AdapterModel(model, AdapterConfig(adapter_type="ia3", target_modules=(name,)))
    handle = stirred(adapted.handle("ia3"))
    scale = handle.state()[f"{name}.scale"]
    wanted = plain(x * scale) if inside else plain(x) * scale
    torch.testing.assert_close(layer(x), wanted)
    handle.merge()
    torch.testing.assert_close(layer(x), wanted)


# --- beside PEFT

TARGETS = {
    "bert": ["query", "value", "dense"], "gpt2": ["c_attn", "c_proj", "c_fc"], "vit": ["q_proj", "v_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"], "convnext": ["pwconv1", "pwconv2"], "swin": ["q_proj", "v_proj"],
    "t5": ["q", "v", "wo"],
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_the_answers_of_pefts(name: str, tmp_path: Path) -> None:
    base = network(name)
    modules = dict(base.named_modules())
    targets = [t for t in TARGETS[name] if any(m.split(".")[-1] == t for m in modules)]
    assert targets
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, fan_in_fan_out=name == "gpt2")
    theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for key, p in theirs.named_parameters():
            if "lora_" in key:
                p.copy_(0.3 * torch.randn_like(p))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    wanted = answer(theirs, name)
    model = AdapterModel(base)
    load_peft(model, tmp_path / "theirs", "a")
    torch.testing.assert_close(answer(model, name), wanted)
    handle = model.handle("a")
    assert isinstance(handle, LayersHandle)
    stirred(handle, seed=3, scale=0.2)
    save_peft(model, tmp_path / "ours", "a")
    back = peft.PeftModel.from_pretrained(network(name), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(answer(back, name), answer(model, name))
    model.merge()
    torch.testing.assert_close(answer(back, name), answer(model, name))


# --- generation, and who refuses


def test_a_language_model_writes_with_its_adapter() -> None:
    base = network("gpt2")
    model = AdapterModel(base, {"one": AdapterConfig(lora_r=2), "two": AdapterConfig(lora_r=2)})
    for number, name in enumerate(model.adapters):
        stirred(model.handle(name), seed=number, scale=0.3)
    written = {}
    for name in ("one", "two", None):
        model.use(*([name] if name else []))
        with torch.no_grad():
            tokens = inputs("gpt2")["input_ids"]
            written[name] = base.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
            for k in range(5, 9):  # step by step with a cache, as all at once without
                logits = model(input_ids=written[name][:, :k], use_cache=False).logits
                assert torch.equal(logits[:, -1].argmax(1), written[name][:, k])
    assert not torch.equal(written["one"], written[None])
    names = ["two", None]
    mixed = model(**inputs("gpt2"), adapters=names, use_cache=False).logits
    for row, name in enumerate(names):
        model.use(*([name] if name else []))
        torch.testing.assert_close(mixed[row], answer(model, "gpt2")[row])


def test_prefixes_say_where_they_cannot_go() -> None:
    with pytest.raises(DataError, match="GPT2LMHeadModel has no attention layers to adapt"):
        AdapterModel(network("gpt2"), AdapterConfig(adapter_type="prefix"))


@pytest.mark.parametrize("change", [lambda m: m.float(), lambda m: m.bfloat16()])
def test_half_and_single_precision(change: Callable[[Any], Any]) -> None:
    base = change(network("llama"))
    bare = answer(base, "llama")
    model = AdapterModel(base, AdapterConfig(lora_r=2))
    assert torch.equal(answer(model, "llama"), bare)
    assert {p.dtype for p in model.adapter_parameters()} == {bare.dtype}
