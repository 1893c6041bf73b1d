"""What a tracker implements: where figures, tables, pictures and files go."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from crosstask.errors import PluginError


@attrs.frozen
class Point:
    """Figures of one step. `series` is the stage of work that tells them, and `step` is counted within it; `figures`
    are by full names, `multitask/losses/digits`; `seconds` are since 1970.
    """

    series: str
    step: int
    seconds: float
    figures: Mapping[str, float]


@attrs.frozen
class TrackedRun:
    """The run that is followed. `folder` is where a recipe's run writes; None for an engine that is used from Python.
    `parameters` are what made it, by dotted names, without secrets.
    """

    run_id: str
    name: str
    folder: Path | None
    parameters: Mapping[str, Any]


class Sink(ABC):
    """One run in a tracker. Every method is called by the one thread that made the sink, and never by the training.

    Whatever a method raises is tried again, so each must be able to be called twice. A method that a tracker has no
    place for may do nothing.
    """

    @abstractmethod
    def points(self, points: Sequence[Point]) -> None:
        """Figures of steps, in the order in which they came about."""

    @abstractmethod
    def figures(self, values: Mapping[str, float]) -> None:
        """Figures without a step: what came of a stage, or of the run."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table as it is now, instead of what it was; cells are text, numbers or None."""

    @abstractmethod
    def image(self, name: str, path: Path) -> None:
        """A picture, a PNG file that is there until the sink is closed."""

    @abstractmethod
    def file(self, name: str, path: Path) -> None:
        """A file to keep under this name, which may have folders: `results/multitask.json`."""

    @abstractmethod
    def end(self, status: str, error: str | None) -> None:
        """How the run ended, "finished", "failed" or "interrupted", with what; the last that is called."""


def library(name: str, package: str, add_on: str) -> Any:
    """A module, imported as it is used. PluginError, with the command that installs `package`, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise PluginError(f"{add_on} needs {package}: pip install {package}") from None
