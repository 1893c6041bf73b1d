"""AdaptiveOptimizer: rescues a wrong rate on real digits, goes back from wrecked weights, resumes exactly."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import OptionError, RunError
from crosstask.learning.data import batches
from crosstask_hpo import AdaptiveOptimizer


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(optimizer: Any, model: nn.Module, steps: int, seed: int = 0, held: bool = False) -> float:
    """Accuracy on 500 other digits."""
    inputs, labels = digits()
    exams = batches(400, 64, torch.Generator().manual_seed(1))

    def examined() -> Tensor:
        index = next(exams) + 900
        return functional.cross_entropy(model(inputs[index]), labels[index])

    for index, _ in zip(batches(900, 32, torch.Generator().manual_seed(seed)), range(steps), strict=False):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs[index]), labels[index])
        loss.backward()
        if isinstance(optimizer, AdaptiveOptimizer):
            optimizer.step(loss, examined if held else None)
        else:
            optimizer.step()
    with torch.no_grad():
        return float((model(inputs[1300:]).argmax(dim=1) == labels[1300:]).float().mean())


@functools.cache
def tuned() -> float:
    """Adam at the best rate for these 300 steps."""
    found = []
    for rate in (3e-3, 1e-2):
        model = network()
        found.append(train(torch.optim.Adam(model.parameters(), lr=rate), model, 300))
    return max(found)


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.1, 1.0])
def test_any_start_rate_comes_within_two_points_of_tuned_adam(rate: float) -> None:
    model = network()
    optimizer = AdaptiveOptimizer(model, "adam", learning_rate=rate)
    assert train(optimizer, model, 300) > tuned() - 0.02
    assert 1e-5 < optimizer.get_optimization_stats()["learning_rate"] < 0.1


def test_plain_adam_is_lost_at_those_rates() -> None:
    """What the test before rescues from."""
    for rate in (1e-6, 1.0):
        model = network()
        assert train(torch.optim.Adam(model.parameters(), lr=rate), model, 300) < 0.5


@pytest.mark.parametrize("base", ["sgd", "rmsprop", "adamw"])
def test_other_bases_are_rescued_too(base: str) -> None:
    model = network()
    assert train(AdaptiveOptimizer(model, base, learning_rate=1e-6), model, 300) > tuned() - 0.05


@pytest.mark.parametrize("rate", [1e-6, 1.0])
def test_validation_signal_rescues_as_well(rate: float) -> None:
    model = network()
    assert train(AdaptiveOptimizer(model, learning_rate=rate), model, 300, held=True) > tuned() - 0.03


def test_without_meta_learning_it_is_the_base_optimiser() -> None:
    one, other = network(), network()
    train(AdaptiveOptimizer(one, "adam", use_meta_learning=False, learning_rate=0.01), one, 20)
    train(torch.optim.Adam(other.parameters(), lr=0.01), other, 20)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def parabola(rate: float, steps: int, **options: Any) -> tuple[AdaptiveOptimizer, list[float]]:
    """Gradient descent on x²/2 in five dimensions: the best constant rate is 1, above 2 it diverges."""
    point = nn.Parameter(torch.full((5,), 3.0, dtype=torch.float64))
    optimizer = AdaptiveOptimizer([point], lambda p, lr: torch.optim.SGD(p, lr=lr), learning_rate=rate, **options)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (point**2).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step(loss)
    return optimizer, losses


def test_the_rate_grows_while_steps_are_too_short_and_falls_where_they_overshoot() -> None:
    slow, _ = parabola(1e-3, 40)
    assert slow.rate > 5e-3
    fast, _ = parabola(1.8, 12)  # every step jumps over the minimum
    assert fast.rate < 1.8
    assert fast.rollbacks == 0


def test_signal_is_the_derivative_by_the_rates_logarithm() -> None:
    """Baydin et al. 2018, eq. 5: d f(x - e^s u) / ds = -<∇f, e^s u>; its sign and cosine, against differences."""
    optimizer, _ = parabola(0.4, 2)
    start, shift = torch.full((5,), 3.0, dtype=torch.float64), 1e-6

    def after(log_rate: float) -> float:
        return float(0.5 * ((start - math.exp(log_rate) * start) ** 2).sum())

    slope = (after(math.log(0.4) + shift) - after(math.log(0.4) - shift)) / (2 * shift)
    moved, gradient = 0.4 * start, 0.6 * start
    assert slope == pytest.approx(-float(moved @ gradient), rel=1e-6)
    cosine = -slope / float(moved.norm() * gradient.norm())
    assert optimizer.signal == pytest.approx(0.2 * cosine)


def test_wrecked_weights_go_back() -> None:
    optimizer, losses = parabola(1e3, 40)
    assert optimizer.rollbacks == 3  # from 1000 to 1
    assert max(losses) > 1e5
    assert losses[-1] < 1e-6
    unguarded, lost = parabola(1e3, 40, guard=False)
    assert unguarded.rollbacks == 0
    assert not lost[-1] < 1e5


def test_a_loss_that_is_not_finite_goes_back_at_once() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = AdaptiveOptimizer([weight], "sgd", learning_rate=0.1)
    for value in (1.0, math.nan):
        weight.grad = torch.tensor([0.5])
        optimizer.step(value)
    assert weight.item() == 1.0
    assert optimizer.rate == pytest.approx(0.01)
    fresh = AdaptiveOptimizer([weight], "sgd")
    weight.grad = torch.tensor([0.5])
    with pytest.raises(RunError, match="the first loss is nan"):
        fresh.step(math.nan)


def test_a_rollback_restores_buffers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = AdaptiveOptimizer(model, learning_rate=0.1)
    kept: list[Tensor] = []
    for value, shift in ((1.0, 0.0), (math.inf, 100.0)):
        model(torch.randn(8, 2) + shift).sum().backward()
        kept.append(model[1].running_mean.clone())  # type: ignore[union-attr, operator]
        optimizer.step(value)
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(model[1].running_mean, kept[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [1e-4, 1.0])
def test_a_saved_optimiser_goes_on_exactly(rate: float) -> None:
    whole, half = network(), network()
    train(AdaptiveOptimizer(whole, learning_rate=rate), whole, 30)
    first = AdaptiveOptimizer(half, learning_rate=rate)
    train(first, half, 30)
    state, weights = first.state_dict(), {k: v.clone() for k, v in half.state_dict().items()}
    expected = train(first, half, 40, seed=5), first.get_optimization_stats()
    again = network(7)
    again.load_state_dict(weights)
    second = AdaptiveOptimizer(again, learning_rate=123.0)
    second.load_state_dict(state)
    assert (train(second, again, 40, seed=5), second.get_optimization_stats()) == expected
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), half.parameters(), strict=True))
    with pytest.raises(OptionError, match="state has"):
        second.load_state_dict({"base": {}})


def test_trend_and_convergence_are_told_from_noise() -> None:
    weight = nn.Parameter(torch.zeros(1))
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()

    def told(losses: list[float]) -> dict[str, Any]:
        optimizer = AdaptiveOptimizer([weight], "sgd", use_meta_learning=False)
        for loss in losses:
            weight.grad = torch.zeros(1)
            optimizer.step(loss)
        return optimizer.get_optimization_stats()

    falling = told([5 - 0.01 * i + 0.05 * e for i, e in zip(range(300), noise, strict=False)])
    assert (falling["trend"], falling["converged"]) == ("improving", False)
    assert falling["slope"] == pytest.approx(-0.01, rel=0.1)
    flat = told([1 + 0.05 * e for e in noise])
    assert flat["converged"]
    assert told([1 + 0.02 * i for i in range(60)])["trend"] == "worsening"
    few = told([1.0, 0.5])
    assert (few["trend"], few["converged"], few["steps"]) == ("flat", False, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_optimizer": "adan"}, "base_optimizer cannot be 'adan'; did you mean 'adam'"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"meta_learning_rate": -1.0}, "meta_learning_rate must be a positive number"),
        ({"patience": 0}, "patience must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AdaptiveOptimizer(network(), **options)
    with pytest.raises(OptionError, match="no parameter that needs a gradient"):
        AdaptiveOptimizer(network().requires_grad_(False))


def test_a_step_needs_a_gradient_since_the_last_one() -> None:
    """At the first such step: without any, with the old one, with zeros, and with None again."""
    weight, other = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer = AdaptiveOptimizer([weight, other], "sgd", learning_rate=0.1)
    with pytest.raises(RunError, match=r"no parameter has got a gradient yet: call backward\(\) on the loss"):
        optimizer.step(1.0)
    for set_to_none in (True, False):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=set_to_none)
            (weight**2).sum().backward()  # `other` takes no part
            optimizer.step((weight**2).sum())
        steps, before = optimizer.steps, weight.item()
        for prepare in (lambda: None, lambda: optimizer.zero_grad(set_to_none), lambda: optimizer.zero_grad(True)):  # noqa: B023
            prepare()
            with pytest.raises(RunError, match=rf"no parameter has got a gradient since step {steps}"):
                optimizer.step(1.0)
        assert (optimizer.steps, weight.item()) == (steps, before)
    for _ in range(2):  # gradients that are added to the old ones, or put there by hand
        (weight**2).sum().backward()
        optimizer.step(1.0)
    weight.grad = torch.tensor([0.5])
    optimizer.step(torch.tensor(1.0))


def test_a_new_gradient_at_an_old_address_is_new() -> None:
    weight = nn.Parameter(torch.ones(1000))
    optimizer = AdaptiveOptimizer([weight], "sgd", learning_rate=1e-3, guard=False)
    for _ in range(50):
        weight.grad = None  # as model.zero_grad() does, without the optimiser
        loss = (weight**2).sum()
        loss.backward()
        optimizer.step(loss)
    assert optimizer.steps == 50


@pytest.mark.parametrize(
    ("loss", "shown"),
    [(torch.ones(3), r"a tensor of shape \(3,\)"), (None, "None"), ("1.0", "'1.0'"), (lambda: 1.0, "function")],
)
def test_a_loss_is_one_number(loss: Any, shown: str) -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = AdaptiveOptimizer([weight], "sgd")
    weight.grad = torch.ones(1)
    with pytest.raises(OptionError, match=f"the value of the loss, one number, got .*{shown}"):
        optimizer.step(loss)
    with pytest.raises(OptionError, match="validation must return the validation loss as a tensor"):
        optimizer.step(1.0, lambda: 0.5)  # type: ignore[arg-type, return-value]
