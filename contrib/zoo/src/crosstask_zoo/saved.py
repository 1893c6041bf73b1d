"""Saved models: what is known of one before it is loaded, and the contract of those who can load them."""

from __future__ import annotations

import importlib
import json
import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import attrs
from safetensors import SafetensorError, safe_open

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, PluginError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_zoo.cache import FeatureCache
from crosstask_zoo.trunk import ZooModel

UNLABELLED = "representation"
"""The type of the task of a model that has lost its own head, or never had one."""


@attrs.frozen
class Saved:
    """A saved model by name and architecture, before it is loaded."""

    name: str
    library: str
    """Who saved it: `transformers`, `timm`; `given` for a module."""
    architecture: str
    place: Path | None = None
    """The folder that holds it."""
    parameters: int | None = None
    """Numbers in its weights' files."""


@component
class SavedModels(Source):
    """Models that one library has saved, each in a folder of its own inside `folder`, as tasks without data.

    Another library is another class: `library`, `recognise`, `open`, decorated with `@component` and offered as a
    `source`; a zoo then finds it.
    """

    library: ClassVar[str]

    folder: Path = option(help="the folder in which each saved model has its own")

    @classmethod
    @abstractmethod
    def recognise(cls, place: Path) -> Saved | None:
        """What is known of the model in this folder, without loading it; None for what this library has not saved."""

    @classmethod
    @abstractmethod
    def open(cls, saved: Saved) -> ZooModel:
        """Load it. DataError says why it cannot be."""

    def load(self) -> Portfolio:
        cache = FeatureCache(getattr(self.context, "store", None))
        found = [each for place in inside(self.folder) if (each := self.recognise(place)) is not None]
        if not found:
            raise DataError(f"{self.origin}: no folder in {self.folder} holds a model that {self.library} has saved")
        return Portfolio([task_of(each, opened(type(self), each, cache)) for each in found], name=self.folder.name)


def opened(reader: type[SavedModels], saved: Saved, cache: FeatureCache | None) -> ZooModel:
    """A saved model, loaded, in evaluation mode, its features kept in the cache."""
    model = reader.open(saved).eval()
    model.trunk.remember_in(cache)
    return model


def task_of(saved: Saved, model: ZooModel) -> Task:
    """The model as a task that one may learn from, without data."""
    descriptor = TaskDescriptor(
        task_id=saved.name,
        task_type="classification" if model.labelled else UNLABELLED,
        domain=saved.library,
        output_dim=model.head.out_features,
    )
    return Task(descriptor=descriptor, model=model, head="head")


def inside(folder: Path) -> list[Path]:
    """The folders in a folder, and itself if it holds a model, by name. DataError if there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name the one in which each saved model has its own")
    if (folder / "config.json").is_file():
        return [folder]
    return sorted(each for each in folder.iterdir() if each.is_dir())


def config_of(place: Path) -> dict[str, Any]:
    """What `config.json` of a folder says; nothing where there is none, or it is no mapping."""
    return told_in(place / "config.json")


def told_in(file: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping; nothing else."""
    try:
        told = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def weights_in(place: Path) -> list[Path]:
    """The files of weights that may be read: nothing from outside is unpickled. DataError where there are none."""
    found = sorted(place.glob("*.safetensors"))
    if not found:
        others = [each.name for each in sorted(place.glob("*.bin")) + sorted(place.glob("*.p*t*h"))]
        why = f"only {others[0]}, which would have to be unpickled: save it as safetensors" if others else "no weights"
        raise DataError(f"{place} holds {why}")
    return found


def parameters_in(place: Path) -> int:
    """How many numbers the weights of a folder have, by the heads of their files."""
    count = 0
    for file in weights_in(place):
        try:
            with safe_open(str(file), framework="pt") as held:
                count += sum(math.prod(held.get_slice(name).get_shape()) for name in held.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(f"the weights in {file} cannot be read: {error}") from None
    return count


def library(name: str, add_on: str) -> Any:
    """A library, imported on use. PluginError, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise PluginError(f"{add_on} needs {name} for this: pip install {name}") from None
