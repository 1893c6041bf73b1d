"""The continual learner: scenarios, masks, heads, going on later, bad input."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, RunError
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask.testing import reference_registry
from crosstask_continual import (
    Batch,
    ContinualLearner,
    ContinualModel,
    ContinualStrategy,
    ScenarioWarning,
    split_by_classes,
)
from crosstask_continual.given import asked_for, task_from
from crosstask_continual.testing import REFERENCE, ReferenceReplay, digits, network, pairs
from crosstask_continual.testing import learner as digits_learner


def learner(scenario: str = "task", strategy: Any = None, **given: Any) -> ContinualLearner:
    return digits_learner(strategy, scenario, **{"hidden": (64,), "learning_rate": 3e-3, **given})


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
    made = learner("class", ReferenceReplay())
    for task in pairs():
        made.train_task(task, num_epochs=3)
    assert sum(made.evaluate_all_tasks().values()) / 5 > 0.6


def test_strategies_work_together_and_are_asked_in_order() -> None:
    notes = Noting()
    made = learner("task", [notes, ReferenceReplay(), Pulling(weight=0.0)])
    for task in pairs()[:2]:
        made.train_task(task, num_epochs=1)
    assert notes.heard == [f"{what} digits:{pair}" for pair in ("0+1", "2+3") for what in ("begin", "end")]
    assert [s.origin for s in made._asked["replay"]] == ["continual ReferenceReplay"]
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


@pytest.mark.parametrize("named", [True, False])
def test_columns_of_test_data_go_by_their_names(named: bool) -> None:
    columns = {"a": torch.randn(6), "b": torch.randn(6), "label": np.array(["no", "yes"] * 3)}
    known = task_from(columns, "t", None, None, None)
    turned = {name: columns[name] for name in ("label", "b", "a")}
    found = asked_for(known, turned, None, None, named=named)
    assert torch.equal(found.inputs, known.data().inputs)


def test_a_growing_head_keeps_what_it_had() -> None:
    made = learner("class", outputs=2, grow=True)
    made.train_task(pairs()[0], num_epochs=1)
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
            made = learner("task", ReferenceReplay(), repeat=repeat)
            noise = torch.get_rng_state()
            for task in pairs()[:2]:
                made.train_task(task, num_epochs=1)
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
            return ReferenceReplay(**(options or {}))

    made = learner("task", ["kept", ReferenceReplay()], buffer_size=7, context=Here())
    assert [s.buffer_size for s in made.strategies] == [7, 40]  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="ReferenceReplay has its own; set it there, or give its name"):
        learner("task", ReferenceReplay(), buffer_size=7)
    with pytest.raises(OptionError, match="buffer_size must be at least 1, got 0"):
        learner("task", Noting(), buffer_size=0)


def test_a_buffer_where_no_strategy_keeps_samples_adds_replay_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Extension("continual", "replay", "crosstask_continual.testing:ReferenceReplay", summary="For checks.")
    context = LocalContext(registry=reference_registry(REFERENCE, Plugin("memory", [kept], api=(2, 0))))
    made = learner("task", "reference", buffer_size=60, context=context)
    assert [s.name for s in made.strategies] == ["reference", "replay"]
    assert [(s.name, s.buffer_size) for s in made.added] == [("replay", 60)]  # type: ignore[attr-defined]
    assert "replay added" in "".join(capsys.readouterr())
    with_own = learner("task", ["reference", "replaying"], buffer_size=60, context=context)
    assert with_own.added == []
    assert with_own.strategies[1].buffer_size == 60  # type: ignore[attr-defined]
    alone = LocalContext(registry=reference_registry(REFERENCE))
    with pytest.raises(OptionError, match=r"buffer_size = 7: no strategy .* keeps samples .*pip install crosstask-rep"):
        learner("task", "reference", buffer_size=7, context=alone)


# --- Going on later


def test_going_on_from_a_state_is_as_if_nothing_had_happened() -> None:
    for scenario, grow in (("class", True), ("task", False), ("domain", False)):
        through = learner(scenario, [ReferenceReplay(), Noting()], outputs=2 if grow else 10, grow=grow)
        for task in pairs()[:2]:
            through.train_task(task, num_epochs=1)
        taken = through.state_dict()
        through.train_task(pairs()[2], num_epochs=1)
        again = learner(scenario, [ReferenceReplay(), Noting()], outputs=2 if grow else 10, grow=grow)
        again.load_state_dict(taken)
        assert [again.train_task(task, num_epochs=1) for task in pairs()[:2]][1] == dict(
            zip(["digits:0+1", "digits:2+3"], through.matrix[1], strict=True)
        )
        again.train_task(pairs()[2], num_epochs=1)
        assert again.matrix == through.matrix
        assert (again.before, again.initial, again.steps) == (through.before, through.initial, through.steps)
        for mine, other in zip(again.model.parameters(), through.model.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_another_order_is_refused() -> None:
    first = learner()
    for task in pairs()[:2]:
        first.train_task(task, num_epochs=1)
    again = learner()
    again.load_state_dict(first.state_dict())
    again.train_task(pairs()[0], num_epochs=1)
    with pytest.raises(
        DataError, match=r"learned digits:0.1, digits:2.3 in this order; its task 2 is 'digits:2.3', got"
    ):
        again.train_task(pairs()[4], num_epochs=1)
    changed = pairs()[1]
    changed.data("train").inputs[0] += 1
    with pytest.raises(DataError, match=r"'digits:2.3' has other data"):
        again.train_task(changed, num_epochs=1)
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
        made.train_task(task, num_epochs=1)
    with pytest.raises(DataError, match=r"'digits:4.5' needs outputs up to 5, the head has 4.*grow=True"):
        made.train_task(pairs()[2], num_epochs=1)
    with pytest.raises(DataError, match=r"'digits:0.1' was learned already"):
        made.train_task(pairs()[0], num_epochs=1)
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
        ContinualLearner(nn.Flatten()).train_task(pairs()[0])
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(64, 2))
    with pytest.raises(DataError, match="a Linear cannot be copied, and a learner keeps one as it was at first"):
        ContinualLearner(old)
    with pytest.raises(RunError, match=r"task 'digits:0.1': the training loss is (nan|inf) in epoch 1"):
        learner("task", Pulling(weight=1e30), optimizer="sgd").train_task(pairs()[0], num_epochs=1)
