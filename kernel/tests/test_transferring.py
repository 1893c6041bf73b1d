"""Measuring transfer: what a receiver keeps, what a control forgets, and that both are treated alike. Fake methods."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, StoreError
from crosstask.learning import own_models
from crosstask.learning.data import draw
from crosstask.learning.metrics import confidence_interval, relative_gain, standard_error
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import know, redraw, seeded
from crosstask.learning.own_models import model_key, train_models
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import (
    architecture,
    drawn,
    fresh_model,
    key_of,
    mean_curve,
    read_scratch,
    receive,
    scratch_key,
    speed_gain,
    without_model,
)
from crosstask.options import component, structure, unstructure
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, LearningCurve, TransferResult
from crosstask.tasks import Task

BUDGET = Budget(steps=10, evaluate_every=5, learning_rate=1e-2)


@component
class Honest(Transfer):
    """Plain fine-tuning; keeps what it was given."""

    seen: list[Any] = attrs.field(factory=list, init=False)

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        self.seen.append((model, source, task, budget, generator.initial_seed()))
        return fit(model, task, budget, generator)


@component
class Idle(Transfer):
    """Learns nothing."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator, steps=0)


def make_task(name: str, outputs: int = 3, classes: str = "") -> Task:
    rng = torch.Generator().manual_seed(len(name))
    inputs = torch.randn(90, 4, generator=rng)
    labels = (inputs @ torch.randn(4, outputs, generator=rng)).argmax(dim=1)
    descriptor = TaskDescriptor(task_id=name, input_shape=(4,), output_dim=outputs, classes=tuple(classes))
    parts = {"train": slice(0, 50), "validation": slice(50, 70), "test": slice(70, None)}
    return Task(descriptor=descriptor, **{split: (inputs[part], labels[part]) for split, part in parts.items()})


def learned(task: Task) -> Task:
    task.model = ModelSpec(hidden=(8,)).build(task.descriptor, seed=5)
    fit(task.model, task, Budget(steps=100, learning_rate=1e-2), torch.Generator().manual_seed(5))
    return task


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_receiver_keeps_the_trunk_and_gets_a_new_head() -> None:
    source = learned(make_task("source"))
    model, copied, left = receive(source.model, make_task("target", outputs=2), seed=0, keep_head=False)
    assert copied == ["trunk.1.bias", "trunk.1.weight"]
    assert left == ["head.bias", "head.weight"]
    assert torch.equal(model.trunk[1].weight, source.model.trunk[1].weight)
    assert model.head.out_features == 2
    model.trunk[1].weight.data += 1
    assert not torch.equal(model.trunk[1].weight, source.model.trunk[1].weight), "a copy"


def test_the_head_is_kept_only_for_the_same_classes() -> None:
    source = learned(make_task("source", classes="abc"))
    for classes, kept in (("abc", True), ("acb", False), ("", False)):
        method = Honest()
        result = method.transfer(source, make_task("target", classes=classes), BUDGET, 1, "test")
        assert ("head.weight" in result.transferred) is kept
        assert ("head.weight" in result.not_transferred) is not kept


def test_a_control_has_nothing_of_the_source() -> None:
    source = learned(make_task("source")).model
    fresh = fresh_model(source, make_task("target"), seed=0)
    for name, tensor in fresh.state_dict().items():
        assert not torch.equal(tensor, source.state_dict()[name]), name
    other = ModelSpec(hidden=(8,)).build(make_task("source").descriptor, seed=99)
    same = fresh_model(other, make_task("target"), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), same.parameters(), strict=True))


def test_running_statistics_and_frozen_weights_do_not_leak_into_a_control() -> None:
    source = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    source.add_module("head", nn.Linear(8, 3))
    source(torch.randn(20, 4) + 3)
    source.requires_grad_(False).eval()
    fresh = fresh_model(source, make_task("target"), seed=0)
    assert torch.equal(fresh[1].running_mean, torch.zeros(8))
    assert all(p.requires_grad for p in fresh.parameters())


