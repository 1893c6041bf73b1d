"""Files: the same as in memory, never whole in memory, refused with what differs; adapters merged exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError
from crosstask_merging import grams_of, merge, merge_lora, merge_modules
from crosstask_merging.lora import LoRA, read_lora, write_lora


def net(seed: int, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, outputs)).eval()


def saved(folder: Path, models: list[nn.Module]) -> list[Path]:
    paths = [folder / f"model{number}.safetensors" for number in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        save_file(model.state_dict(), path)
    return paths


@pytest.mark.parametrize("method", ["uniform_soup", "task_arithmetic", "ties", "dare", "slerp"])
def test_files_give_what_modules_give(method: str, tmp_path: Path) -> None:
    models: list[Any] = [net(seed) for seed in range(4)]
    base, *paths = saved(tmp_path, models)
    out = merge(paths, tmp_path / "out" / "merged.safetensors", method, base=base)
    expected = merge_modules(models[1:], method, base=models[0]).state_dict()
    found = load_file(out)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    with safe_open(out, "pt") as file:
        told = json.loads(file.metadata()["crosstask"])
    assert told["method"] == method
    assert told["models"] == [str(p) for p in paths]
    assert told["weights"] == [1 / 3] * 3


def test_regmean_is_the_default_where_there_are_gram_files(tmp_path: Path) -> None:
    models: list[Any] = [net(seed) for seed in range(2)]
    inputs = [torch.randn(50, 4, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    grams = [tmp_path / f"gram{number}.safetensors" for number in range(2)]
    for path, model, seen in zip(grams, models, inputs, strict=True):
        save_file(grams_of(model, seen), path)
    found = load_file(merge(saved(tmp_path, models), tmp_path / "merged.safetensors", grams=grams))
    expected = merge_modules(models, "regmean", inputs=inputs)
    torch.testing.assert_close(found["0.weight"], expected[0].weight.detach())
    torch.testing.assert_close(found["3.bias"], expected[3].bias.detach())


def test_every_type_survives_and_the_file_loads_elsewhere(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
    tensors = {f"t{n}": torch.tensor([[1, 0, 1]]).to(kind) for n, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(2.5), "nothing": torch.zeros(0, 3)}
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_file(tensors, path)
    found = load_file(merge(paths, tmp_path / "out.safetensors", "uniform_soup"))
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_differs_is_listed(tmp_path: Path) -> None:
    one, two = net(0), net(1, outputs=2)
    paths = saved(tmp_path, [one, two])
    with pytest.raises(DataError, match=r"'3.bias' is float32 \[3\] in .*, float32 \[2\] in") as caught:
        merge(paths, tmp_path / "out.safetensors")
    assert "'3.weight' is float32 [3, 5]" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()
    other = nn.Sequential(nn.Linear(4, 5))
    with pytest.raises(DataError, match=r"model 1 has no '1\.weight'"):
        merge_modules([one, other])
    with pytest.raises(DataError, match="base has no"):
        merge_modules([one, one], "ties", base=other)


def test_bad_requests(tmp_path: Path) -> None:
    paths = saved(tmp_path, [net(0), net(1)])
    out = tmp_path / "out.safetensors"
    with pytest.raises(OptionError, match="did you mean 'ties'"):
        merge(paths, out, "tiess")
    with pytest.raises(OptionError, match="ties: unknown option 'densty'"):
        merge(paths, out, "ties", densty=0.1)
    with pytest.raises(DataError, match="at least two models, got 1"):
        merge(paths[:1], out)
    with pytest.raises(DataError, match="at least two models, got 0"):
        merge([], out)
    with pytest.raises(DataError, match="3 weights for 2 models"):
        merge(paths, out, weights=[1, 2, 3])
    with pytest.raises(DataError, match="must not be negative"):
        merge(paths, out, weights=[1, -1])
    with pytest.raises(DataError, match="needs inputs for each model"):
        merge(paths, out, "regmean")
    with pytest.raises(DataError, match="needs held-out data"):
        merge(paths, out, "evolutionary")
    with pytest.raises(DataError, match="not a safetensors file"):
        merge([paths[0], tmp_path / "absent.safetensors"], out)
    (tmp_path / "text.safetensors").write_text("no weights here at all")
    with pytest.raises(DataError, match="not a safetensors file"):
        merge([paths[0], tmp_path / "text.safetensors"], out)


MEMORY = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from crosstask_merging import merge

def told(what):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1])

def highest(paths):
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
    before = told("VmRSS")
    for method in ("task_arithmetic", "ties"):
        merge(paths, out, method, base=paths[0])
    return told("VmHWM") - before

out, *paths = sys.argv[1:]
highest(paths[:2])  # what is imported and made once
two = highest(paths[:2])
print(two, highest(paths))
"""


def test_memory_does_not_grow_with_the_number_of_models(tmp_path: Path) -> None:
    """Twelve files of 4 MB need no more than two: less than one file on top (peak resident set, in KB)."""
    paths = [tmp_path / f"{n}.safetensors" for n in range(12)]
    for number, path in enumerate(paths):
        save_file({f"layer{k}": torch.full((256, 512), float(number + k)) for k in range(8)}, path)
    out = str(tmp_path / "out.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, out, *map(str, paths)], capture_output=True, text=True, check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # a tensor's memory goes back when the tensor goes
    )  # fmt: skip
    two, twelve = map(int, done.stdout.split())
    assert two > 512  # a tensor
    assert twelve - two < 4 * 1024


