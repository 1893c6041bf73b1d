"""A monitor on real digits: what it records and finds, that it heals, replaces only by better, and keeps the old."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.engine import TransferEngine
from crosstask.errors import DataError
from crosstask.graph import TransferEdge
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import weights_digest
from crosstask.options import component
from crosstask.records import Budget, Curriculum
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry, small_task, trained
from crosstask_monitoring import CurriculumHealer, Entry, Evidence, History, Monitor, Surgery, comparing, rows_of
from crosstask_monitoring.digits import portfolio
from crosstask_monitoring.testing import REFERENCE, ReferenceDetector

REGISTRY = reference_registry(REFERENCE)


@component
class Shewhart(ReferenceDetector):
    """Losses in standard deviations of the reference, also without limits."""

    capabilities = frozenset({"unbounded"})

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        lost = (reference[:, 0].mean() - stream[:, 0]) / (reference[:, 0].std() + 0.1)
        return Evidence(statistic=tuple(lost.tolist()), threshold=4.0)


BUDGET = Budget(steps=120, learning_rate=5e-3, evaluate_every=60)


@functools.cache
def _digits() -> tuple[Portfolio, dict[str, Tensor]]:
    """The portfolio and the weights of a model that has learned `digits`."""
    tasks = portfolio()
    model = ModelSpec(hidden=(32,)).build(tasks["digits"].descriptor, 0)
    fit(model, tasks["digits"], BUDGET, torch.Generator().manual_seed(0), curve_split=None)
    return tasks, model.state_dict()


def engine(store: Path | None = None, *names: str) -> TransferEngine:
    """An engine with the digits, whose model is trained."""
    tasks, weights = _digits()
    made = TransferEngine(
        model=ModelSpec(hidden=(32,)), train=BUDGET, budget=BUDGET, seeds=1, discoverers=(), auto_discover=False,
        registry=REGISTRY, store=store and f"sqlite:///{store}",
    )  # fmt: skip
    task = tasks["digits"]
    own = task.over(**{split: task.data(split) for split in ("train", "validation", "test")})
    own.model = ModelSpec(hidden=(32,)).build(task.descriptor, 0)
    own.model.load_state_dict(weights)
    made.register_task(own)
    return made


def batches(name: str, split: str = "train", size: int = 40) -> list[tuple[Tensor, Tensor]]:
    data = _digits()[0][name].data(split)
    return [(data.inputs[at : at + size], data.targets[at : at + size]) for at in range(0, len(data) - size + 1, size)]


def feed(monitor: Monitor, name: str, count: int, split: str = "train") -> None:
    for inputs, targets in batches(name, split)[:count]:
        monitor.record("digits", inputs=inputs, targets=targets)


def test_a_drop_is_found_healed_and_can_be_rolled_back(tmp_path: Path) -> None:
    drifted = _digits()[0]["inverted"]
    with engine(tmp_path / "store.db") as made:
        task, monitor = made.portfolio["digits"], Monitor(made)
        old = task.model
        assert old is not None
        feed(monitor, "digits", 5, "test")
        reading = monitor.check()["digits"]
        assert (reading.alarm, reading.records, reading.samples) == (False, 5, 200)
        assert reading.reference.mean == pytest.approx(evaluate(old, task, "validation"))
        feed(monitor, "inverted", 8)
        reading = monitor.check("digits")["digits"]
        assert reading.alarm_at == 5
        assert reading.began == 5
        assert reading.recent is not None
        assert reading.recent.high < reading.reference.low
        before = evaluate(old, drifted, "test")
        done = monitor.heal("digits")
        assert done.replaced
        assert done.comparison is not None
        assert done.comparison.p_value < 1e-6
        assert sum(done.samples.values()) == 8 * 40
        assert task.model is not old
        assert task.model is not None
        assert evaluate(task.model, drifted, "test") > before + 0.5, "restored on samples that nobody has seen"
        assert weights_digest(task.model) == done.new == made.given_models["digits"]
        assert made.portfolio.ids == ["digits"], "what the task is now was held as a task for as long as it took"
        assert list(made.graph.networkx.nodes) == ["digits"]
        feed(monitor, "inverted", 3)
        assert not monitor.check("digits")["digits"].alarm, "of the new model, by its own reference"
        kinds = [entry.kind for entry in monitor.history.of("digits")]
        assert kinds.count("alarm") == 1
        assert kinds[-4:] == ["reference", "score", "score", "score"]
        assert [each.metric for each in task.descriptor.performance_history] == ["accuracy"] * 16
    with engine(tmp_path / "store.db") as later:  # another process, which trains the first model again
        task = later.portfolio["digits"]
        assert task.model is not None
        assert weights_digest(task.model) == done.old
        monitor = Monitor(later)
        assert task.model is not None
        assert weights_digest(task.model) == done.new, "what an earlier process has put in place is put in place again"
        assert monitor.check("digits")["digits"].records == 3
        assert monitor.roll_back("digits") == done.old
        assert weights_digest(task.model) == done.old
        with pytest.raises(DataError, match="its model has replaced none"):
            monitor.roll_back("digits")
    with engine(tmp_path / "store.db") as last:
        Monitor(last)
        model = last.portfolio["digits"].model
        assert model is not None
        assert weights_digest(model) == done.old


def test_a_healthy_task_is_never_replaced_and_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine() as made:
        monitor = Monitor(made)
        feed(monitor, "digits", 10, "test")
        monkeypatch.setattr(made, "run_curriculum", lambda *_: pytest.fail("trained"))
        done = monitor.heal("digits")
        assert (done.outcome, done.reason, done.old) == ("healthy", "no drop in 10 records", done.new)


def test_a_candidate_that_is_not_better_is_refused() -> None:
    """The task has not changed: what is learned from a fraction of the samples is no better than what is in place."""
    with engine() as made:
        task, monitor = made.portfolio["digits"], Monitor(made)
        model, data = task.model, _digits()[0]["digits"].data("test")
        done = monitor.heal("digits", data=(data.inputs[:150], data.targets[:150]), force=True)
        assert done.outcome == "kept"
        assert "not better beyond noise" in done.reason
        assert task.model is model
        assert monitor.history.of("digits")[-1].kind == "kept"
        with pytest.raises(DataError, match="there is nothing to roll back to"):
            monitor.roll_back("digits")


def test_surgery_with_a_curriculum_of_ones_own() -> None:
    """A network of the user's own that has learned nothing is replaced after training; the old one is kept."""
    with TransferEngine(budget=Budget(steps=150, learning_rate=1e-2), seeds=1, discoverers=(), auto_discover=False,
                        registry=REGISTRY) as made:  # fmt: skip
        made.register_task(trained(small_task("moons")))
        task = small_task("turned")
        generator = torch.Generator().manual_seed(1)
        task = task.over(**{split: task.data(split) for split in ("train", "test")},
                         validation=_more(task, 8))  # fmt: skip
        task.model = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        made.register_task(task)
        made.register_task(TaskDescriptor(task_id="turned now", output_dim=2))
        made.graph.add(TransferEdge(source="moons", target="turned", transfer_coefficient=0.5))
        surgery = Surgery(made)
        assert isinstance(surgery, CurriculumHealer)
        done = surgery.heal_with_curriculum(Curriculum(target="turned", task_sequence=("turned",)))
        assert done.replaced, done.reason
        assert isinstance(task.model, torch.nn.Sequential)
        assert done.curriculum is not None
        assert done.curriculum.task_sequence == ("turned now+",), "a name of its own"
        assert made.portfolio.ids == ["moons", "turned", "turned now"]
        assert "turned: replaced; better beyond noise" in done._repr_html_()
        assert done.comparison is not None
        (healthy,) = surgery.history.of("turned", "reference", model=done.new)
        told = healthy.score, healthy.samples
        assert told == (done.comparison.new, done.comparison.samples), "not of the half that it was chosen by"
        assert surgery.roll_back("turned") == done.old
        with pytest.raises(DataError, match=r"no task 'turnd'.*did you mean 'turned'"):
            surgery.heal_with_curriculum(Curriculum(target="turnd", task_sequence=("turnd",)))


