"""Expected improvement against its integral; the search against random search and grid optima."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from crosstask.context import LocalContext
from crosstask_nas import Bayesian, RandomSearch
from crosstask_nas.bayesian import _by_rank, _by_value, _Codes, _log_ei, _Model
from crosstask_nas.gaussian_process import GaussianProcess
from crosstask_search.driver import run_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace


@pytest.mark.parametrize("z", [3.0, 0.5, 0.0, -0.9, -1.1, -4.0])
def test_expected_improvement_is_its_integral(z: float) -> None:
    integral, _ = integrate.quad(lambda u: max(0.0, z + u) * stats.norm.pdf(u), -z, 40, epsabs=0, epsrel=1e-12)
    assert _log_ei(np.array([z]))[0] == pytest.approx(math.log(integral), rel=1e-8)


def test_expected_improvement_keeps_its_order_far_below_the_best() -> None:
    values = _log_ei(-np.logspace(0, 5, 200))
    assert np.isfinite(values).all()
    assert (np.diff(values) < 0).all()
    tail = -0.5 * 1e4**2 - 0.5 * math.log(2 * math.pi) - 2 * math.log(1e4)  # φ(z) / z² far out
    assert _log_ei(np.array([-1e4]))[0] == pytest.approx(tail, rel=1e-6)


def cells(point: dict[str, Any]) -> float:
    """Five choices of five: a weight each, and two that work together."""
    score = sum(weight * point[name] for weight, name in zip((3, 2, 1, 0.5, 0.2), sorted(point), strict=True))
    return score + (4.0 if point["a"] == 2 and point["b"] == 3 else 0.0)


CELLS = SearchSpace(parameters={name: Parameter(choices=(0, 1, 2, 3, 4)) for name in "abcde"})


@pytest.mark.parametrize("listed", [True, False])
def test_it_beats_random_search_over_choices(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """3125 points, all candidates or some; the model has to find out which choices matter."""
    monkeypatch.setattr("crosstask_nas.bayesian._LISTED", 4000 if listed else 1000)
    best = max(map(cells, CELLS.points()))
    regrets = {}
    for kind in (Bayesian, RandomSearch):
        found = [run_search(LocalContext(seed=s), kind(), CELLS, cells, 50).best for s in range(3)]
        regrets[kind] = statistics.fmean(best - trial.value for trial in found)  # type: ignore[union-attr, operator]
    assert regrets[Bayesian] < 0.3
    assert regrets[Bayesian] < 0.2 * regrets[RandomSearch]


def branin(point: dict[str, Any]) -> float:
    x, y = point["x"], point["y"]
    bowl = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return -(bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


def test_it_finds_the_minimum_of_branin() -> None:
    """0.397887 in three places, in fifty evaluations from any seed; Optuna's TPE is still 0.1 above it."""
    space = SearchSpace(parameters={"x": Parameter(low=-5.0, high=10.0), "y": Parameter(low=0.0, high=15.0)})
    for seed in range(5):
        found = run_search(LocalContext(seed=seed), Bayesian(), space, branin, 50).require_best()[1]
        by_chance = run_search(LocalContext(seed=seed), RandomSearch(), space, branin, 50).require_best()[1]
        assert -0.397887 - found < 0.01
        assert found > by_chance


def test_running_trials_move_the_next_proposals_away() -> None:
    space = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0)})
    search = Bayesian(initial=3)
    values = {0.02: 0.3, 0.2: -0.8, 0.35: 0.9, 0.5: -0.4, 0.66: 0.5, 0.8: -0.7, 0.97: 0.6}
    trials = [Trial(number=i, point={"x": x}, status="done", value=v) for i, (x, v) in enumerate(values.items())]
    proposed: list[float] = []
    for number in range(len(values), len(values) + 4):
        proposed.append(search.propose(space, trials)["x"])
        trials.append(Trial(number=number, point={"x": proposed[-1]}))
    apart = [abs(a - b) for i, a in enumerate(proposed) for b in proposed[:i]]
    assert min(apart) > 0.005


def test_scores_keep_the_order_whatever_the_scale() -> None:
    values = np.array([1.0, 3.0, -50.0, 2.0])
    for scores in (_by_rank, _by_value):
        for scale in (1.0, 1e-300, 1e306, -1e9):
            found = scores(values * scale)
            assert np.isfinite(found).all()
            assert list(np.argsort(found)) == list(np.argsort(values * scale))
            assert abs(found).max() < 3
    assert (_by_value(np.full(4, -1e308)) == 0).all()
    assert np.isfinite(_by_value(np.array([1.7e308, -1.7e308, 0.0]))).all()


def test_codes_are_those_of_the_space() -> None:
    space = SearchSpace(
        parameters={
            "kind": Parameter(choices=("a", "b", "c")),
            "layers": Parameter(low=1, high=4, integer=True, when={"kind": ("b", "c")}),
            "width": Parameter(low=4, high=64, integer=True, log=True, when={"layers": (3, 4)}),
            "rate": Parameter(low=1e-3, high=1.0, log=True),
        }
    )
    codes = _Codes(space)
    rows = codes.snapped(np.random.default_rng(0).random((200, 4)))
    points = [space.decode(row) for row in rows]
    assert all(space.contains(point) for point in points)
    assert np.nan_to_num(space.encode(points), nan=-1) == pytest.approx(np.nan_to_num(rows, nan=-1))
    around = codes.snapped(codes.neighbours(rows[:5], 300, np.random.default_rng(1)))
    assert all(space.contains(space.decode(row)) for row in around)


