"""Merged checkpoints as transformers lays them out: a folder with one file of weights, or several and an index."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crosstask.errors import DataError
from crosstask.writing import atomic
from crosstask_merging.shards import INDEX
from crosstask_merging.weights import Kind, ordered, size_of, write_file

COPIED = (".json", ".txt", ".model", ".jinja", ".py")
"""Ends of files that belong to a model besides its weights: settings, tokeniser, templates, code of its own."""
TRAINING = ("trainer_state.json", "adapter_config.json")
"""Files with such an end that do not belong to a merged model."""


def write_checkpoint(
    folder: Path,
    files: Mapping[str, list[str]],
    index: Mapping[str, Kind],
    tensors: Iterator[tuple[str, Tensor]],
    told: Mapping[str, str],
    like: Path,
) -> None:
    """Write a checkpoint: `tensors`, in the order of `order_of(files, index)`, into these files, tensor by tensor; an
    index where they are several; and what belongs to the model in the folder `like`. It appears when it is whole.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already: a merged checkpoint needs a folder of its own")
    with atomic(folder, "merged checkpoint", needed=sum(map(size_of, index.values()))) as unfinished:
        unfinished.mkdir()
        for file, names in files.items():
            own = ordered({name: index[name] for name in names})
            write_file(unfinished / file, own, itertools.islice(tensors, len(own)), told)
        if len(files) > 1:
            _write_index(unfinished / INDEX, files, index)
        for beside in sorted(like.iterdir()):
            belongs = (
                beside.suffix in COPIED and not beside.name.endswith(".index.json") and beside.name not in TRAINING
            )
            if belongs and beside.is_file():
                shutil.copy(beside, unfinished / beside.name)
        if folder.exists():
            folder.rmdir()  # it is empty


def order_of(files: Mapping[str, list[str]], index: Mapping[str, Kind]) -> list[str]:
    """The order in which tensors are written: file by file."""
    return [name for names in files.values() for name in ordered({n: index[n] for n in names})]


def _write_index(path: Path, files: Mapping[str, list[str]], index: Mapping[str, Kind]) -> None:
    total: dict[str, Any] = {
        "total_parameters": sum(math.prod(kind.shape) for kind in index.values()),
        "total_size": sum(map(size_of, index.values())),
    }
    places = {name: file for file, names in files.items() for name in names}
    path.write_text(
        json.dumps({"metadata": total, "weight_map": dict(sorted(places.items()))}, indent=2) + "\n", "utf-8"
    )
