"""Searching a task's network: what it sees, what it is compared with, what it needs."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, RunError
from crosstask.executors import ProcessExecutor
from crosstask.learning.models import ModelSpec
from crosstask.learning.objectives import Metric
from crosstask.learning.together import in_fleet
from crosstask.options import component, structure, unstructure
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Task
from crosstask.testing import small_task
from crosstask_search.models import ModelSpace
from crosstask_search.networks import run_model_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult
from crosstask_search.testing import ReferenceSearch


def own_network(input_shape: tuple[int, ...], output_dim: int, *, width: int, bias: bool) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(input_shape[0], width), nn.ReLU(), nn.Linear(width, output_dim, bias=bias))


def test_model_search_judges_the_winner_against_the_default_and_never_shows_the_test_data() -> None:
    task = small_task("quarters")

    @component
    class Looks(ReferenceSearch):
        """Sees what it is given."""

        def search_begins(self, space: Any, task: Any, models: Any) -> None:
            assert task.has_data("validation")
            assert not task.has_data("test")

    models = ModelSpace(
        kind=f"{__name__}:own_network",
        parameters={"width": Parameter(choices=(2, 32)), "bias": Parameter(choices=(True, False))},
        tune={"learning_rate": Parameter(choices=(1e-4, 0.05))},
    )
    budget = Budget(steps=40, batch_size=16)
    with Run(Registry()) as run:
        result = run_model_search(run, Looks(), models, task, budget, 8, seeds=2)
    assert result.best is not None
    assert result.best.point["learning_rate"] == 0.05
    assert result.model["arguments"] == {n: v for n, v in result.best.point.items() if n != "learning_rate"}
    assert result.budget == Budget(steps=40, batch_size=16, learning_rate=0.05)
    assert (result.task_id, result.metric, result.split) == ("quarters", "accuracy", "test")
    assert result.score is not None
    assert result.default_score is not None
    assert result.gain is not None
    assert result.score.mean > result.default_score.mean  # 40 steps of the default rate are few
    assert result.gain.values == pytest.approx(
        [a - b for a, b in zip(result.score.values, result.default_score.values, strict=True)]
    )
    assert structure(json.loads(json.dumps(unstructure(result))), SearchResult, "result") == result


def test_intervals_are_not_cut_to_what_shares_can_be() -> None:
    """Of a metric where less is better: scores lie below zero, Student's interval with two degrees of freedom."""

    def errors(outputs: Any, targets: Any) -> Any:
        return 100 * (outputs.argmax(1) != targets).double().mean()

    task = attrs.evolve(small_task("moons"), metric=Metric(errors, name="errors", low=0.0, higher_is_better=False))
    budget = Budget(steps=3, batch_size=4, learning_rate=1e-2)
    with Run(Registry()) as run:
        result = run_model_search(run, ReferenceSearch(), ModelSpace(max_layers=1, widths=(4, 64)), task, budget, 2)
    assert result.metric == "neg_errors"
    for found, most in ((result.score, 0.0), (result.default_score, 0.0), (result.gain, math.inf)):
        assert found is not None
        spread = statistics.stdev(found.values)
        assert spread > 0
        mean, half = statistics.mean(found.values), 4.303 * spread / 3**0.5
        assert (found.low, found.high) == pytest.approx((mean - half, min(mean + half, most)))


def test_model_search_is_the_same_in_processes() -> None:
    """Trials of one network are divided among them, and each comes to the same in any company."""
    task, budget = small_task("moons"), Budget(steps=10, batch_size=16)
    rates = tuple(1e-3 * 1.3**n for n in range(10))
    models = ModelSpace(max_layers=1, widths=(4, 8), tune={"learning_rate": Parameter(choices=rates)})
    found = []
    for executor in (None, ProcessExecutor(workers=2)):
        with Run(Registry(), executor=executor) as run:
            found.append(run_model_search(run, ReferenceSearch(), models, task, budget, 20, seeds=2))
    one, other = found
    assert [(t.point, t.value) for t in one.trials] == [(t.point, t.value) for t in other.trials]
    assert one.best is not None
    assert one.score == other.score


