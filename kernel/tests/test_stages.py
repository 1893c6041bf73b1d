"""One stage: what it is made of, what it must give, what is kept of it, and what makes it work again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import nn

from crosstask import Budget, ModelSpec, PluginError, Registry, TransferEngine
from crosstask.options import component, option, record
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.stages import KIND, Finished, run_stage
from crosstask.store import open_store
from crosstask.testing import blobs
from crosstask_fakes.choosers import First
from crosstask_fakes.components import FakeObserver, FakeWrapper
from crosstask_fakes.registry import with_fakes
from crosstask_fakes.stages import FakePrepare, FakeWild, Grown, Told


class Session:
    """Engines one after the other that share a store, as the runs of one folder do."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store.db"
        self.observer = FakeObserver()

    @property
    def heard(self) -> list[str]:
        """The stages that worked in the last engine."""
        return [stage for what, stage in self.observer.heard if what == "stage_started"]

    def run(
        self,
        *stages: tuple[str, dict[str, Any]],
        registry: Registry | None = None,
        prepare: Callable[[TransferEngine], object] = lambda engine: None,
        **given: Any,
    ) -> list[Outcome]:
        """What these stages come to in a new engine."""
        self.observer = FakeObserver()
        known = {"model": ModelSpec(hidden=(8,)), "train": Budget(steps=4), "seeds": 2, "discoverers": []}
        observers = [self.observer, *given.pop("observers", ())]
        with TransferEngine(
            registry=registry or with_fakes(), store=self.store, observers=observers, **{**known, **given}
        ) as engine:
            for number in range(2):
                engine.register_task(blobs(f"task{number}", seed=number))
            prepare(engine)
            return [engine.run_stage(name, **options) for name, options in stages]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


PREPARE: tuple[str, dict[str, Any]] = ("prepare", {})


def test_every_kind_of_artifact_comes_back_from_the_store(session: Session) -> None:
    (first,) = session.run(PREPARE)
    assert session.heard == ["prepare"]
    (again,) = session.run(PREPARE)
    assert session.heard == [], "it did not work again"
    assert again.record == first.record
    assert list(again.artifacts) == list(first.artifacts) == ["model", "centre", "means", "names", "told"]
    inputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    one, other = first.artifacts["model"], again.artifacts["model"]
    assert isinstance(other, nn.Module)
    assert other is not one
    assert torch.equal(one(inputs), other(inputs)), "its weights are those of then, not those that rebuild draws"
    assert torch.equal(again.artifacts["centre"], first.artifacts["centre"])
    assert list(again.artifacts["means"]) == ["task0", "task1"]
    for name, mean in first.artifacts["means"].items():
        assert torch.equal(again.artifacts["means"][name], mean)
    assert again.artifacts["names"] == ("task0", "task1")
    assert again.artifacts["told"] == Told(task="task0", figures=(0.5, 0.25))


def test_weights_are_kept_as_safetensors_and_the_rest_as_json(session: Session) -> None:
    session.run(PREPARE)
    store = open_store(str(session.store))
    ((key, payload),) = store.entries(KIND)
    kept = store.get(KIND, key)
    store.close()
    assert kept is not None
    assert payload["artifacts"]["names"] == {"plain": ["task0", "task1"]}
    assert payload["artifacts"]["model"] == {"kind": "module"}
    assert payload["artifacts"]["centre"] == {"kind": "tensor"}
    assert payload["artifacts"]["means"] == {"kind": "tensors", "names": ["task0", "task1"]}
    assert {name.partition("/")[0] for name in kept.tensors} == {"model", "centre", "means"}


def test_what_a_restored_stage_provides_can_be_referred_to(session: Session) -> None:
    chain = (PREPARE, ("measure", {"model": {"from": "prepare"}, "chosen": {"from": "prepare", "take": "names"}}))
    first = session.run(*chain)
    assert session.heard == ["prepare", "train", "measure"]
    again = session.run(*chain)
    assert session.heard == [], "not even the tasks' models were trained"
    assert again[1].record == first[1].record
    dropped = ("measure", {"model": {"from": "prepare"}})
    session.run(PREPARE, dropped)
    assert session.heard == ["train", "measure"], "another measure, on what was restored"


def test_a_module_that_cannot_be_made_again_makes_its_stage_work_again(session: Session) -> None:
    (first,) = session.run(("wild", {"size": 3}))
    (again,) = session.run(("wild", {"size": 3}))
    assert session.heard == ["wild"]
    assert again.record == first.record
    assert torch.equal(again.artifacts["drawn"], first.artifacts["drawn"])
    assert torch.equal(again.artifacts["net"].weight, first.artifacts["net"].weight)


