"""Each method against a closed form, an independent implementation or a property of its definition."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_merging import DARE, TIES, RegMean, grams_of, merge_modules
from crosstask_merging.dare import thin
from crosstask_merging.regmean import regmean
from crosstask_merging.slerp import slerp
from crosstask_merging.ties import smallest_kept, ties
from crosstask_synthesis.batchnorm import reestimate


def net(seed: int, hidden: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(autouse=True)
def _own_randomness() -> Any:
    with torch.random.fork_rng():
        yield


BASE, ONE, TWO, THREE = (net(seed) for seed in range(4))


def test_uniform_and_weighted_means() -> None:
    made = merge_modules([ONE, TWO, THREE], "uniform_soup")
    torch.testing.assert_close(vector(made), (vector(ONE) + vector(TWO) + vector(THREE)) / 3)
    made = merge_modules([ONE, TWO], "uniform_soup", weights=[3, 1])
    torch.testing.assert_close(vector(made), 0.75 * vector(ONE) + 0.25 * vector(TWO))


@given(strength=st.floats(-2, 2), share=st.floats(0.1, 10))
def test_task_arithmetic_is_linear(strength: float, share: float) -> None:
    made = merge_modules([ONE, TWO], "task_arithmetic", base=BASE, strength=strength)
    expected = vector(BASE) + strength * (vector(ONE) - vector(BASE) + vector(TWO) - vector(BASE))
    torch.testing.assert_close(vector(made), expected)
    made = merge_modules([ONE, TWO], "task_arithmetic", base=BASE, weights=[share, 1])
    expected = vector(BASE) + (share * (vector(ONE) - vector(BASE)) + vector(TWO) - vector(BASE)) / (share + 1)
    torch.testing.assert_close(vector(made), expected)


def test_forgetting_is_a_negative_task_vector_undone() -> None:
    away = merge_modules([ONE, ONE], "task_arithmetic", base=BASE, strength=-0.5)
    torch.testing.assert_close(vector(away), 2 * vector(BASE) - vector(ONE))


def ties_by_element(base: Tensor, models: list[Tensor], density: float, strength: float) -> Tensor:
    """Algorithm 1 of Yadav et al., an element at a time."""
    taus = [(m - base).tolist() for m in models]
    count = len(base)
    kept = []
    for tau in taus:
        largest = set(sorted(range(count), key=lambda i: -abs(tau[i]))[: max(1, round(density * count))])
        kept.append([tau[i] if i in largest else 0.0 for i in range(count)])
    merged = []
    for i in range(count):
        column = [tau[i] for tau in kept]
        sign = math.copysign(1, sum(column)) if sum(column) else 0
        agree = [v for v in column if v * sign > 0]
        merged.append(sum(agree) / len(agree) if agree else 0.0)
    return base + strength * torch.tensor(merged, dtype=base.dtype)


@given(
    density=st.floats(0.05, 1), strength=st.floats(0.1, 2), seeds=st.lists(st.integers(5, 99), min_size=2, max_size=5)
)
@settings(max_examples=30)
def test_ties_against_a_loop_over_elements(density: float, strength: float, seeds: list[int]) -> None:
    models = [net(seed) for seed in seeds]
    made = merge_modules(models, TIES(density=density, strength=strength), base=BASE)
    expected = ties_by_element(vector(BASE), [vector(m) for m in models], density, strength)
    torch.testing.assert_close(vector(made), expected)


def test_ties_example_of_the_paper() -> None:
    """Two agree on plus, one large minus decides; what does not agree is left out of the mean."""
    vectors = [torch.tensor([2.0, 1.0, 0.1]), torch.tensor([4.0, 2.0, -0.2]), torch.tensor([-1.0, -9.0, 0.0])]
    merged = ties(vectors, [1 / 3] * 3, [0.0] * 3)
    torch.testing.assert_close(merged, torch.tensor([3.0, -9.0, -0.2]))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=60), st.data())
def test_smallest_kept_is_what_sorting_says(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(values)))
    part = torch.tensor(values)
    found = smallest_kept(lambda: [[piece] for piece in part.split(7)], 1, keep)
    assert found == [float(part.abs().sort(descending=True).values[keep - 1])]


def test_dare_is_unbiased_and_as_sparse_as_it_says() -> None:
    start = torch.arange(1.0, 9.0)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([thin(start, 0.75, generator) for _ in range(4000)])
    assert float((draws == 0).double().mean()) == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(draws.mean(0), start, rtol=0.15, atol=0)
    assert set((draws / start).unique().tolist()) == {0.0, 4.0}


def test_dare_without_dropping_is_task_arithmetic_and_is_the_same_each_time() -> None:
    even = merge_modules([ONE, TWO], "task_arithmetic", base=BASE)
    torch.testing.assert_close(vector(merge_modules([ONE, TWO], DARE(drop=0.0), base=BASE)), vector(even))
    again = [merge_modules([ONE, TWO], DARE(drop=0.5), base=BASE) for _ in range(2)]
    assert torch.equal(*(vector(m) for m in again))
    assert not torch.equal(vector(again[0]), vector(even))


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_slerp_stays_on_the_sphere_and_moves_at_a_constant_angle(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (torch.tensor(v / np.linalg.norm(v)) for v in rng.normal(size=(2, 6)))
    made = slerp(one, other, share)
    assert float(made.norm()) == pytest.approx(1)
    angle = math.acos(float(one @ other))
    assert math.acos(max(-1, min(1, float(one @ made)))) == pytest.approx(share * angle, abs=1e-6)


def test_slerp_of_parallel_opposite_and_zero_tensors_is_linear() -> None:
    one = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(one, 3 * one, 0.25), 1.5 * one)
    torch.testing.assert_close(slerp(one, -one, 0.25), 0.5 * one)
    torch.testing.assert_close(slerp(one, 0 * one, 0.25), 0.75 * one)


def test_slerp_of_three_is_a_running_mean() -> None:
    made = merge_modules([ONE, TWO, THREE], "slerp")
    for name, tensor in made.named_parameters():
        a, b, c = (m.get_parameter(name).detach() for m in (ONE, TWO, THREE))
        torch.testing.assert_close(tensor.detach(), slerp(slerp(a, b, 0.5), c, 1 / 3))


def test_fisher_merge_by_hand_and_with_flat_information() -> None:
    flat = [{n: torch.ones_like(p) for n, p in m.named_parameters()} for m in (ONE, TWO)]
    mean = vector(merge_modules([ONE, TWO], "uniform_soup"))
    torch.testing.assert_close(vector(merge_modules([ONE, TWO], "fisher_merge", fishers=flat)), mean)
    rng = np.random.default_rng(0)
    fishers = [{n: torch.tensor(rng.gamma(1.0, size=p.shape)) for n, p in m.named_parameters()} for m in (ONE, TWO)]
    for fisher in fishers:  # the method divides by the mean itself
        mean_all = torch.cat([f.flatten() for f in fisher.values()]).mean()
        for name in fisher:
            fisher[name] /= mean_all
    made = merge_modules([ONE, TWO], "fisher_merge", fishers=fishers, floor=1e-12)
    for name, tensor in made.named_parameters():
        (a, b), (f, g) = (m.get_parameter(name) for m in (ONE, TWO)), (f[name] for f in fishers)
        torch.testing.assert_close(tensor.detach(), (a * f + b * g).detach() / (f + g))


def test_regmean_is_least_squares_on_what_the_layers_answer() -> None:
    """On a linear layer, with alpha 1: ordinary least squares, by scikit-learn, on the pooled inputs and answers."""
    torch.manual_seed(0)
    models = [nn.Linear(6, 3).double() for _ in range(3)]
    wrapped = [nn.Sequential(m) for m in models]
    inputs = [torch.randn(50, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) for _ in models]
    made = merge_modules(wrapped, RegMean(alpha=1.0, ridge=0.0), inputs=inputs)
    answers = torch.cat([m(x) for m, x in zip(models, inputs, strict=True)]).detach()
    fitted = LinearRegression().fit(torch.cat(inputs), answers)
    torch.testing.assert_close(made[0].weight.detach(), torch.tensor(fitted.coef_))
    torch.testing.assert_close(made[0].bias.detach(), torch.tensor(fitted.intercept_))


def test_regmean_of_a_convolution_is_least_squares_on_its_patches() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False)).double() for _ in range(2)]
    inputs = [torch.randn(20, 2, 6, 6, dtype=torch.float64) * (1 + k) for k in range(2)]
    made = merge_modules(models, RegMean(alpha=1.0, ridge=0.0), inputs=inputs)
    parameter = made[0].weight.detach().clone().requires_grad_()
    loss = sum(
        (nn.functional.conv2d(x, parameter, padding=1, stride=2) - m(x).detach()).square().mean()
        for m, x in zip(models, inputs, strict=True)
    )
    (gradient,) = torch.autograd.grad(loss, parameter)
    assert float(gradient.abs().max()) < 1e-12


def test_regmean_with_alpha_zero_weighs_each_input_by_its_power() -> None:
    wide = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    grams = []
    for k in range(2):
        rows = torch.randn(30, 4, dtype=torch.float64) * (k + 1)
        grams.append(rows.T @ rows)
    made = regmean(zip(wide, grams, strict=True), [0.5, 0.5], 0.0, 0.0)
    powers = [g.diagonal() for g in grams]
    torch.testing.assert_close(made, (wide[0] * powers[0] + wide[1] * powers[1]) / (powers[0] + powers[1]))


def test_regmean_where_no_input_ever_went_is_the_mean() -> None:
    inputs = [torch.randn(40, 4, dtype=torch.float64) * torch.tensor([1.0, 1, 0, 1]) for _ in range(2)]
    made = merge_modules([ONE, TWO], "regmean", inputs=inputs)
    mean = (ONE[0].weight + TWO[0].weight) / 2
    torch.testing.assert_close(made[0].weight[:, 2], mean[:, 2].detach())
    assert bool(torch.isfinite(vector(made)).all())


def test_regmean_of_equal_models_is_that_model() -> None:
    made = merge_modules([ONE, ONE, ONE], inputs=torch.randn(30, 4, dtype=torch.float64))
    torch.testing.assert_close(vector(made), vector(ONE))


def test_grams_are_of_what_each_layer_receives() -> None:
    inputs = torch.randn(300, 4, dtype=torch.float64)
    grams = grams_of(ONE, inputs)
    hidden = ONE[1](ONE[0](inputs)).detach()
    whole = torch.cat([hidden, torch.ones(300, 1, dtype=torch.float64)], dim=1)
    assert set(grams) == {"0", "2"}
    torch.testing.assert_close(grams["2"], whole.T @ whole / 300)
    with pytest.raises(DataError, match="at least one input"):
        grams_of(ONE, inputs[:0])


def test_grams_of_a_compiled_model_are_those_of_the_model() -> None:
    inputs = torch.randn(30, 4, dtype=torch.float64)
    compiled: Any = torch.compile(copy.deepcopy(ONE), backend="eager")
    try:
        with torch.no_grad():
            compiled.eval()(inputs)  # compiled before hooks are on it
        found = {name.removeprefix("_orig_mod."): gram for name, gram in grams_of(compiled, inputs).items()}
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(found, grams_of(ONE, inputs))


TARGET = 0.8 * vector(ONE) + 0.1 * vector(TWO) + 0.1 * vector(BASE)


def near_target(state: Mapping[str, Tensor]) -> float:
    return -float((torch.cat([v.flatten() for v in state.values()]) - TARGET).square().sum())


def test_evolutionary_finds_coefficients_and_leaves_numpys_generator_alone() -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    made = merge_modules([ONE, TWO], "evolutionary", base=BASE, score=near_target, evaluations=200)
    assert np.array_equal(before, np.random.get_state()[1])
    torch.testing.assert_close(vector(made), TARGET, atol=0.02, rtol=0)
    again = merge_modules([ONE, TWO], "evolutionary", base=BASE, score=near_target, evaluations=200)
    assert torch.equal(vector(made), vector(again))


@pytest.mark.parametrize("base", [None, BASE])
def test_evolutionary_is_never_worse_than_uniform(base: nn.Module | None) -> None:
    uniform = merge_modules([ONE, TWO, THREE], "uniform_soup" if base is None else "task_arithmetic", base=base)
    made = merge_modules([ONE, TWO, THREE], "evolutionary", base=base, score=near_target, evaluations=8)
    assert near_target(made.state_dict()) >= near_target(uniform.state_dict())


def test_greedy_takes_what_helps_only() -> None:
    truth = vector(ONE)

    def score(state: Mapping[str, Tensor]) -> float:
        return -float((torch.cat([v.flatten() for v in state.values()]) - truth).norm())

    shifted = [merge_modules([ONE, m], "uniform_soup", weights=[1 - s, s]) for m, s in ((TWO, 0.1), (THREE, 0.5))]
    opposite = merge_modules([ONE, TWO], "task_arithmetic", base=ONE, strength=-0.05)
    made = merge_modules([*shifted, opposite], "greedy_soup", score=score)
    torch.testing.assert_close(vector(made), (vector(shifted[0]) + vector(opposite)) / 2)


def test_batch_norm_is_averaged_then_estimated_anew() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)) for _ in range(2)]
    for number, model in enumerate(models):
        model[1].running_mean.fill_(number)
        model[1].num_batches_tracked.fill_(3 + number)
    base = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    made = merge_modules(models, "task_arithmetic", base=base, strength=5.0)
    assert torch.equal(made[1].running_mean, torch.full((5,), 0.5)), "no part of the task vector"
    assert int(made[1].num_batches_tracked) == 3
    inputs = torch.randn(400, 4)
    reestimate(made.train(), inputs, batch_size=400)
    hidden = made[0](inputs)
    torch.testing.assert_close(made[1].running_mean, hidden.mean(0).detach())
    torch.testing.assert_close(made[1].running_var, hidden.var(0).detach())
    assert made.training
    assert made[1].momentum == 0.1
    by_regmean = merge_modules(models, inputs=inputs)
    torch.testing.assert_close(by_regmean[1].running_mean, by_regmean[0](inputs).mean(0).detach(), atol=1e-4, rtol=1e-4)


def test_half_precision_is_merged_in_single_and_stays_half() -> None:
    models = [net(seed).half() for seed in range(9)]
    made = merge_modules(models, "uniform_soup")
    exact = torch.stack([vector(m).float() for m in models]).mean(0).half()
    assert vector(made).dtype == torch.float16
    torch.testing.assert_close(vector(made), exact, atol=0, rtol=1e-3)
