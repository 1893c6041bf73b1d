"""MAML against hand-made derivatives, its paths against each other, and what must not go wrong."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TensorData
from crosstask.errors import DataError, OptionError, RunError
from crosstask.learning.batched import Batched
from crosstask.learning.episodes import Episodes
from crosstask.learning.modules import head_name
from crosstask_maml import ANIL, MAML, MAMLFirstOrder, MetaSGD
from crosstask_meta.testing import new_digits, some_episodes
from crosstask_meta.trainer import BaseMetaLearner

NUMBERS = st.floats(-2, 2)


def line(weight: float) -> nn.Linear:
    """y = w x."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, weight)
    return model


def one_point(x: float, y: float, u: float, v: float) -> Episodes:
    """A task with one sample (x, y) to adapt to and one query (u, v)."""
    made = [torch.tensor([[[value]]], dtype=torch.float64) for value in (x, y, u, v)]
    return Episodes(*made)


def gradient(learner: Any, model: nn.Module, episodes: Episodes) -> list[Tensor]:
    """The meta-gradient: how far plain gradient descent of rate one goes."""
    model = learner.prepare(copy.deepcopy(model), episodes)
    before = [p.detach().clone() for p in model.parameters()]
    learner.meta_step(model, episodes, torch.optim.SGD(model.parameters(), lr=1.0))
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.floats(0.01, 0.3))
@settings(max_examples=15, deadline=None)
def test_gradients_of_a_line_are_those_by_hand(w: float, x: float, y: float, u: float, v: float, rate: float) -> None:
    """Support loss (wx - y)² and one inner step: w' = w - rate 2x(wx - y), dw'/dw = 1 - rate 2x²."""
    slope = 2 * x * (w * x - y)
    adapted = w - rate * slope
    at_query = 2 * u * (adapted * u - v)
    options = {"lr_inner": rate, "num_inner_steps": 1}
    task = one_point(x, y, u, v)
    second = gradient(MAML(**options), line(w), task)[0]
    assert float(second) == pytest.approx(at_query * (1 - rate * 2 * x * x), abs=1e-9)
    for learner in (MAML(first_order=True, **options), MAMLFirstOrder(**options)):
        assert float(gradient(learner, line(w), task)[0]) == pytest.approx(at_query, abs=1e-9)
    weight, of_rate = gradient(MetaSGD(**options), line(w), task)
    assert float(weight) == pytest.approx(float(second), abs=1e-9)
    assert float(of_rate) == pytest.approx(-at_query * slope, abs=1e-9)


def test_per_step_losses_fade_as_in_the_paper() -> None:
    """All inner steps count alike at first, and only the last after `per_step` meta-steps."""
    learner = MAML(num_inner_steps=3, per_step=4)
    seen = []
    for _ in range(6):
        seen.append(learner._order().weights)
        learner._ended()
    assert seen[0] == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert seen[2] == pytest.approx((1 / 6, 1 / 6, 2 / 3))
    assert seen[4:] == [(), ()]
    assert all(sum(weights) == pytest.approx(1) for weights in seen[:4])


def test_per_step_losses_are_the_sum_of_each_number_of_steps() -> None:
    task = one_point(1.0, 0.5, -0.7, 1.5)
    parts = [gradient(MAML(lr_inner=0.2, num_inner_steps=n), line(0.3), task)[0] for n in (1, 2, 3)]
    whole = gradient(MAML(lr_inner=0.2, num_inner_steps=3, per_step=10), line(0.3), task)[0]
    assert float(whole) == pytest.approx(float(sum(parts) / 3))


def convolutional(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, outputs)]
    return nn.Sequential(*layers).double()


def some_images(count: int = 5, ways: int = 3) -> Episodes:
    return some_episodes(count, ways, shape=(1, 8, 8)).to(torch.float64)


