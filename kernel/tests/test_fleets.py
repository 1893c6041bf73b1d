"""Members of a fleet learn what they would learn alone, whoever is with them."""

from __future__ import annotations

import copy
import functools
import random
import re
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import crosstask.learning.fleets as place
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.fleets import Member, Phase, Trained, muster, phases_of, train_fleet
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import frozen, trunk_parameters
from crosstask.learning.objectives import Metric
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.records import Budget
from crosstask.steps import heard_by
from crosstask.tasks import Task

BUDGET = Budget(steps=12, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=5)
WHOLE = (Phase(12),)
LP_FT = (Phase(6, head=True, rate=10.0), Phase(6))


def digit_task(name: str, labels: Any, kind: str = "classification", **more: Any) -> Task:
    """A task over scikit-learn's digits."""
    raw = load_digits()
    images = torch.tensor(raw.images).unsqueeze(1) / 16
    targets = labels(torch.tensor(raw.target))
    outputs = {"classification": int(targets.max()) + 1, "regression": 1}.get(kind, targets.shape[-1])
    descriptor = TaskDescriptor(task_id=name, task_type=kind, input_shape=(1, 8, 8), output_dim=outputs)
    splits = {"train": slice(200), "validation": slice(200, 290), "test": slice(300, 350)}
    return Task(descriptor=descriptor, **{s: (images[part], targets[part]) for s, part in splits.items()}, **more)


def tasks() -> list[Task]:
    return [
        digit_task("ten", lambda t: t),
        digit_task("parity", lambda t: t % 2),
        digit_task("thirds", lambda t: t % 3),
        digit_task("low", lambda t: (t < 5).long()),
    ]


