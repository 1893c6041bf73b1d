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

from crosstask import Budget, ModelSpec, PluginError, Portfolio, Registry, TransferEngine
from crosstask.manifest import Plugin
from crosstask.options import component, option, record
from crosstask.parts import reference
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.run import Run
from crosstask.stages import KIND, Finished, check_stage, run_stage, summary_of
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
    assert payload["artifacts"]["model"] == {"kind": "module", "frozen": [], "resting": []}
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
        (Outcome(Held(), ["thing"]), "stage Holds: its artifacts must be a mapping, got a list"),  # type: ignore[arg-type]
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


# What later stages, and resumed runs, must see as it was --------------------------------------------------------------


def test_a_record_holds_nothing_of_which_json_keeps_the_name_only() -> None:
    @record
    class Loose(Held):
        """Takes anything."""

        told: Any = None

    class Gives(Holds):
        Result: ClassVar[type] = Loose

    stage = Gives(answer=Outcome(Loose(told={"at": [Strange()]})))
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(blobs("task0"))
        with pytest.raises(PluginError, match="its record holds a Strange, which cannot be written as JSON"):
            run_stage(engine, stage, "gives", Finished())


def test_plain_artifacts_that_come_back_otherwise_are_not_kept(tmp_path: Path) -> None:
    things = [Strange(), {1: 2}, {"x": float("inf")}, (1, 2), torch.zeros(1, dtype=torch.complex128)]
    things += [torch.zeros(1, device="meta"), torch.eye(2).to_sparse()]
    for number, thing in enumerate(things):
        for _ in range(2):
            held(lambda engine, given=thing: Outcome(Held(), {"thing": given}), store=tmp_path / f"{number}.db")
            assert Holds.worked == ["x"], f"{thing!r} was kept"


@component
class Built(Stage):
    """Gives a module that is frozen in part, or of another type than is built."""

    Result: ClassVar[type] = Held
    provides: ClassVar[dict[str, Any]] = {"net": nn.Module}
    double: bool = option(False, help="of twice the precision")
    worked: ClassVar[list[str]] = []

    def work(self, engine: Engine) -> Outcome:
        self.worked.append("x")
        net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        net[0].requires_grad_(False)
        net[1].eval()
        return Outcome(Held(), {"net": net.double() if self.double else net})

    def rebuild(self, engine: Engine, name: str, result: Held) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Dropout())


def built(store: Path, stage: Stage) -> nn.Module:
    Built.worked.clear()
    with TransferEngine(registry=with_fakes(), discoverers=[], store=store) as engine:
        engine.register_task(blobs("task0"))
        net: nn.Module = run_stage(engine, stage, "built", Finished()).artifacts["net"]
    return net


def test_a_module_comes_back_with_its_type_and_with_what_was_frozen(tmp_path: Path) -> None:
    for _ in range(2):
        net = built(tmp_path / "s.db", Built())
        assert [weight.requires_grad for weight in net.parameters()] == [False, False]
        assert [inside.training for inside in net.modules()] == [True, True, False]
    assert Built.worked == []
    for _ in range(2):
        assert next(built(tmp_path / "s.db", Built(double=True)).parameters()).dtype is torch.float64
        assert Built.worked == ["x"], "rebuilt in single precision it would be another"


def test_a_module_whose_making_fails_makes_its_stage_work_again(tmp_path: Path) -> None:
    class Fails(Built):
        def rebuild(self, engine: Engine, name: str, result: Held) -> nn.Module:
            raise ValueError("cannot")

    built(tmp_path / "s.db", Fails())
    with pytest.warns(RuntimeWarning, match=r"what it stored cannot be made again \(ValueError: cannot\)"):
        built(tmp_path / "s.db", Fails())
    assert Built.worked == ["x"]


@component
class Trains(Stage):
    """Changes, in place, what it is given."""

    Result: ClassVar[type] = Held
    net: nn.Module | None = reference(nn.Module, help="which is changed")

    def work(self, engine: Engine) -> Outcome:
        weight = next(self.referred("net").parameters())
        with torch.no_grad():
            weight.add_(1)
        return Outcome(Held(size=int(weight.flatten()[0])))