class Skipping(nn.Module):
    """Not made of layers in a row: vmap's business."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body[0](inputs.flatten(1))
        found: Tensor = self.head(hidden + self.body[1:](hidden))
        return found


@pytest.mark.parametrize("make", [MAML, MAMLFirstOrder, ANIL, MetaSGD], ids=lambda kind: kind.__name__)
def test_all_paths_give_the_same_gradients(make: Any) -> None:
    episodes = some_images()
    torch.manual_seed(0)
    for model, paths in ((convolutional(), ("layers", "vmap", "loop")), (Skipping().double(), ("auto", "loop"))):
        first, *others = [
            gradient(make(lr_inner=0.1, num_inner_steps=2, path=path, tasks_at_once=size), model, episodes)
            for path in paths
            for size in (None, 2)
        ]
        for other in others:
            for one, two in zip(first, other, strict=True):
                assert torch.allclose(one, two, rtol=1e-9, atol=1e-11)
        assert max(float(g.abs().max()) for g in first) > 1e-3


def test_what_is_not_a_row_is_batched_too() -> None:
    model, inputs = Skipping().double(), some_images().support_inputs
    assert Batched(model).tasks_at_once(dict(model.named_parameters()), inputs, first_order=False) == len(inputs)


def with_lora(model: nn.Module) -> nn.Module:
    """A model under an adapter that has already moved; its head is trained too, all else is frozen."""
    made = LocalContext().component("adapter", "lora", {"r": 2})
    head = head_name(model)
    handle = made.attach(model, [f"!{head}"], torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, parameter in enumerate(handle.parameters()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            parameter.add_(drawn / 20)
    model.get_submodule(head).requires_grad_(True)
    return model


@pytest.mark.parametrize("make", [MAML, MAMLFirstOrder, ANIL, MetaSGD], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("network", [convolutional, lambda: Skipping().double()], ids=["layers", "skipping"])
def test_adapters_adapt_on_a_frozen_network(make: Any, network: Any) -> None:
    """Where nothing is merged the gradients of the adapter are those of the loop, and the base keeps its bits."""
    pytest.importorskip("crosstask_lora")
    episodes, found = some_images(), []
    torch.manual_seed(0)
    base = network()
    for path in ("auto", "loop"):
        model, learner = with_lora(copy.deepcopy(base)), make(lr_inner=0.01, num_inner_steps=2, path=path)
        found.append(gradient(learner, model, episodes))
        learned = learner.prepare(copy.deepcopy(model), episodes)
        learner.meta_step(learned, episodes, learner.optimizer(learned))
        adapted = learner.adapt(learned, episodes.support(0), 2)
        assert torch.allclose(adapted(episodes.query_inputs[0]), learner.predict(learned, episodes, 2)[0])
        own, left = learner._module(learned), dict(base.state_dict())
        trained = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
        assert any("_adapters" in name for name in trained)
        for module in (own, adapted):
            kept = [name for name in module.state_dict() if name in left and name not in trained]
            assert len(kept) > len(trained) / 4
            assert all(torch.equal(module.state_dict()[name], left[name]) for name in kept)
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-11)


def test_attention_has_second_derivatives() -> None:
    """Not in the quick forms that torch takes by itself."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (8, 8)), layer, nn.Flatten(), nn.Linear(64, 3)).double()
    one, two = (gradient(MAML(lr_inner=0.1, path=path), model, some_images()) for path in ("auto", "loop"))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("make", [MAML, ANIL, MetaSGD], ids=lambda kind: kind.__name__)
def test_batch_normalisation_leaves_no_trace(make: Any) -> None:
    episodes, learner = some_images(), make()
    model = learner.prepare(convolutional().train(), episodes)
    before = {name: value.clone() for name, value in model.named_buffers()}
    learner.meta_step(model, episodes, learner.optimizer(model))
    learner.adapt(model, episodes.support(0), None)
    learner.predict(model, episodes, None)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_anil_adapts_the_head_alone_and_trains_everything() -> None:
    episodes, model, learner = some_images(), convolutional(), ANIL(lr_inner=0.5)
    adapted = learner.adapt(model, episodes.support(0), 2)
    moved = {n for n, p in adapted.named_parameters() if not torch.equal(p, dict(model.named_parameters())[n])}
    assert moved == {"8.weight", "8.bias"}
    assert all(float(g.abs().max()) > 0 for g in gradient(learner, model, episodes)[4:])


def test_more_steps_and_none() -> None:
    """`steps` says how many; with none the model is as it was, and each step lowers the support loss."""
    episodes, model, learner = some_images(), convolutional(), MAML(lr_inner=0.05)
    support = episodes.support(0)
    models = [learner.adapt(model, support, steps) for steps in (0, 1, 5, 20)]
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(m(support.inputs), support.targets)) for m in models]
    assert losses == sorted(losses, reverse=True)
    none = learner.adapt(model, support, 0)
    assert torch.equal(none(support.inputs), model.train()(support.inputs))