def test_model_search_needs_its_splits_and_one_trial_that_works() -> None:
    task = small_task("moons")
    task.validation = None
    with pytest.raises(DataError, match="has no validation data"):
        run_model_search(LocalContext(), ReferenceSearch(), ModelSpace(), task, Budget(steps=1), 2)
    budget = Budget(steps=30, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(RunError, match=r"all 2 trials of the search failed; the first: RunError: task 'moons'"):
        run_model_search(LocalContext(), ReferenceSearch(), ModelSpace(), small_task("moons"), budget, 2)


def wide_fails(input_shape: tuple[int, ...], output_dim: int, *, width: int) -> Any:
    """A network that cannot be evaluated while `SPOILT`."""
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(input_shape[0], width)
            self.head = nn.Linear(width, output_dim)

        def forward(self, x: Any) -> Any:
            if not self.training and SPOILT["judging"]:
                raise MemoryError("no room to judge")
            return self.head(self.body(x).relu())

    return Net()


SPOILT = {"judging": False}


def test_judgements_that_fail_do_not_lose_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner cannot be judged, the default can: its score stands, and the reason is told."""
    from crosstask_search import networks

    models = ModelSpace(kind=f"{__name__}:wide_fails", parameters={"width": Parameter(choices=(4, 8))})
    judged = networks._judged

    def spoilt(*arguments: Any) -> Any:
        SPOILT["judging"] = True
        return judged(*arguments)

    monkeypatch.setattr(networks, "_judged", spoilt)
    try:
        task = small_task("moons")
        result = run_model_search(LocalContext(), ReferenceSearch(), models, task, Budget(steps=5), 2, seeds=2)
    finally:
        SPOILT["judging"] = False
    assert result.best is not None
    assert (result.score, result.gain) == (None, None)
    assert result.default_score is not None
    assert result.judgement_errors == tuple(f"the best, seed {n}: MemoryError: no room to judge" for n in (0, 1))
    assert structure(json.loads(json.dumps(unstructure(result))), SearchResult, "result") == result


def test_judgements_go_in_fleets_and_are_those_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of a network together, budgets of two rates too; scores are those of the loop, patience looks where it may.
    One whose network ends the process is judged alone.
    """
    from crosstask_search import networks

    task = small_task("moons")
    budget = Budget(steps=30, batch_size=16, learning_rate=0.02, evaluate_every=5, patience=2)
    candidates = [(ModelSpec(hidden=(8,)), budget), (ModelSpec(hidden=(8,)), attrs.evolve(budget, learning_rate=0.05))]
    context = LocalContext()
    expected = [
        [
            networks._trained_score(spec, task, own, context.seed_for("judge", "moons", n), "test", "cpu")
            for n in range(3)
        ]
        for spec, own in candidates
    ]
    seen: list[int] = []

    def counted(count: int, *more: Any, **named: Any) -> Any:
        seen.append(count)
        return in_fleet(count, *more, **named)

    monkeypatch.setattr(networks, "in_fleet", counted)
    scores, errors = networks._judged(context, candidates, task, 3, "test")
    assert (seen, errors) == ([6], [])
    for found, wanted in zip(scores, expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
    quits = ModelSpec(kind=f"{__name__}:quits", arguments={"width": 4})
    _, errors = networks._judged(context, [(quits, Budget(steps=2)), candidates[0]], task, 2, "test")
    assert errors == [f"the best, seed {n}: SystemExit: never" for n in (0, 1)]


def quits(input_shape: tuple[int, ...], output_dim: int, *, width: int) -> Any:
    raise SystemExit("never")


class Doubled(torch.nn.Module):
    """Data are kept in single precision: here they become double."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.double()


def double_network(input_shape: tuple[int, ...], output_dim: int, *, width: int) -> Any:
    from torch import nn

    if width == 7:
        raise ValueError("seven is not served")
    layers = (nn.Linear(input_shape[0], width), nn.ReLU(), nn.Linear(width, output_dim))
    return nn.Sequential(Doubled(), *layers).double()


def digits() -> Task:
    """scikit-learn's, judged by their loss."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images).float() / 16, torch.tensor(labels)
    parts = {"train": slice(0, 600), "validation": slice(600, 900), "test": slice(900, 1200)}
    loss = Metric(lambda o, t: float(functional.cross_entropy(o, t)), name="nll", higher_is_better=False)
    descriptor = TaskDescriptor(task_id="digits", input_shape=(64,), output_dim=10)
    return Task(
        descriptor=descriptor, metric=loss, **{name: (inputs[own], targets[own]) for name, own in parts.items()}
    )


RATES = ModelSpace(
    kind=f"{__name__}:double_network",
    parameters={"width": Parameter(choices=(7, 8, 24))},
    tune={
        "learning_rate": Parameter(choices=(1e-3, 3e-3, 1e-2, 3e-2, 1e200)),
        "batch_size": Parameter(choices=(16, 32)),
    },
)
TRIALS = Budget(steps=25, optimizer="sgd", samples=300, evaluate_every=10)


def fleets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many each of the fleets to come has."""
    from crosstask_search import networks

    sizes: list[int] = []

    def counted(count: int, *more: Any, **named: Any) -> Any:
        sizes.append(count)
        return in_fleet(count, *more, **named)

    monkeypatch.setattr(networks, "in_fleet", counted)
    return sizes


def test_trials_go_in_fleets_and_are_those_of_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one width and size of batches go together. A rate at which training diverges, and a width that cannot
    be built, are failures of their own trials, with the reasons that they have alone.
    """
    found = run_model_search(LocalContext(), ReferenceSearch(), RATES, digits(), TRIALS, 30, seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(ReferenceSearch, "blind", 0.0)
        alone = run_model_search(LocalContext(), ReferenceSearch(), RATES, digits(), TRIALS, 30, seeds=1)
    sizes = fleets(monkeypatch)
    run_model_search(LocalContext(), ReferenceSearch(), RATES, digits(), TRIALS, 30, seeds=1)
    assert sizes == [5, 5, 5, 5]  # the winner and the default are judged alone: one seed each
    assert [(t.point, t.status, t.error) for t in found.trials] == [(t.point, t.status, t.error) for t in alone.trials]
    unbuilt = [t.error for t in found.trials if t.point["width"] == 7]
    assert len(unbuilt) == 10
    assert all(str(error).endswith("ValueError: seven is not served") for error in unbuilt)
    diverged = [t.error for t in found.trials if t.point["learning_rate"] == 1e200 and t.point["width"] != 7]
    assert len(diverged) == 4
    assert all("the training loss is" in str(error) for error in diverged)
    done = [(a.value, b.value) for a, b in zip(found.trials, alone.trials, strict=True) if a.status == "done"]
    assert len(done) == 16
    assert [a for a, _ in done] == pytest.approx([b for _, b in done], rel=1e-9, abs=1e-9)
    assert found.curve.steps == alone.curve.steps


def test_trials_are_kept_under_the_keys_that_they_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found one after the other is taken up, and the rest of a round goes together."""
    sizes = fleets(monkeypatch)

    def trials(count: int) -> list[Any]:
        store = open_store(str(tmp_path / "store.db"))
        with Run(Registry(), store=store) as run:
            found = run_model_search(run, ReferenceSearch(), RATES, digits(), TRIALS, count, seeds=1)
        store.close()
        return [(t.point, t.value) for t in found.trials]

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceSearch, "blind", 0.0)
        first = trials(12)
    assert sizes == []
    assert trials(30)[:12] == first
    able = 20 - sum(point["width"] != 7 for point, _ in first)
    assert sum(sizes) == able
