"""The stage: its options and what it refuses before any work, what it refers to and provides, alone and in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, PluginError, RecipeError
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Extension, Plugin
from crosstask.options import build, component, structure, unstructure
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry
from crosstask_continual import Continual, ContinualResult, ScenarioWarning
from crosstask_continual.plugin import PLUGIN
from crosstask_continual.records import ContinualScores
from crosstask_continual.testing import REFERENCE, ReferenceContinual, ReferenceReplay, digits, pairs

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 32, "learning_rate": 5e-3}
ADAPTED: dict[str, Any] = {**QUICK, "epochs": 3, "learning_rate": 2e-2, "adapter": "reference"}


@component
class Found(Stage):
    """Provides what another stage may refer to."""

    Result = ContinualResult
    provides = {"order": tuple[str, ...], "spec": ModelSpec}

    def work(self, engine: Engine) -> Outcome:
        order = tuple(task.task_id for task in pairs())[2::-1]
        record = ContinualResult(tasks=order, scenario="task")
        return Outcome(record, {"order": order, "spec": ModelSpec(hidden=(24,))})


HERE = Plugin("here", [Extension("stage", "found", f"{__name__}:Found", summary="For checks.")], api=(2, 0))


def registry() -> Registry:
    """The stage and the reference components, and no other plugin."""
    return reference_registry(PLUGIN, Plugin("strategies", REFERENCE.extensions, api=(2, 0)), HERE)


def engine(*tasks: Task, **given: Any) -> TransferEngine:
    """An engine with these tasks (default: split digits)."""
    made = TransferEngine(
        **{"registry": registry(), "model": ModelSpec(hidden=(32,)), "seeds": 1, "discoverers": (), **given}
    )
    made.register(Portfolio(tasks or pairs()))
    return made


def learn(made: TransferEngine, **options: Any) -> tuple[ContinualResult, nn.Module]:
    outcome = made.run_stage("continual", **{**QUICK, **options})
    return outcome.record, outcome.artifacts["model"]


# --- Options, and what is refused before any work


def test_the_options_are_the_table() -> None:
    found = build(Continual, {"strategies": ["ewc", {"use": "replay", "buffer_size": 9}], "tasks": ["a"]}, "continual")
    assert [choice.use for choice in found.strategies] == ["ewc", "replay"]
    assert found.tasks == ("a",)
    assert (found.adapter, found.model, found.parts) == (None, None, None)
    with pytest.raises(OptionError, match="scenario cannot be 'tasks'; did you mean 'task'"):
        build(Continual, {"scenario": "tasks"}, "continual")
    with pytest.raises(OptionError, match="parts must be >= 2"):
        build(Continual, {"parts": 1}, "continual")
    with pytest.raises(OptionError, match="unknown option 'epoch'; did you mean 'epochs'"):
        build(Continual, {"epoch": 1}, "continual")
    with pytest.raises(OptionError, match="tasks"):
        build(Continual, {"tasks": "a"}, "continual")


def small(name: str, shape: tuple[int, ...] = (2,), outputs: int | None = 2, kind: str = "classification") -> Task:
    descriptor = TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs, task_type=kind)
    targets = torch.zeros(4, 1) if kind == "regression" else torch.arange(4) % 2
    return Task(descriptor=descriptor, train=(torch.zeros(4, *shape), targets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["a", "bb"]}, "tasks: no task 'bb' in portfolio .*did you mean 'b'"),
        ({"tasks": ["a", "b", "a"]}, "tasks: each can be learned once, got a, b, a"),
        ({"tasks": ["a"]}, "at least two are learned one after another, got 'a'; to split one .* set parts"),
        ({"tasks": ["a", "wide"]}, r"inputs have different shapes: \(2,\) of 'a', \(3,\) of 'wide'"),
        ({"tasks": ["a", "value"]}, "needs classification tasks with output_dim; 'value' is a regression task"),
        ({"tasks": ["a", "empty"]}, "'empty' has no train data"),
        ({"tasks": ["a", "four"], "scenario": "domain"}, "all have as many classes; there are 2 of 'a', 4 of 'four'"),
        ({"parts": 2}, "parts splits one task by its classes: name it in tasks, which means 7"),
        ({"parts": 2, "tasks": ["a", "b"]}, "name it in tasks, which means 2"),
        ({"parts": 5, "tasks": ["four"]}, "'four' has 4 classes, it cannot be split into 5 tasks"),
        ({"parts": 3, "tasks": ["four"], "scenario": "domain"}, "the 4 of 'four' cannot be split evenly into 3"),
    ],
)
def test_tasks_that_cannot_be_learned_in_sequence(options: dict[str, Any], message: str) -> None:
    tasks = [small("a"), small("b"), small("wide", (3,)), small("four", outputs=4)]
    tasks += [small("value", outputs=1, kind="regression"), small("other")]
    tasks += [Task(descriptor=TaskDescriptor(task_id="empty", input_shape=(2,), output_dim=2))]
    with pytest.raises(RecipeError, match=message):
        Continual(**options).check(Portfolio(tasks))


def test_tasks_of_another_stage_are_checked_when_they_are_known() -> None:
    stage = Continual(tasks={"from": "curriculum", "take": "order"})  # type: ignore[arg-type]
    stage.check(Portfolio([small("a")]))
    stage._referred = {"tasks": ("a", "x")}
    with pytest.raises(RecipeError, match="no task 'a' in portfolio"):
        stage.work(engine())


def test_a_strategy_with_its_own_network_is_refused_beside_an_adapter() -> None:
    @component
    class Replaces(ReferenceContinual):
        """Wrong."""

        def resumes(self, model: Any) -> None:
            model.network = nn.Linear(64, 6)

    with pytest.raises(RecipeError, match="Replaces changes the network itself"):
        learn(engine(), strategies=[Replaces()], adapter="reference")


# --- Work


def test_learns_all_tasks_in_their_order_by_default() -> None:
    result, network = learn(engine(), strategies=["replaying"], scenario="class", epochs=2)
    assert result.tasks == tuple(task.task_id for task in pairs())
    assert result.seeds == 1
    assert result.options["model"]["hidden"] == [32]
    assert result.outputs == 10
    assert result.adapter is None
    assert result.weights == result.trained_weights == sum(p.numel() for p in network.parameters())
    rows = Continual.summary(result)
    assert rows["continual"] == "5 tasks, class-incremental"
    assert rows["continual_accuracy"] == result.scores.accuracy
    assert rows["continual_accuracy_of_majority_class"] == result.majority
    assert rows["continual_accuracy_of_chance"] == result.chance == pytest.approx(0.1)
    assert rows["knowledge_retention"] == result.scores.retention
    assert not {"continual_adapter", "nothing_learned"} & set(rows)
    data = pairs()[-1].data("test")
    found = float((network(data.inputs).argmax(1) == data.targets + 8).float().mean())
    assert found == pytest.approx(result.scores.matrix[-1][-1])  # the network after the last task


def test_splits_one_task_into_parts() -> None:
    result, _ = learn(engine(digits()), tasks=["digits"], parts=5, scenario="class")
    assert result.tasks == tuple(task.task_id for task in pairs())
    assert learn(engine(digits()), parts=5, scenario="class")[0] == result  # the only task need not be named


def test_the_scenario_warning_is_in_the_record() -> None:
    with pytest.warns(ScenarioWarning):
        result, _ = learn(engine(), strategies=[ReferenceContinual()], scenario="class")
    assert "no loss compares classes" in result.warnings[0]


def test_takes_tasks_and_network_from_another_stage() -> None:
    made = engine()
    made.run_stage("found")
    result, network = learn(
        made, tasks={"from": "found", "take": "order"}, model={"from": "found", "take": "spec"}, scenario="task"
    )
    assert result.tasks == tuple(task.task_id for task in pairs())[2::-1]
    assert result.options["model"]["hidden"] == [24]
    assert network.get_submodule("head").in_features == 24
    with pytest.raises((RecipeError, PluginError), match="fund"):
        learn(made, tasks={"from": "fund", "take": "order"})


def test_the_network_may_be_given_as_a_table() -> None:
    result, _ = learn(engine(), tasks=[task.task_id for task in pairs()[:2]], model={"hidden": [8]})
    assert result.options["model"]["hidden"] == [8]


# --- With an adapter


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
def test_strategies_work_with_an_adapter_that_leaves_the_network_bit_for_bit() -> None:
    """Penalty, replay and adapter together: the head and a few weights learn, everything else is as it was drawn."""
    made = engine()
    result, network = learn(made, **ADAPTED, strategies=["reference", "replaying"], scenario="class")
    drawn = made.model.build(
        attrs.evolve(pairs()[0].descriptor, classes=(), output_dim=10), made.run.seed_for("continual", 0, "model")
    ).state_dict()
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in drawn.items() if not name.startswith("head."))
    assert result.adapter is not None
    assert 0 < result.trained_weights < result.weights
    rows = Continual.summary(result)
    assert rows["continual_adapter"] == f"{result.adapter}: {result.trained_weights} of {result.weights} weights"
    assert result.scores.accuracy is not None
    assert result.naive is not None
    assert result.naive.accuracy is not None
    assert result.scores.accuracy.mean > result.naive.accuracy.mean + 0.1


@pytest.mark.parametrize("options", [{}, {"adapter": "reference"}, {"grow": True}])
def test_a_finished_stage_is_rebuilt_with_its_network(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"tasks": [task.task_id for task in pairs()[:3]], "strategies": ["replaying"], "scenario": "class"}
    store = str(tmp_path / "store.db")
    with engine(store=store) as made:
        first, network = learn(made, **given, **options)
    monkeypatch.delattr("crosstask_continual.stage.run_continual")  # nothing is learned again
    with engine(store=store) as made:
        again, rebuilt = learn(made, **given, **options)
    assert again == first
    inputs = digits().data("test").inputs
    with torch.no_grad():
        assert torch.equal(network(inputs), rebuilt(inputs))
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in rebuilt.parameters()]
    assert rebuilt.training == network.training


def test_a_network_that_a_strategy_has_replaced_is_not_rebuilt() -> None:
    @component
    class Replaces(ReferenceReplay):
        """Gives the model another network."""

        def resumes(self, model: Any) -> None:
            return None

    stage = Continual(strategies=[Replaces()])  # type: ignore[arg-type]
    assert stage.rebuild(engine(), "model", ContinualResult(tasks=("a",), scenario="task", outputs=4)) is None


# --- The report


def test_the_section_says_what_was_learned_and_what_was_not() -> None:
    result, _ = learn(engine(), **ADAPTED, strategies=["replaying"], scenario="class")
    again = structure(unstructure(result), ContinualResult, "record")
    (section,) = Continual.sections(again, engine().graph)
    assert section.title == "Continual learning"
    for text in (
        "always the majority class",
        "at random",
        "all tasks at once",
        f"{result.trained_weights:,} of {result.weights:,}",
    ):
        assert text in section.html
    nothing = attrs.evolve(result, majority=0.99, lower_bound=0.98, warnings=("nothing was learned: <b>",))
    (section,) = Continual.sections(nothing, engine().graph)
    assert "nothing was learned: &lt;b&gt;" in section.html
    assert Continual.summary(nothing)["nothing_learned"] == "no better than always answering the majority class"
    bare = ContinualResult(tasks=("a", "b"), scenario="task")
    (section,) = Continual.sections(bare, engine().graph)
    assert "<figure>" not in section.html


def test_every_row_of_the_matrix_has_a_cell_for_every_task() -> None:
    scores = ContinualScores(matrix=((0.9,), (0.8, None), (0.7, 0.6, 0.5)))
    result = ContinualResult(tasks=("a", "b", "c"), scenario="task", scores=scores)
    (section,) = Continual.sections(result, engine().graph)
    rows = section.html.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")[:-1]
    assert [row.partition("<td>")[2] for row in rows] == [
        "0.900</td><td></td><td></td>", "0.800</td><td>–</td><td></td>", "0.700</td><td>0.600</td><td>0.500</td>",
    ]  # fmt: skip
