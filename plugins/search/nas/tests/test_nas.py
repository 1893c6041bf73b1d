"""Architecture search with one call, on digits and on functions whose best is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, RunError, UnknownComponentError
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


def test_darts_takes_the_task_of_the_space_or_of_the_call_and_says_where_there_is_none() -> None:
    task = digits()
    options = {"steps": 6}
    of_space = create_nas_search_space(task=task, max_layers=1, operations=("conv3", "pool"), widths=(4, 8))
    assert (of_space.input_shape, of_space.num_classes) == ((1, 8, 8), 10)
    plain = create_nas_search_space((1, 8, 8), 10, 1, operations=("conv3", "pool"), widths=(4, 8))
    assert of_space == plain
    found = [
        NeuralArchitectureSearch(of_space, "darts", options=options).search_architecture(worth, 2),
        NeuralArchitectureSearch(plain, "darts", options=options).search_architecture(worth, 2, task=task),
        NeuralArchitectureSearch(plain, "darts", options=options, task=task).search_architecture(worth, 2),
    ]
    assert found[0] == found[1] == found[2]
    with pytest.raises(DataError, match=r"search 'darts' .* trains a supernet on a task and was given none: .* task=…"):
        NeuralArchitectureSearch(plain, "darts").search_architecture(worth, 2)
    with pytest.raises(DataError, match="a space of parameters alone does not say how they are built"):
        NeuralArchitectureSearch({"layers": [1, 2]}, "darts", task=task).search_architecture(worth, 2)
    three = create_nas_search_space((1, 8, 8), 3, 1)
    with pytest.raises(DataError, match=r"task 'digits' has inputs \(1, 8, 8\) and 10 outputs, .* and 3 outputs"):
        NeuralArchitectureSearch(three, "darts").search_architecture(worth, 2, task=task)
    with pytest.raises(OptionError, match="needs input_shape and num_classes, or a task"):
        create_nas_search_space((1, 8, 8))


def test_darts_goes_on_where_evaluations_fail() -> None:
    def evaluate(architecture: dict[str, Any]) -> float:
        if architecture["layers"] == 2:
            raise MemoryError
        return worth(architecture)

    search = NeuralArchitectureSearch(SPACE, "darts", options={"steps": 6}, task=digits())
    best, _ = search.search_architecture(evaluate, 20)
    assert best == {"layers": 1, "operation1": "conv3", "width1": 8}


def test_arguments_by_their_names_and_by_position() -> None:
    by_name = NeuralArchitectureSearch(search_space_config=SPACE, algorithm="evolutionary", population_size=4, seed=3)
    by_place = NeuralArchitectureSearch(SPACE, "evolutionary", 4, seed=3)
    found = by_name.search_architecture(evaluation_function=worth, num_evaluations=16)
    assert found == by_place.search_architecture(worth, 16)
    assert by_name.search.options()["population"] == 4


def test_the_population_leaves_room_for_generations() -> None:
    search = NeuralArchitectureSearch(SPACE, "evolutionary")
    assert search.search.options()["population"] == 50
    search.search_architecture(worth, 12)
    assert search.search.options()["population"] == 3
    exact = NeuralArchitectureSearch(SPACE, "evolutionary", options={"population": 7})
    exact.search_architecture(worth, 12)
    assert exact.search.options()["population"] == 7
    NeuralArchitectureSearch(SPACE, "random", 9)  # has none
    with pytest.raises(OptionError, match="population_size must be at least 2, got 1"):
        NeuralArchitectureSearch(SPACE, "evolutionary", 1)


def test_a_search_goes_on_with_earlier_trials() -> None:
    whole = NeuralArchitectureSearch(SPACE, "bayesian", seed=2, options={"initial": 4})
    whole.search_architecture(worth, 12)
    began = NeuralArchitectureSearch(SPACE, "bayesian", seed=2, options={"initial": 4})
    began.search_architecture(worth, 7)
    assert whole.result is not None
    assert began.result is not None
    seen: list[Any] = []

    def counted(architecture: dict[str, Any]) -> float:
        seen.append(architecture)
        return worth(architecture)

    began.search_architecture(counted, 12, trials=began.result.trials)
    assert [t.point for t in began.result.trials] == [t.point for t in whole.result.trials]
    assert len(seen) == 5


def test_halving_goes_on_where_a_rung_fails() -> None:
    """The best three of nine cannot be trained any further: the next three are, and so on down to the last."""

    def evaluate(architecture: dict[str, Any], share: float) -> float:
        if share > 0.2 and worth(architecture) > limit:
            raise MemoryError("too large to be trained in full")
        return worth(architecture)

    for limit in (8.0, -math.inf):
        search = NeuralArchitectureSearch(SPACE, "random", halving=3)
        best, score = search.search_architecture(evaluate, 3)
        first = sorted((t.value for t in search.rungs_done[0].trials), reverse=True)  # type: ignore[type-var]
        assert len(first) == 9
        assert first[3] > 8.0  # the first to go on all fail
        assert score == worth(best) == (max(v for v in first if v <= 8.0) if limit == 8.0 else first[0])  # type: ignore[operator]

    def refuses(architecture: dict[str, Any], share: float) -> float:
        raise MemoryError

    with pytest.raises(RunError, match="all 9 evaluations failed; the first: MemoryError"):
        NeuralArchitectureSearch(SPACE, "random", halving=3).search_architecture(refuses, 3)
    with pytest.raises(OptionError, match=r"halving .* takes neither trials nor key"):
        NeuralArchitectureSearch(SPACE, "random", halving=3).search_architecture(evaluate, 3, key="x")


@pytest.mark.parametrize("algorithm", ["random", "evolutionary", "bayesian", "optuna"])
@pytest.mark.parametrize("failing", [1, 7, 8, 9, 10, 15])
def test_the_first_evaluations_fail(algorithm: str, failing: int) -> None:
    calls: list[Any] = []

    def evaluate(architecture: dict[str, Any]) -> float:
        calls.append(architecture)
        if len(calls) <= failing:
            raise MemoryError("out of memory")
        return worth(architecture)

    search = NeuralArchitectureSearch(SPACE, algorithm)
    _, score = search.search_architecture(evaluate, 18)
    assert search.result is not None
    assert search.result.failed == failing
    assert score == max(map(worth, calls[failing:]))


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


def test_benchmark_as_it_is_called_in_a_line() -> None:
    scores = benchmark_nas_algorithms(SPACE, worth, 50, seeds=2)
    assert {s.algorithm for s in scores} == {"random", "evolutionary", "bayesian"}
    assert all(set(s.regret) == {25, 50} and s.regret[50] == 0 and s.evaluated == 20 for s in scores)
    of_dict = benchmark_nas_algorithms({"x": (0.0, 1.0)}, lambda p: -abs(p["x"] - 0.3), 30, ["bayesian"], seeds=1)
    assert set(of_dict[0].regret) == {25, 30}
    with_darts = benchmark_nas_algorithms(
        SPACE, worth, 2, [{"use": "darts", "steps": 2}], seeds=1, task=digits(), checkpoints=()
    )
    assert set(with_darts[0].regret) == {2}


def test_benchmark_counts_failures() -> None:
    """While a seed has found nothing the regret is infinite; where nothing is ever found there is none."""

    def evaluate(architecture: dict[str, Any]) -> float:
        if architecture["layers"] == 1:
            raise MemoryError
        return worth(architecture)

    (score,) = benchmark_nas_algorithms(SPACE, evaluate, 20, ["random"], seeds=2, checkpoints=(1,))
    assert score.failed == 4
    assert score.regret[20] == 0
    assert score.regret[1] >= 0
    never = {"x": (0.0, 1.0)}
    (late,) = benchmark_nas_algorithms(never, fails_first, 4, ["random"], seeds=1, checkpoints=(2,))
    assert late.regret[2] == math.inf
    assert late.regret[4] == 0
    with pytest.raises(RunError, match="all 3 evaluations failed; the first: the objective is nan"):
        benchmark_nas_algorithms(SPACE, lambda p: math.nan, 3, ["random"], seeds=1)
    with pytest.raises(OptionError, match="algorithms must be a list"):
        benchmark_nas_algorithms(SPACE, worth, 3, "random")


CALLS: list[Any] = []


def fails_first(point: dict[str, Any]) -> float:
    CALLS.append(point)
    return math.nan if len(CALLS) <= 3 else 1.0


def test_the_documented_example() -> None:
    """As in the package's README: a small network for digits."""
    data = load_digits()
    inputs, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    space = create_nas_search_space((64,), 10, max_layers=2, widths=(4, 16, 64))
    search = NeuralArchitectureSearch(search_space_config=space, algorithm="bayesian", population_size=50)

    def evaluate(architecture: dict[str, Any]) -> Any:
        model = search.build(architecture)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[:1000]), labels[:1000]).backward()
            optimizer.step()
        return (model(inputs[1000:]).argmax(dim=1) == labels[1000:]).float().mean()

    architecture, accuracy = search.search_architecture(evaluation_function=evaluate, num_evaluations=12)
    assert accuracy > 0.85
    assert float(evaluate(architecture)) == pytest.approx(accuracy)
    assert search.build(architecture)(inputs).shape == (1797, 10)
