"""Where the tensors of a model come from (a safetensors file or a module in memory), and where merged ones go."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.averaging import steers
from crosstask.learning.modules import quantised
from crosstask.writing import atomic
from crosstask_merging.shards import shards_of

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64,
}  # fmt: skip
"""The names that a safetensors header gives to torch's types."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@attrs.frozen
class Kind:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


def is_extra(name: str) -> bool:
    """Whether a name is that of a module's extra state: whatever that is, it is no weight."""
    return name.rpartition(".")[2] == "_extra_state"


class Weights(ABC):
    """A model's tensors by name, one at a time. `index` says what there is."""

    name: str
    index: dict[str, Kind]
    tied: Mapping[str, str] = MappingProxyType({})
    """Names that are but another's: they are not in the index."""

    @abstractmethod
    def get(self, name: str) -> Tensor:
        """One tensor. It may share memory with the model: do not change it."""


class InMemory(Weights):
    """The tensors of a module or of a dict; of a module's tied weights the first, as files have them: each is one.
    DataError for a module with quantised layers, whose weights are no tensors that could be averaged.
    """

    def __init__(self, model: nn.Module | Mapping[str, Tensor], name: str = "model") -> None:
        if isinstance(model, nn.Module) and (reason := quantised(model)):
            raise DataError(f"{name} cannot be merged: {reason}")
        state = model.state_dict() if isinstance(model, nn.Module) else model
        self.name = name
        self.tied = tied(state) if isinstance(model, nn.Module) else {}
        own = ((key, value) for key, value in state.items() if key not in self.tied and not is_extra(key))
        self._state = {key: value.detach() for key, value in own if isinstance(value, Tensor)}
        self.index = {key: Kind(tuple(value.shape), value.dtype) for key, value in self._state.items()}

    def get(self, name: str) -> Tensor:
        return self._state[name]


class OnDisk(Weights):
    """A safetensors file, or several of one checkpoint: `shards` are the files, with the names of the tensors to take
    from each (None: all). A file is opened for each tensor anew: pages of a mapping that stays open stay in memory.
    """

    def __init__(self, path: str | Path, shards: Mapping[Path, Sequence[str] | None] | None = None) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.index = {}
        self.files: dict[str, Path] = {}
        """Which file each tensor is in."""
        for shard, wanted in (shards or {self.path: None}).items():
            with _open(shard) as file:
                held = dict.fromkeys(file.keys())
                for key in held if wanted is None else wanted:
                    if key not in held:
                        raise DataError(f"{path}: {key!r} is not in {shard.name}, where the index says it is")
                    part = file.get_slice(key)
                    kind = part.get_dtype()
                    if kind not in DTYPES:
                        raise DataError(f"{path}: tensor {key!r} is of type {kind}, which cannot be merged")
                    self.index[key] = Kind(tuple(part.get_shape()), DTYPES[kind])
                    self.files[key] = shard

    def get(self, name: str) -> Tensor:
        with _open(self.files[name]) as file:
            found: Tensor = file.get_tensor(name)
            return found


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a safetensors file that can be read: {error}") from None


def weights_of(source: Weights | nn.Module | Mapping[str, Tensor] | str | Path, name: str = "model") -> Weights:
    """Any of these as `Weights`."""
    if isinstance(source, Weights):
        return source
    if isinstance(source, str | Path):
        return OnDisk(source, shards_of(Path(source)))
    return InMemory(source, name)


def differences(models: Sequence[Weights]) -> list[str]:
    """What keeps models from being merged: a line for each tensor that one lacks or has in another shape or type, or
    whose whole numbers, which have no mean, are not the same in all.
    """
    first, *rest = models
    found = []

    def lacks(model: Weights, key: str) -> str:
        same = model.tied.get(key)
        return f"{model.name} has no {key!r}{f' of its own: it is tied to {same!r}' if same else ''}"

    for other in rest:
        mine, its = ([key for key in model.index if not is_extra(key)] for model in (first, other))
        found += [lacks(other, key) for key in mine if key not in other.index]
        found += [f"{lacks(first, key)} (of {other.name})" for key in its if key not in first.index]
        for key in mine:
            kind = first.index[key]
            if key in other.index and other.index[key] != kind:
                found.append(f"{key!r} is {kind} in {first.name}, {other.index[key]} in {other.name}")
            elif key in other.index and steers(kind.dtype, kind.shape) and not _same(first, other, key):
                found.append(
                    f"{key!r} holds whole numbers, which have no mean, and others in {first.name} than in {other.name}"
                )
    return found


