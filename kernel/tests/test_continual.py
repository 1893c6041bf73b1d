"""The continual learner: scenarios, masks, heads, metrics, going on later; and a whole run of it."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError
from crosstask.learning.continual import (
    Batch,
    ContinualLearner,
    ContinualModel,
    ScenarioWarning,
    continual_scores,
    run_continual,
    split_by_classes,
)
from crosstask.learning.models import ModelSpec
from crosstask.options import component, option, state, structure, unstructure
from crosstask.points.continual import ContinualStrategy
from crosstask.records import ContinualResult
from crosstask.tasks import Task, TaskDescriptor

MODEL = ModelSpec(hidden=(64,))


@functools.cache
def images() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.images / 16.0, dtype=torch.float32)[:, None], torch.tensor(found.target)


def digits() -> Task:
    inputs, targets = images()
    train, test = (inputs[:1200], targets[:1200]), (inputs[1200:], targets[1200:])
    return Task(
        descriptor=TaskDescriptor(task_id="digits", input_shape=(1, 8, 8), output_dim=10), train=train, test=test
    )


def pairs() -> list[Task]:
    """Split digits: 0 and 1, 2 and 3, …"""
    return split_by_classes(digits(), 5)


def network(outputs: int, seed: int = 0) -> nn.Module:
    return MODEL.build(attrs.evolve(digits().descriptor, output_dim=outputs), seed)


def learner(scenario: str = "task", strategy: Any = None, outputs: int = 10, **given: Any) -> ContinualLearner:
    given = {"learning_rate": 3e-3, "batch_size": 32} | given
    return ContinualLearner(network(2 if scenario == "domain" else outputs), strategy, scenario=scenario, **given)


@component
class Noting(ContinualStrategy):
    """Writes down what it is asked."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})
    heard: list[str] = state(factory=list)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self.heard = [*self.heard, f"begin {task.task_id}"]

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self.heard = [*self.heard, f"end {task.task_id}"]


@component
class Keeping(ContinualStrategy):
    """Replays the first samples of every task."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})
    buffer_size: int = option(40, ge=1, help="samples of each task")
    kept: list[Tensor] = state(factory=list)

    def replay(self, batch: Batch) -> Batch | None:
        if not self.kept:
            return None
        return Batch(*self.kept)  # type: ignore[arg-type]

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        new = model.data(task).part(slice(self.buffer_size))
        old = self.kept or [new.inputs[:0], new.targets[:0], new.task_ids[:0]]
        self.kept = [torch.cat(p) for p in zip(old, (new.inputs, new.targets, new.task_ids), strict=True)]


@component
class Pulling(ContinualStrategy):
    """Works in one scenario only; multiplies a penalty that does not depend on the batch."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task"})
    unsuited: ClassVar[dict[str, str]] = {"class": "nothing compares classes of different tasks"}
    weight: float = option(1.0, ge=0, help="of the penalty")

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        total: Tensor = sum(p.square().sum() for p in model.parameters())  # type: ignore[assignment]
        return self.weight * total


# --- Scenarios


