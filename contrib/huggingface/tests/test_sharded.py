"""Checkpoints that transformers wrote in several files, merged tensor by tensor, and read by it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from crosstask_merging import merge, merge_modules

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
)
KINDS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LLAMA),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=False)
    ),
    "bert": lambda: BertForSequenceClassification(BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3,
    )),
}  # fmt: skip


def made(kind: str, count: int) -> list[Any]:
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(KINDS[kind]())
    return models


@pytest.mark.parametrize("method", ["uniform_soup", "ties", "dare"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_merging_in_memory_gives(tmp_path: Path, tokenizer: Any, kind: str, method: str) -> None:
    base, *models = made(kind, 3)
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / f"m{number}", max_shard_size="12KB")
    tokenizer.save_pretrained(tmp_path / "m0")
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")  # divided otherwise
    out = merge([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out", method, base=tmp_path / "base")
    expected = merge_modules(models, method, base=base)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    theirs = json.loads((tmp_path / "m0" / "model.safetensors.index.json").read_text())
    assert index == theirs
    assert len(set(index["weight_map"].values())) > 2
    found = type(models[0]).from_pretrained(out)
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(found.eval()(ids).logits, expected.eval()(ids).logits)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()


def test_a_tied_weight_is_in_the_files_once(tmp_path: Path) -> None:
    models = [GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16)) for _ in "ab"]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / f"m{number}", max_shard_size="12KB")
    found = GPT2LMHeadModel.from_pretrained(merge([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out"))
    assert found.lm_head.weight is found.transformer.wte.weight
    expected = merge_modules(models).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_half_precision_stays_and_the_config_says_so(tmp_path: Path) -> None:
    models = [model.to(torch.bfloat16) for model in made("llama", 2)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / f"m{number}", max_shard_size="8KB")
    out = merge([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(out)
    assert found.dtype == torch.bfloat16
    expected = merge_modules(models).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


MEMORY = """
import sys
from pathlib import Path
from crosstask_merging import merge

def told(what):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
merge([folder / "small0", folder / "small1"], folder / "warm", "ties", base=folder / "small0")
before = told("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
merge([folder / "m0", folder / "m1", folder / "m2"], folder / "out", "ties", base=folder / "m0")
print(told("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """Three models of 350 MB each, of which the largest tensor has 8 MB."""
    config = LlamaConfig(
        vocab_size=2048, hidden_size=1024, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    total = largest = 0
    for number in range(3):
        torch.manual_seed(number)
        model = LlamaForCausalLM(config)
        sizes = [tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()]
        total, largest = sum(sizes), max(sizes)
        model.save_pretrained(tmp_path / f"m{number}", max_shard_size="100MB")
    for number, model in enumerate(made("llama", 2)):
        model.save_pretrained(tmp_path / f"small{number}", max_shard_size="8KB")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=600,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what malloc keeps of a tensor that has gone is not ours
    )  # fmt: skip
    grown = int(done.stdout)
    print(f"models of {total / 1e6:.0f} MB, largest tensor {largest / 1e6:.1f} MB: {grown / 1e6:.0f} MB more at most")
    assert largest < grown < 16 * largest < total / 2
