"""Optuna's samplers behind the contract, and with one call."""

from __future__ import annotations

import math
import statistics
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from crosstask.context import LocalContext
from crosstask.errors import OptionError, RunError
from crosstask_hpo import BayesianOptimizer, OptunaSearch
from crosstask_hpo.optuna_search import distribution
from crosstask_search.driver import run_search
from crosstask_search.parameter import Parameter
from crosstask_search.space import SearchSpace, space_of
from crosstask_search.testing import ReferenceSearch

BOWL = SearchSpace(
    parameters={
        "x": Parameter(low=-5.0, high=10.0),
        "rate": Parameter(low=1e-4, high=1.0, log=True),
        "kind": Parameter(choices=("a", "b", "c")),
        "depth": Parameter(low=1, high=5, integer=True, when={"kind": ("a", "b")}),
    }
)


def bowl(point: dict[str, Any]) -> float:
    """Best 0 at x = 2, rate = 0.01, kind b, depth 3."""
    kind = {"a": 1.0, "b": 0.0, "c": 3.0}[point["kind"]]
    return -((point["x"] - 2) ** 2 + math.log10(point["rate"] / 0.01) ** 2 + kind + abs(point.get("depth", 3) - 3))


def test_distributions_are_optunas() -> None:
    assert distribution(BOWL.parameters["x"]) == FloatDistribution(-5.0, 10.0)
    assert distribution(BOWL.parameters["rate"]) == FloatDistribution(1e-4, 1.0, log=True)
    assert distribution(BOWL.parameters["kind"]) == CategoricalDistribution(range(3))
    assert distribution(BOWL.parameters["depth"]) == IntDistribution(1, 5)


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_it_beats_random_search(sampler: str) -> None:
    count = 40 if sampler == "tpe" else 20
    random = [run_search(LocalContext(seed=s), ReferenceSearch(), BOWL, bowl, count).best for s in range(4)]
    seeds = range(4 if sampler == "tpe" else 1)
    ours = [run_search(LocalContext(seed=s), OptunaSearch(sampler=sampler), BOWL, bowl, count).best for s in seeds]
    best, other = (statistics.fmean(t.value or 0.0 for t in found if t) for found in (ours, random))
    assert best > other


def test_proposals_are_those_of_optuna_itself() -> None:
    """The same trials in a study of one's own, the same seed: the same next point."""
    search = OptunaSearch(initial=5, multivariate=True)
    context = LocalContext(seed=2)
    space = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0), "k": Parameter(choices=("a", "b"))})
    result = run_search(context, search, space, lambda p: -((p["x"] - 0.3) ** 2) + (p["k"] == "b"), 12)
    seed = context.seed_for("optuna", 12) % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in result.trials:
        params = {"x": trial.point["x"], "k": ("a", "b").index(trial.point["k"])}
        kinds = {"x": FloatDistribution(0.0, 1.0), "k": CategoricalDistribution(range(2))}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=trial.value))
    asked = study.ask()
    expected = {"x": asked.suggest_float("x", 0.0, 1.0), "k": ("a", "b")[asked.suggest_categorical("k", range(2))]}
    assert search.propose(space, result.trials) == expected


def test_it_repeats_only_if_asked_to() -> None:
    space = SearchSpace(parameters={"a": Parameter(choices=(1, 2, 3)), "b": Parameter(choices=(1, 2, 3))})
    kept = run_search(LocalContext(), OptunaSearch(initial=3), space, lambda p: p["a"] * p["b"], 9)
    again = run_search(LocalContext(), OptunaSearch(initial=3, repeats=True), space, lambda p: p["a"] * p["b"], 9)
    assert kept.evaluated == 9
    assert again.evaluated < 9


def test_optunas_messages_are_left_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    run_search(LocalContext(), OptunaSearch(), BOWL, bowl, 3)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_one_call_maximises_or_minimises() -> None:
    optimizer = BayesianOptimizer({"x": (-4.0, 4.0), "n": (1, 3), "kind": ["a", "b"]}, maximize=False, seed=1)
    best, score = optimizer.optimize(lambda p: (p["x"] - 1) ** 2 + p["n"] + (p["kind"] == "a"), 60)
    assert (best["n"], best["kind"]) == (1, "b")
    assert score == pytest.approx((best["x"] - 1) ** 2 + 1)
    assert abs(best["x"] - 1) < 0.5
    assert optimizer.result is not None
    assert len(optimizer.result.trials) == 60
    upward = BayesianOptimizer({"x": (1e-4, 1.0, "log")}, "log_ei")
    best, score = upward.optimize(lambda p: -abs(math.log10(p["x"]) + 2), 14)
    assert score > -0.1


def test_failures_are_recorded() -> None:
    def objective(point: dict[str, Any]) -> float:
        if point["x"] > 2:
            raise ArithmeticError("too far")
        return float(point["x"])

    optimizer = BayesianOptimizer({"x": (-4.0, 4.0)})
    best, score = optimizer.optimize(objective, 25)
    assert best["x"] == score <= 2
    assert optimizer.result is not None
    assert optimizer.result.failed > 0

    def refuses(point: dict[str, Any]) -> float:
        raise ArithmeticError("never")

    with pytest.raises(RunError, match="all 3 evaluations failed; the first: ArithmeticError: never"):
        BayesianOptimizer({"x": (0.0, 1.0)}).optimize(refuses, 3)


def test_short_forms_of_parameters() -> None:
    space = space_of({"a": (1, 4), "b": (1.0, 4), "c": (1, 8, "log"), "d": [1, 4], "e": Parameter(choices=(7,))})
    assert space.parameters["a"] == Parameter(low=1, high=4, integer=True)
    assert space.parameters["b"] == Parameter(low=1, high=4)
    assert space.parameters["c"] == Parameter(low=1, high=8, log=True, integer=True)
    assert space.parameters["d"] == Parameter(choices=(1, 4))
    assert space.parameters["e"].choices == (7,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BayesianOptimizer({"x": (0.0, 1.0)}, "ie"), "acquisition_function cannot be 'ie'; did you mean 'ei'"),
        (lambda: BayesianOptimizer({"x": (0.0, 1.0, "lag")}), "or \\(low, high, 'log'\\), got"),
        (lambda: BayesianOptimizer({"x": 3}), "parameter 'x' must be a list of choices or a table"),
        (lambda: BayesianOptimizer({}), "at least one parameter"),
        (lambda: BayesianOptimizer({"x": (2.0, 1.0)}), "finite low <= high"),
    ],
)
def test_wrong_spaces_are_refused(call: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()
