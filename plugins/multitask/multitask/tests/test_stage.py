"""The stage: which tasks, from which trunk, with which adapter; refused before any work, or not done twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import (
    Budget,
    DataError,
    ModelSpec,
    OptionError,
    Outcome,
    RecipeError,
    Registry,
    TransferEngine,
    component,
)
from crosstask.descriptors import TaskDescriptor
from crosstask.graph import TransferEdge
from crosstask.learning import Headless, fit
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask.points.balancer import Balancer
from crosstask.tasks import Portfolio, Task
from crosstask.testing import blobs, reference_registry
from crosstask_multitask import Multitask, MultiTaskResult, MultiTaskTrainer
from crosstask_multitask.testing import REFERENCE

IDS = ["task0", "task1", "task2"]
TRAIN = Budget(steps=60, learning_rate=0.02)
SHORT = Budget(steps=12, batch_size=24, learning_rate=0.02, evaluate_every=5)
STILL = Budget(steps=1, learning_rate=1e-30, optimizer="sgd")
"""One step that changes no weight by as much as a float can tell."""


class ShiftHandle(AdapterHandle):
    """A trainable shift of the features."""

    def __init__(self, model: nn.Module, width: int) -> None:
        self.model = model
        model.requires_grad_(False)
        self.shift = nn.Parameter(torch.zeros(width))
        model.register_parameter("shift", self.shift)
        model.register_forward_hook(lambda owner, _, out: out + owner.shift)  # type: ignore[arg-type]

    def parameters(self) -> list[nn.Parameter]:
        return [self.shift]

    def enable(self) -> None:
        raise NotImplementedError

    def disable(self) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, torch.Tensor]:
        return {"shift": self.shift.detach()}

    def load_state(self, state: Any) -> None:
        raise NotImplementedError

    def detach(self) -> None:
        raise NotImplementedError


@component
class Shift(Adapter):
    """Shifts the features of a trunk with eight of them."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        return ShiftHandle(model, 8)


