"""The portfolio is what its README says, seen from the raw images."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from crosstask.descriptors import TensorData
from crosstask.errors import OptionError
from crosstask.registry import Registry
from crosstask.tasks import SPLITS, Portfolio
from crosstask_digits import Digits
from crosstask_digits.plugin import PLUGIN
from crosstask_sources.testing import by_chance, fingerprints

RAW = load_digits()
SCALED = (RAW.images / 16).astype(np.float32)
TRUTH = {image.tobytes(): digit for image, digit in zip(SCALED, RAW.target, strict=True)}


@pytest.fixture(scope="module")
def portfolio() -> Portfolio:
    return Digits().load()


def digits_of(data: TensorData) -> list[int]:
    """The true digit of every image, looked up in the raw data by its pixels."""
    return [TRUTH[image.numpy().tobytes()] for image in data.inputs]


def names_of(portfolio: Portfolio, task: str, split: str) -> list[str]:
    classes = portfolio[task].descriptor.classes
    return [classes[label] for label in portfolio[task].data(split).targets]


def test_thirteen_tasks_one_of_them_unseen(portfolio: Portfolio) -> None:
    assert len(portfolio) == 12
    assert [task.task_id for task in portfolio.unseen] == ["mix"]
    portfolio.check()
    for task in [*portfolio, *portfolio.unseen]:
        assert task.descriptor.input_shape == (1, 8, 8)
        assert task.descriptor.sample_count == len(task.data("train"))
        assert task.data("train").inputs.min() >= 0
        assert task.data("train").inputs.max() <= 1


def test_splits_have_their_sizes_and_every_class(portfolio: Portfolio) -> None:
    assert [len(portfolio["digits"].data(split)) for split in SPLITS] == [897, 400, 500]
    for split, size in zip(SPLITS, (897, 400, 500), strict=True):
        counts = np.bincount(portfolio["digits"].data(split).targets)
        assert counts.min() >= size / 10 - 3
    first = np.bincount(portfolio["digits"].data("train").targets[:50], minlength=10)
    assert first.min() >= 4, "the first samples hold every digit"


def test_no_image_is_in_two_splits_of_any_tasks(portfolio: Portfolio) -> None:
    plain = [t for t in [*portfolio, *portfolio.unseen] if t.descriptor.domain == "digits"]
    seen = {split: {i.numpy().tobytes() for t in plain for i in t.data(split).inputs} for split in SPLITS}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 1797
    assert len(TRUTH) == 1797, "no two images are the same"


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_right(portfolio: Portfolio, split: str) -> None:
    for name in ("digits", "low", "high", "mix"):
        assert names_of(portfolio, name, split) == [str(d) for d in digits_of(portfolio[name].data(split))]
    rules = {
        "parity": lambda d: "odd" if d % 2 else "even",
        "above_four": lambda d: "above four" if d > 4 else "at most four",
        "prime": lambda d: "prime" if d in {2, 3, 5, 7} else "not prime",
        "loop": lambda d: "loop" if d in {0, 6, 8, 9} else "no loop",
    }
    for name, rule in rules.items():
        assert names_of(portfolio, name, split) == [rule(d) for d in digits_of(portfolio[name].data(split))]


@pytest.mark.parametrize("split", SPLITS)
def test_views_show_the_same_images_changed(portfolio: Portfolio, split: str) -> None:
    plain = portfolio["digits"].data(split)
    for name in ("rotated", "inverted", "blurred", "permuted"):
        assert (portfolio[name].data(split).targets == plain.targets).all()
    assert (portfolio["rotated"].data(split).inputs == plain.inputs.rot90(1, (2, 3))).all()
    assert (portfolio["inverted"].data(split).inputs == 1 - plain.inputs).all()
    blurred = portfolio["blurred"].data(split).inputs
    centre, around = plain.inputs[..., 1:-1, 1:-1], blurred[..., 1:-1, 1:-1]
    assert around.std() < 0.8 * centre.std(), "a blur takes contrast away"
    permuted = portfolio["permuted"].data(split).inputs.flatten(1)
    where = [(permuted == column[:, None]).all(dim=0).nonzero()[0, 0] for column in plain.inputs.flatten(1).T]
    assert sum(int(new) != old for old, new in enumerate(where)) > 40
    assert (permuted.sort(dim=1).values == plain.inputs.flatten(1).sort(dim=1).values).all()


def test_shuffled_labels_are_independent_of_the_images_in_every_split(portfolio: Portfolio) -> None:
    for split in SPLITS:
        labels, truth = portfolio["shuffled"].data(split).targets, portfolio["digits"].data(split).targets
        assert by_chance(int((labels == truth).sum()), len(labels), 10)
    assert not set(portfolio["shuffled"].descriptor.classes) & set(portfolio["digits"].descriptor.classes)


def test_complexity_orders_the_tasks_sensibly(portfolio: Portfolio) -> None:
    complexity = {t.task_id: t.descriptor.complexity for t in portfolio}
    order = ["low", "digits", "blurred", "loop", "shuffled"]
    assert sorted(order, key=complexity.__getitem__) == order


def test_same_options_same_portfolio_other_seed_another() -> None:
    def prints(**options: object) -> list[str]:
        return fingerprints(Digits(tasks=("digits", "shuffled", "permuted"), **options).load())

    once = prints(seed=3, noise=0.1)
    assert prints(seed=3, noise=0.1) == once
    assert not set(prints(seed=4, noise=0.1)) & set(once)
    assert not set(prints(seed=3)) & set(once), "noise changes the images"


def test_a_subset_keeps_only_its_own_prerequisites() -> None:
    portfolio = Digits(tasks=("rotated", "prime", "parity", "mix")).load()
    assert portfolio.ids == ["parity", "prime", "rotated"]
    assert portfolio["prime"].descriptor.prerequisites == ("parity",)
    assert portfolio["rotated"].descriptor.prerequisites == ()
    portfolio.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("digits", "paritty")}, "unknown task 'paritty'; did you mean 'parity'"),
        ({"tasks": ("low", "low")}, "named twice"),
        ({"tasks": ("mix",)}, "leave nothing to learn"),
        ({"tasks": ()}, "leave nothing to learn"),
        ({"train": 1000}, "is 1900, there are 1797 images"),
        ({"noise": -1.0}, "noise must be >= 0"),
        ({"train": "many"}, "must be an integer"),
    ],
)
def test_bad_options_say_what_is_right(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Digits(**options).load()


def test_it_is_found_by_name() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    made = registry.create("source", "digits", {"tasks": ["low"], "train": 100})
    assert len(made.load()["low"].data("train")) == pytest.approx(50, abs=3)
