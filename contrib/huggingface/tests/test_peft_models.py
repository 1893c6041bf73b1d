"""Adapters of live PEFT models: the same answers, the same parameters, the same base."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from crosstask.errors import DataError
from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_huggingface import combine_adapters, from_peft, to_peft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks for the old name
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of PEFT, about what it makes of unusual settings
]
IDS = torch.arange(12).view(2, 6)
CASES: dict[str, tuple[Any, list[str]]] = {
    "bert": (
        lambda: BertForSequenceClassification(BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            num_labels=3,
        )),
        ["query", "value", "word_embeddings"],
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=16)),
        ["c_attn", "c_fc"],
    ),
    "llama": (
        lambda: LlamaForCausalLM(LlamaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48,
        )),
        ["q_proj", "v_proj", "down_proj"],
    ),
}  # fmt: skip


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.one, self.two = nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.two(self.one(self.embed(input_ids).mT)).mT
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


def plain(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = (CASES[kind][0]() if kind in CASES else Convolved()).eval()
    return model


def drawn(model: nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                p.copy_(torch.randn_like(p) * 0.3)


def theirs(kind: str, targets: list[str] | None = None, adapters: int = 2, **more: Any) -> Any:
    targets = CASES[kind][1] if targets is None else targets
    model = peft.get_peft_model(plain(kind), peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, **more), "red")
    for name in ("blue", "green")[: adapters - 1]:
        model.add_adapter(name, peft.LoraConfig(r=2, lora_alpha=5, target_modules=targets[:2], **more))
    drawn(model)
    return model.eval()


def answer(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, Tensor) else found.logits


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def memory(model: nn.Module) -> dict[str, int]:
    return {name: p.data_ptr() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", CASES)
def test_it_answers_the_same_there_here_and_there_again(kind: str) -> None:
    model = theirs(kind)
    expected = {}
    for name in ("red", "blue"):
        model.set_adapter(name)
        expected[name] = answer(model)
    with model.disable_adapter():
        expected[""] = answer(model)
    model.base_model.set_adapter(["red", "blue"])
    expected["both"] = answer(model)
    model.set_adapter("blue")
    addresses = set(memory(model).values())
    base = model.get_base_model()
    ours = from_peft(model)
    assert ours.base is base
    assert set(memory(ours).values()) == addresses  # nothing was copied
    assert not any("lora_" in name for name, _ in ours.named_parameters())
    close(answer(ours), expected["blue"])
    for names, key in ((["red"], "red"), (["blue"], "blue"), (["red", "blue"], "both"), ([], "")):
        ours.use(*names)
        close(answer(ours), expected[key])
    ours.use("red")
    again = to_peft(ours)
    assert type(again) is type(model)
    assert again.get_base_model() is base
    assert set(memory(again).values()) == addresses
    assert again.active_adapters == ["red"]
    close(answer(again), expected["red"])
    again.set_adapter("blue")
    close(answer(again), expected["blue"])
    with again.disable_adapter():
        close(answer(again), expected[""])
    assert torch.equal(answer(plain(kind)), expected[""])


def test_an_optimiser_goes_on_with_the_same_parameters() -> None:
    model = theirs("llama", adapters=1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    ours = from_peft(model).train()
    assert {id(p) for p in ours.adapter_parameters()} == {id(p) for p in trained}
    assert ours.training
    before = answer(ours.eval())
    ours(IDS, labels=IDS).loss.backward()
    ours.check_gradients()
    optimizer.step()
    after = answer(ours)
    assert not torch.allclose(before, after)
    close(answer(to_peft(ours)), after)


@pytest.mark.parametrize("kind", ["bert"])
def test_heads_of_their_own_and_the_task_type(kind: str) -> None:
    """SEQ_CLS keeps a copy of the classifier for each adapter."""
    model = theirs(kind, ["query", "value"], task_type="SEQ_CLS")
    assert type(model) is peft.PeftModelForSequenceClassification
    expected = {}
    for name in ("red", "blue"):
        model.set_adapter(name)
        expected[name] = answer(model)
    ours = from_peft(model)
    assert ours.adapters["red"].modules_to_save == ("classifier",)
    for name in ("red", "blue"):
        ours.use(name)
        close(answer(ours), expected[name])
    again = to_peft(ours)
    assert type(again) is peft.PeftModelForSequenceClassification
    for name in ("red", "blue"):
        again.set_adapter(name)
        close(answer(again), expected[name])
    fresh = AdapterModel(
        plain(kind), {"x": AdapterConfig(lora_r=2, target_modules=("query",), modules_to_save=("classifier",))}
    )
    with torch.no_grad():
        for p in fresh.adapter_parameters():
            p.add_(0.1)
    mine = answer(fresh.eval())
    close(answer(to_peft(fresh)), mine)


def test_convolutions_embeddings_and_rank_stabilised_scaling() -> None:
    model = theirs("conv", ["one", "embed", "head"], use_rslora=True, lora_dropout=0.25)
    expected = answer(model)
    addresses = set(memory(model).values())
    ours = from_peft(model)
    close(answer(ours), expected)
    assert set(memory(ours).values()) == addresses
    assert ours.adapters["red"].options["dropout"] == 0.25
    close(answer(to_peft(ours)), expected)
    made = AdapterModel(plain("conv"), {"x": AdapterConfig(lora_r=2, target_modules=("one", "embed", "head"))})
    with torch.no_grad():
        for p in made.adapter_parameters():
            p.add_(0.1)
    mine = answer(made.eval())
    made.disable_adapters()
    there = to_peft(made)
    assert torch.equal(answer(there), answer(plain("conv")))  # as it was: disabled
    there.base_model.enable_adapter_layers()
    close(answer(there), mine)
    off = theirs("conv", ["one"])
    off.base_model.disable_adapter_layers()
    close(answer(from_peft(off)), answer(plain("conv")))


@pytest.mark.parametrize("kind", CASES)
def test_a_weighted_sum_is_what_peft_makes_of_it(kind: str) -> None:
    reference = theirs(kind, adapters=3)
    reference.add_weighted_adapter(["red", "blue", "green"], [0.5, 0.3, 0.2], "sum", combination_type="cat")
    reference.set_adapter("sum")
    ours = from_peft(theirs(kind, adapters=3))
    combine_adapters(ours, {"red": 0.5, "blue": 0.3, "green": 0.2}, "sum")
    close(answer(ours), answer(reference))
    ours.merge("sum")
    torch.testing.assert_close(answer(ours), answer(reference), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match=r"adapter 'sum' is merged into the weights: call unmerge\('sum'\) first"):
        to_peft(ours)
    ours.unmerge()
    there = to_peft(ours)
    there.set_adapter("sum")
    close(answer(there), answer(reference))


def test_what_cannot_be_combined_is_said() -> None:
    ours = from_peft(theirs("bert", ["query"], task_type="SEQ_CLS"))
    with pytest.raises(DataError, match="adapter 'red' has heads of its own"):
        combine_adapters(ours, {"red": 1.0, "blue": 1.0})
    with pytest.raises(DataError, match="there is no adapter to combine"):
        combine_adapters(ours, {})
    with pytest.raises(DataError, match="no adapter 'z'"):
        combine_adapters(ours, {"z": 1.0})


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter 'red' trains biases of the base": ("llama", {"bias": "lora_only"}),
    "adapter 'red' at .*: it is a variant of LoRA": ("llama", {"use_dora": True}),
    "adapter 'red' at .*: it has a bias of its own": ("llama", {"lora_bias": True}),
    "adapter 'red' has ranks or strengths that differ by layer": ("llama", {"rank_pattern": {"q_proj": 3}}),
    "for a grouped convolution PEFT has another LoRA": ("conv", {"targets": ["two"]}),
    "no exchange in place for a MultiheadAttention": ("conv", {"targets": ["attention"]}),
    "is on parameters that are no layers' weights": ("conv", {"targets": [], "target_parameters": ["head.weight"]}),
    "has trained tokens": ("llama", {"trainable_token_indices": [1]}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_another_adapter_is_refused_and_the_model_stays(said: str) -> None:
    kind, options = REFUSED[said]
    model = theirs(kind, adapters=1, **options)
    before = answer(model)
    with pytest.raises(DataError, match=said):
        from_peft(model)
    assert torch.equal(answer(model), before)


def test_a_model_stays_as_it_was_where_an_adapter_cannot_be_taken() -> None:
    """The tied weight of GPT-2 has two changes in PEFT, one here: that shows when it is attached."""
    model = theirs("gpt2", ["wte", "lm_head", "c_attn"], adapters=1)
    before, names = answer(model), [name for name, _ in model.named_parameters()]
    with pytest.raises(DataError, match="share a weight and its change"):
        from_peft(model)
    assert torch.equal(answer(model), before)
    assert [name for name, _ in model.named_parameters()] == names
    assert "peft_config" in vars(model.get_base_model())
    merged = theirs("llama", adapters=1)
    merged.merge_adapter()
    with pytest.raises(DataError, match=r"merged into the weights: call unmerge_adapter\(\) first"):
        from_peft(merged)
    with pytest.raises(DataError, match="from_peft: the model must be a PeftModel, got a LlamaForCausalLM"):
        from_peft(plain("llama"))
    other = peft.get_peft_model(plain("llama"), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    with pytest.raises(DataError, match="adapter 'default' is 'IA3': only LoRA has a form here"):
        from_peft(other)


def test_what_peft_has_not_is_refused() -> None:
    with pytest.raises(DataError, match="there is no adapter to give to PEFT"):
        to_peft(AdapterModel(plain("conv")))
    with pytest.raises(DataError, match="adapter 'x' is a 'bottleneck': only LoRA"):
        to_peft(
            AdapterModel(plain("llama"), {"x": AdapterConfig(adapter_type="bottleneck", target_modules=("down_proj",))})
        )
    for target, said in (("two", "'two' is a grouped convolution"), ("attention", "is one of attention")):
        with pytest.raises(DataError, match=said):
            to_peft(AdapterModel(plain("conv"), {"x": AdapterConfig(lora_r=2, target_modules=(target,))}))
