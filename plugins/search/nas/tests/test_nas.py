"""Architecture search with one call, on digits and on functions whose best is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, RunError, UnknownComponentError
from crosstask.learning.training import evaluate as score_of
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_nas import NeuralArchitectureSearch, RandomSearch, benchmark_nas_algorithms, create_nas_search_space
from crosstask_nas.plugin import PLUGIN
from crosstask_search.records import WarmStart
from crosstask_search.space import SearchSpace

SPACE = create_nas_search_space((1, 8, 8), 10, 2, operations=("conv3", "pool"), widths=(4, 8))


def worth(architecture: dict[str, Any]) -> float:
    """More layers and channels are better, pooling is worse; best: two conv3 layers of 8."""
    depth = architecture["layers"]
    widths = sum(architecture[f"width{i}"] for i in range(1, depth + 1))
    return widths - 3 * sum(architecture[f"operation{i}"] == "pool" for i in range(1, depth + 1))


BEST = {"layers": 2, "operation1": "conv3", "width1": 8, "operation2": "conv3", "width2": 8}


def digits() -> Task:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    descriptor = TaskDescriptor(task_id="digits", input_shape=(1, 8, 8), output_dim=10)
    parts = {"train": slice(0, 800), "validation": slice(800, 1200), "test": slice(1200, 1797)}
    return Task(descriptor=descriptor, **{name: (images[part], labels[part]) for name, part in parts.items()})


@pytest.mark.parametrize("algorithm", [e.name for e in PLUGIN.extensions if e.name != "darts"])
def test_every_algorithm_finds_the_best_of_a_small_space(algorithm: str) -> None:
    search = NeuralArchitectureSearch(SPACE, algorithm, seed=1)
    assert search.search_architecture(worth, 20) == (BEST, 16.0)
    assert search.result is not None
    assert search.result.evaluated == 20 == SPACE.space.count()


def test_it_searches_real_networks_on_digits() -> None:
    task, budget = digits(), Budget(steps=25, learning_rate=0.02)

    def evaluate(architecture: dict[str, Any]) -> float:
        model = search.build(architecture)
        fit(model, task, budget, torch.Generator().manual_seed(0), curve_split=None)
        return score_of(model, task, "validation")

    search = NeuralArchitectureSearch(SPACE, "bayesian", options={"initial": 4})
    architecture, accuracy = search.search_architecture(evaluate, 8)
    assert accuracy == max(t.value for t in search.result.trials)  # type: ignore[union-attr, type-var]
    assert evaluate(architecture) == accuracy
    assert accuracy > 0.5


def test_darts_gets_the_task() -> None:
    search = NeuralArchitectureSearch(SPACE, "darts", options={"steps": 6}, task=digits())
    architecture, _ = search.search_architecture(worth, 2)
    assert SPACE.space.contains(architecture)


def test_a_dict_of_parameters_is_a_space() -> None:
    search = NeuralArchitectureSearch({"width": [1, 2, 3], "rate": {"low": 0.0, "high": 1.0}}, RandomSearch())
    best, score = search.search_architecture(lambda p: p["width"] * p["rate"], 30)
    assert best["width"] == 3
    assert score == best["width"] * best["rate"]
    with pytest.raises(OptionError, match="only an ArchitectureSpace says how networks are built"):
        search.build(best)


def test_halving_spends_what_it_was_given() -> None:
    """Nine times a ninth, three times a third, once all: the cost of three full trainings (eta 3, three rungs)."""
    spent: list[tuple[float, float]] = []

    def evaluate(architecture: dict[str, Any], share: float) -> float:
        spent.append((share, worth(architecture)))
        return worth(architecture) * share

    search = NeuralArchitectureSearch(SPACE, "random", halving=3)
    best, score = search.search_architecture(evaluate, 3)
    shares = [share for share, _ in spent]
    assert [round(s * 9) for s in shares] == [1] * 9 + [3] * 3 + [9]
    assert sum(shares) == pytest.approx(3)
    first, second = [w for s, w in spent if s < 0.2], [w for s, w in spent if 0.2 < s < 0.5]
    assert second == sorted(first, reverse=True)[:3]
    assert score == worth(best) == max(first)


def test_proxies_and_warm_starts_come_first() -> None:
    order: list[dict[str, Any]] = []

    def evaluate(architecture: dict[str, Any]) -> float:
        order.append(architecture)
        return worth(architecture)

    start = {"layers": 1, "operation1": "pool", "width1": 4}
    search = NeuralArchitectureSearch(
        SPACE, "random", task=digits(), proxy="parameters", proxy_pool=20, proxy_starts=2,
        warm_starts=[WarmStart(point=start, source="another task")],
    )  # fmt: skip
    search.search_architecture(evaluate, 4)
    assert order[0] == start
    assert order[1] == BEST  # it has the most parameters
    assert len(order) == 4


def test_failures_are_recorded_and_the_search_goes_on() -> None:
    def evaluate(architecture: dict[str, Any]) -> float:
        if architecture["layers"] == 2:
            raise MemoryError("too large")
        return math.nan if architecture["operation1"] == "pool" else worth(architecture)

    search = NeuralArchitectureSearch(SPACE, "evolutionary", options={"population": 2})
    best, score = search.search_architecture(evaluate, 20)
    assert (best["width1"], score) == (8, 8.0)
    assert search.result is not None
    assert {t.error for t in search.result.trials} == {None, "MemoryError: too large", "the objective is nan"}

    def refuses(architecture: dict[str, Any]) -> float:
        raise ValueError("no")

    with pytest.raises(RunError, match="all 3 evaluations failed; the first: ValueError: no"):
        NeuralArchitectureSearch(SPACE, "random").search_architecture(refuses, 3)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UnknownComponentError, match=r"'bayesain'.*did you mean 'bayesian'"):
        NeuralArchitectureSearch(SPACE, "bayesain")
    with pytest.raises(OptionError, match="a proxy needs an ArchitectureSpace"):
        NeuralArchitectureSearch(SPACE, "random", proxy="synflow")
    with pytest.raises(OptionError, match="at least 2, got 1 and 3"):
        NeuralArchitectureSearch(SPACE, "random", halving=1)
    with pytest.raises(OptionError, match="a component has its own"):
        NeuralArchitectureSearch(SPACE, RandomSearch(), options={"x": 1})
    nothing = SearchSpace(parameters=SPACE.space.parameters, forbidden=({"layers": [1, 2]},))
    with pytest.raises(OptionError, match="has no valid point"):
        NeuralArchitectureSearch(nothing, "random").search_architecture(worth, 3)


def test_benchmark_ranks_algorithms_by_regret() -> None:
    algorithms = ["random", {"use": "bayesian", "initial": 4}]
    scores = benchmark_nas_algorithms(SPACE, worth, 12, algorithms, seeds=4, checkpoints=(6, 12), optimum=16.0)
    assert {s.algorithm for s in scores} == {"random", "bayesian initial=4"}
    assert scores[0].regret[12] <= scores[1].regret[12]
    for score in scores:
        assert score.regret[6] >= score.regret[12] >= 0
        assert score.evaluated == 12
        assert len(score.bests) == 4
        assert score.regret[12] == pytest.approx(16 - sum(score.bests) / 4)