def test_who_trains_what_another_stage_provides_does_not_change_it_for_the_next() -> None:
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    finished = Finished({"made": Outcome(Held(), {"net": net})}, {"made": "key"})
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(blobs("task0"))
        for name in ("one", "two"):
            stage = Trains(net={"from": "made", "take": "net"})
            assert run_stage(engine, stage, name, finished).record == Held(size=1)
    assert net.weight.tolist() == [[0.0]]


def test_what_is_of_another_type_than_promised_is_blamed_on_who_gave_it() -> None:
    finished = Finished({"made": Outcome(Held(), {"net": "a word"})}, {"made": "key"})
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(blobs("task0"))
        with pytest.raises(PluginError, match="one: net: 'net' of stage 'made' must be a Module, got 'a word'"):
            run_stage(engine, Trains(net={"from": "made", "take": "net"}), "one", finished)


def test_what_a_stage_provides_is_as_it_was_when_it_finished() -> None:
    finished, given = Finished(), torch.zeros(1)
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(blobs("task0"))
        run_stage(engine, Holds(answer=Outcome(Held(), {"thing": given})), "holds", finished)
    given.add_(1)
    assert float(finished.take("holds", "thing")) == 0


def test_a_stage_that_changes_the_engine_and_does_not_say_so_is_not_kept(tmp_path: Path) -> None:
    def graph(engine: Engine) -> Outcome:
        engine.discover(["fake"])
        return Outcome(Held(size=1))

    def model(engine: Engine) -> Outcome:
        with torch.no_grad():
            next(engine.portfolio["task0"].model.parameters()).add_(1)  # type: ignore[union-attr]
        return Outcome(Held(size=1))

    def trains(engine: Engine) -> Outcome:
        engine.train()
        return Outcome(Held(size=1))

    def given(work: Callable[[Engine], Outcome]) -> list[str]:
        Holds.worked.clear()
        with TransferEngine(registry=with_fakes(), discoverers=[], store=tmp_path / "s.db") as engine:
            for number in range(2):
                engine.register_task(blobs(f"task{number}", seed=number), nn.Linear(2, 3) if work is model else None)
            run_stage(engine, Holds(answer=work), "h", Finished())
        return list(Holds.worked)

    for work in (graph, model):
        for _ in range(2):
            torch.manual_seed(0)
            with pytest.warns(RuntimeWarning, match="stage Holds: work changed the engine"):
                assert given(work) == ["x"]
    assert (given(trains), given(trains)) == (["x"], []), "to train models that are not there yet is no change"


def test_which_stage_is_referred_to_counts_and_not_only_its_name(session: Session) -> None:
    """Two stages change their names: the same stages have run, but another is referred to."""
    found = []
    for first, second in (("a", "b"), ("b", "a")):
        finished = Finished()
        observer = FakeObserver()
        with TransferEngine(
            registry=with_fakes(), store=session.store, discoverers=[], observers=[observer], seeds=2
        ) as engine:
            engine.register_task(blobs("task0"))
            for name, scale in ((first, 1.0), (second, 5.0)):
                stage = engine.component(Stage, "stage", "prepare", {"scale": scale})  # type: ignore[type-abstract]
                run_stage(engine, stage, name, finished)
            taken = Trains(net={"from": "a", "take": "model"})
            run_stage(engine, taken, "trains", finished)
            found.append(next(finished.take("a", "model").parameters()).flatten()[0].item())
            assert next(taken.referred("net").parameters()).flatten()[0].item() != found[-1], "it worked"
    assert found[1] == pytest.approx(5 * found[0])


def test_the_order_of_tasks_and_which_are_held_back_count(tmp_path: Path) -> None:
    def worked(*names: str, unseen: str = "") -> list[str]:
        Holds.worked.clear()
        with TransferEngine(registry=with_fakes(), discoverers=[], store=tmp_path / "s.db") as engine:
            for name in names:
                engine.register_task(blobs(name), unseen=name == unseen)
            run_stage(engine, Holds(answer=Outcome(Held())), "holds", Finished())
        return list(Holds.worked)

    assert worked("a", "b") == ["x"]
    assert worked("a", "b") == []
    assert worked("b", "a") == ["x"]
    assert worked("a", "b", unseen="b") == ["x"]


