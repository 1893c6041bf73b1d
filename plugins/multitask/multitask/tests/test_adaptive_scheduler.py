"""AdaptiveTaskScheduler: each fault of the classic form, and probabilities by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import torch
from sklearn.datasets import load_digits
from torch import nn

from crosstask import DataError, OptionError, Registry, UnknownComponentError
from crosstask_multitask import AdaptiveTaskScheduler, scheduling

TASKS = ["a", "b", "c"]
METHODS = ["loss_based", "uniform", "performance_based", "round_robin"]


@pytest.fixture(autouse=True, scope="module")
def registry() -> Iterator[None]:
    """Entry points are read once."""
    found = Registry.installed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "installed", lambda: found)
        yield


def softmax(*scores: float, temperature: float = 1.0) -> list[float]:
    raised = [math.exp(score / temperature) for score in scores]
    return [each / sum(raised) for each in raised]


def drawn(scheduler: AdaptiveTaskScheduler, count: int = 1500) -> list[float]:
    seen = Counter(scheduler.sample_task() for _ in range(count))
    return [seen[task] / count for task in scheduler.task_names]


def test_losses_of_the_last_ten_updates_count() -> None:
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based", temperature=2.0, update_frequency=1)
    for step in range(30):
        scheduler.update_statistics({"a": 100.0 if step < 20 else 1.0, "b": 2.0, "c": step - 24.5})
    expected = softmax(1.0, 2.0, 0.0, temperature=2.0)
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx(expected)
    assert drawn(scheduler) == pytest.approx(expected, abs=0.04)


def test_performance_is_one_minus_accuracy() -> None:
    scheduler = AdaptiveTaskScheduler(TASKS, "performance_based", temperature=0.5, update_frequency=1)
    losses = dict.fromkeys(TASKS, 1.0)
    scheduler.update_statistics(losses, {"a": 0.9, "b": {"accuracy": 0.5}, "c": torch.tensor(0.25)})
    expected = softmax(0.1, 0.5, 0.75, temperature=0.5)
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx(expected)
    for _ in range(10):
        scheduler.update_statistics({}, {"a": 0.5, "b": 0.5, "c": 0.5})
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx([1 / 3] * 3)


def test_probabilities_are_renewed_every_so_many_updates() -> None:
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based", update_frequency=4)
    assert scheduler.get_task_probabilities() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    scheduler.update_statistics({"a": 1.0, "b": 0.0})
    assert scheduler.get_task_probabilities() == {"a": 0.0, "b": 0.0, "c": 1.0}  # of which nothing is known
    scheduler.update_statistics({"c": 0.0})
    first = scheduler.get_task_probabilities()
    assert list(first.values()) == pytest.approx(softmax(1.0, 0.0, 0.0))
    scheduler.update_statistics({"a": 3.0})
    assert scheduler.get_task_probabilities() == first
    scheduler.update_statistics({"a": 5.0})
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx(softmax(3.0, 0.0, 0.0))


def test_a_loss_that_is_not_finite_is_said_once_of_each_task() -> None:
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based")
    with structlog.testing.capture_logs() as told:
        for _ in range(5):
            scheduler.update_statistics({"a": float("nan"), "b": float("inf"), "c": 1.0})
    assert [(entry["event"], entry["task"]) for entry in told] == [
        ("task_statistic_not_finite", "a"),
        ("task_statistic_not_finite", "b"),
    ]


def test_looking_at_the_probabilities_changes_no_draw() -> None:
    one, two = (AdaptiveTaskScheduler(TASKS, "loss_based", seed=3) for _ in range(2))
    for scheduler in (one, two):
        scheduler.update_statistics({"a": 1.0, "b": 2.0, "c": 0.5})
    expected = [one.sample_task() for _ in range(20)]
    found = []
    for _ in range(20):
        two.get_task_probabilities()
        found.append(two.sample_task())
    assert found == expected


# --- the faults of the classic form ---------------------------------------------------------------------------------


def test_round_robin_takes_turns_without_being_told_anything() -> None:
    """It repeated the first task unless `update_statistics` was called."""
    scheduler = AdaptiveTaskScheduler(TASKS, "round_robin")
    assert [scheduler.sample_task() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]
    assert scheduler.get_task_probabilities() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    """It was taken for `uniform`."""
    with pytest.raises(OptionError, match="unknown scheduling_method 'los_based'; did you mean 'loss_based'"):
        AdaptiveTaskScheduler(TASKS, "los_based")


@pytest.mark.parametrize("method", METHODS)
def test_not_a_number_breaks_nothing(method: str) -> None:
    """It broke the draw. A task of which nothing else is known counts as the mean of the others."""
    scheduler = AdaptiveTaskScheduler(TASKS, method, update_frequency=1)
    for value in (math.nan, math.inf):
        scheduler.update_statistics({"a": value, "b": 0.25, "c": 0.75}, {"a": value, "b": 0.75, "c": 0.25})
        probabilities = scheduler.get_task_probabilities()
        assert sum(probabilities.values()) == pytest.approx(1)
        assert scheduler.sample_task() in TASKS
        if method in ("loss_based", "performance_based"):
            assert list(probabilities.values()) == pytest.approx(softmax(0.5, 0.25, 0.75))
    scheduler.update_statistics({"a": 1.0}, {"a": 0.0})  # what was no number does not stay
    if method == "loss_based":
        assert list(scheduler.get_task_probabilities().values()) == pytest.approx(softmax(1.0, 0.25, 0.75))
    only = AdaptiveTaskScheduler(TASKS, method)
    only.update_statistics({"a": math.nan}, {"a": math.nan})
    assert list(only.get_task_probabilities().values()) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("losses", [(1e4, 1.0, 0.01), (1e4, 9e3, 0.5), (1e300, -1e300, 0.0)])
def test_a_loss_in_another_unit_starves_nobody(losses: tuple[float, ...]) -> None:
    """Raw losses gave a task the probability 0."""
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based")
    scheduler.update_statistics(dict(zip(TASKS, losses, strict=True)))
    found = list(scheduler.get_task_probabilities().values())
    assert sum(found) == pytest.approx(1)
    assert min(found) == pytest.approx(0.1 / 3)
    assert min(drawn(scheduler)) > 0.015
    free = AdaptiveTaskScheduler(TASKS, "loss_based", least=0.0)
    free.update_statistics(dict(zip(TASKS, losses, strict=True)))
    assert min(free.get_task_probabilities().values()) < 1e-12


def test_only_those_below_the_least_are_raised() -> None:
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based", least=0.6)
    scheduler.update_statistics({"a": 0.0, "b": 4.0, "c": 5.0})
    raw = softmax(0.0, 4.0, 5.0)
    expected = [0.2, 0.8 * raw[1] / (raw[1] + raw[2]), 0.8 * raw[2] / (raw[1] + raw[2])]
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx(expected)
    scheduler = AdaptiveTaskScheduler(TASKS, "loss_based", least=0.9)  # b falls below it once a was raised
    scheduler.update_statistics({"a": 0.0, "b": 4.2, "c": 5.0})
    assert list(scheduler.get_task_probabilities().values()) == pytest.approx([0.3, 0.3, 0.4])


@pytest.mark.parametrize("method", METHODS)
def test_draws_from_a_generator_of_its_own(method: str) -> None:
    """It drew from torch's global one, and moved it."""
    before = torch.random.get_rng_state()
    runs = []
    for seed in (1, 1, 2):
        scheduler = AdaptiveTaskScheduler(TASKS, method, seed=seed)
        runs.append([scheduler.sample_task() for _ in range(40)])
    assert torch.equal(before, torch.random.get_rng_state())
    assert runs[0] == runs[1]
    assert (runs[0] == runs[2]) == (method == "round_robin")