@record
class Otherwise:
    """A result as a later release may have it."""

    subject: str = ""
    task: str = ""


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("Result", Otherwise),
        ("provides", {**FakePrepare.provides, "told": int}),
        ("provides", {key: kind for key, kind in FakePrepare.provides.items() if key != "names"}),
        ("rebuild", lambda self, engine, name, result: nn.Linear(3, 3)),
    ],
)
def test_a_stage_works_again_where_its_plugin_cannot_read_what_it_stored(
    session: Session, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any
) -> None:
    """A release that changed the record forgot to raise `results_version`: that must not end a run."""
    session.run(PREPARE)
    monkeypatch.setattr(FakePrepare, attribute, value)
    with contextlib.suppress(PluginError):  # the fake's `work` still gives what it gave before
        session.run(PREPARE)
    assert session.heard == ["prepare"]


def test_a_stage_that_changes_the_engine_works_again(session: Session) -> None:
    look = ("look", {"discoverers": ["fake"]})
    seen: list[int] = []
    for _ in range(2):
        (found,) = session.run(look, prepare=lambda engine: seen.append(len(list(engine.graph.edges()))))
        assert found.record.edges == 2
    assert seen == [0, 0]
    store = open_store(str(session.store))
    assert list(store.entries(KIND)) == []
    store.close()


@record
class Held:
    """A result."""

    size: int = 0


@component
class Holds(Stage):
    """Gives what it is told to."""

    Result: ClassVar[type] = Held
    provides: ClassVar[dict[str, Any]] = {"thing": object, "tensors": dict[str, torch.Tensor]}
    results_version: ClassVar[int] = 1
    answer: Any = option(None, help="what work returns")
    worked: ClassVar[list[str]] = []

    def work(self, engine: Engine) -> Outcome:
        self.worked.append("x")
        return self.answer(engine) if callable(self.answer) else self.answer  # type: ignore[no-any-return]


def held(answer: object, **given: Any) -> Outcome:
    """What a stage that gives this comes to, in an engine of its own."""
    Holds.worked.clear()
    with TransferEngine(registry=with_fakes(), discoverers=[], **given) as engine:
        engine.register_task(blobs("task0"))
        stage = Holds(answer=answer)
        return run_stage(engine, stage, "holds", Finished())


class Strange:
    """Nothing that JSON or tensors can hold."""


def test_an_artifact_that_cannot_be_kept_makes_its_stage_work_again(tmp_path: Path) -> None:
    class Kept(Strange):
        """Of the kind that is provided."""

    def give(engine: Engine) -> Outcome:
        return Outcome(Held(size=1), {"thing": Kept()})

    store = tmp_path / "s.db"
    real = Holds.provides
    try:
        Holds.provides = {"thing": Strange}
        for _ in range(2):
            assert isinstance(held(give, store=store).artifacts["thing"], Strange)
            assert Holds.worked == ["x"]
    finally:
        Holds.provides = real