class Doubled(nn.Module):
    """Data are kept in single precision: here they become double."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def in_double(model: nn.Module) -> nn.Module:
    """The same model in double precision, to compare to 1e-9."""
    model.trunk.insert(0, Doubled())  # type: ignore[operator,union-attr]
    return model.double()


def member(task: Task, seed: int, budget: Budget = BUDGET, spec: Any = None, phases: Any = WHOLE) -> Member:
    model = spec if isinstance(spec, nn.Module) else in_double((spec or ModelSpec()).build(task.descriptor, 0))
    task = drawn(task, budget.samples, seed)
    return Member(fresh_model(model, task, seed), task, budget, phases, seed)


def by_the_loop(given: Member, curve: str | None = "validation") -> tuple[History, float, nn.Module]:
    """What `fit` makes of a copy: the reference."""
    model, generator, history = copy.deepcopy(given.model), torch.Generator().manual_seed(given.seed), History()
    for phase in given.phases:
        budget = attrs.evolve(given.budget, learning_rate=phase.rate * given.budget.learning_rate)
        with frozen(trunk_parameters(model) if phase.head else []):
            history.extend(fit(model, given.task, budget, generator, steps=phase.steps, curve_split=curve))
    return history, evaluate(model, given.task, "validation"), model


def assert_same(members: list[Member]) -> None:
    expected = [by_the_loop(each) for each in members]
    found = train_fleet(members, curve_split="validation", score_split="validation")
    for each, (history, score, model), result in zip(members, expected, found, strict=True):
        assert isinstance(result, Trained), result
        assert (result.history.steps, result.history.stopped) == (history.steps, history.stopped)
        torch.testing.assert_close(result.history.losses, history.losses, rtol=0, atol=1e-9)
        assert result.history.values == pytest.approx(history.values, abs=1e-9)
        assert result.score == pytest.approx(score, abs=1e-9)
        for (name, one), other in zip(each.model.state_dict().items(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


CONV = ModelSpec(kind="conv", hidden=(8, 16))


@pytest.mark.parametrize("phases", [WHOLE, LP_FT], ids=["whole", "lp_ft"])
@pytest.mark.parametrize("spec", [ModelSpec(), CONV], ids=["mlp", "conv"])
def test_a_fleet_learns_what_the_loop_does(spec: ModelSpec, phases: Any) -> None:
    """Tasks with 10, 2, 3 and 2 classes in one fleet, two seeds each, in double precision: to 1e-9."""
    assert_same([member(task, seed, spec=spec, phases=phases) for task in tasks() for seed in (3, 8)])


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "sgd", "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 3},
        {"weight_decay": 0.01, "schedule": "linear", "clip": 0.05},
        {"samples": None, "batch_size": 300},
    ],
    ids=["sgd", "adamw", "clip", "whole batches"],
)
def test_what_a_budget_can_ask_for(more: dict[str, Any]) -> None:
    budget = attrs.evolve(BUDGET, **more)
    assert_same([member(task, seed, budget, phases=LP_FT) for task in tasks()[:3] for seed in (1, 2)])


@pytest.mark.parametrize(
    "more",
    [{}, {"optimizer": "sgd", "weight_decay": 0.01, "clip": 0.5}, {"optimizer": "adamw", "weight_decay": 0.1,
     "schedule": "cosine", "warmup": 3}],
    ids=["adam", "sgd", "adamw"],
)  # fmt: skip
def test_rates_and_samples_of_ones_own(more: dict[str, Any]) -> None:
    """Budgets that differ in learning rate and number of samples only go together."""
    budgets = [
        attrs.evolve(BUDGET, learning_rate=rate, samples=samples, **more)
        for rate, samples in ((1e-2, 50), (1e-3, 40), (3e-3, None), (1e-2, 60))
    ]
    members = [member(task, seed, budget, phases=LP_FT) for task in tasks()[:2] for seed, budget in enumerate(budgets)]
    assert muster(members) == ([[1, 5, 2, 6, 0, 3, 4, 7]], {})
    assert_same(members)


PATIENT = Budget(steps=40, batch_size=20, learning_rate=2e-2, samples=60, evaluate_every=3, patience=2)


@pytest.mark.parametrize("kind", ["mlp", "lp_ft", "both", "dropout", "rates"])
def test_each_stops_when_its_patience_is_at_an_end(kind: str) -> None:
    """At the steps at which `fit` stops, with the weights that it keeps; a later phase goes on from there."""
    phases = (Phase(20, head=True, rate=3.0), Phase(20)) if kind == "lp_ft" else (Phase(40),)
    members = []
    for task in tasks()[:3]:
        for seed in (1, 2, 3):
            rate = 2e-2 if kind != "rates" else 1e-2 * seed
            budget = attrs.evolve(PATIENT, learning_rate=rate)
            spec = noisy(kind) if kind in ("both", "dropout") else None
            members.append(member(task, seed, budget, spec, phases))
    assert [sorted(fleet) for fleet in muster(members)[0]] == [list(range(9))]
    lengths = [len(by_the_loop(each)[0].losses) for each in members]
    assert len(set(lengths)) > 2
    assert_same(members)


def rising(outputs: Tensor, targets: Tensor) -> Tensor:
    """Better with every step that is small enough."""
    return -nn.functional.cross_entropy(outputs, targets)


def level(outputs: Tensor, targets: Tensor) -> float:
    return 0.5


@pytest.mark.parametrize("stopping", ["10", "01", "100", "010", "001", "110", "101", "011", "111"])
def test_who_has_ended_stays_as_it_was_while_others_go_on(stopping: str) -> None:
    """In fleets of two and three, whoever it is that ends; a later phase goes on from there."""
    budget = attrs.evolve(PATIENT, learning_rate=1e-3, patience=1, weight_decay=0.01)
    metrics = [level if ends == "1" else rising for ends in stopping]
    own = [digit_task(f"own {n}", lambda t: t, metric=metric) for n, metric in enumerate(metrics)]
    members = [member(task, n, budget, phases=(Phase(12), Phase(9))) for n, task in enumerate(own)]
    lengths = [len(by_the_loop(each)[0].losses) for each in members]
    assert lengths == [12 if ends == "1" else 21 for ends in stopping]  # two looks in each phase, one of them at step 0
    assert_same(members)


def test_patience_without_validation_data_is_each_members_own_error() -> None:
    first, second = (member(tasks()[0], seed, PATIENT) for seed in (1, 2))
    bare = attrs.evolve(second, task=second.task.over(train=second.task.data("train")))
    expected = by_the_loop(first)[0]
    one, other = train_fleet([first, bare])
    assert isinstance(one, Trained)
    assert (one.history.steps, one.history.stopped) == (expected.steps, expected.stopped)
    assert "patience looks at validation data, and there are none" in str(other)


def test_losses_of_other_kinds_and_heads_of_other_kinds() -> None:
    """A single logit, values, several labels, a loss of the user's own: each as `fit` would have it."""

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.logsumexp(1) - outputs.gather(1, targets[:, None])[:, 0]).mean()

    single = digit_task("single", lambda t: t % 2)
    single.descriptor = attrs.evolve(single.descriptor, output_dim=1)
    several = [
        single,
        digit_task("value", lambda t: t[:, None] / 9.0, "regression"),
        digit_task("labels", lambda t: torch.stack([t % 2, t // 5], 1).double(), "multilabel", metric="accuracy"),
        digit_task("own", lambda t: t, loss=own),
    ]
    assert_same([member(task, seed, phases=LP_FT) for task in several for seed in (1, 2)])


class Block(nn.Module):
    """A residual block with a normalisation of its own, which torch.func.vmap follows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False)  # a bias before a normalisation has no gradient but rounding
        self.norm = nn.BatchNorm1d(width, momentum=0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.relu(self.norm(self.layer(inputs)))


class Dropping(nn.Module):
    """A block with dropout of several kinds in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.drop, self.maps = nn.Linear(width, width), nn.Dropout(0.3), nn.Dropout1d(0.4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.drop(torch.tanh(self.layer(inputs)))
        hidden = self.maps(hidden.unflatten(1, (-1, 3))).flatten(1)
        hidden = inputs + nn.functional.dropout(hidden, 0.2, self.training, inplace=True)
        return torch.dropout(hidden, 0.1, self.training)


def noisy(kind: str) -> nn.Module:
    """Networks with statistics of the batch, or with chance in them."""
    torch.manual_seed(0)
    first = [
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
    ]
    rows: dict[str, list[nn.Module]] = {
        "norm": [nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU()],
        "dropout": [nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.0)],
        "all dropped": [nn.Flatten(), nn.Linear(64, 12), nn.Dropout(1.0), nn.Dropout(0.3)],
        "both": [*first, nn.Linear(54, 12, bias=False), nn.BatchNorm1d(12, affine=False), nn.Tanh()],
        "blocks": [nn.Flatten(), nn.Linear(64, 12), Block(12), Block(12)],
        "dropping": [nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 12), Dropping(12), nn.Dropout(0.2), Dropping(12)],
        "instance": [nn.Conv2d(1, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Flatten(), nn.Linear(216, 12)],
    }
    return nn.Sequential(Doubled(), *rows[kind], nn.Linear(12, 10)).double()


@pytest.mark.parametrize("kind", ["norm", "dropout", "all dropped", "both", "blocks", "instance", "dropping"])
@pytest.mark.parametrize("phases", [WHOLE, LP_FT], ids=["whole", "lp_ft"])
def test_normalisation_and_dropout_are_each_members_own(kind: str, phases: Any) -> None:
    """Running statistics and what is dropped are those of training alone, whoever is with them."""
    made = [member(task, seed, spec=noisy(kind), phases=phases) for task in tasks()[:3] for seed in (1, 2)]
    assert muster(made) == ([list(range(6))], {})
    if phases is LP_FT:  # the head learns over a trunk in evaluation mode
        expected = [by_parts(each) for each in made]
        for each, (score, model), found in zip(made, expected, train_fleet(made, score_split="test"), strict=True):
            assert isinstance(found, Trained), found
            assert found.score == pytest.approx(score, abs=1e-9)
            for (name, one), other in zip(each.model.state_dict().items(), model.state_dict().values(), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)
    else:
        assert_same(made)


class OwnHead(nn.Module):
    """Dropout in a network that is no row of layers, in its head, too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = nn.Linear(64, 12), nn.Dropout(0.2)
        self.head = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.3), nn.Tanh(), nn.Linear(12, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.drop(self.body(inputs.flatten(1).double()).relu()))
        return found


def test_dropout_in_a_head_is_each_members_own() -> None:
    made = [member(task, seed, spec=OwnHead().double()) for task in tasks()[:2] for seed in (1, 2)]
    assert muster(made) == ([list(range(4))], {})
    assert_same(made)


class Still(nn.Module):
    """A model of which only the head is ever in training mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> Still:
        self.model.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.model(inputs)
        return found


def by_parts(given: Member) -> tuple[float, nn.Module]:
    model, generator = copy.deepcopy(given.model), torch.Generator().manual_seed(given.seed)
    for phase in given.phases:
        budget = attrs.evolve(given.budget, learning_rate=phase.rate * given.budget.learning_rate)
        with frozen(trunk_parameters(model) if phase.head else []):
            learner = Still(model) if phase.head else model
            fit(learner, given.task, budget, generator, steps=phase.steps, curve_split=None)
    return evaluate(model, given.task, "test"), model


def test_what_a_training_draws_is_its_own() -> None:
    """Dropout follows from the generator, not from what the process drew before; and the process goes on unmoved."""
    task, found = tasks()[0], []
    for before in (1, 2):
        torch.manual_seed(before)
        model = fresh_model(noisy("dropout"), task, 0)
        torch.manual_seed(before)
        fit(model, task, BUDGET, torch.Generator().manual_seed(5), curve_split=None)
        found.append(model.state_dict())
        after = torch.rand(())
        torch.manual_seed(before)
        assert torch.rand(()) == after
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=0, atol=0)
    other = fresh_model(noisy("dropout"), task, 0)
    fit(other, task, BUDGET, torch.Generator().manual_seed(6), curve_split=None)
    assert not torch.equal(other.state_dict()["7.weight"], found[0]["7.weight"])


class Residual(nn.Module):
    """A network of one's own, which torch.func.vmap can follow; its buffer differs between members."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.body, self.norm = nn.Linear(64, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.register_buffer("shift", torch.zeros(()))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1).double()) + self.shift
        found: Tensor = self.head(self.norm(hidden + self.body(hidden).relu()))
        return found


def test_a_network_of_ones_own_goes_through_vmap() -> None:
    members = [member(task, seed, spec=Residual(10).double(), phases=LP_FT) for task in tasks()[:2] for seed in (1, 2)]
    for number, each in enumerate(members):
        each.model.shift.fill_(number / 10)
    assert muster(members) == ([[0, 1, 2, 3]], {})
    assert_same(members)


class Words(nn.Module):
    """An embedding whose first row, for what is no word, never learns. Pixels are its words: most are 0."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        table = nn.Embedding(17, 6, padding_idx=-17)
        self.body = Table(table) if whole else nn.Sequential(Pixels(), table, Mean())
        self.head = nn.Linear(6, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs))
        return found


class Pixels(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return (16 * inputs).round().long().flatten(1)


class Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)


class Table(nn.Module):
    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table, self.drop = table, nn.Dropout(0.2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.drop(self.table((16 * inputs).round().long().flatten(1)).mean(1))
        return found


@pytest.mark.parametrize("whole", [True, False], ids=["class", "row"])
def test_what_stands_for_no_word_learns_in_no_member(whole: bool) -> None:
    torch.manual_seed(0)
    spec = Words(whole).double() if whole else nn.Sequential(*Words(whole).body, nn.Linear(6, 10)).double()
    table = next(layer for layer in spec.modules() if isinstance(layer, nn.Embedding))
    members = [member(task, seed, spec=spec) for task in tasks()[:2] for seed in (1, 2)]
    assert muster(members) == ([[0, 1, 2, 3]], {})
    name = next(name for name, weight in spec.named_parameters() if weight is table.weight)
    before = [each.model.get_parameter(name)[0].detach().clone() for each in members]
    assert_same(members)
    for each, row in zip(members, before, strict=True):
        assert torch.equal(each.model.get_parameter(name)[0], row)


def test_what_is_dropped_does_not_hang_on_what_is_looked_at_before() -> None:
    """Without a curve the first pass of all is one in training."""
    members = [member(tasks()[0], seed, spec=noisy("blocks").insert(2, nn.Dropout(0.3))) for seed in (1, 2)]
    expected = [by_the_loop(each, None) for each in members]
    found = train_fleet(members, score_split="validation")
    for each, (history, score, _) in zip(found, expected, strict=True):
        assert isinstance(each, Trained)
        assert each.score == pytest.approx(score, abs=1e-9)
        torch.testing.assert_close(each.history.losses, history.losses, rtol=0, atol=1e-9)


class Times(nn.Module):
    """A head that prints as another one of its class does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.lin, self.factors = nn.Linear(8, 10), [factor]

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.factors[0] * self.lin(inputs)
        return found


def test_heads_that_print_alike_are_told_apart() -> None:
    torch.manual_seed(0)
    made = [Times(1.0), Times(3.0), Times(3.0), Times(1.0)]
    specs = [nn.Sequential(Doubled(), nn.Flatten(), nn.Linear(64, 8)) for _ in made]
    for spec, head in zip(specs, made, strict=True):
        spec.add_module("head", head)
    members = [Member(spec.double(), drawn(tasks()[0], 50, n), BUDGET, WHOLE, n) for n, spec in enumerate(specs)]
    assert_same(members)
    assert [sorted(fleet) for fleet in muster(members)[0]] == [[0, 3], [1, 2]]


ODD = ModelSpec(hidden=(20, 10))
ODD_CONV = ModelSpec(kind="conv", hidden=(5, 7))


@pytest.mark.parametrize("budget", [BUDGET, attrs.evolve(PATIENT, steps=12)], ids=["common", "own"])
@pytest.mark.parametrize("spec", [ModelSpec(), CONV, ODD, ODD_CONV], ids=["mlp", "conv", "odd", "odd conv"])
def test_a_member_does_not_depend_on_its_neighbours(spec: ModelSpec, budget: Budget) -> None:
    """Bit for bit, in single precision, alone or in company, so that what is resumed comes out the same."""

    def trained(chosen: list[int]) -> dict[int, Any]:
        every = [(task, seed) for task in tasks() for seed in (3, 8)]
        own = []
        for number in chosen:
            task, seed = every[number]
            drawn_task = drawn(task, 50, seed)
            fresh = fresh_model(spec.build(task.descriptor, 0), drawn_task, seed)
            rate = budget.learning_rate * (1 + (number % 3) * (budget.patience or 0))
            own.append(Member(fresh, drawn_task, attrs.evolve(budget, learning_rate=rate), LP_FT, seed))
        found = train_fleet(own, score_split="validation")
        return {n: (r, m.model.state_dict()) for n, r, m in zip(chosen, found, own, strict=True)}

    whole = trained(list(range(8)))
    for chosen in ([3], [1], [2, 6], [0, 1, 5], [7, 2, 4, 3, 0]):
        for number, (result, state) in trained(chosen).items():
            assert result == whole[number][0]
            assert all(torch.equal(tensor, whole[number][1][name]) for name, tensor in state.items())


def test_nor_where_means_are_taken_over_larger_images() -> None:
    """Of 28 x 28: the mean of many channels side by side would be rounded by how many there are."""
    descriptor = TaskDescriptor(task_id="images", task_type="classification", input_shape=(1, 28, 28), output_dim=3)

    def trained(chosen: list[int]) -> dict[int, Any]:
        own = []
        for number in chosen:
            drawing = torch.Generator().manual_seed(number)
            images, labels = torch.randn(40, 1, 28, 28, generator=drawing), torch.randint(3, (40,), generator=drawing)
            budget = attrs.evolve(BUDGET, batch_size=10, learning_rate=1e-2)
            task = Task(descriptor=descriptor, train=(images, labels))
            own.append(Member(CONV.build(descriptor, 0), task, budget, WHOLE, number))
        train_fleet(own)
        return {number: each.model.state_dict() for number, each in zip(chosen, own, strict=True)}

    whole = trained(list(range(6)))
    for chosen in ([1, 0, 4], [5, 4, 3, 2, 1]):
        for number, state in trained(chosen).items():
            assert all(torch.equal(tensor, whole[number][name]) for name, tensor in state.items())


def test_a_member_that_fails_leaves_the_others_as_they_are() -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean() * float("nan")

    def metric(outputs: Tensor, targets: Tensor) -> float:
        return float("inf")

    good, bad = tasks()[0], digit_task("bad", lambda t: t, loss=broken)
    unjudged = digit_task("unjudged", lambda t: t, metric=metric)
    members = [member(task, 1) for task in (good, bad, unjudged)]
    expected = by_the_loop(members[0])
    first, second, third = train_fleet(members, curve_split="validation", score_split="validation")
    assert isinstance(first, Trained)
    assert first.score == pytest.approx(expected[1], abs=1e-9)
    assert "task 'bad': the training loss is nan at step 1;" in str(second)
    assert "task 'unjudged': the metric metric on the validation data is inf" in str(third)


def test_one_that_cannot_be_trained_leaves_the_others_as_they_are() -> None:
    """Labels without outputs, a loss that raises, no data, inputs of another shape: each its own error."""

    def raising(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError("never")

    good = [member(tasks()[0], seed) for seed in (1, 2)]
    wide = member(digit_task("wide", lambda t: t), 1)
    labels = wide.task.data("train").targets.clone()
    labels[0] = 11
    wide = attrs.evolve(wide, task=wide.task.over(train=(wide.task.data("train").inputs, labels)))
    other = member(digit_task("other", lambda t: t, loss=raising), 1)
    small = member(digit_task("small", lambda t: t), 1)
    small = attrs.evolve(small, task=small.task.over(train=(torch.rand(60, 9), torch.arange(60) % 10)))
    before = copy.deepcopy(small.model.state_dict())
    empty = attrs.evolve(small, task=Task(descriptor=small.task.descriptor))
    expected = [by_the_loop(each) for each in good]
    found = train_fleet([good[0], wide, other, small, empty, good[1]], score_split="validation")
    for each, result, (_, score, model) in zip(good, (found[0], found[5]), expected, strict=True):
        assert isinstance(result, Trained)
        assert result.score == pytest.approx(score, abs=1e-9)
        for one, two in zip(each.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
    told = [str(each) for each in found]
    assert re.search(r"task 'wide'.*11", told[1])
    assert re.search(r"task 'other'.*ZeroDivisionError: never", told[2])
    assert re.search(r"task 'small'.*inputs have shape \(9,\)", told[3])
    assert re.search(r"task 'small'", told[4])
    for name, tensor in small.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert train_fleet([]) == []


def test_a_state_in_place_of_the_models_weights() -> None:
    """Members share a model that is left as it is."""
    given, other = (member(tasks()[0], seed) for seed in (1, 2))
    states = [{name: t.detach().clone() for name, t in m.model.state_dict().items()} for m in (given, other)]
    expected = [by_the_loop(m)[1] for m in (given, other)]
    before = copy.deepcopy(given.model.state_dict())
    sharing = [attrs.evolve(m, model=given.model, state=s) for m, s in zip((given, other), states, strict=True)]
    found = train_fleet(sharing, score_split="validation")
    assert [r.score for r in found if isinstance(r, Trained)] == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(t, before[name]) for name, t in given.model.state_dict().items())


def test_a_split_without_data_gives_neither_curve_nor_score() -> None:
    given = member(tasks()[0], 1)
    bare = attrs.evolve(given, task=given.task.over(train=given.task.data("train")))
    (found,) = train_fleet([bare], curve_split="validation", score_split="validation")
    assert isinstance(found, Trained)
    assert (found.history.values, found.score, len(found.history.losses)) == ([], None, 12)


# Who goes together ----------------------------------------------------------------------------------------------------


def test_those_of_one_architecture_and_budget_go_together() -> None:
    first, second = tasks()[:2]
    other = attrs.evolve(BUDGET, learning_rate=0.1)
    members = [
        member(first, 1), member(first, 1, spec=CONV), member(second, 2), member(first, 2, other),
        member(second, 1, spec=CONV), member(second, 2, other), member(second, 3),
    ]  # fmt: skip
    assert muster(members) == ([[0, 2, 6, 3, 5], [1, 4]], {})
    fleets, reasons = muster(members, workers=5)
    assert fleets == []
    assert set(reasons) == set(range(7))
    assert muster(members, workers=2)[0] == [[0, 2, 6], [3, 5]]
    assert muster(members, workers=3, each=3)[0] == [[0, 2], [6, 3], [5], [1], [4]]


class Noisy(nn.Module):
    """Chance that is nobody's but torch's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.rand_like(inputs) if self.training else inputs


def chance(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *layers, nn.Linear(8, 10))


class OnlyJudged(nn.Module):
    """vmap cannot follow it in training, but when it is judged."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * float(inputs.detach().sum() > 0) if self.training else inputs


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 10))


def alone_in_its_batch() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def channels_last() -> nn.Module:
    """Its masks are drawn pixel by pixel, those of the fleet channel by channel."""
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10))
    return made.to(memory_format=torch.channels_last)


def hooked() -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    made[1].register_forward_hook(lambda *_: None)
    return made


class Scaled(nn.Module):
    """Its answer is not what its head makes of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = 2 * self.head(self.body(inputs.flatten(1)))
        return found


class Branching(Scaled):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs.flatten(1))
        found: Tensor = self.head(hidden if float(self.body.weight.detach().sum()) > 0 else -hidden)
        return found


class Body(nn.Module):
    """What others do more than it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(64, 8), nn.Dropout(0.0), nn.Linear(8, 10)
        self.register_buffer("mean", torch.zeros(8))
        self.calls, self.made = 0, [lambda: None]

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(inputs.flatten(1).to(self.body.weight.dtype)))
        found: Tensor = self.head(self.drop(self.does(hidden) if self.training else hidden - self.mean))
        return found

    def does(self, hidden: Tensor) -> Tensor:
        return hidden


class Reassigning(Body):
    def does(self, hidden: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return hidden - self.mean


class Counting(Body):
    def does(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden * (1 + 0.1 * self.calls)


class Gathering(Body):
    def does(self, hidden: Tensor) -> Tensor:
        self.made.append(lambda: None)
        return hidden * len(self.made)


class MoreDropped(Body):
    def does(self, hidden: Tensor) -> Tensor:
        self.drop.p = min(0.5, self.drop.p + 0.1)
        return hidden


class HookedInside(Body):
    def does(self, hidden: Tensor) -> Tensor:
        if hidden.requires_grad:
            hidden.register_hook(torch.neg)
        return hidden


class HookedNode(Body):
    def does(self, hidden: Tensor) -> Tensor:
        if hidden.grad_fn is not None:
            hidden.grad_fn.register_prehook(lambda grads: tuple(-grad for grad in grads))
        return hidden


class ByPythonsChance(Body):
    def does(self, hidden: Tensor) -> Tensor:
        return hidden * random.random()


class ByNumpysChance(Body):
    def does(self, hidden: Tensor) -> Tensor:
        return hidden * float(np.random.rand())


class WhereItLearns(Body):
    """torch.func.vmap hides that a gradient is wanted."""

    def does(self, hidden: Tensor) -> Tensor:
        return hidden * 2 if hidden.requires_grad else hidden


class Recomputing(Body):
    """On the way back it is computed again, with the weights that it has by then."""

    def does(self, hidden: Tensor) -> Tensor:
        found: Tensor = checkpoint(self.scaled, hidden, use_reentrant=False)
        return found

    def scaled(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden * self.body.weight.sum())


class Unused(Body):
    """A layer without a gradient stays as it is, whatever weight decay would do to it."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(8, 8)


def test_what_has_no_gradient_stays_as_it_is() -> None:
    torch.manual_seed(0)
    budget = attrs.evolve(BUDGET, weight_decay=0.1)
    members = [member(task, seed, budget, Unused().double()) for task in tasks()[:2] for seed in (1, 2)]
    assert muster(members) == ([[0, 1, 2, 3]], {})
    assert_same(members)


class Thawing(Body):
    """Says itself what of it learns."""

    def train(self, mode: bool = True) -> Thawing:
        super().train(mode)
        self.body.requires_grad_(not mode)
        return self


class Bound(Body):
    """A copy of it holds the same function, with the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.made = [lambda: self.body]  # type: ignore[list-item]

    def does(self, hidden: Tensor) -> Tensor:
        found: Tensor = hidden * self.made[0]().weight.sum()  # type: ignore[attr-defined]
        return found


def rebound() -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    made[1].forward = lambda inputs: inputs[:, :8] * made[1].weight[:, 0]
    return made


class NotSaved(Body):
    def state_dict(self, *where: Any, **how: Any) -> Any:
        return {name: t for name, t in super().state_dict(*where, **how).items() if "body" not in name}


def padded(**more: Any) -> nn.Module:
    return nn.Sequential(Pixels(), nn.Embedding(17, 6, **more), Mean(), nn.Linear(6, 10))


def overwritten() -> nn.Module:
    """Dropout changes what ReLU needs for its gradient: torch says so in training."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.3, inplace=True), nn.Linear(8, 10))


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40_000), nn.ReLU(), nn.Linear(40_000, 10))


