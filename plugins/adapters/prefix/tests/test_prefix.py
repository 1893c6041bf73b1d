"""Learned keys and values: against torch's own `bias_k`, and against a cache that was filled with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.models.bert.modeling_bert import BertConfig, BertModel
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaModel

from crosstask.errors import DataError
from crosstask_adapters import LayersHandle
from crosstask_adapters.testing import accuracy, digits, learn, seeded, stirred
from crosstask_prefix import Prefix


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def attach(model: nn.Module, *targets: str, **options: Any) -> LayersHandle:
    return stirred(Prefix(**options).attach(model, list(targets), seeded()))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("masked", ["none", "causal", "padding", "both", "heads"])
@pytest.mark.parametrize("layout", ["batch-first", "sequence-first", "unbatched", "other-widths"])
def test_one_position_is_what_torch_calls_a_bias_of_keys_and_values(layout: str, masked: str, train: bool) -> None:
    """torch has one learned key and value, behind those of the sequence instead of before them."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"batch_first": layout != "sequence-first"}
    if layout == "other-widths":
        options |= {"kdim": 6, "vdim": 10}
    reference = Attention(add_bias_kv=True, **options).double().train(train)
    model = Attention(**options).double().train(train)
    model.load_state_dict({n: t for n, t in reference.state_dict().items() if "bias_k" not in n and "bias_v" not in n})
    handle = attach(model, length=1)
    with torch.no_grad():
        reference.inner.bias_k.copy_(handle.parts["inner"].keys[None])  # type: ignore[union-attr,index,operator]
        reference.inner.bias_v.copy_(handle.parts["inner"].values[None])  # type: ignore[union-attr,index,operator]
    q, k, v = (
        torch.randn(3, n, w, dtype=torch.double)
        for n, w in ((4, 8), (5, options.get("kdim", 8)), (5, options.get("vdim", 8)))
    )
    mask = {
        "causal": torch.ones(4, 5).triu(1).bool(),
        "both": torch.zeros(4, 5, dtype=torch.double).masked_fill(torch.ones(4, 5).triu(2).bool(), -torch.inf),
        "heads": torch.randn(6, 4, 5, dtype=torch.double),
    }.get(masked)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [True] + [False] * 4])
    hidden = padding if masked in ("padding", "both") else None
    if layout == "sequence-first":
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    if layout == "unbatched":
        q, k, v = q[0], k[0], v[0]
        hidden = None if hidden is None else hidden[1]
        mask = mask[:2] if mask is not None and mask.dim() == 3 else mask
    if hidden is not None and mask is not None:
        hidden = torch.zeros_like(hidden, dtype=torch.double).masked_fill(hidden, -torch.inf)
    given = {"attn_mask": mask, "key_padding_mask": hidden}
    for settings in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        ours, our_weights = model(q, k, v, **given, **settings)
        theirs, their_weights = reference(q, k, v, **given, **settings)
        torch.testing.assert_close(ours, theirs)
        if our_weights is None:
            assert their_weights is None
            continue
        torch.testing.assert_close(our_weights.roll(-1, -1), their_weights)


def test_several_prefixes_stand_one_before_the_other() -> None:
    torch.manual_seed(0)
    model, long = Attention(batch_first=True), Attention(batch_first=True)
    long.load_state_dict(model.state_dict())
    handles = [attach(model, length=n) for n in (2, 3)]
    whole = attach(long, length=5)
    with torch.no_grad():
        for name in ("keys", "values"):
            getattr(whole.parts["inner"], name).copy_(torch.cat([getattr(h.parts["inner"], name) for h in handles]))
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(model(x, x, x), long(x, x, x))


def test_in_a_transformer_the_fused_path_is_off_while_it_is_on() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(block, 2, enable_nested_tensor=False).eval()
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        bare = model(x)
        handle = attach(model, length=2)
        fast = model(x)
        assert not torch.allclose(fast, bare)
        torch.testing.assert_close(fast, model.train()(x))
        handle.disable()
        assert torch.equal(model.eval()(x), bare)


# --- modules in the style of Hugging Face


