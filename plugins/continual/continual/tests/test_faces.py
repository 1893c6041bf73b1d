"""The learner as the documentation calls it, on split digits; what it is given; a refused task leaves no trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from crosstask import ModelSpec, Registry
from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, DataError, OptionError, PluginError
from crosstask.manifest import Extension, Plugin
from crosstask.testing import reference_registry
from crosstask_continual import ContinualLearner, TrainingDataWarning, split_by_classes
from crosstask_continual.testing import REFERENCE, digits, network

HERE = Plugin(
    "here",
    [
        Extension("continual", "ewc", "crosstask_continual.testing:ReferenceContinual", summary="For checks."),
        Extension("continual", "replay", "crosstask_continual.testing:ReferenceReplay", summary="For checks."),
    ],
    api=(2, 0),
)


def context() -> LocalContext:
    """Strategies by the names of the documentation, from this base alone."""
    return LocalContext(registry=reference_registry(REFERENCE, HERE))


def split(number: int, part: str = "train") -> tuple[Tensor, Tensor]:
    """Images of digits 2n and 2n + 1 with their own labels, as a user has them."""
    data = digits().data(part)
    chosen = data.targets // 2 == number
    return data.inputs[chosen], data.targets[chosen]


# --- The documentation's example


def test_the_example_of_the_documentation() -> None:
    model = ModelSpec(kind="mlp", hidden=(64,)).build(digits().descriptor, seed=0)
    learner = ContinualLearner(model=model, strategy="ewc", buffer_size=1000, context=context())
    for number in range(3):
        learner.train_task(split(number), task_id=number, num_epochs=10)
    accuracies = learner.evaluate_all_tasks({number: split(number, "test") for number in range(3)})
    assert list(accuracies) == ["0", "1", "2"]
    assert min(accuracies.values()) > 0.8
    assert [s.name for s in learner.strategies] == ["ewc", "replay"]
    assert [s.name for s in learner.added] == ["replay"]


@pytest.mark.parametrize("strategy", ["ewc", "mas", "si", "lwf", "replay", "der++", "gem", "agem", "progressive"])
def test_every_strategy_by_its_name(strategy: str) -> None:
    """Those that are installed, on two tasks; each with a memory."""
    if strategy not in Registry.installed().names("continual"):
        pytest.skip("not installed")
    learner = ContinualLearner(network(4), strategy, 50, learning_rate=1e-2, batch_size=32)
    for number in (0, 1):
        learner.train_task(split(number), number, 5, test_data=split(number, "test"))
    found = learner.evaluate_all_tasks()
    assert found == dict(zip(["0", "1"], learner.matrix[-1], strict=True))
    assert sum(found.values()) / 2 > 0.75
    keeping = {"replay", "der++", "gem", "agem"}
    assert [s.name for s in learner.added] == ([] if strategy in keeping else ["replay"])


# --- What a task may be given as


class Named(Dataset[dict[str, Any]]):
    """Samples are mappings."""

    def __init__(self, number: int) -> None:
        self.images, self.digits = split(number)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, place: int) -> dict[str, Any]:
        if place >= len(self):
            raise IndexError(place)
        return {"pixel_values": self.images[place], "labels": int(self.digits[place]), "id": float(place)}


class Short(Dataset[Any]):
    """Says that it has 200 samples, and has fewer."""

    def __init__(self, given: int) -> None:
        self.given = given

    def __len__(self) -> int:
        return 200

    def __getitem__(self, place: int) -> Any:
        if place >= self.given:
            raise IndexError(place)
        return torch.zeros(1, 8, 8), place % 2


class Stream(IterableDataset[Any]):
    """Says that it has so many samples, and gives so many."""

    def __init__(self, said: int, given: int) -> None:
        self.said, self.given = said, given

    def __len__(self) -> int:
        return self.said

    def __iter__(self) -> Iterator[Any]:
        images, labels = split(0)
        return iter(list(zip(images[: self.given], labels[: self.given], strict=True)))


FORMS: dict[str, Callable[[], dict[str, Any]]] = {
    "pair": lambda: {"task_data": split(0)},
    "arrays": lambda: {"task_data": tuple(map(np.asarray, split(0)))},
    "dataset": lambda: {"task_data": TensorDataset(*split(0))},
    "loader": lambda: {"task_data": DataLoader(TensorDataset(*split(0)), batch_size=50)},
    "named": lambda: {"task_data": Named(0), "inputs": "pixel_values", "target": "labels"},
    "named loader": lambda: {"task_data": DataLoader(Named(0), batch_size=50), "inputs": "pixel_values"},
    "stream": lambda: {"task_data": DataLoader(Stream(len(split(0)[1]), 10**6), batch_size=50)},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_in_any_form_teach_the_same(form: str) -> None:
    expected, found = (ContinualLearner(network(2), batch_size=32) for _ in range(2))
    expected.train_task(split(0), "first", 1)
    found.train_task(**FORMS[form](), task_id="first", num_epochs=1)
    for a, b in zip(expected.model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_labels_that_do_not_run_from_zero_are_names_of_classes() -> None:
    """In scenario `class` the digits find their own outputs, and a class that comes again its old one."""
    learner = ContinualLearner(network(2), grow=True, scenario="class", batch_size=32)
    for name, number in (("first", 1), ("second", 2), ("again", 1)):
        learner.train_task(split(number), name, 1)
    assert learner.model.classes == ["2", "3", "4", "5"]
    assert learner.model.columns == [[0, 1], [2, 3], [0, 1]]
    assert learner.model.data(learner._tasks[2]).targets.unique().tolist() == [0, 1]


# --- What is asked for


def test_test_data_in_every_form() -> None:
    learner = ContinualLearner(network(4), batch_size=32)
    tasks = split_by_classes(digits(), 5)[:2]
    for task in tasks:
        learner.train_task(task, num_epochs=2)
    expected = learner.evaluate_all_tasks()
    assert expected == learner.evaluate_all_tasks("test") == learner.evaluate_all_tasks(tasks)
    given = {task.task_id: DataLoader(TensorDataset(*_pair(task)), batch_size=32) for task in tasks}
    assert learner.evaluate_all_tasks(given) == expected
    one = tasks[1].task_id
    assert learner.evaluate_all_tasks({one: _pair(tasks[1])}) == {one: expected[one]}
    assert learner.evaluate_all_tasks("validation") == {}
    assert learner.evaluate_all_tasks("train") != expected
    with pytest.raises(DataError, match=r"task 'digits:0\+2' has not come yet; did you mean 'digits:0\+1'"):
        learner.evaluate_all_tasks({"digits:0+2": _pair(tasks[0])})
    with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
        learner.evaluate_all_tasks("tests")
    with pytest.raises(DataError, match=r"which task they belong to: \{task_id: data\}.* got tuple"):
        learner.evaluate_all_tasks(_pair(tasks[0]))
    with pytest.raises(DataError, match=r"task 'digits:0\+1', test data: .*shape \(1, 4, 4\)"):
        learner.evaluate_all_tasks({"digits:0+1": (torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 0]))})


def _pair(task: Any) -> tuple[Tensor, Tensor]:
    data = task.data("test")
    return data.inputs, data.targets


def test_without_test_data_it_says_what_it_has_asked_for() -> None:
    learner = ContinualLearner(network(4), batch_size=32)
    learner.train_task(split(0), "first", 2)
    with pytest.warns(TrainingDataWarning, match="first: no test data came with the task"):
        found = learner.evaluate_all_tasks()
    assert found == learner.evaluate_all_tasks({"first": split(0)})
    assert learner.matrix == [[None]]
    learner.train_task(split(1), "second", 2)
    with pytest.warns(TrainingDataWarning, match="^second: no test data came with the task"):
        learner.evaluate_all_tasks()  # what was said of the first is said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.evaluate_all_tasks()
        assert ContinualLearner(network(2)).evaluate_all_tasks() == {}


# --- What is refused


def ragged() -> DataLoader[Any]:
    images, labels = split(0)
    samples = [
        (image if k < 70 else image[:, :4], label) for k, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return DataLoader(samples, batch_size=10)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "empty loader": (lambda: {"task_data": DataLoader(TensorDataset(*(t[:0] for t in split(1))))}, "no samples"),
    "used up": (lambda: {"task_data": iter(())}, "no samples"),
    "ends early": (
        lambda: {"task_data": DataLoader(Short(90), batch_size=30)},
        "task '1', train data: they cannot be read: IndexError: 90",
    ),
    "dataset ends early": (lambda: {"task_data": Short(90)}, "says that it has 200 samples, and ended after 90"),
    "no such field": (
        lambda: {"task_data": Named(1), "inputs": "pixels", "target": "labels"},
        "samples have no field 'pixels'.*pixel_values",
    ),
    "no target": (
        lambda: {"task_data": Named(1), "inputs": "pixel_values", "target": "classes"},
        "samples have no field 'classes'.*labels",
    ),
    "ragged": (lambda: {"task_data": ragged()}, r"shape \(1, 4, 8\), the first had \(1, 8, 8\)"),
    "other shape": (
        lambda: {"task_data": (torch.zeros(8, 1, 4, 4), torch.arange(8) % 2)},
        r"has inputs \(1, 4, 4\), task '0' had \(1, 8, 8\)",
    ),
    "lengths": (lambda: {"task_data": (split(1)[0], split(1)[1][:5])}, "inputs but 5 targets"),
    "not finite": (lambda: {"task_data": (split(1)[0] * float("nan"), split(1)[1])}, "NaN or infinite"),
    "repeated": (lambda: {"task_data": split(1), "task_id": 0}, "task '0' was learned already"),
    "too many classes": (
        lambda: {"task_data": (split(1)[0], torch.arange(len(split(1)[1])) % 9)},
        "needs outputs up to 10, the head has 4",
    ),
    "test data": (
        lambda: {"task_data": split(1), "test_data": split(2, "test")},
        "task '1', test data: label '4' is no class of it; valid: 2, 3",
    ),
    "epochs": (lambda: {"task_data": split(1), "num_epochs": 0}, "num_epochs must be at least 1"),
    "no data": (lambda: {"task_data": 7}, "expected .*DataLoader.*got int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_task_leaves_no_trace(case: str) -> None:
    made, message = REFUSED[case]
    learner = ContinualLearner(network(4), ["ewc", "replay"], context=context(), batch_size=32)
    learner.train_task(split(0), num_epochs=1)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(CrosstaskError, match=message):
        learner.train_task(**made())
    assert _same(learner.state_dict(), before)
    learner.train_task(split(1), num_epochs=1)
    through = ContinualLearner(network(4), ["ewc", "replay"], context=context(), batch_size=32)
    for number in (0, 1):
        through.train_task(split(number), num_epochs=1)
    assert _same(learner.state_dict(), through.state_dict())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def test_a_model_that_cannot_take_the_first_task() -> None:
    learner = ContinualLearner(network(4))
    with pytest.raises(DataError, match=r"task '0': Network cannot answer inputs of shape \(5,\): .*shapes"):
        learner.train_task((torch.zeros(6, 5), torch.arange(6) % 2))
    assert learner.model.tasks == []
    spread = ContinualLearner(nn.Conv2d(1, 4, 3))
    with pytest.raises(DataError, match=r"with outputs of shape \(1, 4, 6, 6\); expected \(1, 4\), a number for each"):
        spread.train_task(split(0))


def test_an_unknown_strategy() -> None:
    with pytest.raises(PluginError, match="did you mean 'ewc'"):
        ContinualLearner(network(2), "ewcc", context=context())
    with pytest.raises(OptionError, match="learning_rate must be > 0"):
        ContinualLearner(network(2), learning_rate=-1.0)


def test_too_few_steps_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    learner = ContinualLearner(network(6), batch_size=128)
    learner.train_task(split(0), "first", 1)
    told = learner.warnings[0]
    assert told.startswith("task 'first' has 2 steps in an epoch and 2 in all (")
    assert "few steps" in "".join(capsys.readouterr())
    learner.train_task(split(1), "second", 1)
    learner.train_task(split(2), "third", 1)
    assert learner.warnings == [f"{told}; so for 'second', 'third'"]
    assert "few steps" not in "".join(capsys.readouterr())
    with pytest.raises(DataError, match="learned already"):
        learner.train_task(split(2), "third", 1)
    more = ContinualLearner(network(2), batch_size=128)
    more.train_task(split(0), "first", 3)
    assert more.warnings == []
