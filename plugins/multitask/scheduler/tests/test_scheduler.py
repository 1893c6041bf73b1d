"""The four samplers."""

from collections import Counter
from collections.abc import Mapping

import pytest
import torch

from crosstask.errors import OptionError, RunError
from crosstask_multitask import History, Sampler
from crosstask_scheduler import LossBased, Performance, PerformanceBased, RoundRobin, Uniform
from crosstask_scheduler.plugin import PLUGIN

TASKS = ["a", "b", "c"]


def drawn(sampler: Sampler, history: Mapping[str, list[float]], steps: int = 4000, seed: int = 0) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    given = history if isinstance(history, History) else History(history)
    counts = Counter(task for _ in range(steps) for task in sampler.sample(TASKS, given, rng))
    return {task: counts[task] / steps for task in TASKS}


def test_the_manifest_names_five_samplers() -> None:
    names = ["uniform", "round_robin", "loss_based", "performance", "performance_based"]
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sampler", name) for name in names]


def test_uniform_is_uniform() -> None:
    assert drawn(Uniform(), {}) == pytest.approx(dict.fromkeys(TASKS, 1 / 3), abs=0.03)
    assert drawn(Uniform(tasks_per_step=2), {}) == pytest.approx(dict.fromkeys(TASKS, 2 / 3), abs=0.03)
    assert Uniform(tasks_per_step=9).sample(TASKS, {}, torch.Generator()) == TASKS


def test_round_robin_takes_turns() -> None:
    sampler, rng = RoundRobin(tasks_per_step=2), torch.Generator()
    before = rng.get_state()
    assert [sampler.sample(TASKS, {}, rng) for _ in range(4)] == [["a", "b"], ["a", "c"], ["b", "c"], ["a", "b"]]
    assert torch.equal(rng.get_state(), before)


def test_probabilities_are_the_softmax() -> None:
    history = {"a": [9.0, 1.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}
    losses = torch.tensor([5.0, 2.0, 3.0])  # means
    expected = dict(zip(TASKS, torch.softmax(losses / 2, 0).tolist(), strict=True))
    assert drawn(LossBased(temperature=2.0), history) == pytest.approx(expected, abs=0.03)
    left = torch.tensor([5.0 / 9, 1.0, 1.0])
    expected = dict(zip(TASKS, torch.softmax(left / 0.5, 0).tolist(), strict=True))
    assert drawn(PerformanceBased(temperature=0.5), history) == pytest.approx(expected, abs=0.03)


def test_only_recent_losses_count_and_only_every_so_often() -> None:
    history = {"a": [100.0] * 5 + [0.0] * 3, "b": [0.0] * 8, "c": [0.0] * 8}
    sampler = LossBased(update_frequency=3, temperature=0.01)
    assert drawn(sampler, history, steps=3) != {"a": 1.0, "b": 0.0, "c": 0.0}
    sampler = LossBased(update_frequency=3, temperature=0.01)
    rng = torch.Generator()
    sampler.sample(TASKS, {"a": [1.0], "b": [0.0], "c": [0.0]}, rng)
    changed = {"a": [0.0], "b": [1.0], "c": [0.0]}
    assert [sampler.sample(TASKS, changed, rng) for _ in range(4)] == [["a"], ["a"], ["b"], ["b"]]


@pytest.mark.parametrize("kind", [LossBased, PerformanceBased])
def test_tasks_without_a_loss_come_first(kind: type[Sampler]) -> None:
    history = {"a": [1.0], "b": [], "c": [1.0]}
    assert drawn(kind(), history, steps=20) == {"a": 0.0, "b": 1.0, "c": 0.0}


def test_a_step_is_full_while_tasks_wait() -> None:
    """A balancer may need as many tasks as were asked for."""
    rng, history = torch.Generator().manual_seed(0), History({"a": [1.0], "b": [], "c": [1.0]})
    seen = Counter(tuple(LossBased(tasks_per_step=2).sample(TASKS, history, rng)) for _ in range(200))
    assert set(seen) == {("a", "b"), ("b", "c")}
    assert min(seen.values()) > 60
    assert LossBased(tasks_per_step=5).sample(TASKS, history, rng) == TASKS


@pytest.mark.parametrize("kind", [LossBased, PerformanceBased, RoundRobin])
def test_a_restored_sampler_goes_on_the_same(kind: type[Sampler]) -> None:
    history = {"a": [1.0], "b": [2.0], "c": [0.5]}
    first, rng = kind(), torch.Generator().manual_seed(3)
    for _ in range(7):
        first.sample(TASKS, history, rng)
    second, again = kind(), torch.Generator()
    second.load_state_dict(first.state_dict())
    again.set_state(rng.get_state())
    history["b"].append(50.0)
    expected = [first.sample(TASKS, history, rng) for _ in range(150)]
    assert [second.sample(TASKS, history, again) for _ in range(150)] == expected


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match="temperature must be > 0"):
        LossBased(temperature=0.0)
    with pytest.raises(OptionError, match="update_frequency must be >= 1"):
        PerformanceBased(update_frequency=0)


def test_performance_is_one_minus_the_recent_accuracy() -> None:
    """Of bounded metrics scaled to 0..1; of an error relative to the first."""
    scores = {"a": [0.0] * 9 + [0.9] * 10, "b": [0.2, 0.4], "c": [-4.0, -2.0, -3.0]}
    ranges = {"a": (0.0, 1.0), "b": (-1.0, 1.0), "c": (-float("inf"), 0.0)}
    history = History({task: [1.0] for task in TASKS}, scores=scores, ranges=ranges)
    needs = torch.tensor([1 - 0.9, 1 - (0.3 + 1) / 2, 3.0 / 4.0])
    expected = dict(zip(TASKS, torch.softmax(needs / 0.2, 0).tolist(), strict=True))
    assert drawn(Performance(temperature=0.2), history) == pytest.approx(expected, abs=0.03)


def test_performance_waits_for_scores_and_says_where_there_will_be_none() -> None:
    losses = {task: [1.0] for task in TASKS}
    some = History(losses, scores={"a": [0.5], "b": [], "c": [0.5]})
    assert drawn(Performance(), some, steps=20) == {"a": 0.0, "b": 1.0, "c": 0.0}
    with pytest.raises(RunError, match="task 'c' is not measured: it needs validation data"):
        Performance().sample(TASKS, History(losses, scores={"a": [0.5], "b": [0.5]}), torch.Generator())
    endless = dict.fromkeys(TASKS, (-float("inf"), float("inf")))
    unbounded = History(losses, scores={task: [1.0] for task in TASKS}, ranges=endless)
    with pytest.raises(RunError, match="the metric of task 'a' has no best score"):
        Performance().sample(TASKS, unbounded, torch.Generator())


def test_what_is_not_finite_is_not_drawn_by() -> None:
    history = History({"a": [1.0], "b": [float("nan")], "c": [1.0]})
    with pytest.raises(RunError, match="what is known of task 'b' is not finite"):
        LossBased().sample(TASKS, history, torch.Generator())