def test_without_a_strategy_it_is_plain_training_of_masked_outputs() -> None:
    """Step for step what one would write down by hand."""
    task = pairs()[1]
    ours = learner("class")
    ours.train_task(pairs()[0], num_epochs=1)
    by_hand = copy.deepcopy(ours.model.network)
    ours.train_task(task, num_epochs=2)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(ours._seed(task.task_id, "order"))
    data = task.data("train")
    for _ in range(2):
        for index in torch.randperm(len(data), generator=rng).split(32):
            loss = functional.cross_entropy(by_hand(data.inputs[index])[:, :4], data.targets[index] + 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for mine, hand in zip(ours.model.network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, hand)


@pytest.mark.parametrize(
    ("scenario", "row"),
    [("task", [0, 0, 1, 1, 0, 0]), ("class", [1, 1, 1, 1, 0, 0]), ("domain", [1, 1])],
)
def test_which_outputs_count(scenario: str, row: list[int]) -> None:
    model = ContinualModel(network(2 if scenario == "domain" else 6), scenario)
    for task in pairs()[:2]:
        model.add(task, 0)
    assert model.allowed[1].tolist() == [bool(v) for v in row]
    outputs = torch.randn(5, len(row), requires_grad=True)
    batch = Batch(torch.zeros(5, 1), torch.full((5,), 1 if scenario == "domain" else 2), torch.ones(5).long())
    model.loss(outputs, batch).backward()
    assert outputs.grad is not None
    assert (outputs.grad != 0).all(0).tolist() == [bool(v) for v in row]
    used = [k for k, v in enumerate(row) if v]
    expected = functional.cross_entropy(outputs[:, used], torch.full((5,), used.index(int(batch.targets[0]))))
    torch.testing.assert_close(model.loss(outputs, batch), expected)


def test_naive_training_forgets_least_where_the_task_is_known() -> None:
    """The ordering of the published table: class-incremental training keeps only the last task."""
    found = {}
    for scenario in ("task", "domain", "class"):
        made = learner(scenario)
        for task in pairs():
            made.train_task(task, num_epochs=4)
        values = list(made.evaluate_all_tasks().values())
        found[scenario] = sum(values) / 5
        assert values == [v for v in made.matrix[-1] if v is not None]
    assert found["class"] < 0.35
    assert found["class"] < found["domain"] < found["task"]


def test_joint_training_is_the_upper_bound() -> None:
    made = learner("class")
    assert sum(made.train_together(pairs(), 8).values()) / 5 > 0.85


def test_replay_hook_joins_samples_of_earlier_tasks() -> None:
    made = learner("class", Keeping())
    for task in pairs():
        made.train_task(task, num_epochs=3)
    assert sum(made.evaluate_all_tasks().values()) / 5 > 0.6


def test_strategies_work_together_and_are_asked_in_order() -> None:
    notes = Noting()
    made = learner("task", [notes, Keeping(), Pulling(weight=0.0)])
    for task in pairs()[:2]:
        made.train_task(task)
    assert notes.heard == [f"{what} digits:{pair}" for pair in ("0+1", "2+3") for what in ("begin", "end")]
    assert [s.origin for s in made._asked["replay"]] == ["continual Keeping"]
    assert made._asked["after_step"] == []


def test_penalty_counts() -> None:
    weak, strong = learner("task", Pulling(weight=0.0)), learner("task", Pulling(weight=1.0))
    sizes = []
    for made in (weak, strong):
        made.train_task(pairs()[0], num_epochs=2)
        sizes.append(sum(float(p.detach().square().sum()) for p in made.model.parameters()))
    assert sizes[1] < 0.8 * sizes[0]


def test_the_same_class_of_two_tasks_shares_an_output_in_class_incremental() -> None:
    for scenario, columns in (("class", [[0, 1], [1, 2]]), ("task", [[0, 1], [2, 3]])):
        model = ContinualModel(network(4), scenario)
        for name, group in (("a", (0, 1)), ("b", (1, 2))):
            task = split_by_classes(digits(), [group])[0]
            model.add(Task(descriptor=attrs.evolve(task.descriptor, task_id=name), train=task.train), 0)
        assert model.columns == columns


def test_a_growing_head_keeps_what_it_had() -> None:
    made = learner("class", outputs=2, grow=True)
    made.train_task(pairs()[0])
    before = {name: value.clone() for name, value in made.model.network.state_dict().items()}
    made.model.add(pairs()[1], 0)
    head = made.model.network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert head.out_features == made.model.outputs == 4
    assert torch.equal(head.weight[:2], before["head.weight"])
    assert torch.equal(head.bias[:2], before["head.bias"])
    made = learner("class", outputs=2, grow=True)
    for task in pairs()[:3]:
        scores = made.train_task(task, num_epochs=2)
    assert scores["digits:4+5"] > 0.9


def test_same_seed_same_model_and_another_repeat_another() -> None:
    found = []
    for repeat in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(repeat)
            made = learner("task", Keeping(), repeat=repeat)
            noise = torch.get_rng_state()
            for task in pairs()[:2]:
                made.train_task(task)
            assert torch.equal(noise, torch.get_rng_state())
            found.append(made.model.network.state_dict()["head.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_warns_with_the_reason() -> None:
    with pytest.warns(ScenarioWarning, match=r"scenario 'class': nothing compares classes .* \(suited: task\)"):
        learner("class", Pulling())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner("task", Pulling())


def test_data_may_be_given_as_it_is() -> None:
    made = learner("task")
    data = pairs()[0].data("train")
    assert made.train_task((data.inputs, data.targets), "first", 2) == {}
    made.train_task((np.asarray(data.inputs), np.asarray(data.targets)))
    assert made.model.tasks == ["first", "1"]
    assert made.matrix == [[None], [None, None]]
    assert made.scores().accuracy is None


def test_a_name_gets_the_buffer_size() -> None:
    class Here(LocalContext):
        def component(self, point: str, name: str, options: Any = None) -> Any:
            return Keeping(**(options or {}))

    made = learner("task", ["kept", Keeping()], buffer_size=7, context=Here())
    assert [s.buffer_size for s in made.strategies] == [7, 40]  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match=r"no strategy named here keeps samples \(continual Noting\)"):
        learner("task", Noting(), buffer_size=7)


# --- Going on later


def test_going_on_from_a_state_is_as_if_nothing_had_happened() -> None:
    for scenario, grow in (("class", True), ("task", False), ("domain", False)):
        through = learner(scenario, [Keeping(), Noting()], outputs=2 if grow else 10, grow=grow)
        for task in pairs()[:2]:
            through.train_task(task)
        taken = through.state_dict()
        through.train_task(pairs()[2])
        again = learner(scenario, [Keeping(), Noting()], outputs=2 if grow else 10, grow=grow)
        again.load_state_dict(taken)
        assert [again.train_task(task) for task in pairs()[:2]][1] == dict(
            zip(["digits:0+1", "digits:2+3"], through.matrix[1], strict=True)
        )
        again.train_task(pairs()[2])
        assert again.matrix == through.matrix
        assert (again.before, again.initial, again.steps) == (through.before, through.initial, through.steps)
        for mine, other in zip(again.model.parameters(), through.model.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_another_order_is_refused() -> None:
    first = learner()
    for task in pairs()[:2]:
        first.train_task(task)
    again = learner()
    again.load_state_dict(first.state_dict())
    again.train_task(pairs()[0])
    with pytest.raises(
        DataError, match=r"learned digits:0.1, digits:2.3 in this order; its task 2 is 'digits:2.3', got"
    ):
        again.train_task(pairs()[4])
    changed = pairs()[1]
    changed.data("train").inputs[0] += 1
    with pytest.raises(DataError, match=r"'digits:2.3' has other data"):
        again.train_task(changed)
    with pytest.raises(DataError, match="has not learned a task yet"):
        again.load_state_dict(first.state_dict())
    with pytest.raises(DataError, match="the state is of another run"):
        learner("class").load_state_dict(first.state_dict())
    with pytest.raises(DataError, match="the state is of another run"):
        learner("task", Noting()).load_state_dict(first.state_dict())


# --- Bad input


def test_label_spaces_that_do_not_fit() -> None:
    with pytest.raises(
        DataError, match="has 3 classes, the head has 2 outputs: in the domain scenario all tasks share"
    ):
        learner("domain").train_task(split_by_classes(digits(), [[0, 1, 2]])[0])
    made = learner("task", outputs=4)
    for task in pairs()[:2]:
        made.train_task(task)
    with pytest.raises(DataError, match=r"'digits:4.5' needs outputs up to 5, the head has 4.*grow=True"):
        made.train_task(pairs()[2])
    with pytest.raises(DataError, match=r"'digits:0.1' was learned already"):
        made.train_task(pairs()[0])
    kind = TaskDescriptor(task_id="values", task_type="regression", output_dim=1)
    values = Task(descriptor=kind, train=(torch.zeros(3, 1, 8, 8), torch.zeros(3, 1)))
    with pytest.raises(DataError, match="needs classification tasks"):
        made.train_task(values)
    with pytest.raises(DataError, match=r"inputs \(1, 4, 4\), task 'digits:0.1' had \(1, 8, 8\)"):
        made.train_task((torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 0])), "small")


def test_other_bad_input() -> None:
    with pytest.raises(OptionError, match="unknown scenario 'tasks'; did you mean 'task'"):
        learner("tasks")
    with pytest.raises(OptionError, match="num_epochs must be at least 1"):
        learner().train_task(pairs()[0], num_epochs=0)
    with pytest.raises(OptionError, match="learning_rate must be > 0"):
        learner(learning_rate=0.0)
    with pytest.raises(DataError, match=r"task_id 'b' is given for a task that is called 'digits:0.1'"):
        learner().train_task(pairs()[0], "b")
    with pytest.raises(DataError, match="no module named 'head' and no linear layer"):
        ContinualLearner(nn.Conv2d(1, 1, 1)).train_task(pairs()[0])
    with pytest.raises(RunError, match=r"task 'digits:0.1': the training loss is (nan|inf) in epoch 1"):
        learner("task", Pulling(weight=1e30), optimizer="sgd").train_task(pairs()[0])


@pytest.mark.parametrize(
    ("parts", "message"),
    [(11, "has 10 classes"), ([[0, 0]], "different labels from 0 to 9"), ([[10]], "labels from 0"), ([[]], "groups")],
)
def test_bad_splits(parts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_by_classes(digits(), parts)


def test_split_by_classes_keeps_every_sample_once() -> None:
    whole = digits()
    made = split_by_classes(whole, [[7, 2], [0]])
    assert [t.task_id for t in made] == ["digits:7+2", "digits:0"]
    data = made[0].data("test")
    expected = whole.data("test").targets
    assert len(data) == int(((expected == 7) | (expected == 2)).sum())
    assert torch.equal(data.inputs[data.targets == 1], whole.data("test").inputs[expected == 2])
    assert [len(t.descriptor.classes) for t in split_by_classes(whole, 3)] == [4, 3, 3]


# --- Metrics


def test_metrics_of_a_small_example() -> None:
    """By hand: Lopez-Paz and Ranzato (2017), Chaudhry et al. (2018)."""
    found = continual_scores([[[0.9], [0.7, 0.8], [0.75, 0.5, 1.0]]], [[0.5, 0.6, 0.3]], [[0.5, 0.4, 0.5]])
    assert found.accuracy is not None
    assert found.accuracy.mean == pytest.approx((0.75 + 0.5 + 1.0) / 3)
    assert found.backward_transfer is not None
    assert found.backward_transfer.mean == pytest.approx(((0.75 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.forgetting is not None
    assert found.forgetting.mean == pytest.approx(((0.9 - 0.75) + (0.8 - 0.5)) / 2)
    assert found.forward_transfer is not None
    assert found.forward_transfer.mean == pytest.approx(((0.6 - 0.4) + (0.3 - 0.5)) / 2)
    single = continual_scores([[[0.9]]], [[0.5]], [[0.5]])
    assert (single.backward_transfer, single.forgetting, single.forward_transfer) == (None, None, None)


# --- Whole runs


def test_a_run_has_its_baselines_beside_it() -> None:
    context = LocalContext(seed=3)
    result = run_continual(
        context, [Keeping()], MODEL, pairs(), "class", epochs=2, learning_rate=3e-3, batch_size=32, seeds=2
    )
    assert structure(unstructure(result), ContinualResult, "result") == result
    assert result.scores.accuracy is not None
    assert result.naive is not None
    assert result.naive.accuracy is not None
    assert result.joint is not None
    assert result.naive.accuracy.mean < 0.4 < result.scores.accuracy.mean < result.joint.mean
    assert len(result.scores.accuracy.values) == result.seeds == 2
    assert result.scores.accuracy.values[0] != result.scores.accuracy.values[1]
    assert [len(row) for row in result.scores.matrix] == [1, 2, 3, 4, 5]
    assert result.naive.forgetting is not None
    assert result.naive.forgetting.mean > 0.5
    assert result.options["strategies"] == [{"strategy": "continual Keeping", "options": {"buffer_size": 40}}]


def test_a_killed_run_goes_on_after_the_last_finished_task(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 32}
    whole = run_continual(LocalContext(), [Keeping()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    learned: list[str] = []
    real = ContinualLearner._learn

    def until(self: ContinualLearner, task: Task, epochs: int) -> None:
        learned.append(task.task_id)
        if len(learned) == 4:
            raise KeyboardInterrupt
        real(self, task, epochs)

    monkeypatch.setattr(ContinualLearner, "_learn", until)
    context = LocalContext()
    with pytest.raises(KeyboardInterrupt):
        run_continual(context, [Keeping()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    again = run_continual(context, [Keeping()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    assert again == whole
    assert len(learned) == 4 + 2 + 5  # the rest of the chosen run, and the naive baseline
    run_continual(context, [Keeping()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    assert len(learned) == 11
    run_continual(context, [Keeping()], MODEL, pairs()[:2], "class", **given)  # type: ignore[arg-type]
    assert len(learned) == 11 + 4  # another head, so another run


def test_runs_with_growing_heads_and_without_baselines() -> None:
    given = {"learning_rate": 3e-3, "batch_size": 32, "grow": True, "baselines": False}
    result = run_continual(LocalContext(), [], MODEL, pairs()[:3], "class", **given)  # type: ignore[arg-type]
    assert (result.naive, result.joint, result.strategies) == (None, None, ())
    assert result.scores.accuracy is not None


def test_bad_runs() -> None:
    with pytest.raises(DataError, match="needs tasks"):
        run_continual(LocalContext(), [], MODEL, [])
    with pytest.raises(DataError, match="different ids"):
        run_continual(LocalContext(), [], MODEL, [pairs()[0]] * 2)
    with pytest.raises(DataError, match="has no train data"):
        run_continual(LocalContext(), [], MODEL, [Task(descriptor=digits().descriptor)])
