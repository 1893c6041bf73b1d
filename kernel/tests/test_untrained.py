"""A model that has learned nothing, registered as a source: said once, kept, and refused by nobody."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from crosstask import DataError, Portfolio, Registry, Task, TaskDescriptor, TensorData, TransferEngine
from crosstask.job import load_portfolio, load_run, run_recipe
from crosstask.learning.own_models import doubted
from crosstask.recipe import Recipe, recipe_from

IMAGES, LABELS = (torch.as_tensor(each) for each in load_digits(return_X_y=True))
IMAGES = (IMAGES / 16).float()
ORDER = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))


def digits(task_id: str, labels: Tensor = LABELS, splits: tuple[str, ...] = ("train", "test"), **told: Any) -> Task:
    """Two halves of the digits; `told` are fields of the task."""
    half = len(ORDER) // 2
    rows = {"train": ORDER[:half], "validation": ORDER[half:], "test": ORDER[half:]}
    chosen: dict[str, Any] = {split: TensorData(IMAGES[rows[split]], labels[rows[split]]) for split in splits}
    descriptor = told.pop("descriptor", None) or TaskDescriptor(task_id=task_id)
    return Task(descriptor=descriptor, **chosen, **told)


def drawn(outputs: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


@pytest.fixture(scope="module")
def learned() -> nn.Module:
    """scikit-learn's logistic regression as a linear layer."""
    half = len(ORDER) // 2
    fitted = LogisticRegression(max_iter=200).fit(IMAGES[ORDER[:half]].numpy(), LABELS[ORDER[:half]].numpy())
    layer = nn.Linear(64, 10)
    layer.load_state_dict({"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)})
    return nn.Sequential(layer)


def test_most_networks_as_they_are_drawn_are_known_and_one_that_learned_is_not(learned: nn.Module) -> None:
    parity = (LABELS % 2).long()
    for labels, outputs in ((LABELS, 10), (parity, 2)):
        found = [doubted(digits("t", labels, model=drawn(outputs, seed))) for seed in range(20)]
        assert sum(told is not None for told in found) >= 18, found
    for splits in (("train",), ("test",), ("validation",), ("train", "validation", "test")):
        assert doubted(digits("t", splits=splits, model=learned)) is None


def test_the_score_and_chance_are_those_of_the_task_on_its_samples() -> None:
    model = drawn(10, 0)
    told = doubted(digits("shapes", model=model))
    half = len(ORDER) // 2
    rows = ORDER[half:][torch.randperm(len(ORDER) - half, generator=torch.Generator().manual_seed(0))[:256]]
    score = float((model(IMAGES[rows]).argmax(1) == LABELS[rows]).float().mean())
    most = int(LABELS[ORDER[:half]].bincount().argmax())
    nothing = float((LABELS[rows] == most).float().mean())
    assert told == (
        f"task 'shapes': its model is hardly better than chance (accuracy {score:.3g} on 256 test samples, chance "
        f"{nothing:.3g}): if it has not learned the task, register the task without it"
    )


def test_values_are_judged_by_their_own_metric() -> None:
    target = IMAGES.mean(1, keepdim=True)
    mean, sums = nn.Linear(64, 1), nn.Linear(64, 1)
    for layer, weight, bias in ((mean, 0.0, float(target.mean())), (sums, 1 / 64, 0.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    for metric in (None, "rmse"):
        for layer, said in ((mean, True), (sums, False)):
            descriptor = TaskDescriptor(task_id="ink", task_type="regression")
            task = digits("ink", target, descriptor=descriptor, model=nn.Sequential(layer), metric=metric)
            assert (doubted(task) is not None) == said


class Odd(nn.Module):
    """Counts its calls, draws a number in each, has a part that rests; gives an output for each class."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.resting = nn.BatchNorm1d(64).eval()
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.resting(images)) + 0 * torch.rand(())


def test_a_look_leaves_nothing_behind() -> None:
    model = Odd()
    task = digits("t", model=model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    assert doubted(task) is not None
    assert torch.equal(numbers, torch.get_rng_state())
    assert model.training
    assert not model.resting.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_large_models_are_shown_fewer_samples() -> None:
    seen: list[int] = []
    for width, count in ((8, 256), (16_000, 64)):
        model = nn.Sequential(nn.Linear(64, width), nn.Linear(width, 10))
        model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
        doubted(digits("t", model=model))
        assert seen.pop() == count


def test_nothing_is_said_where_nothing_can_be_known() -> None:
    def strange(outputs: Tensor, targets: Tensor) -> float:
        raise ZeroDivisionError

    assert doubted(digits("no model")) is None
    assert doubted(Task(descriptor=TaskDescriptor(task_id="no data"), model=drawn(10, 0))) is None
    assert doubted(digits("its metric fails", model=drawn(10, 0), metric=strange)) is None
    kind = TaskDescriptor(task_id="own", task_type="own", output_dim=10)
    own = digits("own", descriptor=kind, model=drawn(10, 0), loss="cross_entropy", metric="accuracy")
    assert doubted(own) is None  # of a type of its own nobody knows what chance is


def test_registering_says_it_once_and_unseen_tasks_are_no_sources(
    registry: Registry, learned: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferEngine(registry=registry, discoverers=["fake"]) as engine:
        engine.register_task(digits("given"), drawn(10, 0))
        engine.register_task(digits("learned", model=learned))
        engine.register_task(digits("by this engine", build=lambda: drawn(10, 0)))
        engine.register_task(digits("unseen", model=drawn(10, 1)), unseen=True)
        (note,) = engine.notes
        assert engine.portfolio["given"].model is not None
    assert note.startswith("task 'given': its model is hardly better than chance")
    lines = [line for line in capsys.readouterr().err.splitlines() if "chance" in line]
    assert len(lines) == 1
    assert note in lines[0]


def test_the_record_of_a_run_keeps_it(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_from({"source": "fake", "look": {}}, registry)

    def with_a_model(recipe: Recipe, engine: TransferEngine) -> Portfolio:
        portfolio = load_portfolio(recipe, engine)
        task = next(iter(portfolio))
        task.model = nn.Linear(math.prod(task.data("train").inputs.shape[1:]), task.descriptor.output_dim or 2)
        nn.init.zeros_(task.model.weight)
        return portfolio

    monkeypatch.setattr("crosstask.job.load_portfolio", with_a_model)
    record = run_recipe(recipe, tmp_path, registry=registry)
    assert len(record.notes) == 1
    assert "hardly better than chance" in record.notes[0]
    assert load_run(tmp_path).notes == record.notes
    assert run_recipe(recipe, tmp_path, registry=registry, resume=True).notes == record.notes


def test_where_chance_is_near_the_best_score_half_of_the_way_is_enough() -> None:
    """Few of one class, or one class alone: twice the error of a share is wider than what is left."""
    rare = (LABELS == 8).long()
    rare[(LABELS == 8).nonzero()[40:]] = 0  # 40 of 1,797

    class Knows(nn.Module):
        """Right but for what is `missed`."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.head, self.share = nn.Linear(64, 2), share

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.head(inputs) * 0
            places = torch.cdist(inputs, IMAGES).argmin(1)
            told = rare[places].float()
            kept = torch.arange(len(told)) < self.share * len(told)
            return found + torch.stack([torch.zeros(len(told)), 2 * told * kept - 1], 1)

    assert doubted(digits("t", rare, model=Knows(1.0))) is None
    assert doubted(digits("t", rare, model=Knows(0.0))) is not None
    told = str(doubted(digits("t", rare * 0, model=Knows(0.0))))
    assert "all 898 training samples are of label 0" in told
    assert "hardly better" not in told, "always right"


def test_numbers_that_may_be_no_classes_are_said(registry: Registry) -> None:
    """Diabetes' progression, whole numbers, without `task_type`; labels from 1 on; what somebody described is right."""
    inputs, progression = (torch.as_tensor(each) for each in load_diabetes(return_X_y=True))
    inputs = inputs.float()
    many = len(set(progression[:300].tolist()))
    with TransferEngine(registry=registry, discoverers=[]) as engine:

        def note(task_id: str, labels: Tensor, **told: Any) -> list[str]:
            before = len(engine.notes)
            engine.register_task(Task(descriptor=TaskDescriptor(task_id=task_id, **told), train=(inputs[:300], labels)))
            return engine.notes[before:]

        assert note("values", progression[:300]) == [
            f"task 'values': its 300 samples have {many} different labels, which are taken for classes: for values say "
            "task_type='regression'"
        ]
        assert note("from 1", torch.arange(300) % 3 + 1) == [
            "task 'from 1': its labels run from 1 to 3: class 0 has no sample; count from 0"
        ]
        assert not note("described", torch.arange(300) % 3 + 1, output_dim=4)
        standard = (progression[:300] - progression[:300].mean()) / progression[:300].std()
        assert not note("regression", standard, task_type="regression")
        assert not note("names", torch.arange(300) % 2 * 2 - 1)  # -1 and 1
        same = "all 300 training samples are of {}: nothing tells classes apart"
        for given, said in (
            ({}, "label 0"),
            ({"classes": ("no", "yes")}, "class 'no'"),
            ({"output_dim": 3}, "label 0"),
        ):
            (told,) = note(f"one class {given}", torch.zeros(300, dtype=torch.long), **given)
            assert same.format(said) in told
        assert not note("any values", torch.zeros(300), task_type="regression")
        engine.register_task(Task(descriptor="alone", train=(inputs[:1], torch.tensor([1]))))
        assert "task 'alone': its training data are a single sample of class '1'" in engine.notes[-1]
        assert not note("a class to three samples", torch.arange(300) % 100)
        with pytest.raises(DataError, match=r"from 0 to 30, the classes are 0 to 2 \(for values say task_type='regr"):
            engine.register_task(
                Task(descriptor="t", train=(inputs[:3], torch.arange(3)), test=(inputs[:31], torch.arange(31)))
            )


def test_a_misspelt_type_is_said(registry: Registry) -> None:
    data = IMAGES[:20], LABELS[:20]
    kind = TaskDescriptor(task_id="t", task_type="clasification")
    with TransferEngine(registry=registry, discoverers=[]) as engine:
        with pytest.raises(DataError, match=r"no task_type 'clasification'; did you mean 'classification'\? \(A type"):
            engine.register_task(Task(descriptor=kind, train=data))
        assert "t" not in engine.portfolio
        engine.register_task(Task(descriptor=kind, train=data, loss="cross_entropy", metric="accuracy"))
        engine.register_task(Task(descriptor=TaskDescriptor(task_id="other", task_type="detection"), train=data))
