"""LoRA adapters in the files of Hugging Face's PEFT, read and written without it.

The folder holds `adapter_config.json` and `adapter_model.safetensors`. Where a key is missing or belongs to nothing
PEFT only warns; here that is an error.

PEFT to 0.21, at least, adds the change of `nn.MultiheadAttention`'s output projection twice wherever it uses it
(huggingface/peft#3774). With `out_proj_twice` (the default) such a factor is read at double and written at half its
strength, exactly, so that both answer the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstask.errors import DataError, StoreError, nearest
from crosstask.writing import atomic
from crosstask_adapters import AdapterConfig, AdapterModel, LayersHandle, check_names
from crosstask_lora.lora import (
    AttentionLowRank,
    ConvLowRank,
    EmbeddingLowRank,
    LowRank,
    Shared,
    TransposedLowRank,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ENDS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
REFUSED: dict[str, Callable[[Any], bool]] = {
    "use_dora": bool,
    "lora_bias": bool,
    "rank_pattern": bool,
    "alpha_pattern": bool,
    "target_parameters": bool,
    "bias": lambda value: value not in (None, "none"),
}
"""Settings of PEFT's under which its adapter is another than ours. (`fan_in_fan_out` is none: PEFT, too, goes by the
kind of each layer.)"""


def save_peft(model: AdapterModel, folder: str | Path, name: str = "default", *, out_proj_twice: bool = True) -> None:
    """Write a LoRA adapter of `model`, with its own heads if it has any, so that `PeftModel.from_pretrained` reads it.

    DataError for what PEFT has no such form of: another kind of adapter, grouped convolutions (PEFT's do not share A
    among the groups), attention without its output projection.
    """
    handle = model.handle(name)
    config = model.adapters[name]
    if not isinstance(handle, LayersHandle) or not all(isinstance(p, LowRank) for p in handle.parts.values()):
        raise DataError(f"adapter {name!r} is a {config.adapter_type!r}: only LoRA has a form in PEFT's files here")
    tensors: dict[str, Tensor] = {}
    for path, part in handle.parts.items():
        tensors |= _written(model.base, path, part, handle, out_proj_twice)
    saved = model.saved(name)
    tensors |= {f"{PREFIX}{key}": tensor for key, tensor in (_own(saved) if saved else {}).items()}
    first: Any = next(iter(handle.parts.values()))
    told = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "target_modules": _targets(model.base, list(handle.parts)),
        "modules_to_save": list(saved.parts) if saved is not None else None,
        "r": first.r,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(part, TransposedLowRank) for part in handle.parts.values()),
        "inference_mode": True,
    }
    target = Path(folder)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with atomic(target / CONFIG, "PEFT adapter") as settings:
        settings.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
        with atomic(target / WEIGHTS, "PEFT adapter", needed=size) as weights:
            # Cloned: tied weights share memory, which safetensors refuses.
            save_file({k: t.detach().contiguous().clone() for k, t in tensors.items()}, weights, {"format": "pt"})


def load_peft(model: AdapterModel, folder: str | Path, name: str = "default", *, out_proj_twice: bool = True) -> None:
    """Put the LoRA adapter that PEFT wrote to `folder` on `model`, under `name`.

    DataError names keys that are missing, left over or of another shape, and settings that mean another adapter than
    this one (DoRA, ranks by pattern, trained biases, …); StoreError if the files cannot be read.
    """
    source = Path(folder)
    config, alpha = _config(source)
    try:
        tensors = load_file(source / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read {source / WEIGHTS}: {error}") from None
    factors: dict[str, dict[str, Tensor]] = {}
    heads: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        path, end = _read_key(key)
        if end:
            factors.setdefault(_our_path(path), {})[end] = tensor
        else:
            heads[path] = tensor
    if not factors:
        raise DataError(f"{source / WEIGHTS} holds no LoRA weights")
    modules = dict(model.base.named_modules())
    if strange := next((path for path in factors if path not in modules), None):
        raise DataError(f"{source}: the adapter is for {strange!r}, which the model has not{nearest(strange, modules)}")
    settings = AdapterConfig(
        adapter_type="lora",
        lora_r=config["r"],
        lora_alpha=alpha,
        target_modules=tuple(factors),
        modules_to_save=tuple(dict.fromkeys(path.rpartition(".")[0] for path in heads)),
        options={"dropout": float(config.get("lora_dropout") or 0.0)} | _rank_options(factors, config["r"]),
    )
    model.add_adapter(name, settings)
    try:
        handle = model.handle(name)
        assert isinstance(handle, LayersHandle)
        if missing := sorted(set(handle.parts) - set(factors)):
            raise DataError(f"{source / WEIGHTS} has nothing for {missing[0]!r}, which belongs to an adapted layer")
        for path, given in factors.items():
            _take(model.base, path, handle.parts[path], given, str(source / WEIGHTS), out_proj_twice)
        if (saved := model.saved(name)) is not None:
            check_names(_own(saved), heads, f"{source / WEIGHTS}: modules_to_save")
            saved.load_state({".own.".join(key.rsplit(".", 1)): tensor for key, tensor in heads.items()})
        _check_ties(handle, factors, model.base, out_proj_twice)
    except DataError:
        model.remove_adapter(name)
        raise


def _rank_options(factors: dict[str, dict[str, Tensor]], r: int) -> dict[str, Any]:
    """PEFT takes any rank, also one above the smaller side of a layer."""
    sides = [tensor.numel() // max(r, 1) for given in factors.values() for tensor in given.values()]
    return {"any_rank": True} if min(sides) < r else {}


def _own(saved: LayersHandle) -> dict[str, Tensor]:
    """An adapter's copies of whole modules, by the names of their parameters."""
    return {f"{p}.{k.removeprefix('own.')}": t for p, part in saved.parts.items() for k, t in part.named_parameters()}


