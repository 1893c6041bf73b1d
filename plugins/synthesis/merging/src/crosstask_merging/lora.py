"""LoRA adapters merged exactly: the sum of their updates, never of their factors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstask.errors import DataError
from crosstask.writing import atomic

_A, _B = (".lora_A", ".lora_embedding_A"), (".lora_B", ".lora_embedding_B")


@attrs.frozen
class LoRA:
    """Adapters of one model: `tensors` by the names that PEFT gives them, and `config`, its `adapter_config.json`."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    name: str = "adapter"

    def scale(self, key: str, rank: int) -> float:
        """What the product of a pair is multiplied with: alpha / r, or alpha / sqrt(r) (rsLoRA)."""
        module = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        patterns = self.config.get("alpha_pattern") or {}
        alpha = next((v for k, v in patterns.items() if module == k or module.endswith("." + k)), None)
        alpha = self.config["lora_alpha"] if alpha is None else alpha
        return float(alpha) / (rank**0.5 if self.config.get("use_rslora") else rank)


def read_lora(folder: str | Path) -> LoRA:
    """The adapters in a folder (`adapter_config.json`, `adapter_model.safetensors`). DataError if it holds none."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: no LoRA adapter that can be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA" or "lora_alpha" not in config:
        raise DataError(f"{folder}: adapter_config.json must have peft_type LORA and lora_alpha")
    if config.get("use_dora"):
        raise DataError(f"{folder}: DoRA's magnitudes are no low-rank update and cannot be merged exactly")
    return LoRA(tensors, config, str(folder))


def write_lora(adapter: LoRA, folder: str | Path) -> Path:
    """Write a folder that `read_lora` and PEFT read."""
    folder = Path(folder)
    tensors = {name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    with atomic(folder / "adapter_config.json", "merged adapters") as config:
        config.write_text(json.dumps(adapter.config, indent=2), encoding="utf-8")
        with atomic(folder / "adapter_model.safetensors", "merged adapters", needed=size) as weights:
            save_file(tensors, weights)
    return folder


def merge_lora(
    adapters: Sequence[str | Path | LoRA], out: str | Path | None = None, weights: Sequence[float] | None = None
) -> LoRA:
    """The adapter whose update is Σ weight * scale * B A, exactly: its A is the A's one under the other, its B the
    scaled B's side by side, its rank the sum of the ranks (the same for the kernels of convolutions and for
    embeddings). Averaging the A's and the B's apart would give mixed products that no adapter learned.

    `weights` default to equal ones that sum to one. Other tensors (saved heads) are averaged with them, divided by
    their sum. A module that only some adapt keeps their part. Written to the folder `out` if one is given. DataError
    for pairs that do not fit together.
    """
    read = [a if isinstance(a, LoRA) else read_lora(a) for a in adapters]
    if len(read) < 2:
        raise DataError(f"merging needs at least two adapters, got {len(read)}")
    shares = [1 / len(read)] * len(read) if weights is None else list(weights)
    if len(shares) != len(read):
        raise DataError(f"{len(shares)} weights for {len(read)} adapters")
    merged: dict[str, Tensor] = {}
    for key in dict.fromkeys(key for adapter in read for key in adapter.tensors):
        if _part(key, _B) is not None:
            continue
        partner = _partner(key)
        if partner is None:
            merged[key] = _averaged(key, read, shares)
        else:
            merged[key], merged[partner] = _stacked(key, partner, read, shares)
    ranks = {_module(k): v.shape[0] for k, v in merged.items() if _part(k, _A) is not None}
    rank = max(ranks.values(), default=0)
    made = LoRA(merged, _config([a.config for a in read], ranks, rank), "merged")
    if out is not None:
        write_lora(made, out)
    return made


def _stacked(key: str, partner: str, read: Sequence[LoRA], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    above: list[Tensor] = []
    beside: list[Tensor] = []
    for adapter, share in zip(read, shares, strict=True):
        one, other = adapter.tensors.get(key), adapter.tensors.get(partner)
        if one is None and other is None:
            continue
        if one is None or other is None or one.shape[0] != other.shape[1]:
            raise DataError(f"{adapter.name}: {key!r} and {partner!r} are no pair of a down and an up projection")
        if above and (one.shape[1:] != above[0].shape[1:] or other.shape[0] != beside[0].shape[0]):
            raise DataError(f"{adapter.name}: {key!r} adapts a layer of another shape than {read[0].name} does")
        above.append(one)
        beside.append(other * (share * adapter.scale(key, one.shape[0])))
    return torch.cat(above, dim=0), torch.cat(beside, dim=1)


def _averaged(key: str, read: Sequence[LoRA], shares: Sequence[float]) -> Tensor:
    found = [(a.tensors[key], s) for a, s in zip(read, shares, strict=True) if key in a.tensors]
    total = sum(share for _, share in found)
    if len({tensor.shape for tensor, _ in found}) > 1 or not total:
        raise DataError(f"{key!r} differs in its shape between the adapters, or its weights sum to zero")
    return torch.stack([tensor * (share / total) for tensor, share in found]).sum(0)


def _part(key: str, kinds: tuple[str, str]) -> str | None:
    """Which of the kinds of factor a key names."""
    return next((kind for kind in kinds if f"{kind}." in f"{key}."), None)


def _partner(key: str) -> str | None:
    kind = _part(key, _A)
    return None if kind is None else key.replace(kind, _B[_A.index(kind)])


def _module(key: str) -> str:
    return key.removeprefix("base_model.model.").rpartition(".lora_")[0]


def _config(configs: Sequence[Mapping[str, Any]], ranks: Mapping[str, int], rank: int) -> dict[str, Any]:
    """Scales are in the factors, so alpha is the rank; modules of another rank are named."""
    odd = {module: r for module, r in ranks.items() if r != rank}
    targets = [c.get("target_modules") for c in configs]
    named = sorted({m for t in targets if isinstance(t, list | tuple) for m in t})
    whole = targets[0] if any(isinstance(t, str) for t in targets) else named
    return {
        **configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": odd, "alpha_pattern": odd,
        "target_modules": whole,
    }  # fmt: skip