def adapter(seed: int, rank: int, alpha: float, **more: Any) -> LoRA:
    g = torch.Generator().manual_seed(seed)
    name = "base_model.model."
    tensors = {
        f"{name}body.lora_A.weight": torch.randn(rank, 6, generator=g),
        f"{name}body.lora_B.weight": torch.randn(4, rank, generator=g),
        f"{name}conv.lora_A.weight": torch.randn(rank, 2, 3, 3, generator=g),
        f"{name}conv.lora_B.weight": torch.randn(5, rank, 1, 1, generator=g),
        f"{name}words.lora_embedding_A": torch.randn(rank, 9, generator=g),
        f"{name}words.lora_embedding_B": torch.randn(3, rank, generator=g),
        f"{name}head.weight": torch.randn(2, 4, generator=g),
    }
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["body", "conv", "words"]}
    return LoRA(tensors, config | more, f"adapter {seed}")


def update(lora: LoRA, module: str) -> Tensor:
    """The whole update that an adapter stands for, from its tensors and its configuration alone."""
    kind = "_embedding" if module == "words" else ""
    end = "" if kind else ".weight"
    a = lora.tensors[f"base_model.model.{module}.lora{kind}_A{end}"].double()
    b = lora.tensors[f"base_model.model.{module}.lora{kind}_B{end}"].double()
    rank = lora.config.get("rank_pattern", {}).get(module, lora.config["r"])
    alpha = lora.config.get("alpha_pattern", {}).get(module, lora.config["lora_alpha"])
    scale = alpha / (rank**0.5 if lora.config.get("use_rslora") else rank)
    return scale * torch.einsum("or,ri->oi", b.flatten(1), a.flatten(1))


@pytest.mark.parametrize("module", ["body", "conv", "words"])
def test_merged_adapters_are_the_exact_sum_of_their_updates(module: str, tmp_path: Path) -> None:
    read = [adapter(0, 2, 4.0), adapter(1, 3, 16.0, use_rslora=True), adapter(2, 1, 1.0, alpha_pattern={module: 5.0})]
    folders = [write_lora(one, tmp_path / str(number)) for number, one in enumerate(read)]
    shares = [0.5, -0.25, 2.0]
    merge_lora(folders, tmp_path / "out", shares)
    made = read_lora(tmp_path / "out")
    expected = sum(s * update(one, module) for s, one in zip(shares, read, strict=True))
    torch.testing.assert_close(update(made, module), expected, atol=1e-5, rtol=1e-5)
    assert made.config["r"] == 6


def test_adapters_of_different_modules_and_saved_heads() -> None:
    one, two = adapter(0, 2, 2.0), adapter(1, 2, 2.0)
    del two.tensors["base_model.model.body.lora_A.weight"], two.tensors["base_model.model.body.lora_B.weight"]
    made = merge_lora([one, two], weights=[1.0, 3.0])
    torch.testing.assert_close(update(made, "body"), update(one, "body"), atol=1e-6, rtol=1e-5)
    assert made.config["rank_pattern"] == {"body": 2}
    key = "base_model.model.head.weight"
    torch.testing.assert_close(made.tensors[key], 0.25 * one.tensors[key] + 0.75 * two.tensors[key])


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    one, two = adapter(0, 2, 2.0), adapter(1, 2, 2.0)
    with pytest.raises(DataError, match="at least two adapters"):
        merge_lora([one])
    two.tensors["base_model.model.body.lora_A.weight"] = torch.zeros(2, 7)
    with pytest.raises(DataError, match=r"adapter 1: .*body.lora_A.* another shape than adapter 0"):
        merge_lora([one, two])
    del two.tensors["base_model.model.body.lora_A.weight"]
    with pytest.raises(DataError, match="no pair"):
        merge_lora([two, one])
    for config in ("{}", "[" * 100_000):
        (tmp_path / "adapter_config.json").write_text(config)
        with pytest.raises(DataError, match="no LoRA adapter that can be read"):
            merge_lora([tmp_path, tmp_path])
    (write_lora(adapter(0, 2, 2.0), tmp_path / "list") / "adapter_config.json").write_text("[]")
    with pytest.raises(DataError, match="must have peft_type LORA"):
        read_lora(tmp_path / "list")
    with pytest.raises(DataError, match="DoRA"):
        read_lora(write_lora(adapter(0, 2, 2.0, use_dora=True), tmp_path / "dora"))


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [float("inf"), 1.0], ["a", "b"]])
def test_weights_that_are_no_finite_numbers_are_refused(weights: Any) -> None:
    with pytest.raises(DataError, match="weights must be finite numbers"):
        merge_modules([nn.Linear(2, 2), nn.Linear(2, 2)], weights=weights)


def test_large_weights_are_shares_too() -> None:
    models = [nn.Linear(2, 2) for _ in range(2)]
    mean = (models[0].weight + models[1].weight) / 2
    assert torch.allclose(merge_modules(models, weights=[1e308, 1e308]).weight, mean)  # type: ignore[arg-type]


def test_a_deep_index_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="no index of a checkpoint that can be read"):
        merge([tmp_path, tmp_path], tmp_path / "out")