def failing(kind: str) -> Callable[[dict[str, Any]], float]:
    """Branin where two of its three minima cannot be evaluated, or where half of all points fail by chance."""

    def objective(point: dict[str, Any]) -> float:
        chance = hashlib.sha256(repr(point).encode()).digest()[0] % 2 == 0
        if point["x"] < 5 if kind == "region" else chance:
            raise MemoryError("out of memory")
        return branin(point)

    return objective


PLANE = SearchSpace(parameters={"x": Parameter(low=-5.0, high=10.0), "y": Parameter(low=0.0, high=15.0)})


@pytest.mark.parametrize("kind", ["region", "chance"])
def test_failures_do_not_bend_the_model(kind: str) -> None:
    """Where half of the trials fail it still comes close to the minimum, which random search does not."""
    regrets = {}
    for search in (Bayesian, RandomSearch):
        found = [run_search(LocalContext(seed=s), search(), PLANE, failing(kind), 50) for s in range(3)]
        assert all(result.failed > 5 for result in found)
        regrets[search] = statistics.median(-0.397887 - r.require_best()[1] for r in found)
    assert regrets[Bayesian] < 0.05 < 0.2 < regrets[RandomSearch]


@pytest.mark.parametrize("first", range(1, 13))
def test_any_number_of_failures_at_the_beginning(first: int) -> None:
    """Also one done trial alone is a model."""
    calls = []

    def evaluate(point: dict[str, Any]) -> float:
        calls.append(point)
        if len(calls) <= first:
            raise MemoryError
        return -abs(point["x"] - 0.3)

    for space in (
        SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0)}),
        SearchSpace(parameters={"x": Parameter(choices=tuple(i / 20 for i in range(20)))}),
    ):
        calls.clear()
        result = run_search(LocalContext(), Bayesian(), space, evaluate, 16)
        assert [t.status for t in result.trials] == ["failed"] * first + ["done"] * (16 - first)


def test_chances_are_those_of_scikit_learns_process() -> None:
    """Regression on the labels 1 and -1 about their mean, read as a probability."""
    rng = np.random.default_rng(0)
    rows, new = rng.random((30, 2)), rng.random((40, 2))
    labels = np.where(rows[:, 0] > 0.4, 1.0, -1.0)
    success = GaussianProcess(np.zeros(2, dtype=bool))
    success.parameters = np.log([9.0, 2.0, 1.3, 0.1])
    success.condition(rows, labels - labels.mean())
    model = _Model(Bayesian(), success, 0.0, 0.0, success, float(labels.mean()))
    kernel = ConstantKernel(1.3) * Matern(1 / np.sqrt([9.0, 2.0]), nu=2.5) + WhiteKernel(0.1 + 1e-6)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(rows, labels - labels.mean())
    expected = np.clip((1 + labels.mean() + theirs.predict(new)) / 2, 0.01, 1.0)
    assert model.chances(new) == pytest.approx(expected, abs=1e-8)
    assert expected.min() < 0.1 < 0.9 < expected.max()


@pytest.mark.parametrize("acquisition", ["ei", "pi", "ucb"])
def test_acquisition_functions_are_their_closed_forms(acquisition: str) -> None:
    """Of scikit-learn's posterior: Jones et al. 1998, eq. 15; Kushner 1964; Srinivas et al. 2010, eq. 6."""
    rng = np.random.default_rng(1)
    rows, values, new = rng.random((12, 2)), rng.normal(size=12), rng.random((50, 2))
    process = GaussianProcess(np.zeros(2, dtype=bool))
    process.parameters = np.log([4.0, 7.0, 1.2, 0.05])
    process.condition(rows, values)
    kernel = ConstantKernel(1.2) * Matern(1 / np.sqrt([4.0, 7.0]), nu=2.5) + WhiteKernel(0.05 + 1e-6)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(rows, values)
    mean, deviation = theirs.predict(new, return_std=True)
    deviation = np.sqrt(deviation**2 - (0.05 + 1e-6))  # of the value, not of another observation
    best = theirs.predict(rows).max()
    z = (mean - best) / deviation
    expected = {
        "ei": np.log((mean - best) * stats.norm.cdf(z) + deviation * stats.norm.pdf(z)),
        "pi": stats.norm.logcdf(z),
        "ucb": mean + 2.0 * deviation,
    }
    model = _Model(Bayesian(acquisition=acquisition), process, float(best), float(values.min()), None, 1.0)
    assert model.gains(new) == pytest.approx(expected[acquisition], abs=1e-5)


@pytest.mark.parametrize("acquisition", ["pi", "ucb"])
def test_other_acquisitions_search_too(acquisition: str) -> None:
    found = run_search(LocalContext(), Bayesian(acquisition=acquisition), PLANE, branin, 50).require_best()[1]
    assert -0.397887 - found < 0.2


def test_a_small_budget_ends_in_the_initial_design() -> None:
    assert len(run_search(LocalContext(), Bayesian(), PLANE, branin, 3).trials) == 3