def _same(one: Weights, other: Weights, key: str) -> bool:
    ours = one.get(key)
    return torch.equal(ours, other.get(key).to(ours.device))


def factor_of(weights: Weights) -> str | None:
    """A tensor that is but one factor of an adapter's update (LoRA's A, say); None if there is none."""
    for key in weights.index:
        place, _, last = key.rpartition(".")
        low_rank = last in ("up", "down") and f"{place}.down_bias" not in weights.index  # with one: layers of their own
        if _FACTOR.search(key) or ("_adapters." in key and (low_rank or last.endswith(("_left", "_right")))):
            return key
    return None


_FACTOR = re.compile(r"(^|[._])(lora_(embedding_)?[AB]|lora_(up|down)|hada_[wt]\d|lokr_[wt]\d)([._]|$)")
"""What others call factors."""


def check_alike(models: Sequence[Weights], base: Weights | None = None) -> None:
    """DataError for fewer than two models, for factors of adapters, or with the list of what differs."""
    if len(models) < 2:
        raise DataError(f"merging needs at least two models, got {len(models)}")
    for model in [*models, *([base] if base else [])]:
        if (factor := factor_of(model)) is not None:
            raise DataError(
                f"{model.name}: {factor!r} is one factor of an adapter's update, and factors merged apart are not the "
                "updates merged. Make each adapter plain weights first (`model.handle(name).absorb()` of an "
                "AdapterModel, PEFT's `merge_and_unload()`), or merge folders of adapters with `merge_lora`; where an "
                "adapter is no change of weights, average the answers (`weighted_ensemble`)"
            )
    found = differences([*models, *([base] if base else [])])
    if found:
        more = f"; and {len(found) - 12} more" if len(found) > 12 else ""
        raise DataError(f"these models cannot be merged: {'; '.join(found[:12])}{more}")


def write(
    path: Path, index: Mapping[str, Kind], tensors: Iterable[tuple[str, Tensor]], told: Mapping[str, str]
) -> None:
    """Write a safetensors file tensor by tensor, in the order of `index`; `told` becomes its metadata. The file appears
    when it is whole. StoreError if it cannot be written.
    """
    with atomic(path, "merged weights", needed=sum(map(size_of, index.values()))) as part:
        write_file(part, index, tensors, told)


def write_file(
    path: Path, index: Mapping[str, Kind], tensors: Iterable[tuple[str, Tensor]], told: Mapping[str, str]
) -> None:
    """`write` to a file that is there at once.

    The library's own writer wants all tensors at once. The format: the header's length in 8 bytes, a JSON header with
    the place of each tensor, then their bytes (https://huggingface.co/docs/safetensors).
    """
    header: dict[str, Any] = {"__metadata__": dict(told)}
    place = 0
    for name, kind in index.items():
        size = size_of(kind)
        header[name] = {"dtype": _NAMES[kind.dtype], "shape": list(kind.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), wanted in zip(tensors, index, strict=True):
            assert name == wanted
            file.write(_bytes(tensor.to(index[name].dtype)))


def size_of(kind: Kind) -> int:
    """Bytes of a tensor."""
    return math.prod(kind.shape) * kind.dtype.itemsize


def _bytes(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""


def ordered(index: Mapping[str, Kind]) -> dict[str, Kind]:
    """The order that readers expect: wide types first, so that every tensor is aligned."""
    return dict(sorted(index.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def tied(state: Mapping[str, Any]) -> dict[str, str]:
    """The names of tensors that are wholly in the memory of one before them, with the name of that one."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel() and value.layout == torch.strided and not value.is_meta:
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            if (same := first.setdefault(place, name)) != name:
                found[name] = same
    return found


def whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Merged tensors as the module's `load_state_dict` expects them: tied ones by all their names, its extra state."""
    also = tied(model.state_dict())
    again = {name: tensors[same] for name, same in also.items() if name not in tensors and same in tensors}
    return {**tensors, **again, **extra_state(model)}


def extra_state(model: nn.Module) -> dict[str, Any]:
    """What a module's `state_dict` holds besides tensors."""
    return {k: v for k, v in model.state_dict().items() if is_extra(k) or not isinstance(v, Tensor)}


def load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put merged tensors into a module, which keeps its own extra state."""
    model.load_state_dict(whole(model, tensors))


def each(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in turn."""
    for name in weights.index:
        yield name, weights.get(name)
