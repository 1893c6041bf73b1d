"""The stage: what it refuses before any work, what it measures, what goes into the graph, what it shows."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask import Portfolio, Task, TransferEngine
from crosstask.errors import DataError, GraphError, OptionError, RecipeError, RunError
from crosstask.graph import Evidence, TransferGraph
from crosstask.options import build, component, structure, unstructure
from crosstask.points.wrapper import Wrapper
from crosstask.records import LearningCurve
from crosstask.testing import reference_registry
from crosstask_reinforcement.records import ReinforcementResult
from crosstask_reinforcement.stage import Reinforcement
from crosstask_reinforcement.tasks import ControlTask, Environments, control_tasks
from crosstask_reinforcement.testing import REFERENCE, ReferenceAgent, corridor_portfolio, corridors
from crosstask_reinforcement.training import Trained
from crosstask_reinforcement.transfer import edge_of, measured_transfer
from crosstask_reinforcement.worlds import CartPoleWorld, GymnasiumWorld, Named, SwingUpWorld

KNOWN = reference_registry(REFERENCE)
SMALL: dict[str, Any] = {
    "steps": 4000, "evaluate_every": 600, "episodes": 6, "sources": ["right"], "targets": ["left"],
    "transfer_steps": 2400, "transfer_every": 200,
}  # fmt: skip


def engine(*tasks: Task, seeds: int = 2, **given: Any) -> TransferEngine:
    made = TransferEngine(registry=KNOWN, discoverers=[], seeds=seeds, **given)
    made.register(Portfolio(tasks) if tasks else corridor_portfolio())
    return made


def plain_task() -> Task:
    return Task(descriptor="plain", train=(torch.rand(6, 2), torch.tensor([0, 1] * 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["rigth"]}, "tasks: no task 'rigth' with an environment; did you mean 'right'"),
        ({"sources": ["plain"]}, "sources: no task 'plain' with an environment"),
        ({"targets": ["up"]}, "targets: no task 'up' with an environment"),
        ({"steps": 10}, "steps: 10 do not suffice for one in each of 8 copies"),
        ({"transfer_steps": 5}, "transfer_steps: 5 do not suffice"),
        ({"sources": ["right"], "targets": ["unsaid"]}, "transfer_return: task 'unsaid' does not say"),
        ({"agent": "refrence"}, "did you mean 'reference'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    unsaid = attrs.evolve(
        corridors()["left"], solved=None, descriptor=attrs.evolve(corridors()["left"].descriptor, task_id="unsaid")
    )
    tasks = [*corridor_portfolio(), plain_task(), ControlTask.of(unsaid)]
    with engine(*tasks) as made, pytest.raises(RecipeError, match=message):
        made.run_stage("reinforcement", **options)


def test_without_environments_there_is_nothing_to_learn() -> None:
    with pytest.raises(RecipeError, match="no task with an environment; source 'environments' loads some"):
        Reinforcement().check(Portfolio([plain_task()]))
    with pytest.raises(OptionError, match="unknown option 'step'; did you mean 'steps'"):
        build(Reinforcement, {"step": 1}, "reinforcement")


def test_tasks_learned_together_and_transfer_measured(tmp_path: Path) -> None:
    found = []
    for _ in range(2):  # the second time everything is remembered
        with engine(store=f"{tmp_path}/store.db") as made:
            outcome = made.run_stage("reinforcement", **SMALL)
            found.append((outcome.record, outcome.artifacts["model"]))
            edge = made.graph.edge("right", "left")
            names = [task.task_id for task in control_tasks(made.portfolio)]
    result: ReinforcementResult = found[0][0]
    assert attrs.evolve(result, seed=0) == attrs.evolve(found[1][0], seed=0)  # the seconds of the first, too
    pairs = zip(found[0][1].parameters(), found[1][1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert result.tasks == tuple(names) == ("right", "left")
    assert (result.agent, result.all_solved, result.levels) == ("reference", 2, {"right": 0.9, "left": 0.9})
    assert result.solved == {"right": 2, "left": 2}
    assert result.returns["left"].mean >= 0.9
    assert all(each is not None and each <= 4000 for each in result.steps_to_solve.values())
    assert result.trained[0].seed != result.trained[1].seed
    (measured,) = result.transfers
    assert (measured.source, measured.target, measured.level, measured.budget) == ("right", "left", 0.9, 2400)
    assert measured.taken == ("shared.weight", "shared.bias")
    assert len(measured.steps) == len(measured.scratch_steps) == 2
    assert edge is not None
    assert edge.evidence is Evidence.MEASURED
    assert edge.found_by == "reinforcement"
    assert edge.transfer_coefficient == measured.coefficient.mean
    (model,) = {type(each[1]).__name__ for each in found}
    assert model == "ReferenceNetwork"
    assert not found[0][1].training


def test_a_reversed_task_s_whole_network_is_negative_transfer_and_its_own_is_not() -> None:
    """Walking to the right does not help to walk to the left, but from its own weights a task is solved at once."""
    again = attrs.evolve(
        corridors()["right"], descriptor=attrs.evolve(corridors()["right"].descriptor, task_id="again")
    )
    with engine(*corridor_portfolio(), ControlTask.of(again), seeds=2) as made:
        given = {
            **SMALL,
            "tasks": ["right"],
            "targets": ["again", "left"],
            "transferred": "network",
        }
        found = {m.target: m for m in made.run_stage("reinforcement", **given).record.transfers}
    assert found["again"].steps == (0, 0)
    assert found["again"].coefficient.mean == 1
    assert found["again"].speed_capped
    assert found["again"].speed_gain is not None
    assert found["left"].coefficient.mean < 0
    assert len(found["left"].taken) == 4


def test_wrappers_hear_the_agent() -> None:
    heard = []

    class Listening(Wrapper):
        def learn(self) -> Any:
            heard.append(self.context.called.name if self.context.called else "")
            return (yield)

    from crosstask.components import hookimpl

    Listening.learn = hookimpl(wrapper=True)(Listening.learn)  # type: ignore[method-assign]
    small = {"steps": 200, "evaluate_every": 100, "episodes": 2}
    with engine(seeds=1) as made:
        plain = made.run_stage("reinforcement", **small).record
    with engine(seeds=1) as made:
        made.run.add(Listening())
        wrapped = made.run_stage("reinforcement", **small).record
        again = made.run_stage("reinforcement", **small).record
    assert set(heard) == {"reference"}
    assert attrs.evolve(wrapped.trained[0], seconds=0) == attrs.evolve(plain.trained[0], seconds=0)
    assert again == wrapped


def test_pairs_follow_from_what_is_named() -> None:
    tasks = [ControlTask.of(each) for each in corridors().values()]
    pairs = {
        ("right",): {("right", "left"), ("right", "wide")},
        (): {("right", "left"), ("wide", "left")},
    }
    for sources, wanted in pairs.items():
        stage = Reinforcement(sources=sources, targets=() if sources else ("left",))
        assert {(s.task_id, t.task_id) for s, t in stage._pairs(Portfolio(tasks))} == wanted
    assert Reinforcement()._pairs(Portfolio(tasks)) == []


def trained(steps: tuple[int, ...], values: tuple[float, ...], seed: int = 0) -> Trained:
    curve = {"b": LearningCurve(steps=steps, values=values)}
    return Trained(curves=curve, collected={}, solved_at={"b": None}, steps=steps[-1], seconds=0, seed=seed)


def test_the_share_of_steps_that_a_source_saves() -> None:
    """100 instead of 400 steps save 3/4; 800 instead of 200 lose as much; what is never reached takes the budget."""
    quick, slow = trained((0, 100, 200), (0, 9, 9)), trained((100, 400), (0, 9))
    late, soon = trained((0, 200, 800), (0, 0, 9), 1), trained((100, 200), (0, 9), 1)
    found = measured_transfer("a", "b", 5, 1000, [quick, late], [slow, soon])
    assert (found.steps, found.scratch_steps) == ((100, 800), (400, 200))
    assert found.coefficient.values == (0.75, -0.75)
    assert found.speed_gain == pytest.approx(1.0)
    assert not found.speed_capped
    never = trained((100, 200), (0, 0))
    helped = measured_transfer("a", "b", 5, 1000, [quick], [never])
    assert helped.coefficient.mean == pytest.approx(0.9)
    assert (helped.speed_gain, helped.speed_capped) == (pytest.approx(10), True)
    edge = edge_of(helped, "reinforcement")
    assert (edge.speed_capped, edge.uncertainty) == (True, 1.0)
    neither = measured_transfer("a", "b", 5, 1000, [never], [never])
    assert (neither.coefficient.mean, neither.speed_gain, neither.speed_capped) == (0.0, None, False)
    for pair in (([], []), ([quick], [soon])):
        with pytest.raises(DataError, match="a control from scratch for each seed"):
            measured_transfer("a", "b", 5, 1000, *pair)
    with pytest.raises(GraphError, match="to itself"):
        edge_of(attrs.evolve(helped, target="a"), "x")


def test_what_is_shown() -> None:
    with engine(seeds=1) as made:
        result = made.run_stage("reinforcement", **{**SMALL, "solved": 2.0, "steps": 600, "transfer_steps": 400}).record
    rows = Reinforcement.summary(result)
    assert rows["all_tasks_solved"] == "in 0 of 1 seeds"
    assert rows["best_transfer"] == "right -> left"
    assert "steps_until_all_solved" not in rows
    read = structure(unstructure(result), ReinforcementResult, "result")
    assert read == result
    assert result.notes == (
        "In no seed was solved at the end: right, left.",
        "From right to left the return was reached in no seed, with or without the source.",
    )
    together, transfer = Reinforcement.sections(read, TransferGraph())
    assert (together.title, transfer.title) == ("Reinforcement learning", "Transfer by acting")
    for text in ("all solved in 0 of 1 seeds", "environment steps", "In no seed was solved"):
        assert text in together.html
    for text in ("what tasks share", "Transfer matrix", "right → left", "never"):
        assert text in transfer.html
    solved = attrs.evolve(
        result.trained[0], solved_at={"right": 100, "left": 300}, curves=dict(result.trained[0].curves)
    )
    fine = attrs.evolve(result, trained=(solved,), transfers=(), notes=(), transferred="network")
    assert Reinforcement.summary(fine)["steps_until_all_solved"] == 300
    assert len(Reinforcement.sections(fine, TransferGraph())) == 1
    assert "all solved in 1 of 1" in fine._headline()
    assert fine._rows()[0]["task"] == "right"
    curve = result.mean_curve("left", points=3)
    assert len(curve.values) == 3


def test_weights_that_are_not_finite_are_no_result() -> None:
    @component
    class Overflows(ReferenceAgent):
        def learn(self, rollout: Any, generator: torch.Generator) -> dict[str, float]:
            with torch.no_grad():
                self.network.heads.fill_(-torch.inf)
            return {}

        def act(self, situation: Any, explore: bool, generator: torch.Generator) -> Any:
            return super().act(situation, False, generator)

    with engine(seeds=1) as made, pytest.raises(RunError, match="weights are not finite after training"):
        made.run_stage("reinforcement", agent=Overflows(), steps=400)


def test_environments_as_a_source() -> None:
    source = Environments(world="corridors", tasks=["left", "wide"])
    with engine() as made:
        source.bind(made.run)
        portfolio = source.load()
        with pytest.raises(DataError, match="has no 'lfet'; did you mean 'left'"):
            made.component(Environments, "source", "environments", {"world": "corridors", "tasks": ["lfet"]}).load()
    assert portfolio.ids == ["left", "wide"]
    one, other = portfolio
    assert isinstance(one, ControlTask)
    assert one.descriptor.output_dim == 2
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == ControlTask.of(corridors()["left"]).fingerprint()
    assert ControlTask.of(attrs.evolve(one.environment, limit=9)).fingerprint() != one.fingerprint()

    class Strange:
        __slots__ = ()

        def __call__(self) -> Any:
            return None

        def __reduce__(self) -> Any:
            raise TypeError("no")

    nobody = [ControlTask.of(attrs.evolve(one.environment, make=Strange())) for _ in range(2)]
    assert isinstance(nobody[0].fingerprint(), str)


def test_worlds_say_what_is_wrong() -> None:
    with pytest.raises(OptionError, match="no task 'acrobat'; did you mean 'acrobot'"):
        SwingUpWorld(tasks=["acrobat"]).environments()
    for own, message in (
        (Named(id="CartPool-v1"), "cannot be made: .*CartPool"),
        (Named(id="CartPole-v1", attributes={"gravitty": 1}), "CartPole-v1 has no attribute 'gravitty'"),
        (Named(id="Pendulum-v1"), "observations must be vectors and actions discrete"),
    ):
        with pytest.raises(DataError, match=message):
            GymnasiumWorld(tasks={"a": own}).environments()
    found = GymnasiumWorld(tasks={"a": Named(id="CartPole-v1"), "b": Named(id="MountainCar-v0", solved=-150)})
    made = found.environments()
    assert (made["a"].limit, made["a"].solved, made["b"].solved) == (500, 475, -150)
    assert made["b"].space.actions == 3
    assert len(CartPoleWorld().environments()) == 6


def test_a_gymnasium_environment_without_an_end_needs_a_limit() -> None:
    import gymnasium

    from crosstask_reinforcement.testing import Corridor

    gymnasium.register("crosstask/Endless-v0", entry_point=Corridor)
    try:
        with pytest.raises(DataError, match="has no end: say a limit"):
            GymnasiumWorld(tasks={"a": Named(id="crosstask/Endless-v0")}).environments()
        (one,) = GymnasiumWorld(tasks={"a": Named(id="crosstask/Endless-v0")}, limit=7).environments().values()
    finally:
        gymnasium.registry.pop("crosstask/Endless-v0")
    assert (one.limit, one.solved) == (7, None)


def test_the_recipe_names_what_is_installed() -> None:
    recipe = tomllib.loads(files("crosstask_reinforcement").joinpath("recipes/reinforcement.toml").read_text("utf-8"))
    made = build(Reinforcement, recipe["reinforcement"], "reinforcement")
    world = build(CartPoleWorld, {k: v for k, v in recipe["source"]["world"].items() if k != "use"}, "world")
    assert set(recipe["source"]["tasks"]) <= set(world.environments())
    assert set(made.sources) | set(made.targets) <= set(recipe["source"]["tasks"])
    assert set(recipe["requires"]) == {"crosstask-reinforcement", "crosstask-policy-gradient"}