def chances() -> list[Any]:
    """The state of everybody's random numbers."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("build", "more", "reason"),
    [
        (lambda: chance(Noisy()), {}, "Sequential draws at random"),
        (lambda: chance(nn.AlphaDropout(0.5)), {}, "Sequential draws at random"),
        (lambda: chance(OnlyJudged()).eval(), {}, "vmap cannot follow Sequential in training"),
        (normalised, {}, "BatchNorm1d keeps a mean over all batches"),
        (alone_in_its_batch, {"batch_size": 1}, "BatchNorm1d may have nothing to go by in a batch of one"),
        (channels_last, {}, "in the order of a memory format"),
        (hooked, {}, "a Linear has hooks"),
        (Scaled, {}, "is not what its head makes of the features"),
        (Branching, {}, "vmap cannot follow Branching"),
        (wide, {}, "too large"),
        (Reassigning, {}, "Reassigning changes the mean of a Reassigning as it runs"),
        (Counting, {}, "Counting changes the calls of a Counting as it runs"),
        (Gathering, {}, "Gathering changes the made of a Gathering as it runs"),
        (MoreDropped, {}, "MoreDropped changes the p of a Dropout as it runs"),
        (HookedInside, {}, "HookedInside looks at its gradients on their way back"),
        (HookedNode, {}, "HookedNode looks at its gradients on their way back"),
        (ByPythonsChance, {}, "ByPythonsChance draws random numbers that are not torch's"),
        (ByNumpysChance, {}, "ByNumpysChance draws random numbers that are not torch's"),
        (WhereItLearns, {}, "a step of WhereItLearns in a fleet is not what it is alone"),
        (Recomputing, {}, "vmap cannot follow Recomputing in training: RuntimeError"),
        (Thawing, {}, "Thawing says in train\\(\\) what of it learns"),
        (lambda: Body().requires_grad_(False), {}, "nothing in Body learns"),
        (Bound, {}, "a copy of Bound computes with weights of the model that it is a copy of"),
        (rebound, {}, "a Linear has a forward pass that is not its class's"),
        (NotSaved, {"patience": 2}, "a NotSaved is saved in a way of its own"),
        (lambda: padded(sparse=True), {}, "vmap cannot follow Sequential"),
        (lambda: padded(scale_grad_by_freq=True), {}, "vmap cannot follow Sequential"),
        (lambda: padded(max_norm=0.5), {}, "vmap cannot follow Sequential"),
        (overwritten, {}, "Sequential cannot be trained: RuntimeError: .* inplace operation"),
        (None, {"precision": "bfloat16"}, "another precision"),
        (None, {"accumulate": 2}, "gradients of several batches"),
    ],
    ids=[
        "noise",
        "alpha dropout",
        "training only",
        "norm",
        "batch of one",
        "channels last",
        "hooks",
        "scaled",
        "branching",
        "wide",
        "reassigning",
        "counting",
        "gathering",
        "more dropped",
        "hooked inside",
        "hooked node",
        "python's chance",
        "numpy's chance",
        "where it learns",
        "recomputing",
        "thawing",
        "nothing learns",
        "bound",
        "rebound",
        "not saved",
        "sparse",
        "by frequency",
        "norm of rows",
        "overwritten",
        "precision",
        "accumulate",
    ],
)
def test_why_a_training_goes_alone(build: Any, more: dict[str, Any], reason: str) -> None:
    task, budget = tasks()[0], attrs.evolve(BUDGET, **more)
    torch.manual_seed(0)
    model = ModelSpec().build(task.descriptor, 0) if build is None else build()
    before = chances()
    fleets, reasons = muster([Member(model, drawn(task, 50, seed), budget, WHOLE, seed) for seed in (1, 2)])
    assert fleets == []
    assert chances() == before
    assert re.search(reason, reasons[0])
    assert reasons[1] == reasons[0]


def hooked_by(how: str, model: Any) -> None:
    """Register a hook."""
    if "weight" in how:
        getattr(model[1].weight, how.removeprefix("weight's "))(lambda *_: None)
    else:
        getattr(model[1], how)(lambda *_: None)


HOOKS = (
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "weight's register_hook", "weight's register_post_accumulate_grad_hook",
)  # fmt: skip


@pytest.mark.parametrize("how", HOOKS)
def test_who_has_hooks_goes_alone(how: str) -> None:
    """And nobody else, for whom another model of the same kind stands."""
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)) for _ in range(4)]
    for number in (1, 3):
        hooked_by(how, models[number])
    fleets, reasons = muster([Member(model, tasks()[0], BUDGET, WHOLE) for model in models])
    assert fleets == [[0, 2]]
    whose = "a weight of a Linear" if "weight" in how else "a Linear"
    assert reasons == dict.fromkeys((1, 3), f"{whose} has hooks")


def test_a_hook_of_every_module_hears_every_model() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        _, reasons = muster([member(tasks()[0], seed) for seed in (1, 2)])
    finally:
        handle.remove()
    assert set(reasons.values()) == {"every module has hooks"}


def test_hooks_of_saving_matter_where_patience_goes_back() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    model[1].register_state_dict_post_hook(lambda *_: None)
    assert muster([Member(model, tasks()[0], BUDGET, WHOLE)] * 2)[0] == [[0, 1]]
    assert "a Linear is saved in a way of its own" in muster([Member(model, tasks()[0], PATIENT, WHOLE)] * 2)[1][0]


class Softer(nn.Module):
    """A loss with a state."""

    def __init__(self) -> None:
        super().__init__()
        self.smoothing = 0.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.smoothing += 0.01
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=self.smoothing)


def test_a_loss_or_metric_that_draws_or_counts_goes_alone() -> None:
    """What it draws would come between what layers draw; others of the kind stay together."""

    def noisy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs + torch.randn_like(outputs), targets)

    def noisy_metric(outputs: Tensor, targets: Tensor) -> float:
        return float(torch.rand(()))

    softer = Softer()
    made = [
        digit_task("plain", lambda t: t, loss=nn.functional.cross_entropy, metric=level),
        digit_task("noisy", lambda t: t, loss=noisy_loss),
        digit_task("judged", lambda t: t, metric=noisy_metric),
        digit_task("softer", lambda t: t, loss=softer),
        digit_task("failing", lambda t: t, loss=lambda outputs, targets: 1 / 0),
    ]
    before = chances()
    fleets, reasons = muster([member(task, seed) for task in made for seed in (1, 2)])
    assert [sorted(fleet) for fleet in fleets] == [[0, 1, 8, 9]]
    assert [reasons[number] for number in (2, 4, 6)] == [
        "the loss of task 'noisy' draws random numbers",
        "the metric of task 'judged' draws random numbers",
        "the loss of task 'softer' changes the smoothing of a Softer as it runs",
    ]
    assert softer.smoothing == 0
    assert chances() == before
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 10))
    assert "of Sequential cannot be called with features" in muster([Member(model, made[1], BUDGET, WHOLE)] * 2)[1][0]


class Annealed:
    """A loss that is an object, and gets steeper from call to call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(outputs, targets) * (1 + 0.1 * self.calls)

    def weighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self(outputs, targets)