@pytest.mark.parametrize("method", METHODS)
def test_the_state_has_everything(method: str, tmp_path: Any) -> None:
    """There was none."""
    first, second = (AdaptiveTaskScheduler(TASKS, method, update_frequency=3, seed=5) for _ in range(2))

    def steps(scheduler: AdaptiveTaskScheduler, numbers: range) -> list[str]:
        found = []
        for number in numbers:
            task = scheduler.sample_task()
            scheduler.update_statistics({task: 1 / (1 + number)}, {task: number / 40})
            found.append(task)
        return found

    steps(first, range(10))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.get_task_probabilities() == first.get_task_probabilities()
    state = first.state_dict()
    expected = steps(first, range(10, 40))
    assert steps(second, range(10, 40)) == expected
    third = AdaptiveTaskScheduler(TASKS, method, update_frequency=3)
    third.load_state_dict(state)  # a state that was taken stays as it was
    assert steps(third, range(10, 40)) == expected
    with pytest.raises(DataError, match=r"the state is of tasks \['a', 'b', 'c'\], here are \['x'\]"):
        AdaptiveTaskScheduler(["x"], method).load_state_dict(state)


def test_on_digits_the_task_that_is_not_learned_yet_comes_more_often() -> None:
    pixels, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
    targets = {"zero": (labels == 0).long(), "digit": labels}
    torch.manual_seed(0)
    models = {"zero": nn.Linear(64, 2), "digit": nn.Linear(64, 10)}
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=0.01) for name, model in models.items()}
    scheduler = AdaptiveTaskScheduler(list(models), "performance_based", temperature=0.1, update_frequency=5)
    seen: Counter[str] = Counter()
    for step in range(60):
        task = scheduler.sample_task()
        rows = slice(16 * (step % 80), 16 * (step % 80) + 16)
        outputs = models[task](inputs[rows])
        loss = nn.functional.cross_entropy(outputs, targets[task][rows])
        optimizers[task].zero_grad()
        loss.backward()
        optimizers[task].step()
        accuracy = (outputs.argmax(1) == targets[task][rows]).double().mean()
        scheduler.update_statistics({task: loss}, {task: accuracy})
        seen[task] += 1
    assert seen["digit"] > 1.5 * seen["zero"] > 0


