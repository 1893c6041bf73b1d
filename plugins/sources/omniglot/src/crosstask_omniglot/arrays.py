"""Omniglot as arrays: found on disk, or made from the publisher's files."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
import zipfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError
from crosstask.writing import atomic

FILE = "omniglot28.npz"
SIDE = 28
PUBLISHER = "https://github.com/brendenlake/omniglot/raw/master/python"
ZIPS = {  # SHA-256, as TensorFlow Datasets lists them (url_checksums/omniglot.txt)
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
}


@attrs.frozen(eq=False)
class Arrays:
    """All drawings, in the order of alphabets, characters and drawers.

    `images` [N, 28, 28], uint8, ink is high. `alphabet` [N]: index into `names`. `character` and `drawer` [N] count
    from 1 inside their alphabet; the same number in two alphabets need not be the same person. `background` [A]: which
    alphabets are in the publisher's background set. `vinyals` [N]: 0 training, 1 validation, 2 test in the split of
    characters that few-shot learning uses (1028, 172 and 423 characters; Vinyals et al. 2016).
    """

    images: NDArray[np.uint8]
    alphabet: NDArray[np.int64]
    character: NDArray[np.int64]
    drawer: NDArray[np.int64]
    names: tuple[str, ...]
    background: NDArray[np.bool_]
    vinyals: NDArray[np.int64]


def load_arrays(path: str | Path | None = None, *, download: bool = True, publisher: str = PUBLISHER) -> Arrays:
    """The arrays from `path`, or from the first of the usual places (`places`) that has `omniglot28.npz`.

    Where none has it, the publisher's two zip files (16 MB) are downloaded, checked, reduced to 28 x 28 by area and
    kept in the last place. DataError if `path` is not such a file, or if nothing was found and nothing can be
    downloaded: it says where to put the file.
    """
    if path is not None:
        return _read(Path(path) / FILE if Path(path).is_dir() else Path(path))
    found = next((place / FILE for place in places() if (place / FILE).is_file()), None)
    if found is None:
        if not download:
            raise DataError(f"Omniglot is not on this machine. {_advice()}")
        found = places()[-1] / FILE
        _download(found, publisher)
    return _read(found)


def places() -> list[Path]:
    """Where the file is looked for: `$CROSSTASK_DATA`, `../shared/data`, the user's cache."""
    given = os.environ.get("CROSSTASK_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [*([Path(given)] if given else []), Path("../shared/data"), cache / "crosstask"]


def _advice() -> str:
    looked = ", ".join(str(place / FILE) for place in places())
    zips = " and ".join(f"{PUBLISHER}/{name}" for name in ZIPS)
    return (
        f"Looked for {looked}. Fetch {zips} where there is a network and put both into {places()[-1]}, or set "
        f"CROSSTASK_DATA to a folder that has {FILE}"
    )


def _read(path: Path) -> Arrays:
    shapes = {"images": 3, "alphabet": 1, "character": 1, "drawer": 1, "alphabet_names": 1, "alphabet_is_background": 1}
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in shapes if name not in file]
            if missing:
                raise DataError(f"{path} is no Omniglot file: it has no array {', '.join(map(repr, missing))}")
            raw: dict[str, Any] = {name: file[name] for name in shapes}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no file {path}. {_advice()}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # ValueError: pickled objects
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from None
    count, alphabets = len(raw["images"]), len(raw["alphabet_names"])
    for name, dimensions in shapes.items():
        rows = alphabets if name.startswith("alphabet_") else count
        if raw[name].ndim != dimensions or len(raw[name]) != rows:
            raise DataError(f"{path}: array {name!r} has shape {raw[name].shape}, expected {rows} rows")
    if raw["images"].shape[1:] != (SIDE, SIDE) or raw["images"].dtype != np.uint8:
        was = f"{raw['images'].dtype} {raw['images'].shape[1:]}"
        raise DataError(f"{path}: images must be uint8 of {SIDE} x {SIDE} pixels, got {was}")
    if count == 0 or raw["alphabet"].max() >= alphabets:
        raise DataError(f"{path}: images name an alphabet that has no name" if count else f"{path}: no images")
    names = tuple(map(str, raw["alphabet_names"]))
    alphabet, character, drawer = (raw[name].astype(np.int64) for name in ("alphabet", "character", "drawer"))
    return Arrays(
        images=raw["images"],
        alphabet=alphabet,
        character=character,
        drawer=drawer,
        names=names,
        background=raw["alphabet_is_background"].astype(bool),
        vinyals=_vinyals(path, names, alphabet, character),
    )


