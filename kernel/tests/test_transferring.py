"""Measuring transfer: what a receiver keeps, what a control forgets, and that both are treated alike. Fake methods."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, RunError, StoreError
from crosstask.learning import together
from crosstask.learning.architecture import architecture
from crosstask.learning.data import draw
from crosstask.learning.metrics import confidence_interval, relative_gain, standard_error
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Head, know, redraw, seeded
from crosstask.learning.own_models import model_key, train_models
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import (
    Receiver,
    controls,
    drawn,
    fresh_model,
    fresh_text,
    key_of,
    mean_curve,
    read_scratch,
    receive,
    scratch,
    scratch_key,
    scratch_scores,
    scratch_seeds,
    speed_gain,
    unfit_pair,
    without_model,
)
from crosstask.options import component, structure, unstructure
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, LearningCurve, TransferResult
from crosstask.tasks import Portfolio, Task
from crosstask_fakes.fleets import Double, InPhases

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
    source, target = fresh_text(learned(make_task("source")).model), make_task("target")
    key = scratch_key(source, target, BUDGET, 1, "test")
    wider = fresh_text(ModelSpec(hidden=(9,)).build(make_task("source").descriptor, seed=0))
    others = [
        scratch_key(wider, target, BUDGET, 1, "test"),
        scratch_key(source, make_task("another"), BUDGET, 1, "test"),
        scratch_key(source, target, Budget(steps=11), 1, "test"),
        scratch_key(source, target, BUDGET, 2, "test"),
        scratch_key(source, target, BUDGET, 1, "validation"),
    ]
    assert len({key, *others}) == 6
    again = fresh_text(learned(make_task("source")).model)
    assert key == scratch_key(again, make_task("target"), BUDGET, 1, "test")
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


class Raw(nn.Module):
    """A weight that nothing draws, a number that is learned, and what stays as it is."""

    def __init__(self, gain: float = 0.3, scale: float = 2.0, mask: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(4, 8) * gain)
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.register_buffer("mask", torch.tensor([mask, 0.0]) > 0.5)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(inputs @ self.weight * self.scale).tanh())
        return found


class Wave(nn.Module):
    """A complex weight that nothing draws."""

    def __init__(self, turned: complex = 1.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = torch.randn(4, 8), 0.1 * torch.randn(4, 8)
        self.weight = nn.Parameter(torch.complex(*parts) * turned)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm((inputs.to(torch.cfloat) @ self.weight).abs()))
        return found


class Halved(nn.Linear):
    """Its weights begin as half of what they are."""

    before: Tensor

    def reset_parameters(self) -> None:
        if hasattr(self, "before"):
            with torch.no_grad():
                self.weight.copy_(self.before / 2)
        else:
            super().reset_parameters()
            self.before = self.weight.detach().clone()


def stacked(*layers: nn.Module, outputs: int = 3, head: nn.Module | None = None) -> nn.Module:
    made = nn.Sequential(*(layers or (nn.Linear(4, 8), nn.BatchNorm1d(8))))
    made.add_module("head", head or nn.Linear(8, outputs))
    return made


class Configured(nn.Module):
    """Made as transformers make theirs."""

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        self.config, self.body, self.head = config, nn.Linear(4, config["width"]), nn.Linear(config["width"], 3)

    @classmethod
    def _from_config(cls, config: dict[str, int]) -> Configured:
        return cls(config)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs).tanh())
        return found


def trained(model: nn.Module) -> nn.Module:
    fit(model, make_task("trained"), BUDGET, torch.Generator().manual_seed(1))
    return model


def after(build: Any, model: nn.Module) -> nn.Module:
    """The model with a factory."""
    know(model, build=build)
    return model


def gained(gain: float, lock: Any = None) -> Any:
    def build() -> nn.Module:
        assert lock is None or not lock.locked()
        layer = nn.Linear(4, 8)
        with torch.no_grad():
            layer.weight.mul_(gain)
        return stacked(layer, nn.BatchNorm1d(8))

    return build


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (stacked, lambda: trained(stacked()), True),
        (stacked, lambda: stacked(outputs=5), True),
        (lambda: stacked(head=nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))),
         lambda: stacked(head=nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 6))), True),
        (stacked, lambda: stacked(head=nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))), False),
        (stacked, lambda: stacked(head=nn.Linear(8, 3, bias=False)), False),
        (stacked, lambda: stacked().double(), False),
        (lambda: Configured({"width": 8}), lambda: trained(Configured({"width": 8})), True),
        (lambda: Configured({"width": 8}), lambda: Configured({"width": 9}), False),
        (Raw, Raw, True),
        (Raw, lambda: Raw(gain=3.0), False),
        (Raw, lambda: Raw(scale=3.0), False),
        (Raw, lambda: Raw(mask=0.0), False),
        (lambda: stacked(Halved(4, 8)), lambda: stacked(Halved(4, 8)), False),
        (stacked, lambda: after(gained(2.0), stacked()), False),
        (lambda: after(gained(2.0), stacked()), lambda: after(gained(2.0), trained(stacked())), True),
        (lambda: after(gained(2.0), stacked()), lambda: after(gained(3.0), stacked()), False),
        (lambda: nn.Sequential(Raw()), lambda: nn.Sequential(Raw(gain=3.0)), False),
        (Wave, Wave, True),
        (Wave, lambda: Wave(turned=1j), False),
        (Wave, lambda: Wave(seed=1), False),
    ],
    ids=["weights", "outputs", "outputs of several", "head", "bias", "numbers", "configured", "configurations",
         "raw", "spread", "number", "buffer",
         "own way", "factory or none", "factory", "factories", "inside", "complex", "turned", "other parts"],
)  # fmt: skip
def test_models_of_one_text_are_those_of_which_the_same_are_made(one: Any, other: Any, same: bool) -> None:
    made = []
    for number, make in enumerate((one, other)):
        torch.manual_seed(number)
        made.append(make())
    kept = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in made]
    told = [fresh_text(model) for model in made]
    fresh = [fresh_model(model, make_task("target"), 3).state_dict() for model in made]
    alike = fresh[0].keys() == fresh[1].keys() and all(
        fresh[0][name].dtype == tensor.dtype and torch.equal(fresh[0][name], tensor)
        for name, tensor in fresh[1].items()
    )
    assert alike is (told[0] == told[1]) is same
    for model, state in zip(made, kept, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items()), "is as it was"


def test_of_a_complex_weight_the_mean_and_spread_of_its_parts_count() -> None:
    """Not its values: of two that differ in nothing else the same are made."""
    one, other = Wave(), Wave()
    with torch.no_grad():
        other.weight.copy_(other.weight.flatten().flip(0).reshape(4, 8))
    told = [[line for line in fresh_text(model).splitlines() if line.startswith("weight ")] for model in (one, other)]
    figures = [[float(word) for word in line.split()[1:]] for (line,) in told]
    assert len(figures[0]) == 4
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    fresh = [fresh_model(model, make_task("target"), 3).get_parameter("weight") for model in (one, other)]
    torch.testing.assert_close(*fresh)


def test_a_factory_that_nobody_knows_is_like_no_other() -> None:
    model = after(gained(2.0, threading.Lock()), stacked())
    assert fresh_text(model) != fresh_text(model)


def test_models_of_which_nothing_can_be_made_have_a_text() -> None:
    class Uncopied(Raw):
        def __deepcopy__(self, memo: Any) -> nn.Module:
            raise RuntimeError("a handle")

    told = []
    for gain in (1.0, 1.0, 3.0):
        torch.manual_seed(0)
        told.append(fresh_text(Uncopied(gain)))
    assert told[0] == told[1] != told[2]
    assert fresh_text(nn.Sequential(nn.ReLU())) != fresh_text(nn.Sequential(nn.Tanh()))
    odd = Raw()
    odd.register_buffer("fixed", torch.eye(2).to_sparse())
    assert fresh_text(odd) == fresh_text(copy.deepcopy(odd))
    loose = Raw()
    know(loose, head=Head(None, (("weight", 1),)))
    assert fresh_text(loose) != fresh_text(Raw())
    know(loose, head=Head("norm"))
    assert fresh_text(loose) != fresh_text(Raw())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Bilinear(2, 3, 4), nn.Conv1d(2, 3, 2), nn.Conv2d(2, 3, 2), nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm2d(3),
        nn.InstanceNorm1d(3, affine=True, track_running_stats=True), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.RMSNorm(3),
        nn.Embedding(5, 3, padding_idx=0), nn.EmbeddingBag(5, 3), nn.LSTM(2, 3, 2), nn.GRUCell(2, 3), nn.PReLU(3),
        nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=3), nn.TransformerDecoderLayer(4, 2, 8),
        nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3]), nn.SyncBatchNorm(3),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_torch_s_layers_draw_all_that_they_hold(layer: nn.Module) -> None:
    """For which nothing is drawn to find that out."""
    one = nn.Sequential(layer, nn.Linear(3, 3))
    other = copy.deepcopy(one)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(tensor.abs() + 1)
    assert fresh_text(one) == fresh_text(other)
    fresh, again = (fresh_model(each, make_task("target"), 3).state_dict() for each in (one, other))
    assert all(torch.equal(fresh[name], tensor) for name, tensor in again.items())


def test_who_comes_first_does_not_decide_what_a_control_is() -> None:
    """Sources of one architecture, of which other models are drawn."""
    target, context = make_task("target"), LocalContext()
    models = [Raw(), Raw(gain=3.0), after(gained(0.01), stacked()), after(gained(4.0), stacked()), stacked()]
    expected = [
        [scratch(model, target, BUDGET, seed, "test")[0] for seed in scratch_seeds(context, target, 2)]
        for model in models
    ]
    assert len({tuple(scores) for scores in expected}) == len(models)
    for order in (models, models[::-1]):
        found = controls(LocalContext(), [(model, target) for model in order], BUDGET, 2, "test")
        by_model = {id(model): [score for score, _ in each] for model, each in zip(order, found, strict=True)}
        for model, scores in zip(models, expected, strict=True):
            assert by_model[id(model)] == pytest.approx(scores, abs=1e-6)


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
                patch.setattr(together, "train_fleet", lambda members, **_: [DataError("no")] * len(members))
            if how == "alone":
                patch.setattr(together, "muster", lambda *_: ([], dict.fromkeys(range(3), "today")))
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


# In fleets


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """A score without steps: what differs at all shows."""
    return -(outputs - nn.functional.one_hot(targets, 3)).square().mean()


def test_a_measured_transfer_in_fleets_is_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and curves of three seeds and their controls, in double precision to 1e-9."""
    few, target = attrs.evolve(BUDGET, samples=20, batch_size=8), make_task("target")
    target.metric = squared
    source = make_task("source")
    source.model = Double()
    method = InPhases()
    result = method.transfer(source, target, few, 3, "test")
    assert method.alone == []
    scores, plain, curves = [], [], []
    for number in range(3):
        seed = method.context.seed_for("transfer", "target", number)
        task = drawn(target, 20, seed)
        learner, copied, left = receive(source.model, task, seed, keep_head=False)
        curves.append(fit(learner, task, few, torch.Generator().manual_seed(seed)).values)
        scores.append(evaluate(learner, task, "test"))
        control = fresh_model(source.model, task, seed)
        fit(control, task, few, torch.Generator().manual_seed(seed))
        plain.append(evaluate(control, task, "test"))
    assert result.score.values == pytest.approx(scores, rel=0, abs=1e-9)
    assert result.scratch_score.values == pytest.approx(plain, rel=0, abs=1e-9)
    assert result.curve.values == pytest.approx([sum(each) / 3 for each in zip(*curves, strict=True)], abs=1e-9)
    assert (result.transferred, result.not_transferred) == (tuple(copied), tuple(left))
    monkeypatch.setattr(together, "muster", lambda members, *_: ([], dict.fromkeys(range(len(members)), "")))
    alone = InPhases()
    again = alone.transfer(source, target, few, 3, "test")
    assert len(alone.alone) == 3
    assert again.score.values == pytest.approx(scores, rel=0, abs=1e-12)