def _more(task: Task, times: int) -> tuple[Tensor, Tensor]:
    data = task.data("validation")
    return data.inputs.repeat(times, 1), data.targets.repeat(times)


def test_a_users_own_object_can_heal() -> None:
    class Mine:
        def heal_with_curriculum(self, curriculum: Curriculum) -> str:
            return curriculum.target

    assert isinstance(Mine(), CurriculumHealer)
    assert not isinstance(object(), CurriculumHealer)


def test_models_served_elsewhere_are_recorded_by_their_scores() -> None:
    with TransferEngine(discoverers=(), auto_discover=False, registry=REGISTRY) as made:
        made.register_task(TaskDescriptor(task_id="served", output_dim=3))
        monitor = Monitor(made)
        for n in range(5):
            monitor.record("served", 0.9, samples=100, reference=True)
            monitor.record("served", 0.9 if n < 2 else 0.3, samples=50, when=f"2030-01-0{5 - n}")
        reading = monitor.check("served")["served"]
        assert reading.model == ""
        assert reading.alarm
        assert reading.began == 0, "late labels count by their time: the low ones came first"
        outputs, targets = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 1])
        entry = monitor.record("served", outputs=outputs, targets=targets)
        assert (entry.score, entry.samples) == (0.75, 4)
        with pytest.raises(DataError, match="no labelled samples since the drop"):
            monitor.heal("served")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "takes a score, or targets"),
        ({"score": 0.5, "targets": torch.zeros(2)}, "takes a score, or targets"),
        ({"score": 1.5}, "accuracy goes from 0 to 1, got 1.5"),
        ({"score": float("inf")}, "accuracy must be a finite number, got inf"),
        ({"score": "high"}, "score must be a number"),
        ({"targets": torch.zeros(2).long()}, "with inputs or with outputs"),
        ({"targets": torch.zeros(2).long(), "outputs": torch.zeros(3, 2)}, "3 outputs for 2 targets"),
        ({"score": 0.5, "when": "yesterday"}, "when must be a date and time in ISO form"),
    ],
)
def test_what_is_no_record_is_refused(given: dict[str, Any], told: str) -> None:
    with TransferEngine(discoverers=(), auto_discover=False, registry=REGISTRY) as made:
        made.register_task(small_task("moons"))
        monitor = Monitor(made)
        with pytest.raises((DataError, ValueError), match=told):
            monitor.record("moons", **given)
        assert not monitor.history.of("moons")


