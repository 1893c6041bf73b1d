"""The engine and its coroutine twin on fake plugins."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crosstask import (
    Budget,
    Choice,
    Curriculum,
    CurriculumStrategy,
    DataError,
    Interval,
    ModelSpec,
    Observer,
    PluginError,
    Provenance,
    RecipeError,
    Registry,
    RunError,
    Task,
    TaskDescriptor,
    TransferEngine,
    TransferResult,
    UnknownComponentError,
    component,
    create_cross_task_transfer_engine,
    option,
)
from crosstask.learning import fit
from crosstask.manifest import Extension, Plugin
from crosstask.records import CurriculumStep
from crosstask.testing import blobs
from crosstask_fakes.components import FakeDiscoverer, FakeObserver, FakePlanner, FakeSynthesizer, FakeTransfer
from crosstask_fakes.registry import with_fakes
from crosstask_fakes.stages import Measured, Prepared

TRAIN = Budget(steps=60, learning_rate=0.02)
FEW = Budget(steps=20, samples=12, learning_rate=0.02, evaluate_every=5)


def engine_with(registry: Registry, **options: object) -> TransferEngine:
    known = {"model": ModelSpec(hidden=(8,)), "train": TRAIN, "budget": FEW, "seeds": 2, "discoverers": ["fake"]}
    return TransferEngine(registry=registry, **{**known, **options})  # type: ignore[arg-type]


@pytest.fixture
def engine(registry: Registry) -> Iterator[TransferEngine]:
    with engine_with(registry) as made:
        for number in range(3):
            made.register_task(blobs(f"task{number}", seed=number))
        yield made


def test_registering_the_nth_task_costs_n_pairs(registry: Registry) -> None:
    discoverer = FakeDiscoverer()
    with engine_with(registry, discoverers=[discoverer]) as engine:
        for number in range(12):
            before = discoverer.pairs
            engine.register_task(Task(descriptor=TaskDescriptor(task_id=f"t{number}")))
            assert discoverer.pairs - before == 2 * number
        assert len(list(engine.graph.edges())) == 12 * 11


def test_discovery_does_not_repeat_what_registration_did(registry: Registry) -> None:
    discoverer = FakeDiscoverer()
    with engine_with(registry, discoverers=[discoverer]) as engine, engine_with(registry, auto_discover=False) as late:
        for number in range(4):
            engine.register_task(TaskDescriptor(task_id=f"t{number}"))
            late.register_task(TaskDescriptor(task_id=f"t{number}"))
        assert discoverer.pairs == 12
        engine.portfolio["t1"].record("accuracy", 0.5)
        assert engine.discover().to_json()["edges"] == late.discover().to_json()["edges"]
        assert discoverer.pairs == 12 + 6, "those of the task of which more is known by now"
        engine.discover()
        assert discoverer.pairs == 12 + 6 + 12, "whoever asks again is answered anew"
    again = FakeDiscoverer()
    with engine_with(registry, discoverers=[again]) as engine:
        for number in range(4):
            engine.register_task(TaskDescriptor(task_id=f"t{number}"))
        engine.discover()
        assert again.pairs == 12


def test_auto_discover_can_be_off(registry: Registry) -> None:
    with engine_with(registry, auto_discover=False) as engine:
        engine.register_task(blobs("a"))
        engine.register_task(blobs("b"))
        assert not list(engine.graph.edges())
        engine.discover()
        assert len(list(engine.graph.edges())) == 2


def test_discovery_of_one_target_leaves_the_others_alone(registry: Registry) -> None:
    discoverer = FakeDiscoverer()
    with engine_with(registry, discoverers=[discoverer], auto_discover=False) as engine:
        for number in range(4):
            engine.register_task(TaskDescriptor(task_id=f"t{number}"))
        engine.graph.rule_out("t0", "t1", "was so")
        engine.graph.rule_out("t2", "t3", "was so")
        graph = engine.discover(target="t1")
        assert discoverer.pairs == 6, "three others, both ways"
        assert all("t1" in (edge.source, edge.target) for edge in graph.all_edges())
        assert graph.impossible["t0", "t1"] != "was so", "found out anew"
        assert graph.impossible["t2", "t3"] == "was so"
        assert set(graph.impossible) == {("t2", "t3")} | {p for n in "023" for p in ((f"t{n}", "t1"), ("t1", f"t{n}"))}
        with pytest.raises(DataError, match="no task 't9'"):
            engine.discover(target="t9")


def test_transfer_against_scratch(engine: TransferEngine) -> None:
    result = engine.transfer_knowledge("task0", "task1", "fake", samples=True)
    assert result.seeds == 2
    assert len(result.score.values) == 2
    assert result.scratch_curve.steps == (0, 5, 10, 15, 20)
    assert {name.split(".")[0] for name in result.transferred} == {"trunk"}
    assert set(result.not_transferred) == {"head.weight", "head.bias"}
    assert engine.portfolio["task1"].descriptor.transfer_efficiency == {"task0": result.coefficient.mean}
    assert engine.get_best_transfer_strategy("task0", "task1") == "fake"


def test_a_head_for_the_same_classes_is_kept(engine: TransferEngine) -> None:
    twin = blobs("twin", seed=0, classes=3)
    twin.descriptor = TaskDescriptor(**{**_fields(twin), "classes": engine.portfolio["task0"].descriptor.classes})
    engine.register_task(twin)
    assert engine.transfer_knowledge("task0", "twin", "fake").not_transferred == ()


def _fields(task: Task) -> dict:  # type: ignore[type-arg]
    d = task.descriptor
    return {"task_id": d.task_id, "input_shape": d.input_shape, "output_dim": d.output_dim}


def test_curriculum_by_name_enum_and_object(engine: TransferEngine) -> None:
    by_name = engine.generate_curriculum("task0", "fake", 2)
    assert by_name.task_sequence == ("task2", "task0")
    assert engine.generate_curriculum("task0", FakePlanner(), 3).task_sequence == ("task1", "task2", "task0")
    with pytest.raises(UnknownComponentError, match="no curriculum named 'transfer_potential'"):
        engine.generate_curriculum("task0", CurriculumStrategy.TRANSFER_POTENTIAL)
    with pytest.raises(TypeError, match="expected a CurriculumPlanner"):
        engine.generate_curriculum("task0", FakeTransfer())
    with pytest.raises(DataError, match="did you mean 'task0'"):
        engine.generate_curriculum("tsk0", "fake")


def test_only_a_portfolio_is_registered_at_once(engine: TransferEngine) -> None:
    tasks: Any = list(engine.portfolio)
    with pytest.raises(DataError, match="register takes a Portfolio, got a list"):
        engine.register(tasks)


def test_curriculum_runs_step_by_step(engine: TransferEngine) -> None:
    result = engine.run_curriculum(engine.generate_curriculum("task2", "fake", 3), "fake", planner="fake")
    assert [(s.step, s.task_id) for s in result.steps] == [(1, "task0"), (2, "task1"), (3, "task2")]
    assert result.steps[0].gain.mean == 0.0  # the first step is training from scratch itself
    assert result.total_steps == 60 + 60 + 20


def test_prerequisites_take_part_and_count(registry: Registry) -> None:
    with engine_with(registry) as engine:
        for number in range(5):
            needs = (f"task{number - 1}",) if number in (3, 4) else ()
            engine.register_task(blobs(f"task{number}", seed=number, prerequisites=needs))
        path = engine.generate_curriculum("task4", "fake", 3).task_sequence
        assert path == ("task2", "task3", "task4")
        with pytest.raises(DataError, match="max_tasks must be at least 3, got 2"):
            engine.generate_curriculum("task4", "fake", 2)


def test_synthesis_of_a_task_known_by_descriptor_only(engine: TransferEngine) -> None:
    new = Task(descriptor=TaskDescriptor(task_id="new", input_shape=(2,), output_dim=4))
    model = engine.synthesize_zero_shot_model(new, "fake")
    assert model(torch.zeros(5, 2)).shape == (5, 4)
    assert set(model.provenance.sources) == {"task0", "task1", "task2"}
    assert model.provenance.expected is None


@component
class Hopeful(FakeSynthesizer):
    """Says what its model can be expected to score."""

    silent: bool = option(False, help="make a model that does not say from what")

    def synthesize(self, new_task, sources, graph, inputs):  # type: ignore[no-untyped-def]
        made = super().synthesize(new_task, sources, graph, inputs)
        if self.silent:
            del made.provenance
        return made

    def expect(self, make, model, new_task, sources, graph, inputs):  # type: ignore[no-untyped-def]
        others = [make(s.descriptor, [o for o in sources if o is not s], graph, None) for s in sources]
        assert all(isinstance(other.provenance, Provenance) for other in others)
        return Interval(mean=0.5, low=0.25, high=0.75), f"from {len(others)} others"


def test_what_a_synthesised_model_can_be_expected_to_score_is_its_synthesizers_to_say(engine: TransferEngine) -> None:
    told = engine.synthesize_zero_shot_model("task1", Hopeful()).provenance
    assert (told.expected.mean, told.notes) == (0.5, ("from 2 others",))
    assert engine.synthesize_zero_shot_model("task1", Hopeful(), expect=False).provenance.expected is None
    with pytest.raises(DataError, match="made a model that does not say from what: it needs a `provenance`"):
        engine.synthesize_zero_shot_model("task1", Hopeful(silent=True))


def test_a_diverging_training_names_task_and_step(registry: Registry) -> None:
    with engine_with(registry, train=Budget(steps=50, optimizer="sgd", learning_rate=1e20)) as engine:
        engine.register_task(blobs("wild"))
        with pytest.raises(RunError, match=r"task 'wild': the training loss is (nan|inf) at step \d+"):
            engine.train()


def test_tasks_without_data_and_models_say_so(engine: TransferEngine) -> None:
    engine.register_task(Task(descriptor=TaskDescriptor(task_id="bare", input_shape=(2,), output_dim=3)))
    with pytest.raises(DataError, match="task 'bare' has neither a trained model nor training data"):
        engine.transfer_knowledge("bare", "task0", "fake")
    with pytest.raises(DataError, match="task 'bare' has no train data"):
        engine.transfer_knowledge("task0", "bare", "fake")


def test_a_models_own_training_is_used(engine: TransferEngine) -> None:
    task = blobs("own", seed=7)
    model = ModelSpec(hidden=(8,)).build(task.descriptor, 0)
    fit(model, task, TRAIN, torch.Generator().manual_seed(0))
    engine.register_task(task, model)
    engine.train()
    assert engine.portfolio["own"].model is model


def test_another_model_of_the_same_task_is_measured_anew(registry: Registry, tmp_path: Path) -> None:
    def measured(seed: int) -> tuple[float, ...]:
        with engine_with(registry, store=tmp_path / "store.db") as engine:
            source = blobs("source", seed=7)
            model = ModelSpec(hidden=(8,)).build(source.descriptor, seed)
            fit(model, source, TRAIN, torch.Generator().manual_seed(seed))
            engine.register_task(source, model)
            engine.register_task(blobs("target", seed=8))
            return engine.transfer_knowledge("source", "target", "fake").curve.values

    assert measured(0) == measured(0) != measured(1)


def test_a_new_release_of_a_plugin_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(version: str) -> TransferResult:
        with engine_with(with_fakes(version=version), store=tmp_path / "store.db") as engine:
            for number in range(2):
                engine.register_task(blobs(f"task{number}", seed=number))
            path = engine.generate_curriculum("task1", max_tasks=2)
            engine.run_curriculum(path)
            return engine.transfer_knowledge("task0", "task1")

    first = measured("1.0")
    for place in (
        "crosstask.learning.transferring.fit",
        "crosstask.curriculum_path.fit",
        "crosstask_fakes.components.fit",
    ):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("measured again"))
    assert measured("9.9") == first
    monkeypatch.setattr(FakeTransfer, "results_version", 2)
    with pytest.raises(BaseException, match="measured again"):
        measured("9.9")


def test_an_observer_that_raises_is_named(registry: Registry) -> None:
    class Loud(FakeObserver):
        def task_registered(self, task: Task) -> None:
            raise ZeroDivisionError("loud")

    with engine_with(registry, observers=[Loud()]) as engine, pytest.raises(ZeroDivisionError) as caught:
        engine.register_task(blobs("a"))
    assert caught.value.__notes__ == ["in observer Loud"]


def test_a_component_that_raises_in_a_worker_or_here_is_named(registry: Registry) -> None:
    with engine_with(registry) as engine:
        engine.register_task(blobs("a"))
        engine.register_task(blobs("b", seed=1))
        method = registry.create("transfer", "fake", {"fail_on": "b"})
        with pytest.raises(ZeroDivisionError) as caught:
            engine.transfer_knowledge("a", "b", method)
    assert caught.value.__notes__ == ["in transfer 'fake' (crosstask-fakes 1.0)"]


def test_exports(engine: TransferEngine, tmp_path: Path) -> None:
    for suffix in ("json", "graphml", "gexf"):
        assert engine.export_transfer_graph(tmp_path / f"g.{suffix}").stat().st_size > 100
    assert engine.get_transfer_graph_metrics()["edges"] == 6


def test_the_coroutine_engine_keeps_the_loop_free(registry: Registry) -> None:
    async def work() -> tuple[int, float]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        options = {"model": ModelSpec(hidden=(8,)), "train": TRAIN, "budget": FEW, "seeds": 2, "discoverers": ["fake"]}
        async with create_cross_task_transfer_engine(registry=registry, **options) as engine:
            for number in range(3):
                engine.register_task(blobs(f"task{number}", seed=number))
            await engine.discover()
            curriculum = await engine.generate_curriculum("task2", "fake", 2)
            result = await engine.run_curriculum(curriculum, "fake")
            transfer = await engine.transfer_knowledge("task0", "task1", "fake")
            model = await engine.synthesize_zero_shot_model("task1", "fake")
            assert model.provenance.strategy == "fake"
            assert (await engine.run_stage("prepare", task="task1")).record.task == "task1"
            assert engine.get_transfer_graph_metrics()["tasks"] == 3
        ticker.cancel()
        assert transfer.target == "task1"
        return ticks, result.steps[-1].score.mean

    ticks, score = asyncio.run(work())
    assert ticks > 5
    assert 0 <= score <= 1


def test_the_factory_takes_what_manifests_mark(registry: Registry) -> None:
    registry.register(
        Plugin(
            "others",
            [
                Extension("discovery", "sized", f"{__name__}:Sized", default=2),
                Extension("discovery", "never", f"{__name__}:Sized"),
                Extension("discovery", "earliest", "crosstask_fakes.components:FakeDiscoverer", default=1),
            ],
            api=(2, 0),
        )
    )
    engine = create_cross_task_transfer_engine(task_embedding_dim=7, hidden_dim=9, registry=registry)
    made = engine.engine.discoverers
    assert [each.name for each in made] == ["earliest", "fake", "sized"]
    assert made[2].options() == {"coefficient": 0.5, "hidden_dim": 9}
    asyncio.run(engine.close())
    bare = create_cross_task_transfer_engine(registry=Registry())
    assert bare.engine.discoverers == []
    asyncio.run(bare.close())


@component
class Sized(FakeDiscoverer):
    """Has one of the two sizes."""

    hidden_dim: int = option(3, help="of what it learns with")


def test_an_engines_discoverers_are_those_that_manifests_mark_unless_others_are_named(registry: Registry) -> None:
    with engine_with(registry, discoverers=None) as engine:
        assert [each.name for each in engine.discoverers] == ["fake"]
    with engine_with(registry, discoverers=[]) as engine:
        assert engine.discoverers == []
        for name in "ab":
            engine.register_task(blobs(name))
        engine.discover([Choice(use="fake", options={"coefficient": 0.25})])
        assert {edge.transfer_coefficient for edge in engine.graph.edges()} == {0.25}


def test_a_strategy_that_is_not_named_is_the_one_that_a_manifest_marks(engine: TransferEngine) -> None:
    assert engine.generate_curriculum("task0", max_tasks=2).strategy == "curriculum 'fake' (crosstask-fakes 1.0)"
    assert engine.transfer_knowledge("task0", "task1").strategy == "transfer 'fake' (crosstask-fakes 1.0)"
    assert engine.synthesize_zero_shot_model("task1").provenance.strategy == "fake"
    assert engine.distill(["task0", "task1"]).knowledge.source_tasks == ("task0", "task1")
    assert engine.method().name == "fake"
    chosen = Choice(use="fake", options={"fail_on": "task9"})
    assert engine.method(chosen).options() == {"fail_on": "task9"}


# Stages ---------------------------------------------------------------------------------------------------------------


def test_a_stage_by_name_with_its_options(engine: TransferEngine) -> None:
    found = engine.run_stage("prepare", task="task1", scale=0.5)
    assert isinstance(found.record, Prepared)
    assert (found.record.task, found.record.options["scale"]) == ("task1", 0.5)
    assert sorted(found.artifacts) == ["centre", "means", "model", "names", "told"]
    with pytest.raises(UnknownComponentError, match="no stage named 'perpare'; did you mean 'prepare'"):
        engine.run_stage("perpare")
    with pytest.raises(ValueError, match="stage 'prepare': unknown option 'taks'; did you mean 'task'"):
        engine.run_stage("prepare", taks="task1")


def test_a_stage_refers_to_one_that_ran_before_or_is_given_the_object(engine: TransferEngine) -> None:
    with pytest.raises(PluginError, match="stage 'prepare' has not run"):
        engine.run_stage("measure", model={"from": "prepare"})
    prepared = engine.run_stage("prepare")
    linked = engine.run_stage("measure", model={"from": "prepare"}, chosen={"from": "prepare", "take": "names"})
    assert isinstance(linked.record, Measured)
    assert linked.record.chosen == ("task0", "task1")
    given = engine.run_stage("measure", model=prepared.artifacts["model"])
    assert given.record.score == linked.record.score
    other = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 3))
    for weights in other.parameters():  # one that is drawn may be right by chance
        nn.init.zeros_(weights)
    assert engine.run_stage("measure", model=other).record.score != engine.run_stage("measure").record.score
    with pytest.raises(PluginError, match="stage 'prepare' gave no 'modle' in this run; did you mean 'model'"):
        engine.run_stage("measure", model={"from": "prepare", "take": "modle"})
    with pytest.raises(PluginError, match="measure: centre: 'told' of stage 'prepare' must be a Tensor, got Told"):
        engine.run_stage("measure", centre={"from": "prepare", "take": "told"})


def test_a_stage_says_before_any_work_what_does_not_fit(engine: TransferEngine) -> None:
    heard = FakeObserver()
    engine.run.add(heard)
    for name in ("prepare", "measure"):
        with pytest.raises(RecipeError, match=rf"^{name}: .*'taks9'") as caught:
            engine.run_stage(name, task="taks9")
        assert str(caught.value).count(f"{name}:") == 1
    assert heard.heard == []


def test_a_stage_that_needs_the_tasks_models_finds_them(engine: TransferEngine) -> None:
    assert all(task.model is None for task in engine.portfolio)
    engine.run_stage("prepare")
    assert all(task.model is None for task in engine.portfolio)
    assert engine.run_stage("measure").record.trained == 3


def test_where_no_transfer_method_is_installed_other_stages_work() -> None:
    registry = Registry()
    stage = Extension("stage", "wild", "crosstask_fakes.stages:FakeWild")
    transfers = Extension("transfer", "fake", "crosstask_fakes.components:FakeTransfer")
    registry.register(Plugin("x", [stage, transfers], api=(2, 0)))
    with engine_with(registry, discoverers=[]) as engine:
        for number in range(2):
            engine.register_task(blobs(f"task{number}", seed=number))
        assert engine.run_stage("wild", size=3).record.size == 3
        assert engine.get_best_transfer_strategy("task0", "task1") == "fake"
        with pytest.raises(UnknownComponentError, match="no installed plugin marks a transfer as the default"):
            engine.transfer_knowledge("task0", "task1")
    with engine_with(registry, discoverers=[], transfer="faek") as engine, pytest.raises(UnknownComponentError):
        engine.run_stage("wild")


# Curricula that change ------------------------------------------------------------------------------------------------


@component
class Hasty(FakePlanner):
    """Skips what was planned once the learner does well, or stops too soon."""

    stop: bool = option(False, help="end before the target")

    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        if history and self.stop:
            return None
        done = [step.task_id for step in history]
        return None if curriculum.target in done else (curriculum.target if done else curriculum.task_sequence[0])


def test_what_a_planner_changed_while_it_ran_is_recorded(engine: TransferEngine) -> None:
    curriculum = engine.generate_curriculum("task2", "fake", 3)
    result = engine.run_curriculum(curriculum, "fake", planner=Hasty())
    assert result.curriculum.task_sequence == ("task0", "task2")
    (change,) = result.curriculum.adjustments
    assert (change.step, change.task_id) == (2, "task2")
    assert "where task1 was planned" in change.reason
    with pytest.raises(DataError, match="ended before 'task2'"):
        engine.run_curriculum(curriculum, "fake", planner=Hasty(stop=True))


def test_observers_hear_every_step_of_every_training_and_may_stop_it(registry: Registry, tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []

    @component
    class Stops(Observer):
        """Stops each training at its third step."""

        def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> bool | None:
            heard.append((stage, metrics["task"]))
            assert math.isfinite(metrics["losses"][metrics["task"]])
            return step == 3

    with TransferEngine(
        registry=registry, discoverers=[], model=ModelSpec(hidden=(8,)), train=TRAIN, budget=FEW, seeds=1,
        observers=[Stops()], store=tmp_path / "s.db",
    ) as engine:  # fmt: skip
        engine.register_task(blobs("a"))
        engine.train()
        assert list(engine.store.entries("models")) == [], "what was cut short is not another run's"  # type: ignore[union-attr]
        assert heard == [("train", "a")] * 3
        heard.clear()
        engine.register_task(blobs("b", seed=1))
        engine.transfer_knowledge("a", "b", "fake")
        assert heard == [("", "b")] * 6, "the control and the transfer, three steps each"