def test_frozen_parameters_stay() -> None:
    episodes, model = some_images(), convolutional()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    learner = MAML(num_inner_steps=1)
    learner.meta_step(model, episodes, learner.optimizer(model))
    assert torch.equal(learner.adapt(model, episodes.support(0), None)[0].weight, before)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(DataError, match="no trainable parameter"):
        learner.meta_step(model.requires_grad_(False), episodes, torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1))


# Bad input


def test_an_inner_loop_that_diverges_is_reported() -> None:
    x = torch.ones(2, 1, 1) * 10
    episodes = Episodes(x, x, x, x)
    model, learner = line(3.0).float(), MAML(lr_inner=1e30, num_inner_steps=5)
    with pytest.raises(RunError, match=r"episode 0 is (inf|nan) after \d inner steps with lr_inner = 1e\+30.*smaller"):
        learner.meta_step(model, episodes, learner.optimizer(model))
    assert float(model.weight.detach()) == 3.0
    with pytest.raises(RunError, match="the inner loop diverges"):
        learner.adapt(model, episodes.support(0), None)
    with pytest.warns(RuntimeWarning, match=r"the support loss rises from .* over 3 inner steps with lr_inner = 0.1"):
        MAML(lr_inner=0.1, num_inner_steps=3).adapt(model, episodes.support(0), None)


def test_support_that_is_not_finite_is_reported() -> None:
    episodes = some_images()
    broken = TensorData(episodes.support_inputs[0] * math.nan, episodes.support_targets[0])
    with pytest.raises(RunError, match="before the first inner step: inputs, targets or weights are not finite"):
        MAML().adapt(convolutional(), broken, None)


@pytest.mark.parametrize("make", [MAML, MAMLFirstOrder, ANIL], ids=lambda kind: kind.__name__)
def test_tasks_that_do_not_fit_are_refused(make: Any) -> None:
    episodes, learner = some_images(), make()
    support = episodes.support(0)
    with pytest.raises(DataError, match=r"one class, 7 \(6 samples\): there is nothing to tell apart"):
        learner.adapt(convolutional(), TensorData(support.inputs, torch.full((6,), 7)), None)
    with pytest.raises(DataError, match=r"3 classes \(labels 0, 1, 2\), the model's head has 4 outputs"):
        learner.adapt(convolutional(4), support, None)
    with pytest.raises(DataError, match="episodes have 3 classes, the model's head has 5 outputs"):
        learner.meta_step(convolutional(5), episodes, torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1))
    with pytest.raises(DataError, match="7-way episodes need 7 classes, data set 0 has 6: 0, 1, 2, 3, 4, 5"):
        some_images(ways=7)


def test_labels_of_any_kind() -> None:
    """Columns of the scores follow the labels in rising order."""
    support = some_images().support(0)
    scores = []
    for labels in ((0, 1, 2), (-9, 40, 1000)):
        trainer = BaseMetaLearner(MAML(lr_inner=0.1), convolutional())
        adapted = trainer.adapt_to_task(support.inputs, torch.tensor(labels)[support.targets])
        scores.append(adapted(support.inputs))
    assert torch.equal(*scores)


def test_rates_need_a_place() -> None:
    with pytest.raises(DataError, match="no inner step sizes yet; give it to `prepare` first"):
        MetaSGD().adapt(convolutional(), some_images().support(0), None)


# On data