class CountingBuffer(nn.Module):
    """A loss with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(outputs, targets)


def closed_over(start: int = 0) -> tuple[Any, Any]:
    """(a loss that counts, what tells how far it is)."""
    calls, seen = start, [start]

    def loss(outputs: Tensor, targets: Tensor, *, weight: float = 1.0) -> Tensor:
        nonlocal calls
        calls += 1
        seen.append(calls)
        return nn.functional.cross_entropy(outputs, targets) * weight

    return loss, lambda: (calls, seen)


def test_what_a_loss_that_is_called_holds_is_looked_at() -> None:
    """On a copy: it begins where it would without."""
    annealed, buffer, (counting, so_far), share = Annealed(), CountingBuffer(), closed_over(), torch.ones(10)
    losses: dict[Any, str | None] = {
        annealed: "calls",
        annealed.weighted: "self.calls",
        functools.partial(annealed.weighted): "function.self.calls",
        buffer: "calls",
        (lambda module: lambda outputs, targets: module(outputs, targets))(buffer): "module.calls",
        counting: "calls",
        functools.partial(nn.functional.cross_entropy, label_smoothing=0.1): None,
        (lambda held: lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weight=held))(share): None,
    }
    for loss, changed in losses.items():
        task = digit_task("digits", lambda t: t, loss=loss)
        fleets, reasons = muster([member(task, seed) for seed in (1, 2)])
        why = f"the loss of task 'digits' changes {changed} as it runs"
        assert (fleets, reasons) == (([[0, 1]], {}) if changed is None else ([], {0: why, 1: why}))
    assert (annealed.calls, int(buffer.calls), so_far()) == (0, 0, (0, [0]))
    judged = digit_task("digits", lambda t: t, metric=Metric(closed_over()[0]))
    assert muster([member(judged, seed) for seed in (1, 2)])[1][0].endswith("function.calls as it runs")


class Complex(nn.Module):
    """Complex weights before its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.randn(64, 8, dtype=torch.complex128) / 8)
        self.head = nn.Linear(8, 10).double()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head((inputs.flatten(1).to(self.body.dtype) @ self.body).abs())
        return found


