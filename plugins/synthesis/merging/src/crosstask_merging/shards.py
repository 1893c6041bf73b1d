"""The files of a checkpoint: one, or several that an index names."""

from __future__ import annotations

import json
from pathlib import Path

from crosstask.errors import DataError, nearest

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def is_checkpoint(path: Path) -> bool:
    """Whether a path is that of a folder, or of an index of several files."""
    return path.is_dir() or path.name.endswith(".index.json")


def shards_of(path: Path) -> dict[Path, list[str] | None]:
    """The files of a model's weights, with the names of the tensors that are to be taken from each (None: all).

    `path` is a safetensors file, an index, or a folder with either. DataError where it is none of these, or an index
    that names no files beside it.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") or path.name in PICKLED:
        raise DataError(_pickled(path))
    if not is_checkpoint(path):
        return {path: None}
    if path.is_dir():
        if (path / INDEX).exists():
            path = path / INDEX
        elif (path / FILE).exists():
            return {path / FILE: None}
        else:
            found = next((path / name for name in PICKLED if (path / name).exists()), None)
            raise DataError(_pickled(found) if found else f"{path}: a folder without {FILE} and {INDEX}")
    try:
        places = json.loads(path.read_text("utf-8"))["weight_map"]
        files = [(str(name), str(file)) for name, file in places.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no index of a checkpoint that can be read: {error!r}") from None
    shards: dict[Path, list[str] | None] = {}
    for name, file in sorted(files, key=lambda pair: pair[1]):
        if file != Path(file).name or file in ("", ".", ".."):
            raise DataError(f"{path}: {name!r} lies in {file!r}, which is no file beside the index")
        if file.endswith(".bin"):
            raise DataError(_pickled(path.parent / file))
        own = shards.setdefault(path.parent / file, [])
        assert own is not None
        own.append(name)
    if not shards:
        raise DataError(f"{path}: the index names no tensors")
    if missing := next((file for file in shards if not file.exists()), None):
        there = [file.name for file in path.parent.glob("*.safetensors")]
        raise DataError(f"{path}: there is no {missing.name!r}, which it names{nearest(missing.name, there)}")
    return shards


def _pickled(path: Path) -> str:
    return (
        f"{path}: such files are pickles, which run code when they are read: write the model again with "
        "`save_pretrained`, which makes safetensors"
    )