def test_what_is_missing_is_said() -> None:
    with TransferEngine(discoverers=(), auto_discover=False, registry=REGISTRY) as made:
        made.register_task(TaskDescriptor(task_id="bare", output_dim=2))
        made.register_task(trained(small_task("moons")))
        monitor = Monitor(made, keep=30)
        with pytest.raises(DataError, match=r"no task 'mons'.*did you mean 'moons'"):
            monitor.check("mons")
        with pytest.raises(DataError, match="has no model to heal"):
            Surgery(made).operate(made.portfolio["bare"], {}, lambda _: pytest.fail("planned"))
        monitor.record("bare", 0.5)
        with pytest.raises(DataError, match=r"is not known: record.*reference=True"):
            monitor.check("bare")
        data = small_task("moons").data("train")
        with pytest.raises(DataError, match="20 labelled samples are too few to heal from: at least 50"):
            monitor.heal("moons", data=data.take(slice(20)), force=True)
        for at in range(0, 60, 20):
            monitor.record("moons", inputs=data.inputs[at : at + 20], targets=data.targets[at : at + 20])
        assert len(monitor._now(made.portfolio["moons"], None)) == 40, "the last that hold `keep` samples"
        for wrong in ({"keep": 0}, {"alpha": 1.0}):
            with pytest.raises(DataError, match=r"Monitor: keep must be at least 1|alpha must be > 0"):
                Monitor(made, **wrong)
        few = small_task("halves").over(train=small_task("halves").train)
        few.model = trained(small_task("halves")).model
        made.register_task(few)
        with pytest.raises(DataError, match="at least 20 validation samples"):
            Surgery(made).heal_with_curriculum(Curriculum(target="halves", task_sequence=("halves",)))
        with pytest.raises(DataError, match="the model abc is not kept"):
            Surgery(made).restored(made.portfolio["moons"], "abc")