def test_it_learns_to_learn_sines() -> None:
    """Five steps from what it learned come much nearer to a new sine than from where it began."""
    generator = torch.Generator().manual_seed(0)

    def sines(count: int) -> Episodes:
        x = torch.rand(count, 20, 1, generator=generator) * 10 - 5
        height, phase = torch.rand(2, count, 1, 1, generator=generator)
        y = (0.1 + 4.9 * height) * torch.sin(x + torch.pi * phase)
        return Episodes(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    learner = MAML(lr_inner=0.01, num_inner_steps=1)
    new, optimizer = sines(200), learner.optimizer(model)

    def error() -> float:
        return float((learner.predict(model, new, 5) - new.query_targets).square().mean())

    before = error()
    for _ in range(350):
        learner.meta_step(model, sines(16), optimizer)
    assert error() < 0.75 * before


@pytest.mark.parametrize("make", [MAML, MAMLFirstOrder, ANIL, MetaSGD], ids=lambda kind: kind.__name__)
def test_it_learns_to_tell_new_digits_apart(make: Any) -> None:
    """Better than the same adaptation untrained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    before, after = new_digits(make(lr_inner=0.3, lr_meta=0.003, num_inner_steps=2), model)
    assert after > before + 0.04


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own: its compiler imports what it deprecates
@pytest.mark.parametrize("make", [MAML, MetaSGD], ids=lambda kind: kind.__name__)
def test_compiled_steps_are_the_same(make: Any) -> None:
    episodes = some_episodes(16, shape=(4,), queries=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    one, two = (gradient(make(lr_inner=0.1, compile=flag), model, episodes) for flag in (True, False))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_compiled_step_refuses_dropout() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)).double()
    learner = MAML(compile=True, num_inner_steps=1)
    with pytest.raises(OptionError, match="draws random numbers"):
        learner.meta_step(model, some_images(), learner.optimizer(model))


# Models with more than the forward pass uses


class Spare(nn.Module):
    """A layer that the forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


@pytest.mark.parametrize("path", ["auto", "loop"])
@pytest.mark.parametrize("make", [MAML, MAMLFirstOrder, MetaSGD], ids=lambda kind: kind.__name__)
def test_what_the_forward_pass_does_not_use_has_no_gradient(make: Any, path: str) -> None:
    """The others' gradients are those of the model without it."""
    episodes, model = some_episodes(), Spare()
    learner = make(lr_inner=0.1, num_inner_steps=2, path=path)
    found = gradient(learner, model, episodes)
    alone = gradient(make(lr_inner=0.1, num_inner_steps=2, path=path), model.used, episodes)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[:2], alone[:2], strict=True))
    assert not any(bool(g.any()) for g in found[2:4])
    prepared = learner.prepare(model, episodes)
    adapted = learner.adapt(prepared, episodes.support(0), 3)
    assert torch.equal(adapted.spare.weight, model.spare.weight)
    assert not torch.equal(adapted.used.weight, model.used.weight)


def test_a_model_cut_off_from_its_parameters_is_refused() -> None:
    class Cut(Spare):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).detach()

    episodes, model = some_episodes(), Cut()
    learner = MAML()
    for path in ("auto", "loop"):
        with pytest.raises(DataError, match="the outputs depend on none of the parameters that are to be trained"):
            MAML(path=path).meta_step(model, episodes, learner.optimizer(model))
    with pytest.raises(DataError, match="no trainable parameter to adapt"):
        learner.optimizer(model.requires_grad_(False))


def test_second_derivatives_that_torch_does_not_have() -> None:
    """Of a bag of words, torch has the first only."""
    words = torch.randint(0, 9, (1, 6, 4), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(6) % 3)[None]
    episodes = Episodes(words, labels, words, labels, 3)
    model = nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    try:
        MAML(num_inner_steps=1).meta_step(model, episodes, optimizer)
    except DataError as error:
        assert "no second derivative" in str(error)  # noqa: PT017 -- a later torch may have it
    assert math.isfinite(MAMLFirstOrder(num_inner_steps=1).meta_step(model, episodes, optimizer)["loss"])


@pytest.mark.parametrize("make", [MAML, ANIL, MetaSGD], ids=lambda kind: kind.__name__)
def test_a_layer_used_twice_is_adapted_and_trained_as_one(make: Any) -> None:
    torch.manual_seed(3)
    layer = nn.Linear(6, 6)
    model, episodes = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 3)), some_episodes()
    learner = make(lr_inner=0.5, num_inner_steps=2)
    prepared = learner.prepare(model, episodes)
    optimizer, weight, before = learner.optimizer(prepared), layer.weight, layer.weight.detach().clone()
    for _ in range(3):
        learner.meta_step(prepared, episodes, optimizer)
    assert model[2].weight is model[0].weight is weight
    assert isinstance(weight, nn.Parameter)
    assert not torch.equal(weight, before)
    trained = weight.detach().clone()
    adapted = learner.adapt(prepared, episodes.support(0), 2)
    assert torch.equal(weight, trained)
    assert adapted[0] is adapted[2]


def test_balancing_and_compiling_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="a compiled step cannot be balanced"):
        MAML(compile=True, balancer="equal")