def test_a_stage_without_artifacts_and_one_with_empty_ones_are_kept(tmp_path: Path) -> None:
    for name, given in (("none", {}), ("empty", {"tensors": {}})):
        outcome, store = Outcome(Held(size=2), given), tmp_path / f"{name}.db"
        assert held(outcome, store=store).artifacts == given
        assert Holds.worked == ["x"]
        again = held(outcome, store=store)
        assert (again.record, dict(again.artifacts)) == (Held(size=2), given)
        assert Holds.worked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "stage Holds: work must return a Outcome, got nothing"),
        (Held(), "stage Holds: work must return a Outcome, got a Held"),
        (Outcome(Grown(size=1)), "stage Holds: work must return a Held as its record, got Grown"),
        (Outcome({"size": 1}), "stage Holds: work must return a Held as its record, got dict"),
        (
            Outcome(Held(), {"thin": 1}),
            "stage Holds: gave 'thin', which it does not provide; did you mean 'thing'? Valid: tensors, thing",
        ),
    ],
)
def test_what_a_stage_must_not_give(answer: object, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        held(answer)
    assert str(caught.value) == said


def test_a_record_must_survive_being_written() -> None:
    @attrs.frozen
    class Lossy(Held):
        """Forgets how it is written."""

        def __unstructure__(self) -> dict[str, Any]:
            return {"szie": self.size}

    with pytest.raises(
        PluginError, match="stage Holds: its record does not survive being written: record: unknown opt"
    ):
        held(Outcome(Lossy(size=1)))


def test_a_stage_that_does_not_keep_what_it_promised_is_blamed_where_it_is_needed(session: Session) -> None:
    with pytest.raises(PluginError, match="stage 'prepare' gave no 'model' in this run; valid: centre"):
        session.run(("prepare", {"withhold": "model"}), ("measure", {"model": {"from": "prepare"}}))
    with pytest.raises(PluginError, match=r"stage 'perpare' has not run; did you mean 'prepare'"):
        Finished({"prepare": Outcome(None)}).take("perpare", "model")


# What makes a stage work again ----------------------------------------------------------------------------------------


def changed_data(engine: TransferEngine) -> None:
    engine.register_task(blobs("task2", seed=5))


def added_edge(engine: TransferEngine) -> None:
    engine.discover(["fake"])


CHANGES: dict[str, dict[str, Any]] = {
    "an option": {"stages": [("prepare", {"scale": 2.0})]},
    "a component that it is made of": {"stages": [("prepare", {"chooser": "last"})]},
    "an option of that": {"stages": [("prepare", {"chooser": {"use": "first", "share": 0.5}})]},
    "another stage before it": {"stages": [("wild", {}), PREPARE]},
    "the seed": {"seed": 1},
    "how often": {"seeds": 3},
    "the network": {"model": ModelSpec(hidden=(9,))},
    "a budget": {"train": Budget(steps=5)},
    "the transfer method": {"transfer": {"fail_on": "task9"}},
    "a wrapper": {"observers": [FakeWrapper()]},
    "the tasks": {"prepare": changed_data},
    "the graph": {"prepare": added_edge},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_works_again_when_what_determines_it_changes(session: Session, change: str) -> None:
    given = dict(CHANGES[change])
    if "transfer" in given:
        given["transfer"] = with_fakes().create("transfer", "fake", given["transfer"])
    session.run(PREPARE)
    session.run(*given.pop("stages", [PREPARE]), **given)
    assert "prepare" in session.heard
    session.run(PREPARE)
    assert session.heard == [], "and the first is still there"


@pytest.mark.parametrize("owner", [FakePrepare, First])
def test_a_stage_works_again_when_its_code_gives_other_results(
    session: Session, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    session.run(PREPARE)
    monkeypatch.setattr(owner, "results_version", 2)
    session.run(PREPARE)
    assert session.heard == ["prepare"]


def test_a_new_release_measures_nothing_again(session: Session) -> None:
    session.run(PREPARE)
    session.run(PREPARE, registry=with_fakes(version="9.9"))
    assert session.heard == []


def test_a_module_that_is_given_in_python_counts_with_its_weights(session: Session) -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 3))

    with torch.random.fork_rng():
        for model, worked in ((net(0), True), (net(0), False), (net(1), True), (net(1).double().float(), False)):
            session.run(("measure", {"model": model}))
            assert ("measure" in session.heard) is worked
        centres = (torch.zeros(2), torch.zeros(2), torch.ones(2))
        for centre, worked in zip(centres, (True, False, True), strict=True):
            session.run(("measure", {"centre": centre}))
            assert ("measure" in session.heard) is worked


def test_a_stage_finds_what_it_is_made_of_in_its_run_and_nowhere_else(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: pytest.fail("asked for")))
    with TransferEngine(registry=with_fakes(), discoverers=[], model=ModelSpec(hidden=(8,))) as engine:
        engine.register_task(blobs("task0"))
        stage = FakePrepare(chooser="last")
        found = run_stage(engine, stage, "prepare", Finished())
        assert stage.made_of("chooser")[0].context is engine.run
    assert found.artifacts["names"] == ("task0",)


def test_a_rebuilt_module_is_on_the_device_of_the_run(session: Session) -> None:
    moved: list[str] = []

    class Moves(nn.Linear):
        def to(self, device: Any) -> nn.Module:  # type: ignore[override]
            moved.append(str(device))
            return self

    class Elsewhere(FakeWild):
        def rebuild(self, engine: Engine, name: str, result: Grown) -> nn.Module:
            return Moves(1, 1, bias=False)

        def work(self, engine: Engine) -> Outcome:
            net = nn.Linear(1, 1, bias=False)
            return Outcome(Grown(size=1), {"net": net})

    for _ in range(2):
        with TransferEngine(registry=with_fakes(), discoverers=[], store=session.store) as engine:
            engine.register_task(blobs("task0"))
            run_stage(engine, Elsewhere(), "elsewhere", Finished())
    assert moved == ["cpu"]
