"""The `digits` portfolio: real images, tasks that differ in what they ask and in how the images are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_sources.difficulty import nearest_mean_difficulty
from crosstask_sources.names import check_names
from crosstask_sources.randomness import rng_for

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

TEN = tuple("0123456789")


@attrs.frozen
class Recipe:
    """One task: which digits, which label each gets, how the images are changed, and what its descriptor
    says.
    """

    label_of: dict[int, int]
    classes: tuple[str, ...]
    skills: tuple[str, ...]
    knowledge: tuple[str, ...]
    needs: tuple[str, ...] = ()
    view: str = ""
    shuffled: bool = False


def _kept(digits: Sequence[int], skills: tuple[str, ...], **more: Any) -> Recipe:
    """A task that tells some of the digits apart."""
    classes = tuple(TEN[d] for d in digits)
    labels = {d: i for i, d in enumerate(digits)}
    return Recipe(labels, classes, (*skills, "digit_shapes"), ("digits",), **more)


def _grouped(
    ones: Sequence[int],
    classes: tuple[str, str],
    knowledge: tuple[str, ...],
    needs: tuple[str, ...] = (),
    skill: str = "digit_shapes",
) -> Recipe:
    """A task with two classes: the other digits, and those in `ones`."""
    return Recipe({d: int(d in ones) for d in range(10)}, classes, ("strokes", skill), knowledge, needs)


_SEEING = ("strokes",)
_SAME = {d: d for d in range(10)}
RECIPES: dict[str, Recipe] = {
    "digits": _kept(range(10), _SEEING),
    "low": _kept(range(5), _SEEING),
    "high": _kept(range(5, 10), _SEEING),
    "parity": _grouped((1, 3, 5, 7, 9), ("even", "odd"), ("digits", "arithmetic")),
    "above_four": _grouped((5, 6, 7, 8, 9), ("at most four", "above four"), ("digits", "order")),
    "prime": _grouped((2, 3, 5, 7), ("not prime", "prime"), ("digits", "arithmetic"), needs=("parity",)),
    "loop": _grouped((0, 6, 8, 9), ("no loop", "loop"), ("digits",), skill="topology"),
    "rotated": _kept(range(10), ("strokes", "rotation"), view="rotated", needs=("digits",)),
    "inverted": _kept(range(10), ("strokes", "contrast"), view="inverted", needs=("digits",)),
    "blurred": _kept(range(10), ("strokes", "deblurring"), view="blurred", needs=("digits",)),
    "permuted": Recipe(_SAME, TEN, ("pixel_statistics",), ("digits",), view="permuted"),
    # The labels of `shuffled` are no digits: a descriptor that called them '0' to '9' would be false.
    "shuffled": Recipe(_SAME, tuple(f"random {d}" for d in TEN), ("memorisation",), (), shuffled=True),
    "mix": _kept((1, 3, 6, 8), _SEEING),
}
UNSEEN = ("mix",)


@component
class Digits(Source):
    """Tasks on scikit-learn's 1797 images of handwritten digits, 8x8 pixels scaled to [0, 1], shape (1, 8,
    8).

    The images are split once, stratified by digit, and every task uses that split: an image that one task
    trains on is in no task's validation or test data. Within a split the order is random and nearly
    stratified, so that the first k samples hold every digit about equally often.

    `shuffled` is the negative control: its labels are drawn anew for every image of all three splits, so that
    nothing about them can be learned and its test accuracy stays at chance whatever is transferred. `mix` (1,
    3, 6 and 8) is held back as unseen. `permuted` moves all pixels by one fixed permutation. A task's
    complexity is the error of a nearest-class-mean classifier on the validation data, as a share of the error
    of guessing.

    With a subset, prerequisites that are not in it are left out of the descriptors. OptionError for an
    unknown task or sizes that do not fit.
    """

    seed: int = option(0, ge=0, help="seed of the split, the permutation, the shuffled labels and the noise")
    train: int = option(897, ge=20, help="images to train on")
    validation: int = option(400, ge=20, help="images for validation")
    test: int = option(500, ge=20, help="images for the test")
    tasks: tuple[str, ...] | None = option(None, help="names of the tasks wanted (default: all)")
    noise: float = option(0.0, ge=0, help="standard deviation of the noise added to every pixel")

    def load(self) -> Portfolio:
        wanted = tuple(RECIPES) if self.tasks is None else self.tasks
        check_names("digits", "task", wanted, RECIPES)
        images, digits = self._images()
        splits = dict(zip(("train", "validation", "test"), self._split(digits), strict=True))
        views = {name: change(images) for name, change in self._views().items()}
        portfolio = Portfolio(name="digits")
        for name in RECIPES:  # in this order, however they were asked for
            if name in wanted:
                task = self._task(name, wanted, views[RECIPES[name].view], digits, splits)
                portfolio.add(task, unseen=name in UNSEEN)
        if len(portfolio) == 0:
            raise OptionError(f"source 'digits': tasks {list(wanted)} leave nothing to learn; add another")
        return portfolio

    def _images(self) -> tuple[Images, Labels]:
        raw = load_digits()
        images = raw.images.astype(np.float32) / 16
        if self.noise:
            images = images + rng_for(self.seed, "noise").normal(0, self.noise, images.shape).astype(np.float32)
        return images.clip(0, 1)[:, None], raw.target.astype(np.int64)

    def _split(self, digits: Labels) -> list[NDArray[np.int64]]:
        """Indices of the three splits. Each image gets a random place among those of its digit, as a
        fraction; sorted by it, every stretch of the images holds the digits in the same proportions.
        """
        sizes = (self.train, self.validation, self.test)
        if sum(sizes) > len(digits):
            given = f"train + validation + test is {sum(sizes)}"
            raise OptionError(f"source 'digits': {given}, there are {len(digits)} images")
        rng = rng_for(self.seed, "split")
        place = np.empty(len(digits))
        for digit in range(10):
            (own,) = np.nonzero(digits == digit)
            place[own] = (rng.permutation(len(own)) + rng.random(len(own))) / len(own)
        order = np.argsort(place)
        return np.split(order, np.cumsum(sizes))[:3]

    def _views(self) -> dict[str, Callable[[Images], Images]]:
        pixels = rng_for(self.seed, "permuted").permutation(64)
        return {
            "": lambda images: images,
            "rotated": lambda images: np.rot90(images, axes=(2, 3)).copy(),
            "inverted": lambda images: 1 - images,
            "blurred": lambda images: gaussian_filter(images, sigma=(0, 0, 1, 1), mode="constant"),
            "permuted": lambda images: images.reshape(len(images), -1)[:, pixels].reshape(images.shape),
        }

    def _task(
        self, name: str, wanted: Sequence[str], images: Images, digits: Labels, splits: dict[str, Labels]
    ) -> Task:
        recipe = RECIPES[name]
        data: dict[str, Any] = {}
        for split, index in splits.items():
            chosen = index[np.isin(digits[index], list(recipe.label_of))]
            labels = np.array([recipe.label_of[d] for d in digits[chosen]], dtype=np.int64)
            if recipe.shuffled:
                labels = rng_for(self.seed, name, split).permutation(labels)
            data[split] = (images[chosen], labels)
        descriptor = TaskDescriptor(
            task_id=name,
            domain=f"digits/{recipe.view}" if recipe.view else "digits",
            input_shape=(1, 8, 8),
            output_dim=len(recipe.classes),
            sample_count=len(data["train"][1]),
            complexity=nearest_mean_difficulty(data["train"], data["validation"], len(recipe.classes)),
            required_skills=recipe.skills,
            domain_knowledge=recipe.knowledge,
            prerequisites=tuple(p for p in recipe.needs if p in wanted),
            classes=recipe.classes,
        )
        return Task(descriptor=descriptor, **data)