def _vinyals(
    path: Path, names: tuple[str, ...], alphabet: NDArray[np.int64], character: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The split of each drawing, from the list beside this file: a digit per character."""
    lines = resources.files(__package__).joinpath("vinyals.txt").read_text("utf-8").splitlines()
    listed = dict(line.split() for line in lines if not line.startswith("#"))
    unknown = [name for name in names if name not in listed]
    if unknown:
        raise DataError(f"{path}: {unknown[0]!r} is no alphabet of Omniglot")
    digits = [np.array([int(digit) for digit in listed[name]]) for name in names]
    try:
        return np.array([digits[a][c - 1] for a, c in zip(alphabet, character, strict=True)])
    except IndexError:
        raise DataError(f"{path}: an alphabet has more characters than Omniglot's") from None


def _download(path: Path, publisher: str) -> None:
    """Make the file from the publisher's zips, which may lie beside it already. Atomic: another process, or one that
    is killed, never leaves half a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, digest in ZIPS.items():
        _fetch(f"{publisher}/{name}", digest, path.parent / name)
    arrays = read_zips([path.parent / name for name in ZIPS])
    with atomic(path, kind=DataError) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _fetch(url: str, digest: str, path: Path) -> None:
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
        return
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 -- whatever it is, its digest is checked
            content = answer.read()
    except OSError as error:  # URLError among them
        raise DataError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}. {_advice()}") from None
    got = hashlib.sha256(content).hexdigest()
    if got != digest:
        raise DataError(f"{url}: the file has SHA-256 {got}, expected {digest}; it was not kept. {_advice()}")
    with atomic(path, needed=len(content), kind=DataError) as part:
        part.write_bytes(content)


def read_zips(paths: list[Path]) -> dict[str, NDArray[Any]]:
    """The publisher's zip files (background first) as the arrays of `omniglot28.npz`.

    Inside, `…/<alphabet>/character<NN>/<any>_<drawer>.png`, black ink on white, 105 x 105 pixels.
    """
    from PIL import Image  # deferred: only a download needs it

    rows: list[tuple[str, int, int, NDArray[np.uint8]]] = []
    background = set()
    for number, path in enumerate(paths):
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                match = re.search(r"([^/]+)/character(\d+)/\d+_(\d+)\.png$", name)
                if match is None or name.startswith("__MACOSX"):
                    continue
                with file.open(name) as stream, Image.open(stream) as image:
                    ink = 255 * (1 - np.asarray(image.convert("1"), dtype=np.float64))
                rows.append((match[1], int(match[2]), int(match[3]), np.rint(reduced(ink, SIDE)).astype(np.uint8)))
                if number == 0:
                    background.add(match[1])
    if not rows:
        raise DataError(f"{', '.join(map(str, paths))}: no images of characters in these files")
    rows.sort(key=lambda row: row[:3])
    names = sorted({row[0] for row in rows})
    return {
        "images": np.stack([row[3] for row in rows]),
        "alphabet": np.array([names.index(row[0]) for row in rows], dtype=np.uint8),
        "character": np.array([row[1] for row in rows], dtype=np.uint8),
        "drawer": np.array([row[2] for row in rows], dtype=np.uint8),
        "alphabet_names": np.array(names),
        "alphabet_is_background": np.array([name in background for name in names]),
    }


def reduced(images: NDArray[Any], side: int) -> NDArray[np.float64]:
    """Square images [..., H, H] at `side` x `side` pixels, each new pixel the mean over its area."""
    before = images.shape[-1]
    edges = np.arange(side + 1) * before / side
    pixel = np.arange(before)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = overlap.clip(0) * side / before  # [side, H], rows sum to 1
    return np.asarray(weights @ images @ weights.T)