def llama(**more: Any) -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, **more,
    )  # fmt: skip
    return LlamaModel(config).eval()


TOKENS = torch.arange(10).view(2, 5) % 20


def filled(handle: LayersHandle, count: int) -> DynamicCache:
    """Their cache, filled with our prefix."""
    cache = DynamicCache()
    for layer, part in enumerate(handle.parts.values()):
        rows = [
            getattr(part, name).view(len(part.keys), -1, part.head).transpose(0, 1).expand(count, -1, -1, -1)  # type: ignore[arg-type]
            for name in ("keys", "values")
        ]
        cache.update(rows[0].detach(), rows[1].detach(), layer)
    return cache


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_it_is_a_cache_that_was_filled_with_it(attention: str, padded: bool) -> None:
    """With the same positions: theirs would count those of the cache."""
    model = llama(attn_implementation=attention)
    mask = torch.ones(2, 5, dtype=torch.long)
    if padded:
        mask[1, :2] = 0
    with torch.no_grad():
        plain = copy.deepcopy(model)
        handle = attach(model, length=3)
        assert list(handle.parts) == ["layers.0.self_attn", "layers.1.self_attn"]
        theirs = plain(
            TOKENS, past_key_values=filled(handle, 2), position_ids=torch.arange(5)[None],
            attention_mask=torch.cat([torch.ones(2, 3, dtype=torch.long), mask], 1),
        ).last_hidden_state  # fmt: skip
        given = {"attention_mask": mask} if padded else {}
        ours = model(TOKENS, use_cache=False, position_ids=torch.arange(5)[None], **given).last_hidden_state
    seen = mask.bool()
    torch.testing.assert_close(ours[seen], theirs[seen])


def test_generating_step_by_step_is_answering_at_once() -> None:
    model = llama()
    attach(model, length=3)
    with torch.no_grad():
        whole = model(TOKENS, use_cache=False).last_hidden_state
        cache = DynamicCache()
        parts = [model(TOKENS[:, k : k + 1], past_key_values=cache, use_cache=True).last_hidden_state for k in range(5)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == 5  # the prefix is no part of it


def test_bidirectional_models_with_query_key_value() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config).eval()
    with torch.no_grad():
        bare = model(TOKENS).last_hidden_state
        handle = attach(model, length=3)
        adapted = model(TOKENS).last_hidden_state
        mask = torch.ones_like(TOKENS)
        torch.testing.assert_close(model(TOKENS, attention_mask=mask).last_hidden_state, adapted)
        assert not torch.allclose(adapted, bare)
        handle.detach()
        assert torch.equal(model(TOKENS).last_hidden_state, bare)


# --- what cannot be, and on real data


def test_what_cannot_be_adapted_is_refused() -> None:
    class Headless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor, past_key_value: Any = None) -> Tensor:
            return x

    with pytest.raises(DataError, match="has no attention layers"):
        attach(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(DataError, match="Headless says neither head_dim nor num_heads"):
        attach(nn.Sequential(Headless()))
    with pytest.raises(DataError, match="has no attention layers"):
        attach(Attention(add_bias_kv=True))
    with pytest.raises(DataError, match="cannot be merged"):
        attach(Attention(), length=2).merge()


class Rows(nn.Module):
    """Reads a digit row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.1 * torch.randn(8, 32))
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))
        return out


def test_it_learns_digits_that_the_model_reads_from_the_wrong_side() -> None:
    x, y = digits()
    flipped = x.view(-1, 8, 8).flip(1).reshape(-1, 64)
    torch.manual_seed(0)
    model = Rows()
    learn(model, model.parameters(), x[:1400], y[:1400], rate=3e-3, steps=150)
    before, without = copy.deepcopy(model.state_dict()), accuracy(model, flipped[1400:], y[1400:])
    handle = Prefix(length=8).attach(model, [], seeded())
    learn(model, handle.parameters(), flipped[:1400], y[:1400], rate=3e-2, steps=150)
    assert accuracy(model, flipped[1400:], y[1400:]) > without + 0.15
    handle.detach()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
