"""Hyper-parameters with one call."""

from __future__ import annotations

import asyncio
import functools
import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from crosstask.errors import OptionError, RunError, UnknownComponentError
from crosstask.executors import ProcessExecutor
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask_hpo import BayesianOptimizer
from crosstask_search.parameter import Parameter
from crosstask_search.space import SearchSpace


def test_one_call_maximises_or_minimises() -> None:
    optimizer = BayesianOptimizer({"x": (-4.0, 4.0), "n": (1, 3), "kind": ["a", "b"]}, maximize=False, seed=1)
    best, score = optimizer.optimize(lambda p: (p["x"] - 1) ** 2 + p["n"] + (p["kind"] == "a"), 60)
    assert (best["n"], best["kind"]) == (1, "b")
    assert score == pytest.approx((best["x"] - 1) ** 2 + 1)
    assert abs(best["x"] - 1) < 0.5
    assert optimizer.result is not None
    assert len(optimizer.result.trials) == 60
    upward = BayesianOptimizer({"x": (1e-4, 1.0)}, "log_ei")
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BayesianOptimizer({"x": (0.0, 1.0)}, "ie"), "acquisition_function cannot be 'ie'; did you mean 'ei'"),
        (lambda: BayesianOptimizer({"x": (0.0, 1.0, "lag")}), r"or \(low, high, 'log'\), got"),
        (lambda: BayesianOptimizer({"x": 3}), "parameter 'x' must be a list of choices or a table"),
        (lambda: BayesianOptimizer({}), "at least one parameter"),
        (lambda: BayesianOptimizer({"x": (2.0, 1.0)}), "parameter 'x': a range needs finite low <= high"),
        (lambda: BayesianOptimizer({"x": (0.0, 1.0)}, "ucb", algorithm="optuna"), "'ucb' is for 'bayesian', not for"),
        (
            lambda: BayesianOptimizer({"x": (0.0, 1.0)}).optimize(3, 2),
            "objective_function must be a function of a dict",
        ),
        (lambda: BayesianOptimizer({"x": (0.0, 1.0)}).optimize(len, 0), "evaluations must be at least 1, got 0"),
    ],
)
def test_wrong_spaces_are_refused(call: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()


def test_the_documented_example() -> None:
    """As in the package's README: learning rate, width and activation of a small network for digits."""
    data = load_digits()
    inputs, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)

    def objective(parameters: dict[str, Any]) -> Any:
        torch.manual_seed(0)
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[parameters["activation"]]
        model = nn.Sequential(nn.Linear(64, parameters["width"]), activation(), nn.Linear(parameters["width"], 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=parameters["learning_rate"])
        for _ in range(20):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[:1000]), labels[:1000]).backward()
            optimizer.step()
        return (model(inputs[1000:]).argmax(dim=1) == labels[1000:]).float().mean()

    optimizer = BayesianOptimizer(
        parameter_space={"learning_rate": (1e-5, 1e-1), "width": (4, 64), "activation": ["relu", "tanh"]},
        acquisition_function="ei",
    )
    assert optimizer.space.parameters["learning_rate"].log
    assert optimizer.space.parameters["width"] == Parameter(low=4, high=64, integer=True)
    parameters, accuracy = optimizer.optimize(objective_function=objective, n_iterations=25)
    assert accuracy > 0.85
    assert 1e-3 < parameters["learning_rate"] < 1e-1


def valley(point: dict[str, Any]) -> float:
    return -((math.log10(point["rate"]) + 3) ** 2) - (point["x"] - 2) ** 2


@pytest.mark.parametrize("acquisition", ["ei", "log_ei", "pi", "ucb"])
def test_acquisition_functions(acquisition: str) -> None:
    optimizer = BayesianOptimizer({"rate": (1e-6, 1.0), "x": (-4.0, 4.0)}, acquisition)
    assert optimizer.optimize(valley, 30)[1] > -0.1
    assert optimizer.search.options()["acquisition"] == acquisition.removeprefix("log_")


