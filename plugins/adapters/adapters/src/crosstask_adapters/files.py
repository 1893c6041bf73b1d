"""Adapters on disk: `adapters.json`, and a file of safetensors for each; nothing of the model that they sit on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstask.errors import OptionError, StoreError
from crosstask.options import options_of, structure
from crosstask.writing import atomic
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


def write_adapters(folder: Path, states: Mapping[str, Mapping[str, Tensor]], index: Index) -> None:
    """Write `adapters.json` and the tensors of each adapter, all of them or none. StoreError if they cannot be."""
    told: dict[str, Any] = {"format": FORMAT, "base": index.base, "adapters": {}}
    for name, config in index.configs.items():
        told["adapters"][name] = {"config": options_of(config), "enabled": name in index.enabled}
    with contextlib.ExitStack() as files:
        # entered first, it is named last, when all that it names is there
        files.enter_context(atomic(folder / INDEX)).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        for name, state in states.items():
            size = sum(tensor.nbytes for tensor in state.values())
            path = files.enter_context(atomic(folder / f"{name}.safetensors", "adapter", needed=size))
            save_file(dict(state), path)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"cannot read adapters from {folder}: {type(error).__name__}: {error}") from None


def read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one adapter. StoreError if they cannot be read."""
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read adapter {name!r} from {path}: {error}") from None