class WithToken(nn.Module):
    """A layer with a weight that nobody knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(2 + 0.5 * torch.randn(400))
        self.constant = nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.constant + self.token[:4]


def test_a_weight_without_a_method_is_drawn_with_its_own_mean_and_spread() -> None:
    model = nn.Sequential(WithToken())
    model.add_module("head", nn.Linear(4, 3))
    fresh = fresh_model(model, make_task("target"), seed=0)[0].requires_grad_(False)
    old, new = model[0].token.detach(), fresh
    assert abs(float(torch.corrcoef(torch.stack([old, new.token]))[0, 1])) < 0.2
    assert float(new.token.mean()) == pytest.approx(float(old.mean()), abs=0.1)
    assert float(new.token.std()) == pytest.approx(float(old.std()), abs=0.1)
    assert new.constant.tolist() == [1.0] * 4
    assert "the spread of 0.token" in redraw(model, 0)


def test_a_factory_draws_everything() -> None:
    def build() -> nn.Module:
        made = nn.Sequential(WithToken())
        made.add_module("head", nn.Linear(4, 5))
        return made

    model = build()
    know(model, build=build)
    fresh = fresh_model(model, make_task("target"), seed=3)
    with seeded(3):
        expected = build()
    torch.testing.assert_close(fresh[0].token, expected[0].token)
    assert fresh.head.out_features == 3
    know(model, build=lambda: nn.Linear(4, 3))
    with pytest.raises(DataError, match=r"another architecture: '0.token' is not the same"):
        fresh_model(model, make_task("target"), seed=3)


def test_attention_is_drawn_anew() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    model.add_module("head", nn.Linear(4, 3))
    before = weights(model)
    for name, tensor in fresh_model(model, make_task("target"), seed=7).state_dict().items():
        if tensor.ndim > 1:
            assert not torch.equal(tensor, before[name]), name


def test_both_sides_get_the_same_budget_and_seeds() -> None:
    """An independent twin of the whole measurement."""
    method, source, target = Honest(), learned(make_task("source")), make_task("target")
    result = method.transfer(source, target, BUDGET, 3, "test")
    assert [(task, budget) for _, _, task, budget, _ in method.seen] == [(target, BUDGET)] * 3
    seeds = [seed for *_, seed in method.seen]
    assert len(set(seeds)) == 3
    gains, scores, plain = [], [], []
    for seed in seeds:
        with_it, _, _ = receive(source.model, target, seed, keep_head=False)
        without = fresh_model(source.model, target, seed)
        for model in (with_it, without):
            fit(model, target, BUDGET, torch.Generator().manual_seed(seed))
        scores.append(evaluate(with_it, target, "test"))
        plain.append(evaluate(without, target, "test"))
        gains.append(relative_gain(scores[-1], plain[-1]))
    assert result.score == confidence_interval(scores, (0, 1))
    assert result.scratch_score == confidence_interval(plain, (0, 1))
    assert result.coefficient == confidence_interval(gains, (-1, 1))
    assert result.performance_gain.mean == pytest.approx(sum(scores) / 3 - sum(plain) / 3)
    assert result.curve.steps == result.scratch_curve.steps == (0, 5, 10)
    assert (result.seeds, result.budget, result.split, result.metric) == (3, BUDGET, "test", "accuracy")


def test_a_method_that_learns_nothing_shows_negative_transfer() -> None:
    source = learned(make_task("source"))
    result = Idle().transfer(source, make_task("target"), Budget(steps=80, learning_rate=3e-2), 4, "test")
    assert result.coefficient.mean < 0
    assert result.negative is (result.coefficient.high < 0)
    assert result.convergence_speed_gain is None


def test_controls_are_shared_between_sources_and_methods() -> None:
    context = LocalContext()
    trainings = []
    context.remember = lambda *a, **k: trainings.append(a) or LocalContext.remember(context, *a, **k)  # type: ignore[method-assign]
    target = make_task("target")
    for name, method in (("one", Honest()), ("two", Honest()), ("two", Idle())):
        method.bind(context)
        method.transfer(learned(make_task(name)), target, BUDGET, 2, "test")
    assert len(trainings) == 2


def test_keys_tell_apart_what_differs() -> None:
    source, target = learned(make_task("source")).model, make_task("target")
    key = scratch_key(source, target, BUDGET, 1, "test")
    wider = ModelSpec(hidden=(9,)).build(make_task("source").descriptor, seed=0)
    others = [
        scratch_key(wider, target, BUDGET, 1, "test"),
        scratch_key(source, make_task("another"), BUDGET, 1, "test"),
        scratch_key(source, target, Budget(steps=11), 1, "test"),
        scratch_key(source, target, BUDGET, 2, "test"),
        scratch_key(source, target, BUDGET, 1, "validation"),
    ]
    assert len({key, *others}) == 6
    assert key == scratch_key(learned(make_task("source")).model, make_task("target"), BUDGET, 1, "test")
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_an_architecture_is_more_than_its_layers_and_less_than_its_head() -> None:
    class Residual(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + super().forward(inputs)

    def wrapped(kind: type[nn.Sequential], outputs: int) -> nn.Module:
        model = nn.Sequential(kind(nn.Linear(4, 4)))
        model.add_module("head", nn.Sequential(nn.ReLU(), nn.Linear(4, outputs)))
        return model

    assert architecture(wrapped(nn.Sequential, 3)) == architecture(wrapped(nn.Sequential, 5))
    assert architecture(wrapped(nn.Sequential, 3)) != architecture(wrapped(Residual, 3))


@pytest.mark.parametrize(
    ("with_it", "without", "gain"),
    [
        ([0.1, 0.9, 0.9], [0.1, 0.5, 0.8], 2.0),
        ([0.8, 0.9, 0.9], [0.1, 0.5, 0.8], 20.0),
        ([0.1, 0.5, 0.8], [0.1, 0.5, 0.8], 1.0),
        ([0.1, 0.5, 0.7], [0.1, 0.5, 0.8], None),
        ([0.1, 0.2, 0.8], [0.1, 0.8, 0.8], 0.5),
    ],
)
def test_speed_gain(with_it: list[float], without: list[float], gain: float | None) -> None:
    curves = [LearningCurve(steps=(0, 10, 20), values=tuple(v)) for v in (with_it, without)]
    assert speed_gain(*curves) == gain


def test_curves_of_several_seeds_are_averaged() -> None:
    curves = [LearningCurve(steps=(0, 5), values=v) for v in ((0.0, 1.0), (0.5, 0.5))]
    assert mean_curve(curves) == LearningCurve(steps=(0, 5), values=(0.25, 0.75))
    assert mean_curve([]) == mean_curve([LearningCurve()]) == LearningCurve()


@pytest.mark.parametrize(
    ("score", "scratch", "coefficient"),
    [
        (0.9, 0.8, 0.5),
        (1.0, 0.8, 1.0),
        (0.8, 0.8, 0.0),
        (1.0, 1.0, 0.0),
        (0.4, 0.8, -0.5),
        (0.0, 0.8, -1.0),
        (0.09, 0.10, -0.01 / 0.9),
        (0.11, 0.10, 0.01 / 0.9),
        (0.0, 0.0, 0.0),
    ],
)
def test_relative_gain(score: float, scratch: float, coefficient: float) -> None:
    assert relative_gain(score, scratch) == pytest.approx(coefficient)


def test_intervals_are_students() -> None:
    found = confidence_interval([1.0, 2.0, 3.0])
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert standard_error(found) == pytest.approx(1 / 3**0.5)
    assert standard_error(confidence_interval([1.0], (-1, 1))) == 1.0


def test_results_survive_json() -> None:
    result = Honest().transfer(learned(make_task("source")), make_task("target"), BUDGET, 2, "test")
    assert structure(unstructure(result), TransferResult, "result") == result


@pytest.mark.parametrize("payload", [{}, {"score": "high", "curve": {}}, {"score": 0.5, "curve": {"steps": "x"}}])
def test_a_damaged_control_is_refused(payload: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="stored control cannot be read"):
        read_scratch(payload)


def test_a_source_without_a_model_is_refused() -> None:
    with pytest.raises(DataError, match="'source' has no trained model"):
        Honest().transfer(make_task("source"), make_task("target"), BUDGET, 1, "test")


def test_a_light_task_holds_what_was_asked_for() -> None:
    import pickle

    task = learned(make_task("task"))
    light = without_model(task, ("train", "validation"))
    assert len(pickle.dumps(light)) < len(pickle.dumps(without_model(task)))
    assert light.model is None
    assert (len(light.data("train")), len(light.data("validation")), light.has_data("test")) == (50, 20, False)
    assert torch.equal(light.data("train").inputs, task.data("train").inputs)
    assert without_model(task).fingerprint() == task.fingerprint()


def test_models_are_trained_once() -> None:
    context, spec = LocalContext(), ModelSpec(hidden=(8,))
    tasks = [make_task("a"), Task(descriptor=TaskDescriptor(task_id="bare", output_dim=2))]
    train_models(context, spec, tasks, BUDGET)
    again = make_task("a")
    context.jobs = lambda jobs: iter(()) if not list(jobs) else pytest.fail("trained twice")  # type: ignore[method-assign]
    train_models(context, spec, [again], BUDGET)
    assert tasks[1].model is None
    assert all(torch.equal(a, b) for a, b in zip(tasks[0].model.parameters(), again.model.parameters(), strict=True))


def test_models_that_are_trained_together_are_those_that_are_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fleet, where the fleet fails, and one by one; another run's model is taken."""
    spec = ModelSpec(hidden=(8,))
    names = ("a", "b", "c")
    found = []
    for how in ("fleet", "fails", "alone"):
        with monkeypatch.context() as patch:
            if how == "fails":
                patch.setattr(own_models, "train_fleet", lambda members: [DataError("no")] * len(members))
            if how == "alone":
                patch.setattr(own_models, "muster", lambda members, workers: ([], dict.fromkeys(range(3), "today")))
            tasks = [make_task(name) for name in names]
            train_models(LocalContext(), spec, tasks, BUDGET)
            found.append([task.model.state_dict() for task in tasks])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    context, late = LocalContext(), [make_task(name) for name in names]
    real = context.recall

    def meanwhile(kind: str, key: str, claim: bool = True) -> Any:
        if claim and key == model_key(context, spec, late[1], BUDGET):
            context.remember(kind, key, {}, found[0][0])
        return real(kind, key, claim)

    context.recall = meanwhile  # type: ignore[method-assign]
    train_models(context, spec, late, BUDGET)
    torch.testing.assert_close(late[1].model.state_dict(), found[0][0])
    torch.testing.assert_close(late[2].model.state_dict(), found[0][2], rtol=1e-4, atol=1e-5)