def test_errors_without_a_least_value_are_healed_too() -> None:
    """A regression by its RMSE, which has no limits: a detector that reads it finds the drop, the bootstrap judges."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 3, generator=generator)
    values = rows.sum(1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    for parameter, right in zip(model.parameters(), (torch.eye(3), 0.0, 1.0, 0.0), strict=True):
        parameter.data[:] = right
    about = TaskDescriptor(task_id="sum", task_type="regression", output_dim=1, input_shape=(3,))
    task = Task(descriptor=about, metric="rmse", train=(rows[:100], values[:100]), test=(rows, values),
                validation=(rows[100:200], values[100:200]), model=model)  # fmt: skip
    with TransferEngine(budget=Budget(steps=150, learning_rate=0.1), seeds=1, discoverers=(), auto_discover=False,
                        registry=REGISTRY) as made:  # fmt: skip
        made.register_task(task)
        with pytest.raises(DataError, match="take a detector that claims 'unbounded'"):
            Monitor(made).check("sum")
        monitor = Monitor(made, Shewhart())
        for at in range(0, 200, 20):
            monitor.record("sum", inputs=rows[at : at + 20], targets=values[at : at + 20] + 0.01, reference=at < 100)
        reading = monitor.check("sum")["sum"]
        assert not reading.alarm
        assert reading.reference.low == reading.reference.mean, "no interval without limits"
        assert "sum: no drop in 5 records" in reading._repr_html_()
        for at in range(200, 400, 20):
            monitor.record("sum", inputs=rows[at : at + 20], targets=values[at : at + 20] + 3)
        assert monitor.check("sum")["sum"].alarm_at == 5
        assert "dropped, found at record 5" in monitor.check("sum")["sum"]._repr_html_()
        done = monitor.heal("sum")
        assert done.replaced
        assert done.comparison is not None
        assert done.comparison.test.startswith("paired bootstrap")


def test_what_a_model_still_brings_is_the_share_that_is_left_of_its_score() -> None:
    with TransferEngine(discoverers=(), auto_discover=False, registry=REGISTRY) as made:
        task = trained(small_task("moons"))
        made.register_task(task)
        surgery, data = Surgery(made), task.data("train")
        assert task.model is not None
        score, half = evaluate(task.model, task, "train"), 0.5  # as many of each moon
        assert surgery._left(task, data) == pytest.approx((score - half) / (1 - half))
        turned = TensorData(-data.inputs, data.targets)
        assert surgery._left(task, turned) == 0.05, "worse than always saying the same: it is tried nevertheless"
        about = attrs.evolve(task.descriptor, task_id="other", task_type="other")
        other = Task(descriptor=about, train=task.train, loss="cross_entropy", metric="accuracy", model=task.model)
        assert surgery._left(other, data) == 0.05, "of a kind whose chance nobody knows"


def test_a_task_without_its_model_is_left_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        with TransferEngine(store=f"sqlite:///{tmp_path / 's.db'}", discoverers=(), auto_discover=False,
                            registry=REGISTRY) as made:  # fmt: skip
            made.register_task(TaskDescriptor(task_id="served", output_dim=3))
            monitor = Monitor(made)
            monitor.record("served", 0.9)
    assert len(monitor.history.of("served")) == 2


def test_scores_are_checked() -> None:
    detector, good = ReferenceDetector(), rows_of([0.9], 40)
    for reference, stream, limits, told in (
        (good, good, (1.0, 0.0), "limits must go from low to high, got 1.0 to 0.0"),
        (good, good[:, :1], (0.0, 1.0), r"the stream must be \[T, 2\] \(score, samples\), got \(1, 1\)"),
    ):
        with pytest.raises(DataError, match=told):
            detector.read(reference, stream, limits)
    with pytest.raises(DataError, match="2 scores with 1 numbers of samples"):
        rows_of([0.1, 0.2], [3])


def test_entries_of_another_release_are_left_out(tmp_path: Path) -> None:
    with engine(tmp_path / "store.db") as made:
        assert made.store is not None
        made.store.put("monitoring", "1", {"task": "digits", "colour": "red"})
        made.store.put("monitoring", "2", {"task": "digits", "score": 0.5, "when": "2030-01-01"})
        assert [entry.score for entry in History(made).of("digits")] == [0.5]
        assert not History(made, stored=False).tasks()


def test_mcnemar_is_the_binomial_test() -> None:
    from scipy import stats

    for wins, losses in ((9, 1), (5, 5), (0, 0), (30, 12)):
        wanted = stats.binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
        assert comparing.mcnemar(wins, losses) == pytest.approx(wanted)


def test_better_by_noise_does_not_replace() -> None:
    """Two models that are right in 80 % each, independently: of 150 comparisons at most alpha speak for the new."""
    generator, task = torch.Generator().manual_seed(0), small_task("moons")
    targets = torch.zeros(60, dtype=torch.long)
    replaced = 0
    for _ in range(150):
        old, new = ((torch.rand(60, generator=generator) < 0.8).float() for _ in range(2))
        first, second = (torch.stack([right, 1 - right], 1) for right in (old, new))
        replaced += comparing.compare(task, first, second, targets, generator).better
    assert replaced <= 150 * 0.05 + 3 * (150 * 0.05 * 0.95) ** 0.5


def test_other_metrics_are_compared_by_the_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(80, 1, generator=generator)
    task = Task(descriptor=TaskDescriptor(task_id="values", task_type="regression", output_dim=1), metric="rmse",
                train=(targets, targets))  # fmt: skip
    old, new = (targets + size * torch.randn(80, 1, generator=generator) for size in (1.0, 0.5))
    found = comparing.compare(task, old, new, targets, generator)
    assert found.better
    assert found.test == "paired bootstrap of 1000 draws"
    assert found.p_value == 1 / 1001
    wanted = [float((each - targets).square().mean().sqrt()) for each in (old, new)]
    assert (-found.old, -found.new) == pytest.approx(tuple(wanted))
    assert found.difference.low > 0
    assert not comparing.compare(task, new, old, targets, generator).better
    assert not comparing.compare(task, old, new, targets, generator, least=0.9).better, "not by enough"
    with pytest.raises(DataError, match="80 and 79 outputs for 80 targets"):
        comparing.compare(task, old, new[:79], targets, generator)
    with pytest.raises(DataError, match="no sample to compare"):
        comparing.compare(task, old[:0], new[:0], targets[:0], generator)


def area(outputs: Tensor, targets: Tensor) -> Tensor:
    """Area under the curve; of one class alone it is no number."""
    ones, others = outputs[targets == 1, 1], outputs[targets == 0, 1]
    return (ones[:, None] > others[None]).double().mean()


def test_draws_that_have_no_score_speak_for_nobody() -> None:
    """Of 12 samples with one of the second class a third of the draws has it not: they counted as gained."""
    inputs, targets = torch.zeros(12, 3), torch.tensor([0] * 11 + [1])
    about = TaskDescriptor(task_id="rare", task_type="classification", output_dim=2)
    task = Task(descriptor=about, train=(inputs, targets), metric=area)
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(12, 2, generator=generator)
    same = comparing.compare(task, old, old, targets, generator)
    assert (same.p_value, same.difference.low, same.difference.high) == (1.0, 0.0, 0.0)
    drawn = int(same.test.split()[-2])
    assert abs(drawn / 1000 - (1 - (11 / 12) ** 12)) < 0.05, "as many as have both classes"
    with pytest.raises(DataError, match="area of the old model is nan: nothing to compare"):
        comparing.compare(task, old[:11], old[:11], targets[:11], generator)

    def rarely(outputs: Tensor, wanted: Tensor) -> float:
        return float(wanted.double().mean()) if len(wanted.unique()) == 12 else float("nan")

    task.metric = rarely
    with pytest.raises(DataError, match="only 0 of 1000 draws of 12 samples have a finite rarely"):
        comparing.compare(task, old, old, torch.arange(12), generator)


def test_sequences_that_are_right_in_part_are_compared_by_the_bootstrap() -> None:
    """Of ten tokens one more is right in every sequence: by whole samples nothing would have been gained."""
    about = TaskDescriptor(task_id="tokens", task_type="token_classification", output_dim=2)
    targets = torch.zeros(30, 10, dtype=torch.long)
    task = Task(descriptor=about, train=(torch.zeros(30, 10, 3), targets))

    def outputs(right: int) -> Tensor:
        one = (torch.arange(10) < right).float()
        return torch.stack([one, 1 - one], 1).expand(30, 10, 2).clone()

    given = outputs(5), outputs(6)
    found = comparing.compare(task, *given, targets, torch.Generator().manual_seed(0))
    assert (found.old, found.new) == pytest.approx((0.5, 0.6))
    assert found.better
    assert found.test == "paired bootstrap of 1000 draws"


def test_two_processes_record_into_one_store(tmp_path: Path) -> None:
    """Each sees what the other has recorded when it looks."""
    with engine(tmp_path / "s.db") as one, engine(tmp_path / "s.db") as two:
        first, second = Monitor(one), Monitor(two)
        first.record("digits", 0.9, samples=40, when="2026-01-01")
        assert second.check()["digits"].records == 1, "also of a task of which only the other has recorded"
        second.record("digits", 0.1, samples=40, when="2026-01-03")
        first.record("digits", 0.8, samples=40, when="2026-01-02")
        for monitor in (first, second):
            assert monitor.check()["digits"].records == 3
            assert [entry.score for entry in monitor.history.of("digits", "score")] == [0.9, 0.8, 0.1]
        (own,) = first.history.of("digits", "reference")
        reading = first.check("digits")["digits"]
        second.history.add(own)  # it has measured it at the same moment
        assert first.check("digits")["digits"] == reading, "the same validation data count once"
        assert len(first.history.of("digits", "reference")) == 2


def test_a_model_of_another_kind_in_the_store_is_told_of(tmp_path: Path) -> None:
    with engine(tmp_path / "s.db") as made:
        surgery, task = Surgery(made), made.portfolio["digits"]
        other = ModelSpec(hidden=(8,)).build(task.descriptor, 0)
        digest = weights_digest(other)
        surgery._keep(task, other, digest)
        surgery.kept.clear()
        with pytest.raises(DataError, match=f"the model {digest[:12]} in the store is no"):
            surgery.restored(task, digest)


def test_several_inputs_are_put_together() -> None:
    from crosstask.descriptors import MultiInput
    from crosstask_monitoring.monitor import _joined

    one = TensorData(MultiInput({"a": torch.ones(2, 3), "b": torch.zeros(2)}), torch.zeros(2))  # type: ignore[arg-type]
    found = _joined([one, one])
    assert isinstance(found.inputs, MultiInput)
    assert found.inputs.shapes == {"a": (3,), "b": ()}
    assert len(found) == 4


def test_an_entry_says_what_it_may_be() -> None:
    with pytest.raises(ValueError, match="kind cannot be 'replace'; did you mean 'replaced'"):
        Entry(task="a", kind="replace")