@pytest.mark.parametrize("clip", [None, 0.1])
def test_complex_weights(clip: float | None) -> None:
    torch.manual_seed(0)
    members = [member(tasks()[0], seed, attrs.evolve(BUDGET, clip=clip), Complex()) for seed in (1, 2, 3)]
    assert muster(members) == ([[0, 1, 2]], {})
    assert_same(members)


def test_linear_layers_with_the_same_weights() -> None:
    """At a width that is filled up."""
    torch.manual_seed(0)
    first, second = nn.Linear(10, 10), nn.Linear(10, 10)
    second.weight = first.weight
    layers = [Doubled(), nn.Flatten(), nn.Linear(64, 10), nn.Tanh(), first, nn.Tanh(), second, nn.Linear(10, 10)]
    members = [member(tasks()[0], seed, spec=nn.Sequential(*layers).double()) for seed in (1, 2)]
    assert_same(members)


def test_who_does_not_take_what_it_learned_leaves_the_others_as_they_are() -> None:
    members = [member(tasks()[0], seed) for seed in (1, 2, 3)]
    expected = by_the_loop(members[0])[2].state_dict()
    body = next(layer for layer in members[2].model.modules() if isinstance(layer, nn.Linear))
    body.weight = nn.Parameter(body.weight[:1].detach().expand_as(body.weight))  # all rows in one place
    found = train_fleet(members)
    assert [type(each) for each in found] == [Trained, Trained, DataError]
    for name, tensor in members[0].model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)


