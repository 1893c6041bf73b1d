"""Optuna's samplers behind the contract."""

from __future__ import annotations

import hashlib
import math
import statistics
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from crosstask.context import LocalContext
from crosstask_hpo import OptunaSearch
from crosstask_hpo.optuna_search import clustered, distribution
from crosstask_search.driver import run_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace
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


def branin(point: dict[str, Any]) -> float:
    x, y = point["x"], point["y"]
    bowl = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return -(bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


PLANE = SearchSpace(parameters={"x": Parameter(low=-5.0, high=10.0), "y": Parameter(low=0.0, high=15.0)})


def half(point: dict[str, Any]) -> float:
    """Two of Branin's three minima cannot be evaluated."""
    if point["x"] < 5:
        raise MemoryError("out of memory")
    return branin(point)


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_region_where_all_fail_is_left(sampler: str) -> None:
    """Optuna, which passes failures over, spends forty of fifty trials in it, and ends further off than at random."""
    seeds, count = range(3 if sampler == "tpe" else 1), 50
    for seed in seeds:
        result = run_search(LocalContext(seed=seed), OptunaSearch(sampler=sampler), PLANE, half, count)
        assert -0.397887 - result.require_best()[1] < 0.5
        assert result.failed < 0.5 * count


def test_failures_count_where_they_lie_together() -> None:
    points = PLANE.sample(np.random.default_rng(0), 40)

    def told(fails: Any) -> list[Trial]:
        return [
            Trial(number=i, point=p, status="failed" if fails(p) else "done", value=None if fails(p) else 0.0)
            for i, p in enumerate(points)
        ]

    assert clustered(PLANE, told(lambda p: p["x"] < 0))
    assert clustered(PLANE, told(lambda p: p["x"] ** 2 + (p["y"] - 7) ** 2 < 9))
    by_chance = [told(lambda p, s=s: hashlib.sha256(f"{s}{p}".encode()).digest()[0] % 2) for s in range(40)]
    assert sum(clustered(PLANE, trials) for trials in by_chance) <= 8  # 1.5 standard errors: one in fifteen
    assert not clustered(PLANE, told(lambda p: False))
    assert not clustered(PLANE, told(lambda p: True))


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_huge_ranges_of_whole_numbers(sampler: str) -> None:
    parameter = Parameter(low=0, high=2**63 - 1, integer=True)
    assert distribution(parameter) == FloatDistribution(0.0, float(2**63 - 1))
    space = SearchSpace(parameters={"n": parameter})
    result = run_search(LocalContext(), OptunaSearch(sampler=sampler, initial=3), space, lambda p: p["n"] / 2**63, 8)
    assert all(isinstance(t.point["n"], int) for t in result.trials)
