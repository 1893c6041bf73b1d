"""What the strategist reads of a store, how it compares strategies, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosstask import Budget, Extension, ModelSpec, Plugin, Portfolio, Task, TaskDescriptor, TransferEngine
from crosstask.context import LocalContext
from crosstask.testing import blobs, reference_registry
from crosstask_strategist import Contrasts, LearnedStrategist, Trial
from crosstask_strategist.history import described, stages, told, transfers
from crosstask_strategist.regression import expected_score

FEATURES = (0.0, 0.0, 0.0, 0.0)


def trial(strategy: str, score: float, task: str = "t", x: float = 0.0, setting: Any = 0, samples: int = 50) -> Trial:
    return Trial(strategy, (task, samples, setting), (task, samples, 10), (x, 0.0, 0.0, 0.0), "accuracy", score)


def descriptor(name: str, **given: Any) -> TaskDescriptor:
    return TaskDescriptor(task_id=name, **{"input_shape": (10,), "output_dim": 2, "sample_count": 100, **given})


class Past(LocalContext):
    """A history that is given."""

    def __init__(self, **entries: list[Any]) -> None:
        super().__init__()
        self.entries = entries

    def past(self, kind: str) -> Any:
        return iter([(str(number), entry) for number, entry in enumerate(self.entries.get(kind, []))])


# What is read


def transferred(target: str, strategy: str, score: float, **more: Any) -> dict[str, Any]:
    return {
        "source": "s", "target": target, "strategy": f"transfer '{strategy}' (crosstask-x 1.0)", "metric": "accuracy",
        "score": {"mean": score}, "budget": {"steps": 100, "samples": 20}, **more,
    }  # fmt: skip


def test_transfers_are_read_with_what_their_target_is_like_and_what_they_took() -> None:
    curve = {"steps": [0, 20, 40, 60], "values": [0.2, 0.5, 0.899, 0.9]}
    rows = [transferred("t", "lp_ft", 0.9, curve=curve), transferred("t", "ft", 0.8)]
    first, second = transfers(enumerate(rows), {"t": descriptor("t")})  # type: ignore[arg-type]
    assert (first.strategy, first.score, first.steps, second.steps) == ("lp_ft", 0.9, 40.0, 100.0)
    assert first.features == pytest.approx((np.log10(20) - 2, (np.log2(3) - 2) / 2, -0.5, 0.0))
    assert first.setting == second.setting


@pytest.mark.parametrize(
    "entry",
    [
        {}, [1], "x", transferred("unknown", "a", 0.5), transferred("t", "a", float("nan")),
        transferred("t", "a", 0.5) | {"strategy": ""}, transferred("t", "a", 0.5) | {"budget": 3},
        transferred("t", "a", 0.5) | {"score": None}, transferred("open", "a", 0.5), transferred("twice", "a", 0.5),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out(entry: Any) -> None:
    known = {"t": descriptor("t"), "open": TaskDescriptor(task_id="open"), "twice": None}
    assert transfers([("k", entry)], known) == []
    assert stages([("k", entry)], known) == ([], [])


def test_an_id_that_stands_for_different_tasks_counts_for_none() -> None:
    held = [descriptor("a"), descriptor("a", output_dim=9), descriptor("b"), descriptor("b"), descriptor("c")]
    entries = [("odd", {"odd": 1}), *((str(number), each.to_json()) for number, each in enumerate(held))]
    found = told(entries, [descriptor("c", output_dim=5)])
    assert found["a"] is None
    assert found["b"] == descriptor("b")
    assert found["c"] == descriptor("c", output_dim=5)  # the one that is present


def test_joint_trainings_and_syntheses_are_read_from_stages() -> None:
    joint = {"tasks": ["a", "b"], "balancer": "balancer 'rgb' (crosstask-rgb 0.1.0)", "sharing": "hard",
             "scores": {"a": 0.7, "b": 0.8, "gone": 0.9}, "metrics": {"a": "accuracy", "b": "accuracy"}}  # fmt: skip
    made = {"task_id": "a", "metric": "accuracy", "score": 0.6,
            "provenance": {"strategy": "synthesis 'ties'", "sources": {"b": 1.0}}}  # fmt: skip
    known = {"a": descriptor("a"), "b": descriptor("b")}
    balanced, merged = stages([("1", {"record": joint}), ("2", {"record": made}), ("3", {"record": {}})], known)
    assert [(t.strategy, t.score, t.place[0]) for t in balanced] == [("rgb", 0.7, "a"), ("rgb", 0.8, "b")]
    assert [(t.strategy, t.score, t.place) for t in merged] == [("ties", 0.6, ("a",))]
    assert stages([("1", {"record": {**joint, "scores": 3}}), ("2", {"record": {**made, "provenance": 1}})], known) == (
        [],
        [],
    )


def test_samples_are_those_that_may_be_used() -> None:
    assert described(descriptor("a"), 10) == described(descriptor("a", sample_count=10), None)
    assert described(descriptor("a", sample_count=None), None) is None


# What is compared


def test_differences_are_least_squares_where_the_prior_is_weak() -> None:
    """Two strategies whose difference grows with the first feature: against ordinary regression of the differences."""
    rng, trials, xs, differences = np.random.default_rng(0), [], [], []
    for number in range(40):
        x, level = float(rng.uniform(-1, 1)), float(rng.uniform(0.3, 0.6))
        more = 0.1 + 0.2 * x + 0.01 * float(rng.standard_normal())
        trials += [trial("a", level, f"t{number}", x), trial("b", level + more, f"t{number}", x)]
        xs.append([1.0, x])
        differences.append(more)
    found = Contrasts.fitted(trials)
    assert found is not None
    offset, slope = np.linalg.lstsq(np.array(xs), np.array(differences), rcond=None)[0]
    for x in (-1.0, 0.0, 1.0):
        mean, deviation = found.difference("b", "a", (x, 0.0, 0.0, 0.0))
        assert mean == pytest.approx(offset + slope * x, abs=0.01)
        assert 0 < deviation < 0.02
    spread = found.spread("b", "a")
    assert spread is not None
    assert spread[0] == pytest.approx(np.std(differences - np.array(xs) @ [offset, slope]), rel=0.5)
    assert spread[1] == 40


def test_many_settings_of_one_task_count_as_one_task() -> None:
    """One task in which b is better, a hundred times; four in which it is worse."""
    trials = [trial(name, score, "often", setting=n) for n in range(100) for name, score in (("a", 0.5), ("b", 0.8))]
    trials += [trial(name, score, f"t{n}") for n in range(4) for name, score in (("a", 0.5), ("b", 0.45))]
    found = Contrasts.fitted(trials)
    assert found is not None
    mean, deviation = found.difference("b", "a", FEATURES)
    assert 0 <= mean < 0.03, "(0.3 - 4 · 0.05) / 5, drawn towards 0; by settings it would be 0.28"
    assert mean < deviation


def test_strategies_that_never_met_compare_through_a_third() -> None:
    trials = []
    for number in range(12):
        one, two = (("a", 0.5), ("b", 0.6)) if number % 2 else (("b", 0.4), ("c", 0.55))
        trials += [trial(*one, task=f"t{number}"), trial(*two, task=f"t{number}")]
    found = Contrasts.fitted(trials)
    assert found is not None
    assert found.difference("c", "a", FEATURES)[0] == pytest.approx(0.25, abs=0.02)
    assert found.spread("c", "a") is None, "no task has both"
    assert Contrasts.fitted([trial("a", 0.5), trial("a", 0.6, "u")]) is None


def test_the_interval_of_the_score_holds_new_tasks() -> None:
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        xs = rng.uniform(-0.5, 0.5, 13)
        scores = np.clip(0.7 + 0.2 * xs + 0.05 * rng.standard_normal(13), 0, 1)
        rows = [
            trial("a", float(s), f"t{n}", float(x)) for n, (x, s) in enumerate(zip(xs[:-1], scores[:-1], strict=True))
        ]
        found = expected_score(rows, (float(xs[-1]), 0.0, 0.0, 0.0), (0.0, 1.0))
        held.append(found.low <= scores[-1] <= found.high)
    assert 0.9 <= np.mean(held) <= 1.0


# What is said


def advised(task: TaskDescriptor, history: list[Any], usual: str = "plain", **options: Any) -> Any:
    tasks = [descriptor(f"t{number}") for number in range(6)]
    held = Task(descriptor=task)
    made = LearnedStrategist(**options)
    made.bind(Past(transfers=history, tasks=[each.to_json() for each in tasks]))
    (found,) = made.suggest(held, Portfolio([held]), {"transfer": usual})
    return found


def history(more: float) -> list[Any]:
    return [
        transferred(f"t{n}", name, 0.5 + 0.01 * n + gain)
        for n in range(6)
        for name, gain in (("plain", 0.0), ("new", more))
    ]


def test_the_better_one_is_recommended_with_its_gain_and_the_usual_kept_where_it_is_not() -> None:
    found = advised(descriptor("other"), history(0.2))
    assert (found.strategy, found.usual, found.evidence) == ("new", "plain", 6)
    assert found.gain.low < 0.2 < found.gain.high + 0.02
    assert found.cost.mean == 100
    assert found.text.startswith(
        "As transfer method 6 settings that runs of this store tried speak for 'new': +0.199 ("
    )
    unsure = [transferred(f"t{n}", name, 0.5 + more) for n, by in enumerate((0.3, -0.1, 0.2, -0.1, 0.0, 0.1))
              for name, more in (("plain", 0.0), ("new", by))]  # fmt: skip
    assert "speak, without being sure, for 'new'" in advised(descriptor("other"), unsure).text
    kept = advised(descriptor("other"), history(-0.2))
    assert (kept.strategy, kept.gain) == ("plain", None)
    assert "nothing in 6 settings that runs of this store tried speaks clearly for another" in kept.text
    assert advised(descriptor("other"), history(0.2)[:4]).strategy == "plain", "two tasks say little"
    assert advised(descriptor("other"), history(0.001)).strategy == "plain", "too little to change for"


def test_balancers_have_no_cost_that_is_known() -> None:
    joint = [{"record": {"tasks": ["t0"], "balancer": name, "sharing": "hard", "scores": {f"t{n}": 0.5 + more},
                         "metrics": {f"t{n}": "accuracy"}}}
             for n in range(5) for name, more in (("equal", 0.0), ("rgb", 0.1))]  # fmt: skip
    tasks = [descriptor(f"t{number}") for number in range(5)]
    made, new = LearnedStrategist(), Task(descriptor=descriptor("new"))
    made.bind(Past(stages=joint, tasks=[each.to_json() for each in tasks]))
    (found,) = made.suggest(new, Portfolio([new]), {"balancer": "equal"})
    assert (found.strategy, found.cost, found.evidence) == ("rgb", None, 5)


def test_where_nothing_is_known_it_says_so() -> None:
    assert "No run of this store says which transfer method suits by accuracy" in advised(descriptor("x"), []).text
    other = advised(descriptor("x"), history(0.2), usual="another")
    assert (other.strategy, other.evidence) == ("another", 0)
    said = "Runs of this store tried no 'another', the usual transfer method, but 'new' 6 times, 'plain' 6 times"
    assert said in other.text
    silent = advised(TaskDescriptor(task_id="x"), history(0.2))
    assert "the descriptor does not say its samples, inputs and outputs" in silent.text


def test_the_engine_recommends_from_its_store_and_calls_none_of_it_earlier_that_is_its_own(tmp_path: Any) -> None:
    registry = reference_registry(poor="transfer")
    (record,) = (r for r in registry.records if r.name == "reference")
    assert record.plugin is not None
    registry.records.remove(record)
    kept = [e for e in record.plugin.extensions if e.point != "strategist"]
    registry.register(Plugin("reference", kept, api=(2, 0)))
    offer = Extension(
        "strategist", "by_history", "crosstask_strategist:LearnedStrategist", summary="Learned", default=True
    )
    registry.register(Plugin("strategist", [offer], api=(2, 0)), distribution="crosstask-strategist")
    options: dict[str, Any] = {
        "model": ModelSpec(hidden=[8]), "train": Budget(steps=20), "budget": Budget(steps=5, samples=16),
        "discoverers": [], "seeds": 2, "registry": registry, "store": tmp_path / "store.db",
    }  # fmt: skip
    with TransferEngine(**options) as engine:
        for number in range(2):
            engine.register_task(blobs(f"task {number}", seed=number))
        engine.transfer_knowledge("task 1", "task 0")
        advice = engine.advise("task 0", share=0)
    assert [s.evidence for s in advice.strategies] == [1, 0, 0]
    assert "As transfer method the usual 'reference'" in advice.text
    assert "nothing in 1 setting that runs of this store tried speaks clearly" in advice.text
    assert "earlier" not in advice.text  # the store was empty
    assert any("No run of this store says which balancer suits" in each.text for each in advice.strategies)