def test_modules_functions_and_infinite_numbers_that_are_options_count(tmp_path: Path) -> None:
    @component
    class Told(Stage):
        """Takes anything."""

        Result: ClassVar[type] = Held
        told: Any = option(None, help="anything")

        def work(self, engine: Engine) -> Outcome:
            worked.append("x")
            return Outcome(Held())

    worked: list[str] = []
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    with TransferEngine(registry=with_fakes(), discoverers=[], store=tmp_path / "s.db") as engine:
        engine.register_task(blobs("task0"))
        values = [None, float("inf"), float("-inf"), (float("nan"),), one, two, nn.functional.relu, nn.functional.elu]
        for value in values:
            run_stage(engine, Told(told=value), "told", Finished())
            run_stage(engine, Told(told=value), "told", Finished())
    assert len(worked) == len(values)


# Foreign code ---------------------------------------------------------------------------------------------------------


def test_a_stage_never_ends_the_process() -> None:
    def leave(engine: Engine) -> Outcome:
        raise SystemExit(0)

    with pytest.raises(PluginError, match=r"stage Holds: work called sys\.exit\(0\)"):
        held(leave)


def test_a_check_that_fails_names_its_stage() -> None:
    class Checks(Holds):
        def check(self, portfolio: Portfolio) -> None:
            raise self.answer

    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        with pytest.raises(PluginError, match=r"stage Checks: check called sys\.exit\(0\)"):
            check_stage(Checks(answer=SystemExit(0)), engine, "checks")
        with pytest.raises(ZeroDivisionError) as caught:
            check_stage(Checks(answer=ZeroDivisionError("x")), engine, "checks")
    assert caught.value.__notes__ == ["in stage Checks: check"]


def test_a_summary_that_fails_is_a_row_that_says_so() -> None:
    class Sums(Holds):
        @classmethod
        def summary(cls, result: Any) -> dict[str, Any]:
            return result.rows  # type: ignore[no-any-return]

    (row,) = summary_of(Sums(), Held()).values()
    assert row == "failed: AttributeError: 'Held' object has no attribute 'rows'"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"after": "look"}, "Bad.after must be a tuple of stages' names, got 'look'"),
        ({"provides": ("net",)}, r"Bad.provides must be a mapping of names to types, got \('net',\)"),
        ({"__annotations__": {"before": int}}, "Bad: an option cannot be called 'before': every stage has it"),
        ({"__annotations__": {"keeps": bool}}, "Bad: an option cannot be called 'keeps': every stage has it"),
        ({"__annotations__": {"use": str}}, "Bad: an option cannot be called 'use': in a recipe"),
    ],
)
def test_what_a_stage_must_not_say(body: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        type("Bad", (Stage,), body)


def test_a_stage_says_before_any_work_which_record_it_gives() -> None:
    @component
    class Silent(Stage):
        """Says nothing."""

        def work(self, engine: Engine) -> Outcome:
            return Outcome(Held())

    class Loose(Silent):
        Result = dict

    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        for stage, got in ((Silent(), "None"), (Loose(), "<class 'dict'>")):
            with pytest.raises(PluginError, match=rf"must say which record it gives \(Result\), got {got}"):
                check_stage(stage, engine, "silent")


def test_who_takes_part_is_noted_and_what_was_taken_from_the_store_is_credited(registry: Registry) -> None:
    registry.register(Plugin("gone", [], api=(2, 0)), distribution="crosstask-gone", version="3.0")
    with Run(registry) as run:
        before = run.component("source", "fake", {"count": 1})
        with run.noting() as outer:
            with run.noting() as inner:
                run.call(before, "load")
            assert inner == {"crosstask-fakes 1.0"}, "though the run had it before"
            run.credit(["crosstask-gone", "crosstask-never"])
        assert outer == {"crosstask-fakes 1.0", "crosstask-gone 3.0"}
        assert inner == {"crosstask-fakes 1.0"}, "that is over"
        assert run.used() >= outer
        assert not any("never" in each for each in run.used()), "nothing of it is here"


def test_a_stage_that_was_kept_before_it_noted_who_took_part_is_read(session: Session) -> None:
    (first,) = session.run(PREPARE)
    store = open_store(str(session.store))
    ((key, payload),) = store.entries(KIND)
    kept = store.get(KIND, key)
    assert kept is not None
    assert payload["used"] == ["crosstask-fakes"]
    store.put(KIND, key, {k: v for k, v in payload.items() if k != "used"}, tensors=kept.tensors, replace=True)
    store.close()
    (again,) = session.run(PREPARE)
    assert session.heard == [], "it did not work again"
    assert again.record == first.record
