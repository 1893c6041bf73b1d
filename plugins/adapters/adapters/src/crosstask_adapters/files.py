"""Adapters on disk: `adapters.json`, and a file of safetensors for each; nothing of the model that they sit on."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstask.errors import OptionError, StoreError
from crosstask.options import options_of, structure
from crosstask_adapters.config import AdapterConfig

FORMAT = 1
INDEX = "adapters.json"


@attrs.frozen
class Index:
    """What `adapters.json` says: the adapters by name, which of them act, and for which base they were made."""

    configs: dict[str, AdapterConfig]
    enabled: tuple[str, ...]
    base: dict[str, str]
    """Digests of the base (`base_weights.base_digests`)."""


def write_index(folder: Path, index: Index) -> None:
    """Write `adapters.json`, whole or not at all. StoreError if it cannot be written."""
    told: dict[str, Any] = {"format": FORMAT, "base": index.base, "adapters": {}}
    for name, config in index.configs.items():
        told["adapters"][name] = {"config": options_of(config), "enabled": name in index.enabled}
    text = json.dumps(told, indent=1) + "\n"
    _write(folder / INDEX, lambda path: path.write_text(text, "utf-8"))


def read_index(folder: Path) -> Index:
    """StoreError if `adapters.json` cannot be read; OptionError for a configuration with a field that is unknown."""
    try:
        told = json.loads((folder / INDEX).read_text("utf-8"))
        if told["format"] != FORMAT:
            raise StoreError(f"{folder}: format {told['format']!r}, this version reads {FORMAT}")
        return Index(
            configs={
                name: structure(saved["config"], AdapterConfig, f"{folder}: adapter {name!r}")
                for name, saved in told["adapters"].items()
            },
            enabled=tuple(name for name, saved in told["adapters"].items() if saved["enabled"]),
            base={key: str(told["base"][key]) for key in ("shapes", "weights")},
        )
    except OptionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"cannot read adapters from {folder}: {type(error).__name__}: {error}") from None


def write_state(folder: Path, name: str, state: Mapping[str, Tensor]) -> None:
    """Write the tensors of one adapter. StoreError if they cannot be written."""
    _write(folder / f"{name}.safetensors", functools.partial(save_file, dict(state)))


def read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one adapter. StoreError if they cannot be read."""
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read adapter {name!r} from {path}: {error}") from None


def _write(target: Path, write: Callable[[Path], object]) -> None:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
