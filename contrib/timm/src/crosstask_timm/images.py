"""Folders of images, one for each class, as tasks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


@component
class ImageFolders(Source):
    """A folder with a folder of images for each class is a task, of that name; so is each such folder inside `folder`.

    `train`, `validation` (or `val`) and `test` inside it, each with the classes, are its splits; without them every
    image is in one by its path, `held_out` of them in each of validation and test. Images are read as colours, their
    shorter side is resized to `size`, the middle is taken: each model then applies its own transform.
    """

    folder: Path = option(help="the folder of the classes' folders, or of such folders")
    size: int = option(256, ge=1, help="pixels of a side of the squares that are kept")
    held_out: float = option(0.2, ge=0.01, le=0.45, help="share of the images in each of validation and test")

    def load(self) -> Portfolio:
        if not self.folder.is_dir():
            raise DataError(f"{self.origin}: {self.folder} is no folder")
        places = [self.folder] if _is_task(self.folder) else [each for each in _folders(self.folder) if _is_task(each)]
        if not places:
            raise DataError(f"{self.origin}: {self.folder} holds no folder of images for each of two classes or more")
        return Portfolio([self._task(place) for place in places], name=self.folder.name)

    def _task(self, place: Path) -> Task:
        files = {split: own for split, own in self._files(place).items() if own}
        if "train" not in files:
            raise DataError(f"{self.origin}: {place} has no images to train on")
        classes = sorted({name for own in files.values() for name, _ in own})
        splits: dict[str, Any] = {split: self._read(own, classes) for split, own in files.items()}
        descriptor = TaskDescriptor(
            task_id=place.name,
            domain="images",
            input_shape=(3, self.size, self.size),
            output_dim=len(classes),
            sample_count=len(files["train"]),
            classes=tuple(classes),
        )
        return Task(descriptor=descriptor, **splits)

    def _files(self, place: Path) -> dict[str, list[tuple[str, Path]]]:
        """Class and file of each image, by split, in the order of the paths."""
        found: dict[str, list[tuple[str, Path]]] = {"train": [], "validation": [], "test": []}
        own = [each for each in _folders(place) if each.name in SPLITS and _classes(each)]
        if own:
            for split in own:
                found[SPLITS[split.name]] += [(kind.name, file) for kind in _classes(split) for file in _images(kind)]
            return found
        for kind in _classes(place):
            files = _images(kind)  # those of the lowest digests are held out, of every class its share
            order = sorted(files, key=lambda file: hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest())
            count = round(self.held_out * len(files))
            split_of = dict.fromkeys(order[:count], "test") | dict.fromkeys(order[count : 2 * count], "validation")
            for file in files:
                found[split_of.get(file, "train")].append((kind.name, file))
        return found

    def _read(self, files: list[tuple[str, Path]], classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(images [N, 3, size, size] as bytes, numbers of classes [N])."""
        pixels = np.empty((len(files), 3, self.size, self.size), np.uint8)
        for n, (_, file) in enumerate(files):
            pixels[n] = np.asarray(self._square(file)).transpose(2, 0, 1)
        return pixels, np.array([classes.index(name) for name, _ in files])

    def _square(self, file: Path) -> Image.Image:
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{self.origin}: {file} cannot be read as an image: {error}") from None
        wide, high = image.size
        side = min(wide, high)
        left, top = (wide - side) // 2, (high - side) // 2
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _folders(place: Path) -> list[Path]:
    return sorted(each for each in place.iterdir() if each.is_dir())


def _images(place: Path) -> list[Path]:
    return sorted(each for each in place.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())


def _classes(place: Path) -> list[Path]:
    """The folders of a folder in which images lie."""
    return [each for each in _folders(place) if any(file.suffix.lower() in SUFFIXES for file in each.iterdir())]


def _is_task(place: Path) -> bool:
    if len(_classes(place)) > 1:
        return True
    return any(each.name in SPLITS and len(_classes(each)) > 1 for each in _folders(place))