def rows(task: Task) -> set[tuple[float, ...]]:
    return {tuple(row) for row in task.data("train").inputs.tolist()}


def test_every_seed_draws_samples_of_its_own() -> None:
    task = make_task("task")
    one, again, other = drawn(task, 12, 1), drawn(task, 12, 1), drawn(task, 12, 2)
    assert torch.equal(one.data("train").inputs, again.data("train").inputs)
    assert len(rows(one)) == len(rows(other)) == 12
    assert rows(one) != rows(other)
    assert rows(one) < rows(task)
    assert torch.equal(one.data("validation").inputs, task.data("validation").inputs)
    assert drawn(one, 12, 3) is one, "what was drawn is not drawn from again"
    assert drawn(task, None, 1) is drawn(task, 50, 1) is drawn(task, 99, 1) is task


def test_all_samples_are_as_likely() -> None:
    task = make_task("task")
    counts = torch.zeros(50)
    for seed in range(300):
        picked = drawn(task, 10, seed).data("train").inputs
        counts += (task.data("train").inputs[:, None] == picked[None]).all(2).any(1)
    labels = task.data("train").targets
    for label in labels.unique():
        own = counts[labels == label]
        share = own.mean()
        assert (own - share).abs().max() < 5 * float((share * (1 - share / 300)) ** 0.5)