# --- what is given wrongly ------------------------------------------------------------------------------------------


def test_what_is_given_wrongly() -> None:
    for names, told in ((["a", "a"], "has 'a' twice"), ([], "is empty"), ("abc", "must be a list of names")):
        with pytest.raises(OptionError, match=told):
            AdaptiveTaskScheduler(names)
    for options, told in (
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"temperature": math.nan}, "temperature must be > 0"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"update_frequency": 0}, "update_frequency must be >= 1"),
        ({"update_frequency": 1.5}, "update_frequency must be an integer"),
        ({"least": 1.0}, "least"),
    ):
        with pytest.raises(OptionError, match=told):
            AdaptiveTaskScheduler(TASKS, **options)  # type: ignore[arg-type]
    scheduler = AdaptiveTaskScheduler(["left", "right"])
    with pytest.raises(DataError, match="no task 'lefft'; did you mean 'left'"):
        scheduler.update_statistics({"lefft": 1.0})
    with pytest.raises(DataError, match="loss of task 'left' must be a number, got list"):
        scheduler.update_statistics({"left": [1.0]})
    with pytest.raises(DataError, match="loss of task 'left' must be a number, got Tensor"):
        scheduler.update_statistics({"left": torch.ones(2)})
    with pytest.raises(DataError, match="accuracy of task 'left' must be from 0 to 1, got 87"):
        scheduler.update_statistics({}, {"left": 87})
    with pytest.raises(DataError, match="metrics of task 'left' have no 'accuracy'; did you mean 'accurracy'"):
        scheduler.update_statistics({}, {"left": {"accurracy": 0.5}})
    wrong: Any = [1.0]
    with pytest.raises(DataError, match="task_losses must be a Mapping, got a list"):
        scheduler.update_statistics(wrong)
    with pytest.raises(DataError, match="task_metrics must be a Mapping, got a list"):
        scheduler.update_statistics({}, wrong)
    with pytest.raises(OptionError, match="unknown scheduling_method"):
        AdaptiveTaskScheduler(TASKS, wrong)
    assert scheduler.updates == 0


def test_a_method_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the registry, which says what to install."""
    monkeypatch.setitem(scheduling.METHODS, "uniform", "of nobody")
    with pytest.raises(UnknownComponentError, match="of nobody"):
        AdaptiveTaskScheduler(TASKS, "uniform")
