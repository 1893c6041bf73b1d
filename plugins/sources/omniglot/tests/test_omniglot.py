"""The tasks are what the README says, seen from the raw arrays. The excerpt: 8 characters each of 3 real alphabets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.errors import OptionError
from crosstask.learning.modules import seeded
from crosstask.learning.training import fit
from crosstask.learning.transferring import measure_transfer
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import SPLITS, Portfolio, Task
from crosstask_omniglot import Omniglot, load_arrays
from crosstask_omniglot.plugin import PLUGIN
from crosstask_sources.testing import by_chance, fingerprints

EXCERPT = str(Path(__file__).parent / "data")
ARRAYS = load_arrays(EXCERPT)
WHERE = {image.tobytes(): place for place, image in enumerate(ARRAYS.images)}
SHARED = next((p for p in (Path("../shared/data"),) if (p / "omniglot28.npz").is_file()), None)


def excerpt(**options: object) -> Portfolio:
    return Omniglot(**{"path": EXCERPT, "part": "all", **options}).load()


def places(task: Task, split: str) -> list[int]:
    """Where each image of a split is in the raw arrays, found by its pixels."""
    raw = (task.data(split).inputs[:, 0] * 255).round().to(torch.uint8)
    return [WHERE[image.numpy().tobytes()] for image in raw]


def test_a_task_for_each_alphabet() -> None:
    portfolio = excerpt(unseen=["Greek"], controls=1)
    assert portfolio.ids == ["Angelic", "Futurama", "Angelic shuffled"]
    assert [task.task_id for task in portfolio.unseen] == ["Greek"]
    assert len(WHERE) == 480, "no two drawings are the same, so that pixels identify them"
    for task in [*portfolio, *portfolio.unseen]:
        assert task.descriptor.input_shape == (1, 28, 28)
        assert task.descriptor.output_dim == 8
        assert [len(task.data(split)) for split in SPLITS] == [80, 32, 48]


def test_labels_say_which_character_was_drawn() -> None:
    for task in excerpt():
        for split in SPLITS:
            index = places(task, split)
            assert {ARRAYS.names[ARRAYS.alphabet[i]] for i in index} == {task.task_id}
            named = [task.descriptor.classes[label] for label in task.data(split).targets]
            assert named == [f"{task.task_id} {ARRAYS.character[i]}" for i in index]


def test_no_drawer_is_in_two_splits_of_an_alphabet_nor_of_its_control() -> None:
    portfolio = excerpt(controls=3)
    for name in ARRAYS.names:
        both = [portfolio[name], portfolio[f"{name} shuffled"]]
        drawers = [{int(ARRAYS.drawer[i]) for task in both for i in places(task, split)} for split in SPLITS]
        assert [len(own) for own in drawers] == [10, 4, 6]
        assert len(set.union(*drawers)) == 20


def test_the_first_samples_hold_every_class_equally_often() -> None:
    for task in excerpt():
        for shots in (1, 3):
            assert task.data("train").head(8 * shots).targets.bincount().tolist() == [shots] * 8


def test_controls_have_labels_that_have_nothing_to_do_with_the_images() -> None:
    portfolio = excerpt(controls=3)
    agreed = total = 0
    for name in ARRAYS.names:
        for split in SPLITS:
            own = portfolio[name]
            true = dict(zip(places(own, split), own.data(split).targets.tolist(), strict=True))
            control = portfolio[f"{name} shuffled"]
            labels = control.data(split).targets.tolist()
            assert sorted(labels) == sorted(true.values())
            agreed += sum(true[p] == label for p, label in zip(places(control, split), labels, strict=True))
            total += len(labels)
    assert by_chance(agreed, total, 8)
    assert all(portfolio[f"{name} shuffled"].descriptor.complexity > 0.85 for name in ARRAYS.names)
    assert all(portfolio[name].descriptor.complexity < 0.75 for name in ARRAYS.names)


def test_shots_and_classes_are_limited() -> None:
    task = excerpt(alphabets=["Greek"], max_classes=3, shots=2)["Greek"]
    assert [len(task.data(split)) for split in SPLITS] == [6, 12, 18]
    assert task.data("train").targets.bincount().tolist() == [2, 2, 2]
    assert len(task.descriptor.classes) == 3
    more = excerpt(alphabets=["Greek"], max_classes=3)["Greek"]
    assert (more.data("test").inputs == task.data("test").inputs).all(), "fewer shots leave the test as it is"
    assert set(places(task, "train")) < set(places(more, "train"))


@pytest.mark.parametrize("size", [14, 9])
def test_smaller_images_are_means_over_areas(size: int) -> None:
    big, small = (excerpt(size=s)["Greek"].data("test").inputs[:, 0] for s in (28, size))
    fine = big.repeat_interleave(size, 1).repeat_interleave(size, 2)  # every pixel as size x size equal ones
    means = fine.reshape(len(big), size, 28, size, 28).mean(dim=(2, 4))
    assert torch.allclose(small, means, atol=1e-6)


def test_same_options_same_portfolio_other_seed_another() -> None:
    once = fingerprints(excerpt(controls=1))
    assert fingerprints(excerpt(controls=1)) == once
    assert not set(once) & set(fingerprints(excerpt(controls=1, seed=1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabets": ["Greec"]}, "unknown alphabet 'Greec'; did you mean 'Greek'"),
        ({"unseen": ["Futurma"]}, "unknown alphabet 'Futurma'; did you mean 'Futurama'"),
        ({"alphabets": ["Greek", "Greek"]}, "named twice"),
        ({"alphabets": ["Greek"], "unseen": ["Greek"]}, "no alphabet is left to learn"),
        ({"controls": 4}, "4 controls of 3 alphabets"),
        ({"shots": 11}, "4 for validation and 6 for the test leave 10 for training"),
        ({"validation_drawers": 15}, "leave -1 for training"),
        ({"part": "foreground"}, "part cannot be 'foreground'"),
        ({"size": 29}, "size must be >= 4 and <= 28"),
        ({"max_classes": 1}, "max_classes must be >= 2"),
    ],
)
def test_bad_options_say_what_is_right(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        excerpt(**options)


def test_it_is_found_by_name() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    made = registry.create("source", "omniglot", {"path": EXCERPT, "part": "evaluation"})
    assert made.load().ids == ["Angelic"], "of the excerpt, Greek and Futurama are background"


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="needs all of Omniglot in ../shared/data")
def test_all_of_omniglot() -> None:
    arrays = load_arrays(SHARED)
    raw = np.load(SHARED / "omniglot28.npz", allow_pickle=False)
    assert (arrays.vinyals == raw["vinyals_split"]).all()
    portfolio = Omniglot(path=str(SHARED), part="all", controls=1).load()
    assert len(portfolio) == 51
    assert sum(task.descriptor.output_dim for task in portfolio if "shuffled" not in task.task_id) == 1623
    assert len(Omniglot(path=str(SHARED)).load()) == 30


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="needs all of Omniglot in ../shared/data")
def test_alphabets_help_one_another_and_not_the_control() -> None:
    portfolio = Omniglot(path=str(SHARED), alphabets=("Latin", "Greek"), size=20, controls=1).load()
    source, budget = portfolio["Latin"], Budget(steps=60, samples=24 * 3, learning_rate=1e-3)
    with seeded(0):
        layers = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
        source.model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 26))
    fit(source.model, source, Budget(steps=500, learning_rate=2e-3), torch.Generator().manual_seed(0), curve_split=None)
    method = LocalContext().component("transfer", "lp_ft")
    assert isinstance(method, Transfer)
    helped = measure_transfer(method, source, portfolio["Greek"], budget, 5, "test")
    control = measure_transfer(method, source, portfolio["Latin shuffled"], budget, 5, "test")
    assert helped.performance_gain.low > 0
    assert control.score.mean < 0.1, "twenty-six classes: nothing is learned of random labels"