def test_a_draw_is_stratified() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 9 + [3])
    data = TensorData(torch.arange(100.0)[:, None], labels[torch.randperm(100, generator=generator)])
    found = draw(data, 10, generator, classes=True)
    assert found.targets.bincount(minlength=4).tolist() == [5, 3, 1, 1]
    assert draw(data, 4, generator, classes=True).targets.unique().tolist() == [0, 1, 2, 3]
    assert draw(data, 100, generator, classes=True).inputs.sum() == data.inputs.sum()
    values = TensorData(data.inputs, data.inputs)
    assert len(draw(values, 10, generator, classes=False).inputs.unique()) == 10


def test_transfer_and_control_learn_from_the_same_samples() -> None:
    """A method that trains from scratch as the control does ends exactly where the control ends."""

    @component
    class FromScratch(Transfer):
        def learn(
            self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
        ) -> History:
            fresh = fresh_model(source, task, generator.initial_seed())
            model.load_state_dict(fresh.state_dict())
            return fit(model, task, budget, generator)

    budget = attrs.evolve(BUDGET, samples=9)
    result = FromScratch().transfer(learned(make_task("source")), make_task("target"), budget, 4, "test")
    assert result.score.values == result.scratch_score.values
    assert len(set(result.score.values)) > 1


def test_a_model_with_nothing_to_train() -> None:
    inputs, targets = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    frozen = nn.Linear(2, 2).requires_grad_(False)
    task = Task(descriptor=TaskDescriptor(task_id="cold", output_dim=2), train=(inputs, targets))
    with pytest.raises(DataError, match="task 'cold': no parameter of Linear is trainable"):
        fit(frozen, task, BUDGET, torch.Generator())


def test_the_mean_of_curves_of_which_one_was_stopped() -> None:
    from crosstask.learning.transferring import mean_curve
    from crosstask.records import LearningCurve

    long = LearningCurve(steps=(0, 20, 40), values=(0.0, 0.5, 0.75))
    short = LearningCurve(steps=(0, 12), values=(0.5, 1.0))
    found = mean_curve([long, short])
    assert found.steps == (0, 12, 20, 40)
    assert found.values == (0.25, 0.5, 0.75, 0.875)
    assert mean_curve([long, LearningCurve()]) == LearningCurve()