def _config(source: Path) -> tuple[dict[str, Any], float]:
    """(settings, the strength for our alpha / r)."""
    try:
        config = json.loads((source / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {source / CONFIG}: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise DataError(f"{source / CONFIG}: peft_type is {kind!r}, expected 'LORA'")
    for key in ("r", "lora_alpha"):  # without them PEFT takes 8, whatever the weights were trained with
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise DataError(f"{source / CONFIG}: no number {key!r}")
    for key, wrong in REFUSED.items():
        if wrong(config.get(key)):
            raise DataError(f"{source / CONFIG}: {key} = {config[key]!r} makes it another adapter than this LoRA")
    alpha = float(config["lora_alpha"])
    return config, alpha * math.sqrt(config["r"]) if config.get("use_rslora") else alpha


def _read_key(key: str) -> tuple[str, str]:
    """(path of the module, end) of a LoRA weight; (path of the parameter, "") of a saved module."""
    if not key.startswith(PREFIX):
        raise DataError(f"key {key!r} does not begin with {PREFIX!r}: not a file of PEFT's")
    rest = key.removeprefix(PREFIX)
    for end in ENDS:
        if rest.endswith(end):
            return rest.removesuffix(end), end
    if ".lora_" in rest:
        raise DataError(f"key {key!r} is no LoRA weight; they end in {', '.join(ENDS)}")
    return rest, ""


def _our_path(path: str) -> str:
    """PEFT wraps attention, and its output projection within the wrapped one."""
    return path.replace(".base_layer.out_proj", ".out_proj")


def _inside_attention(base: nn.Module, path: str) -> bool:
    """Whether a layer is the output projection of torch's attention."""
    parent, _, child = path.rpartition(".")
    return child == "out_proj" and isinstance(base.get_submodule(parent), nn.MultiheadAttention)


def _their_path(base: nn.Module, path: str) -> str:
    return f"{path.removesuffix('.out_proj')}.base_layer.out_proj" if _inside_attention(base, path) else path


def _factors(part: LowRank) -> LowRank:
    """Where `up` and `down` are: attention has them by projection."""
    if not isinstance(part, AttentionLowRank):
        return part
    if "in_proj_weight" not in part.projections:
        raise DataError("PEFT has no LoRA for attention whose keys or values have another width")
    found = part.projections["in_proj_weight"]
    assert isinstance(found, LowRank)
    return found


def _embeds(part: LowRank) -> bool:
    return isinstance(part, EmbeddingLowRank) or (isinstance(part, Shared) and part.kind is EmbeddingLowRank)


def _written(base: nn.Module, path: str, part: Any, handle: LayersHandle, twice: bool) -> dict[str, Tensor]:
    """An adapter's tensors under PEFT's keys."""
    layer, own = base.get_submodule(path), _factors(part)
    if isinstance(part, AttentionLowRank) and f"{path}.out_proj" not in handle.parts:
        raise DataError(f"PEFT adapts attention with its output projection: {path}.out_proj has no adapter")
    inside, parent = _inside_attention(base, path), path.rpartition(".")[0]
    if inside and parent not in handle.parts:
        raise DataError(f"PEFT adapts an output projection with its attention: {parent!r} has no adapter")
    key = f"{PREFIX}{_their_path(base, path)}"
    if _embeds(part):
        return {f"{key}.lora_embedding_A": own.up.t(), f"{key}.lora_embedding_B": own.down.t()}
    down: Tensor = own.down
    up: Tensor = own.up / 2 if inside and twice else own.up
    if isinstance(part, ConvLowRank):
        _ungrouped(layer, path)
        down = down.view(part.r, *part.kernel)
        up = up.view(*up.shape, *(1,) * (len(part.kernel) - 1))
    return {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}


def _ungrouped(layer: Any, path: str) -> None:
    if layer.groups > 1:
        raise DataError(f"{path!r} is a grouped convolution: PEFT's LoRA for these is another one, and no change of it")


@torch.no_grad()
def _take(base: nn.Module, path: str, part: Any, given: dict[str, Tensor], where: str, twice: bool) -> None:
    """Put the two tensors of a file into an adapter."""
    own = _factors(part)
    ends = ENDS[2:] if _embeds(part) else ENDS[:2]
    if isinstance(part, ConvLowRank):
        _ungrouped(base.get_submodule(path), path)
    wanted = _written_shapes(part, own)
    check_names(
        {f"{path}{end}": torch.empty(shape, device="meta") for end, shape in zip(ends, wanted, strict=True)},
        {f"{path}{end}": tensor for end, tensor in given.items()},
        where,
    )
    first, second = (given[end] for end in ends)
    if _embeds(part):
        own.up.copy_(first.t())
        own.down.copy_(second.t())
    else:
        own.down.copy_(first.reshape(own.down.shape))
        own.up.copy_(second.reshape(own.up.shape) * (2 if twice and _inside_attention(base, path) else 1))


def _written_shapes(part: LowRank, own: LowRank) -> tuple[tuple[int, ...], tuple[int, ...]]:
    out, inner = len(own.up), own.down.shape[1]
    if _embeds(part):
        return (own.r, out), (inner, own.r)
    if isinstance(part, ConvLowRank):
        return (own.r, *part.kernel), (out, own.r, *(1,) * (len(part.kernel) - 1))
    return (own.r, inner), (out, own.r)


def _check_ties(handle: LayersHandle, factors: dict[str, dict[str, Tensor]], base: nn.Module, twice: bool) -> None:
    """A tied weight has one change here; a file that says two cannot be read."""
    for path, part in handle.parts.items():
        ours = _written(base, path, part, handle, twice)
        for key, tensor in ours.items():
            end = next(end for end in ENDS if key.endswith(end))
            if not torch.equal(tensor, factors[path][end].to(tensor)):
                raise DataError(f"{path!r} shares its weight with another layer, for which the file has another change")


def _targets(base: nn.Module, paths: list[str]) -> list[str] | str:
    """`target_modules`: names, which PEFT takes for ends of names, or a pattern where that would mean more."""
    named = [p for p in paths if _their_path(base, p) == p]  # PEFT finds an output projection by its attention
    others = [name for name, _ in base.named_modules() if name not in paths]
    if any(name.endswith(f".{path}") for path in named for name in others):
        return "|".join(re.escape(path) for path in named)
    return named