@component
class Outside(Adapter):
    """Keeps its weights to itself."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        handle = ShiftHandle(model, 8)
        del model._parameters["shift"]
        return handle


def engine_with(store: Path | None = None, **options: Any) -> TransferEngine:
    """An engine with three tasks of blobs in the plane."""
    known: dict[str, Any] = {"model": ModelSpec(hidden=(16, 8)), "train": TRAIN, "seeds": 1, "discoverers": []}
    made = TransferEngine(registry=registry(), store=store, **(known | options))
    for number, task_id in enumerate(IDS):
        made.register_task(blobs(task_id, seed=number))
    return made


def registry() -> Registry:
    return reference_registry(REFERENCE)


def joint(engine: TransferEngine, **options: Any) -> tuple[Outcome, MultiTaskResult]:
    outcome = engine.run_stage("multitask", **({"tasks": IDS[:2], "budget": SHORT} | options))
    return outcome, outcome.record


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# --- Which tasks


def test_tasks_that_are_named_are_trained_together() -> None:
    with engine_with() as engine:
        outcome, result = joint(engine, tasks=IDS, budget=Budget(steps=30, evaluate_every=10))
        assert result.tasks == tuple(IDS)
        assert result.steps == (1, 10, 20, 30)
        for rows in (result.losses, result.weights, result.conflicts):
            assert all(len(values) == 4 for values in rows.values())
        assert set(result.scores) == set(result.single_task_scores) == set(IDS)
        assert (result.start, result.adapter) == (None, None)
        module = outcome.artifacts["model"]
        assert result.trained_weights == result.all_weights == sum(p.numel() for p in module.parameters())
        assert set(result.options) == {"balancer", "sharing", "budget"}
        inputs = torch.zeros(5, 2)
        answer = module({"task1": inputs})["task1"]
        assert answer.shape == (5, 3)
        torch.testing.assert_close(module.heads["task1"](outcome.artifacts["trunk"](inputs)), answer)


def test_those_that_the_graph_finds_are_the_default() -> None:
    with engine_with() as engine:
        with pytest.raises(
            DataError, match="the transfer graph shows none that help one another: name them in `tasks`"
        ):
            joint(engine, tasks=())
        for pair in (("task0", "task2"), ("task2", "task0")):
            engine.graph.add(TransferEdge(source=pair[0], target=pair[1], transfer_coefficient=0.5))
        _, result = joint(engine, tasks=())
        assert result.tasks == ("task0", "task2")


def test_a_sampler_chooses_among_them() -> None:
    with engine_with() as engine:
        _, result = joint(engine, sampler="reference")
        assert {0.0} < {weight for weights in result.weights.values() for weight in weights}
        assert "sampler" in result.options


def some(*more: Task, unseen: Sequence[Task] = ()) -> Portfolio:
    return Portfolio([blobs("task0"), blobs("task1"), *more], unseen=unseen)


def bare(task_id: str, *shape: int) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=task_id, input_shape=shape, output_dim=3))


def wide(task_id: str) -> Task:
    inputs, labels = torch.randn(12, 5), torch.arange(12) % 3
    made = bare(task_id, 5)
    made.train = made.test = (inputs, labels)
    return made


def untested(task_id: str) -> Task:
    made = blobs(task_id)
    return Task(descriptor=made.descriptor, train=made.train)


REFUSED: dict[str, tuple[dict[str, Any], Portfolio, str]] = {
    "no such task": ({"tasks": ["task0", "tsk1"]}, some(), "tasks: no task 'tsk1' .*; did you mean 'task1'"),
    "one task": ({"tasks": ["task0"]}, some(), "tasks: joint training needs at least two tasks, got 'task0' alone"),
    "a task twice": ({"tasks": ["task0", "task0"]}, some(), "tasks: 'task0' is named twice"),
    "no data": ({"tasks": ["task0", "x"]}, some(bare("x", 2)), "tasks: task 'x' has no training data"),
    "no test data": ({"tasks": ["task0", "x"]}, some(untested("x")), "tasks: task 'x' has no test data"),
    "held back": ({"tasks": ["task0", "x"]}, some(unseen=[blobs("x")]), "tasks: task 'x' is held back as unseen"),
    "shapes": ({"tasks": ["task0", "x"]}, some(wide("x")), r"input shapes cannot share a trunk: \[\(2,\), \(5,\)\]"),
    "too few": ({}, Portfolio([blobs("a"), wide("x"), bare("y", 2)]), "at least two tasks that have training and"),
    "too few with test data": ({}, Portfolio([blobs("a"), untested("x")]), "that have training and test data"),
    "no such start": ({"tasks": IDS[:2], "start": "tsk1"}, some(), "start: no task 'tsk1' .*; did you mean"),
    "a start without model": ({"tasks": IDS[:2], "start": "x"}, some(bare("x", 2)), "start: task 'x' has neither"),
    "a start of another shape": (
        {"tasks": IDS[:2], "start": "x"}, some(wide("x")), r"start: the model of 'x' takes inputs \(5,\), the tasks",
    ),
    "an unseen start": ({"tasks": IDS[:2], "start": "x"}, some(unseen=[blobs("x")]), "start: task 'x' is held back"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(case: str) -> None:
    options, portfolio, message = REFUSED[case]
    with pytest.raises((RecipeError, DataError), match=message):
        Multitask(**options).check(portfolio)


def test_without_names_a_recipe_needs_a_discovery_before() -> None:
    stage = Multitask()
    stage.check(some())  # run alone: the graph may be known
    stage.before = ("curriculum",)
    with pytest.raises(RecipeError, match=r"at least two tasks; none are named, and there is no discovery before"):
        stage.check(some())
    stage.before = ("discovery", "curriculum")
    stage.check(some())
    named = Multitask(tasks=IDS[:2])
    named.before = ()
    named.check(some())


# --- From which trunk


def test_options_that_say_the_same_twice_are_refused() -> None:
    with pytest.raises(OptionError, match="model and start each say what the trunk is"):
        Multitask(model=ModelSpec(), start="task0")
    with pytest.raises(OptionError, match="targets are those of an adapter"):
        Multitask(targets=["0"])


def test_another_network_can_be_shared() -> None:
    with engine_with() as engine:
        outcome, result = joint(engine, model=ModelSpec(hidden=(5,)))
        assert [tuple(p.shape) for p in outcome.artifacts["trunk"].parameters()] == [(5, 2), (5,)]
        assert result.options["model"]["hidden"] == [5]
        assert result.start is None


def test_it_starts_from_a_tasks_own_model_which_is_trained_first() -> None:
    with engine_with() as engine:
        assert engine.portfolio["task2"].model is None
        outcome, result = joint(engine, start="task2", budget=STILL)
        model = engine.portfolio["task2"].model
        assert model is not None
        inputs = torch.randn(4, 2)
        torch.testing.assert_close(outcome.artifacts["trunk"](inputs), Headless(model)(inputs))
        assert result.start == "the model of task 'task2'"
        # Alone, each task is trained from scratch all the same.
        _, plain = joint(engine, budget=STILL)
        assert result.single_task_scores == plain.single_task_scores


def test_a_given_trunk_is_copied_and_trained_even_if_it_was_frozen() -> None:
    encoder = nn.Sequential(nn.Linear(2, 6), nn.Tanh()).requires_grad_(False)
    before = weights_of(encoder)
    with engine_with() as engine:
        outcome, result = joint(engine, trunk=encoder)
        assert result.start == "a network that was given (Sequential)"
        made = outcome.artifacts["trunk"]
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
        assert not any(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
        assert set(result.single_task_scores) == set(IDS[:2])


def test_a_trunk_with_a_head_is_taken_without_it() -> None:
    task = blobs("task0")
    model = ModelSpec(hidden=(8,)).build(task.descriptor, 5)
    fit(model, task, TRAIN, torch.Generator().manual_seed(0))
    with engine_with() as engine:
        outcome, _ = joint(engine, trunk=model, budget=STILL)
        inputs = torch.randn(4, 2)
        torch.testing.assert_close(outcome.artifacts["trunk"](inputs), Headless(model)(inputs))


def test_trunks_that_do_not_fit_are_refused() -> None:
    with engine_with() as engine:
        with pytest.raises(DataError, match=r"\(Linear\) does not take the inputs of task 'task0'"):
            joint(engine, trunk=nn.Linear(5, 3))
        with pytest.raises(DataError, match=r"\(Unflatten\) fits no head: .* of shape \(2, F\), got \(2, 2, 1\)"):
            joint(engine, trunk=nn.Unflatten(1, (2, 1)))
        outcome, _ = joint(engine)
        with pytest.raises(DataError, match="takes inputs by task: give the trunk of such a module"):
            joint(engine, trunk=outcome.artifacts["model"])

        class Held(nn.Linear):
            reset_parameters = None  # type: ignore[assignment]

        held = nn.Linear(2, 4)
        held.__class__ = Held
        _, result = joint(engine, trunk=held)  # the control from scratch is drawn by the spread of its weights
        assert set(result.single_task_scores) == set(IDS[:2])


def test_a_stage_can_start_from_what_another_provides() -> None:
    with engine_with() as engine:
        first, _ = joint(engine)
        second, result = joint(engine, tasks=IDS[1:], trunk={"from": "multitask"}, budget=STILL)
        assert result.start == "the trunk of multitask"
        inputs = torch.randn(4, 2)
        expected = first.artifacts["trunk"](inputs)
        torch.testing.assert_close(second.artifacts["trunk"](inputs), expected)


# --- With which adapter


def lora() -> Adapter:
    made: Adapter = pytest.importorskip("crosstask_lora").LoRA(r=2, alpha=2)
    return made


def lora_scaled() -> Adapter:
    made: Adapter = pytest.importorskip("crosstask_lora").LoRA(r=2, alpha=8)
    return made


def bitfit() -> Adapter:
    made: Adapter = pytest.importorskip("crosstask_bitfit").BitFit()
    return made


def named(package: str, name: str) -> Callable[[], Balancer]:
    def make() -> Balancer:
        made: Balancer = getattr(pytest.importorskip(package), name)()
        return made

    return make


ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "shift": Shift, "lora": lora, "lora, scaled": lora_scaled, "bitfit": bitfit,
}  # fmt: skip
BALANCERS = {
    "pcgrad": named("crosstask_pcgrad", "PCGrad"),
    "rgb": named("crosstask_rgb", "RGB"),
    "upgrad": named("crosstask_jacobian", "UPGrad"),
    "uncertainty": named("crosstask_weighting", "Uncertainty"),
}


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_under_an_adapter_the_trunk_stays_bit_for_bit_as_it_was(adapter: str, balancer: str) -> None:
    with engine_with() as engine:
        engine.train(["task2"])
        model = engine.portfolio["task2"].model
        assert model is not None
        before = weights_of(Headless(model))
        outcome, result = joint(
            engine, start="task2", adapter=ADAPTERS[adapter](), balancer=BALANCERS[balancer](),
            budget=Budget(steps=12, learning_rate=0.02, optimizer="adamw", weight_decay=0.1),
        )  # fmt: skip
        trunk = outcome.artifacts["trunk"]
        after = trunk.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        own = {name: p for name, p in trunk.named_parameters() if name not in before}
        assert own
        assert all(p.requires_grad and bool(p.any()) for p in own.values())  # each began at zero or was trained
        assert not any(p.requires_grad for name, p in trunk.named_parameters() if name in before)
        heads = sum(p.numel() for p in outcome.artifacts["model"].heads.parameters())
        assert result.trained_weights == heads + sum(p.numel() for p in own.values())
        assert result.all_weights is not None
        assert result.trained_weights < result.all_weights
        assert result.adapter is not None
        assert result.start == "the model of task 'task2'"
        assert result.conflicts


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("balancer", ["pcgrad", "rgb"])
def test_what_is_balanced_are_the_gradients_of_the_adapters_weights(adapter: str, balancer: str) -> None:
    """One step's update of the shared weights is what the balancer makes of the naive gradients of exactly those."""
    torch.manual_seed(0)
    with engine_with() as engine:
        outcome, _ = joint(engine, start="task2", adapter=ADAPTERS[adapter]())
        module = outcome.artifacts["model"].double()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        inputs = {name: torch.randn(6, 2).double() for name in IDS[:2]}

        def losses() -> list[torch.Tensor]:
            return [out.square().mean() for out in module(inputs).values()]

        shared = [p for p in module.shared_parameters() if p.requires_grad]
        rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared)]) for loss in losses()]
        expected = BALANCERS[balancer]().combine(torch.stack(rows))
        for mode in ("auto", "layers", "matrix"):
            module.zero_grad(set_to_none=True)
            BALANCERS[balancer]().backward(losses(), module.shared_parameters(), [], mode=mode)  # type: ignore[arg-type]
            found = torch.cat([p.grad.flatten() for p in shared if p.grad is not None])
            torch.testing.assert_close(found, expected)
            assert all(p.grad is None for p in module.shared_parameters() if not p.requires_grad)