def test_controls_of_several_targets_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one fleet, whatever is known of them; one network may stand for two targets."""
    sizes, model = [], ModelSpec(hidden=(8,)).build(make_task("a").descriptor, 0)
    targets = [make_task("a"), make_task("of two", outputs=2), make_task("of three")]
    train = together.train_fleet
    monkeypatch.setattr(together, "train_fleet", lambda m, **more: sizes.append(len(m)) or train(m, **more))
    context = LocalContext()
    one = scratch_scores(context, model, targets[0], BUDGET, 2, "test")
    found = controls(context, [(model, target) for target in [*targets, targets[1]]], BUDGET, 2, "test")
    assert sizes == [2, 4]
    assert found[0] == one
    assert found[3] == found[1]
    for target, own in zip(targets, found[:3], strict=True):
        for number, (score, curve) in enumerate(own):
            seed = context.seed_for("transfer", target.task_id, number)
            expected, of_it = scratch(model, target, BUDGET, seed, "test")
            assert score == pytest.approx(expected)
            assert curve.steps == of_it.steps
            assert curve.values == pytest.approx(of_it.values)
    assert controls(context, [], BUDGET, 2, "test") == []


def test_controls_that_are_known_are_not_trained_again_and_a_failure_leaves_nothing_claimed() -> None:
    context, target, source = LocalContext(), make_task("target"), learned(make_task("source")).model
    assert source is not None
    kept, given_up = [], []
    remember = context.remember
    context.remember = lambda kind, key, *more: (kept.append(key), remember(kind, key, *more))  # type: ignore[assignment,method-assign]
    context.forgo = lambda kind, key: given_up.append(key)  # type: ignore[method-assign]
    two = scratch_scores(context, source, target, BUDGET, 2, "test")
    four = scratch_scores(context, source, target, BUDGET, 4, "test")
    assert four[:2] == two
    assert len(kept) == len(set(kept)) == 4
    assert given_up == []
    seeds = [context.seed_for("transfer", "target", number) for number in range(4)]
    assert kept == [scratch_key(fresh_text(source), target, BUDGET, seed, "test") for seed in seeds]
    bare = target.over(train=target.data("train"))
    with pytest.raises(DataError, match="task 'target' has no test data"):
        scratch_scores(context, source, bare, BUDGET, 2, "test")
    assert given_up == [scratch_key(fresh_text(source), bare, BUDGET, seed, "test") for seed in seeds[:2]]
    given_up.clear()
    target.loss = lambda outputs, targets: outputs.sum() * float("nan")
    with pytest.raises(RunError, match="task 'target': the training loss is nan at step 1; try a smaller learning"):
        scratch_scores(context, source, target, attrs.evolve(BUDGET, steps=5), 2, "test")
    assert len(given_up) == 2


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.numbers = nn.Linear(4, 3), (number for number in range(3))

    with pytest.raises(DataError, match="task 'target': a Once cannot be copied: TypeError: cannot pickle 'generator'"):
        fresh_model(Once(), make_task("target"), 0)


class OnlyHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


@pytest.mark.parametrize("made", [OnlyHead, lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3))])
def test_a_model_that_is_all_head_is_a_source_only_where_its_head_is_kept(made: Callable[[], nn.Module]) -> None:
    """It was found out when a transfer from it failed, and then without its name."""
    source, other, same = make_task("linear", classes="abc"), make_task("other"), make_task("same", classes="abc")
    source.model = made()
    reason = unfit_pair(source, other, Portfolio([source, other]))
    assert reason is not None
    assert reason.startswith("the model of 'linear' is no source for 'other': it is all head")
    with pytest.raises(DataError, match=f"a {type(source.model).__name__}, is no source for task 'other': it is all"):
        receive(source.model, other, 0, keep_head=False)
    with pytest.raises(DataError, match="is no source for task 'other': it is all head"):
        Receiver(fresh_model(source.model, other, 0)).begun(source.model, other, keep_head=False)
    assert unfit_pair(source, same, Portfolio([source, same])) is None
    assert receive(source.model, same, 0, keep_head=True)[2] == []


def test_a_bare_linear_layer_is_no_source_and_is_told_what_would_be_one() -> None:
    source, other, same = make_task("linear", classes="abc"), make_task("other"), make_task("same", classes="abc")
    source.model = nn.Linear(4, 3)
    for target, why in ((other, "is no source for 'other': it is all head"), (same, "is all head, which cannot be")):
        assert why in str(unfit_pair(source, target, Portfolio([source, target])))
        with pytest.raises(DataError, match=r"all head.* in an nn.Sequential it can, and with a layer before it"):
            receive(source.model, target, 0, keep_head=target is same)
