"""The `omniglot` source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_omniglot.arrays import SIDE, Arrays, load_arrays, reduced
from crosstask_sources.difficulty import nearest_mean_difficulty
from crosstask_sources.names import check_names
from crosstask_sources.randomness import rng_for

DRAWERS = 20


@component
class Omniglot(Source):
    """Omniglot's alphabets (Lake et al. 2015): each is a task, to tell its characters apart. Images have shape
    (1, size, size), in [0, 1], ink is high.

    Twenty people drew every character of an alphabet. The people are divided, at random for each alphabet, between
    training, validation and test: no drawer is in two splits. Within a split, drawer follows drawer with all
    characters in random order, so that the first k * C samples hold every one of the C classes k times.

    A control is an alphabet's images with labels drawn at random in all three splits: nothing about them can be
    learned, and its test accuracy stays at chance whatever is transferred. A task's complexity is the error of a
    nearest-class-mean classifier on the validation data, as a share of the error of guessing.

    OptionError for an unknown alphabet (it names the nearest) or numbers that do not fit; DataError if the images are
    neither found nor downloaded.
    """

    alphabets: tuple[str, ...] | None = option(None, help="names of the alphabets wanted (default: all of `part`)")
    part: str = option(
        "background", choices=("background", "evaluation", "all"), help="the publisher's sets: 30 and 20 alphabets"
    )
    unseen: tuple[str, ...] = option((), help="alphabets held back as unseen, besides those wanted")
    size: int = option(SIDE, ge=4, le=SIDE, help="pixels of a side; smaller images are means over areas")
    max_classes: int | None = option(None, ge=2, help="so many characters of an alphabet, chosen at random (all)")
    shots: int | None = option(None, ge=1, help="training images of each character (as many as there are drawers)")
    validation_drawers: int = option(4, ge=1, help="drawers for validation")
    test_drawers: int = option(6, ge=1, help="drawers for the test; the others are for training")
    controls: int = option(0, ge=0, help="negative controls: so many of the alphabets again, with shuffled labels")
    seed: int = option(0, ge=0, help="seed of the split, of the characters chosen and of the shuffled labels")
    path: str | None = option(None, help="omniglot28.npz or its folder (default: found, or downloaded)")
    download: bool = option(True, help="whether what is not found may be downloaded")

    def load(self) -> Portfolio:
        training = DRAWERS - self.validation_drawers - self.test_drawers
        if training < (self.shots or 1):
            asked = f"{self.validation_drawers} for validation and {self.test_drawers} for the test"
            raise OptionError(f"source 'omniglot': of {DRAWERS} drawers, {asked} leave {training} for training")
        arrays = load_arrays(self.path, download=self.download)
        wanted = self._wanted(arrays)
        if self.controls > len(wanted):
            raise OptionError(f"source 'omniglot': {self.controls} controls of {len(wanted)} alphabets")
        portfolio = Portfolio(name="omniglot")
        for name in wanted:
            portfolio.add(self._task(arrays, name))
        for name in wanted[: self.controls]:
            portfolio.add(self._task(arrays, name, shuffled=True))
        for name in self.unseen:
            portfolio.add(self._task(arrays, name), unseen=True)
        return portfolio

    def _wanted(self, arrays: Arrays) -> list[str]:
        for asked in (self.alphabets or (), self.unseen):
            check_names("omniglot", "alphabet", asked, arrays.names)
        parts = zip(arrays.names, arrays.background, strict=True)
        in_part = [n for n, background in parts if self.part == "all" or background == (self.part == "background")]
        wanted = [n for n in (in_part if self.alphabets is None else self.alphabets) if n not in self.unseen]
        if not wanted:
            raise OptionError("source 'omniglot': no alphabet is left to learn; name one in `alphabets`")
        return wanted

    def _task(self, arrays: Arrays, name: str, *, shuffled: bool = False) -> Task:
        (own,) = np.nonzero(arrays.alphabet == arrays.names.index(name))
        characters = np.unique(arrays.character[own])
        if self.max_classes is not None:
            chosen = rng_for(self.seed, "characters", name).permutation(characters)[: self.max_classes]
            characters = np.sort(chosen)
            own = own[np.isin(arrays.character[own], characters)]
        data: dict[str, Any] = {
            split: self._split(arrays, own, characters, drawers, name, split, shuffled)
            for split, drawers in self._drawers(arrays.drawer[own], name).items()
        }
        task_id = f"{name} shuffled" if shuffled else name
        descriptor = TaskDescriptor(
            task_id=task_id,
            domain="omniglot",
            input_shape=(1, self.size, self.size),
            output_dim=len(characters),
            sample_count=len(data["train"][1]),
            complexity=nearest_mean_difficulty(data["train"], data["validation"], len(characters)),
            required_skills=("memorisation",) if shuffled else ("strokes", "character_shapes"),
            domain_knowledge=() if shuffled else (name,),
            classes=tuple(f"{task_id} {character}" for character in characters),
        )
        return Task(descriptor=descriptor, **data)

    def _drawers(self, drawer: NDArray[np.int64], name: str) -> dict[str, NDArray[np.int64]]:
        """The drawers of each split, in random order; the same for an alphabet and its control."""
        order = rng_for(self.seed, "drawers", name).permutation(np.unique(drawer))
        held = self.validation_drawers + self.test_drawers
        training = order[held:] if self.shots is None else order[held : held + self.shots]
        return {"train": training, "validation": order[: self.validation_drawers],
                "test": order[self.validation_drawers : held]}  # fmt: skip

    def _split(
        self,
        arrays: Arrays,
        own: NDArray[np.int64],
        characters: NDArray[np.int64],
        drawers: NDArray[np.int64],
        name: str,
        split: str,
        shuffled: bool,
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """(images, labels) of one split, drawer after drawer."""
        rng = rng_for(self.seed, "order", name, split)
        index = np.concatenate([rng.permutation(own[arrays.drawer[own] == drawer]) for drawer in drawers])
        images = arrays.images[index] / 255
        if self.size < SIDE:
            images = reduced(images, self.size)
        labels = np.searchsorted(characters, arrays.character[index])
        if shuffled:
            labels = rng_for(self.seed, "labels", name, split).permutation(labels)
        return images.astype(np.float32)[:, None], labels