def test_only_the_layers_that_are_named_are_adapted() -> None:
    with engine_with() as engine:
        outcome, _ = joint(engine, start="task2", adapter=lora(), targets=["!model.trunk.1"])
        own = [name for name, p in outcome.artifacts["trunk"].named_parameters() if p.requires_grad]
        assert own
        assert all(name.startswith("model.trunk.3.") for name in own)


def test_an_adapter_on_a_trunk_that_has_one_already_is_trained_alone() -> None:
    with engine_with() as engine:
        first, _ = joint(engine, start="task2", adapter=lora())
        before = weights_of(first.artifacts["trunk"])
        second, _ = joint(engine, trunk=first.artifacts["trunk"], adapter=bitfit())
        after = second.artifacts["trunk"].state_dict()
        assert set(before) < set(after)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_adapter_whose_weights_are_elsewhere_is_refused() -> None:
    with engine_with() as engine, pytest.raises(DataError, match="keeps its weights outside the trunk"):
        joint(engine, start="task2", adapter=Outside())


# --- Not done twice, and shown


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "start": lambda: {"start": "task2"},
    "adapter": lambda: {"start": "task2", "adapter": Shift()},
    "another adapter": lambda: {"start": "task2", "adapter": lora()},
    "model": lambda: {"model": {"hidden": [5]}},
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_was_finished_is_taken_from_the_store(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_with(tmp_path / "store.db") as engine:
        first, result = joint(engine, **GIVEN[case]())

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(MultiTaskTrainer, "fit", forbidden)
    with engine_with(tmp_path / "store.db") as engine:
        second, again = joint(engine, **GIVEN[case]())
    assert again == result
    inputs = {name: torch.randn(5, 2) for name in IDS[:2]}
    for name in ("model", "trunk"):
        one, other = first.artifacts[name].eval(), second.artifacts[name].eval()
        given = inputs if name == "model" else inputs["task0"]
        torch.testing.assert_close(one(given), other(given), rtol=0, atol=0)


def test_the_joint_training_is_kept_whatever_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge in the graph makes it another run of the stage, but not another training."""
    trained: list[int] = []
    fit_once = MultiTaskTrainer.fit
    monkeypatch.setattr(MultiTaskTrainer, "fit", lambda self: (trained.append(1), fit_once(self)))
    results = []
    for coefficient in (0.1, 0.2):
        with engine_with(tmp_path / "store.db") as engine:
            engine.graph.add(TransferEdge(source="task0", target="task1", transfer_coefficient=coefficient))
            results.append(joint(engine)[1])
    assert results[0] == results[1]
    assert trained == [1]


def test_other_options_are_other_results(tmp_path: Path) -> None:
    with engine_with(tmp_path / "store.db") as engine:
        _, plain = joint(engine)
        _, started = joint(engine, start="task2")
        _, adapted = joint(engine, start="task2", adapter=Shift())
        _, fewer = joint(engine, budget=Budget(steps=3))
    assert len({str(r.scores) + str(r.losses) for r in (plain, started, adapted, fewer)}) == 4


def test_what_is_shown() -> None:
    with engine_with() as engine:
        _, plain = joint(engine)
        _, adapted = joint(engine, start="task2", adapter=Shift())
        rows = Multitask.summary(plain)
        assert list(rows) == [
            "trained_together", "joint_mean_score", "single_task_mean_score", "joint_gain", "mean_conflict_share",
        ]  # fmt: skip
        assert rows["trained_together"] == "task0, task1"
        assert rows["joint_gain"] == pytest.approx(rows["joint_mean_score"] - rows["single_task_mean_score"])
        task = engine.portfolio["task0"]
        train, test = task.data("train").targets, task.data("test").targets
        assert plain.chances["task0"] == pytest.approx((test == train.mode().values).float().mean().item())
        nothing = attrs.evolve(plain, chances={"task0": plain.scores["task0"], "task1": 0.0})
        assert Multitask.summary(nothing)["nothing_learned"].startswith("task0: no better than")
        assert "<strong>task0:</strong> nothing was learned" in Multitask.sections(nothing, engine.graph)[0].html
        assert plain.to_frame()["together"].tolist() == list(plain.scores.values())
        more = Multitask.summary(adapted)
        assert more["joint_start"] == "the model of task 'task2'"
        assert more["joint_weights_trained"] == adapted.trained_weights
        (section,) = Multitask.sections(plain, engine.graph)
        assert section.title == "Multi-task training"
        assert "2 tasks share one model" in section.html
        assert "Gradient conflicts" in section.html
        (section,) = Multitask.sections(adapted, engine.graph)
        assert (
            "The trunk started from the model of task 'task2'. The trunk stayed as it was: adapter Shift"
            in section.html
        )
        assert f"{adapted.trained_weights} of {adapted.all_weights} weights" in section.html


def test_a_copy_of_an_adapted_module_answers_the_same() -> None:
    with engine_with() as engine:
        outcome, _ = joint(engine, start="task2", adapter=lora())
        module = outcome.artifacts["model"].eval()
        inputs = {"task0": torch.randn(3, 2)}
        torch.testing.assert_close(copy.deepcopy(module)(inputs)["task0"], module(inputs)["task0"])