def test_another_search_can_do_it() -> None:
    optimizer = BayesianOptimizer({"x": (0.0, 1.0)}, algorithm={"use": "optuna", "sampler": "tpe"})
    assert optimizer.optimize(lambda p: -abs(p["x"] - 0.5), 20)[1] > -0.1
    assert "optuna" in str(optimizer.result and optimizer.result.search)
    with pytest.raises(UnknownComponentError, match="did you mean 'optuna'"):
        BayesianOptimizer({"x": (0.0, 1.0)}, algorithm="optunna")


def test_seeds_decide_everything() -> None:
    def points(seed: int) -> Any:
        optimizer = BayesianOptimizer({"rate": (1e-6, 1.0), "x": (-4.0, 4.0)}, seed=seed)
        optimizer.optimize(valley, 14)
        assert optimizer.result is not None
        return [trial.point for trial in optimizer.result.trials]

    assert points(1) == points(1) != points(2)


def test_conditional_parameters() -> None:
    space = SearchSpace(
        parameters={
            "kind": Parameter(choices=("sgd", "adam")),
            "momentum": Parameter(low=0.0, high=0.99, when={"kind": ("sgd",)}),
        }
    )
    best, score = BayesianOptimizer(space).optimize(lambda p: p.get("momentum", 0.5), 30)
    assert best["kind"] == "sgd"
    assert score == best["momentum"] > 0.95


async def later(point: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return torch.tensor(valley(point))


def test_coroutines_and_minimising() -> None:
    optimizer = BayesianOptimizer({"rate": (1e-6, 1.0), "x": (-4.0, 4.0)}, maximize=False)

    async def cost(point: dict[str, Any]) -> Any:
        return -(await later(point))

    assert optimizer.optimize(cost, 25)[1] < 0.3
    with pytest.raises(RunError, match=r"the first: the objective returned a table \('loss'\)"):
        optimizer.optimize(lambda p: {"loss": 1.0}, 2)
    with pytest.raises(RunError, match="the first: the objective returned None"):
        optimizer.optimize(lambda p: None, 2)
    with pytest.raises(RunError, match="the first: the objective is inf"):
        optimizer.optimize(lambda p: math.inf, 2)


def scaled(factor: float, point: dict[str, Any]) -> float:
    if point["x"] < 0:
        raise MemoryError
    return factor * valley(point)


def test_with_a_store_it_goes_on(tmp_path: Any) -> None:
    objective = functools.partial(scaled, 2.0)
    found = []
    for count in (6, 12, 12):
        store = open_store(str(tmp_path / "store.db"))
        with Run(Registry.installed(), store=store) as run:
            optimizer = BayesianOptimizer({"rate": (1e-6, 1.0), "x": (-4.0, 4.0)}, context=run)
            optimizer.optimize(objective if len(found) < 2 else valley, count, key="valley")  # the last evaluates none
            assert optimizer.result is not None
            found.append(optimizer.result.trials)
        store.close()
    assert found[0] == found[1][:6]
    assert found[1] == found[2]
    assert len(found[2]) == 12
    assert any(trial.error == "MemoryError" for trial in found[2])
    assert all(trial.value is None or trial.value == scaled(2.0, trial.point) for trial in found[2])


def test_in_processes() -> None:
    """What is minimised there, too; partial functions can be sent, lambdas cannot."""
    with Run(Registry.installed(), executor=ProcessExecutor(workers=2)) as run:
        optimizer = BayesianOptimizer({"rate": (1e-6, 1.0), "x": (-4.0, 4.0)}, maximize=False, context=run)
        with pytest.raises(OptionError, match="`def` at the top of a module"):
            optimizer.optimize(lambda p: 1.0, 2)
        best, cost = optimizer.optimize(functools.partial(scaled, -1.0), 6)
    assert optimizer.result is not None
    values = {trial.number: trial.value for trial in optimizer.result.trials}
    for trial in optimizer.result.trials:
        assert values[trial.number] == (None if trial.point["x"] < 0 else pytest.approx(valley(trial.point)))
    assert cost == pytest.approx(scaled(-1.0, best))