def test_a_loss_of_one_number_in_a_list_is_a_loss() -> None:
    task = digit_task("digits", lambda t: t, loss=lambda o, t: nn.functional.cross_entropy(o, t)[None])
    assert_same([member(task, seed) for seed in (1, 2)])


def test_a_large_model_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "WEIGHTS", 5000)
    monkeypatch.setattr(place, "inseparable", lambda *_: pytest.fail("tried"))
    _, reasons = muster([member(tasks()[0], seed) for seed in (1, 2)])
    assert set(reasons.values()) == {place.TOO_FEW}


def test_an_observer_that_hears_steps_hears_them() -> None:
    with heard_by(lambda step, metrics: False):
        fleets, reasons = muster([member(tasks()[0], seed) for seed in (1, 2)])
    assert (fleets, set(reasons.values())) == ([], {"an observer listens to every step"})


def test_several_inputs_and_models_without_a_head_go_alone() -> None:
    task = tasks()[0]
    images = task.data("train").inputs
    parts = MultiInput({"top": images[:, :, :4], "bottom": images[:, :, 4:]})
    both = Task(
        descriptor=attrs.evolve(task.descriptor, input_shape=(), input_shapes={"top": (1, 4, 8), "bottom": (1, 4, 8)}),
        train=(parts, task.data("train").targets),
    )
    model = ModelSpec().build(task.descriptor, 0)
    assert muster([Member(model, both, BUDGET, WHOLE)] * 2)[1][0] == "its samples have several inputs"
    _, reasons = muster([Member(nn.Flatten(), task, BUDGET, WHOLE)] * 2)
    assert "its head cannot be found" in reasons[0]


def test_phases_hold_only_for_the_learn_that_they_describe() -> None:
    class Said:
        def learn(self) -> None: ...

        def phases(self, budget: Budget) -> tuple[Phase, ...]:
            return (Phase(budget.steps),)

    class Other(Said):
        def learn(self) -> None: ...

    assert phases_of(Said(), BUDGET) == WHOLE
    assert phases_of(Other(), BUDGET) is None
    assert phases_of(object(), BUDGET) is None
