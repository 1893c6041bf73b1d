"""Components: made of others, bound to a run, with state that survives; context and run around them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from crosstask.components import Component, Job, check_answer, hook, hookimpl, hooks_of
from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, OptionError, PluginError
from crosstask.executors import SerialExecutor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.parts import Choice, Part, Reference, part, reference
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.testing import blobs
from crosstask_fakes.choosers import First, Last
from crosstask_fakes.contracts import Chooser
from crosstask_fakes.registry import with_fakes


@component
class Count(Chooser):
    """Counts its calls."""

    calls: int = state(0)

    def choose(self, tasks: list[str], most: int) -> list[str]:
        self.calls += 1
        return tasks[:1]


@component
class Twice(Chooser):
    """Asks its parts."""

    first: Part = part("chooser", required=True, help="asked always")
    more: tuple[Part, ...] = part("chooser", (), help="asked too")
    last: Part | None = part("chooser", None, help="asked if there is one")
    size: int = option(1, ge=1, help="of nothing")

    def choose(self, tasks: list[str], most: int) -> list[str]:
        chosen: list[str] = []
        for made in self.all_parts().values():
            for chooser in made:
                chosen += chooser.choose(tasks, most)
        return chosen


@component
class Usual(Chooser):
    """Asks what a manifest marks."""

    inner: Part = part("chooser", help="asked")

    def choose(self, tasks: list[str], most: int) -> list[str]:
        (inner,) = self.made_of("inner")
        found: list[str] = inner.choose(tasks, most)
        return found


@component
class Refers(Chooser):
    """Takes values, or what a stage provides."""

    model: nn.Module | None = reference(nn.Module, help="a network")
    names: tuple[str, ...] = reference(tuple[str, ...], ("a",), help="names")
    centre: torch.Tensor | None = reference(torch.Tensor, help="a point")

    def choose(self, tasks: list[str], most: int) -> list[str]:
        return list(self.referred("names"))


@component
class Divides(Wrapper):
    """Divides every coefficient."""

    by: float = option(2.0, gt=0, help="divisor")

    @hookimpl(wrapper=True)
    def transfer(self) -> Generator[None, Any, Any]:
        import attrs

        result = yield
        return attrs.evolve(result, convergence_speed_gain=1 / self.by)


ASKED: dict[str, Any] = {"tasks": ["a", "b"], "most": 2}


def own_registry() -> Registry:
    made = Registry()
    serial = Extension("executor", "serial", "crosstask.executors:SerialExecutor")
    made.register(Plugin("x", [serial], api=(2, 0)), distribution="x-dist", version="1")
    return made


# Parts ----------------------------------------------------------------------------------------------------------------


def test_parts_are_made_once_and_bound_to_the_run() -> None:
    whole = Twice(first=Count(), more=[Count(), Count()])
    with Run(own_registry()) as run:
        assert run.call(whole, "choose", **ASKED) == ["a", "a", "a"]
        assert whole.made_of("first")[0].context is run
        assert whole.made_of("first")[0] is whole.first
        assert whole.made_of("last") == []
    local = LocalContext()
    whole.bind(local)
    assert {made.context for made in whole.made_of("more")} == {local}


def test_parts_of_parts_and_their_state() -> None:
    def make() -> Twice:
        return Twice(first=Twice(first=Count()), last=Count())

    whole = make()
    whole.choose(**ASKED)
    whole.choose(**ASKED)
    saved = whole.state_dict()
    assert saved == {"first": [{"first": [{"calls": 2}], "more": [], "last": []}], "more": [], "last": [{"calls": 2}]}
    other = make()
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    sent = pickle.loads(pickle.dumps(whole))
    assert sent.state_dict() == saved
    with pytest.raises(PluginError, match="chooser Twice: state has 0 last, expected 1"):
        make().load_state_dict(saved | {"last": []})
    with pytest.raises(PluginError, match=r"state has \['calls'\], expected \['first', 'last', 'more'\]"):
        make().load_state_dict({"calls": 1})


def test_a_part_that_cannot_be_found_is_named_with_its_option(registry: Registry) -> None:
    whole = Twice(first="lost")
    whole.bind(LocalContext(registry=registry))
    with pytest.raises(PluginError, match=r"chooser Twice: first: no chooser named 'lost'; did you mean 'last'"):
        whole.choose(**ASKED)
    whole.bind(LocalContext(registry=own_registry()))
    with pytest.raises(PluginError, match="chooser Twice: first: unknown extension point 'chooser'"):
        whole.choose(**ASKED)


def test_a_part_that_is_not_named_is_the_one_that_a_manifest_marks(registry: Registry) -> None:
    usual = Usual()
    assert usual.inner == Choice(use="default")
    assert usual.options() == {"inner": {"use": "default", "options": {}}}
    with Run(registry) as run:
        assert run.call(usual, "choose", **ASKED) == ["a", "b"]
        assert usual.made_of("inner")[0].name == "first"
        usual_of_rival = Usual()
        registry.register(
            Plugin("r", [Extension("chooser", "mine", "crosstask_fakes.choosers:Last", default=True)], api=(2, 0))
        )
        with pytest.raises(
            PluginError, match="inner: several chooser are marked as the default: 'first' of crosstask-f"
        ):
            run.call(usual_of_rival, "choose", **ASKED)
    with pytest.raises(OptionError, match="Usual: inner must be a name, or a table with use"):
        Usual(inner=None)


def test_a_part_that_is_required_must_be_given() -> None:
    from crosstask.options import build

    with pytest.raises(OptionError, match="it: missing option 'first'"):
        build(Twice, {}, "it")


def test_resolve_takes_names_tables_and_objects(registry: Registry) -> None:
    context = LocalContext(registry=own_registry())
    assert context.resolve("executor", "serial").origin == "executor 'serial' (x-dist 1)"
    assert isinstance(context.resolve("executor", {"use": "serial"}), SerialExecutor)
    own = SerialExecutor()
    assert context.resolve("executor", own) is own
    assert own.context is context
    with pytest.raises(CrosstaskError, match="chooser must be a name, or a table with use"):
        context.resolve("chooser", own)
    assert LocalContext(registry=registry).resolve("chooser", {"use": "first", "share": 0.5}).options() == {
        "share": 0.5
    }


def test_options_and_origin_of_an_object() -> None:
    assert Twice(first="x", size=3).options() == {
        "first": {"use": "x", "options": {}},
        "more": [],
        "last": None,
        "size": 3,
    }
    assert (Count().origin, Count().offered_by) == ("chooser Count", "")
    assert Count().name.endswith("test_components:Count")


# References -----------------------------------------------------------------------------------------------------------


def test_a_reference_is_a_value_or_names_a_stage() -> None:
    net = nn.Linear(2, 2)
    given = Refers(model=net, names=["x", "y"])
    assert given.references() == {}
    assert (given.referred("model"), given.referred("names"), given.referred("centre")) == (net, ("x", "y"), None)
    linked = Refers(model={"from": "search"}, names={"from": "prepare", "take": "chosen"})
    assert {name: ref for name, (ref, _) in linked.references().items()} == {
        "model": Reference("search", "model"),  # of the option's own name
        "names": Reference("prepare", "chosen"),
    }
    assert {name: kind for name, (_, kind) in linked.references().items()} == {
        "model": nn.Module,
        "names": tuple[str, ...],
    }
    assert linked.options()["names"] == {"from": "prepare", "take": "chosen"}
    with pytest.raises(PluginError, match="chooser Refers: model refers to stage 'search', which has not run"):
        linked.referred("model")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"from": "search", "tak": "model"}, "model: a reference has no 'tak'; did you mean 'take'"),
        ({"from": 3}, "model: from must be a name, got 3"),
        ({"from": "search", "take": ["model"]}, r"model: take must be a name, got \['model'\]"),
        ({"take": "model"}, "model must be a Module, got {'take': 'model'}"),
        ("search.model", "model must be a Module, got 'search.model'"),
    ],
)
def test_a_reference_that_is_none(value: object, said: str) -> None:
    with pytest.raises(OptionError, match=f"Refers: {said}"):
        Refers(model=value)


# What determines results ----------------------------------------------------------------------------------------------


def test_identity_knows_neither_distribution_nor_release(registry: Registry) -> None:
    before = registry.create("chooser", "first", {"share": 0.5})
    after = with_fakes(version="7.3").create("chooser", "first", {"share": 0.5})
    moved = Registry()
    fakes = registry.records[1].plugin
    assert fakes is not None
    moved.register(Plugin("other", fakes.extensions[9:10], points=fakes.points, api=(2, 0)), distribution="elsewhere")
    assert before.identity() == after.identity() == moved.create("chooser", "first", {"share": 0.5}).identity()
    assert before.identity() == {"point": "chooser", "name": "first", "options": {"share": 0.5}, "results_version": 1}
    assert registry.create("chooser", "first").identity() != before.identity()


def test_identity_changes_with_the_results_version_of_a_component_and_of_its_parts(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identities() -> list[dict[str, Any]]:
        context = LocalContext(registry=registry)
        made: list[Component] = [Usual(), Twice(first="last", more=["first"]), registry.create("chooser", "first")]
        for each in made:
            each.bind(context)
        return [each.identity() for each in made]

    before = identities()
    assert identities() == before
    monkeypatch.setattr(First, "results_version", 2)
    assert all(one != other for one, other in zip(before, identities(), strict=True))


def test_identity_says_which_component_is_the_default(registry: Registry) -> None:
    def identity(name: str | None) -> dict[str, Any]:
        made = Usual() if name is None else Usual(inner=name)
        made.bind(LocalContext(registry=registry))
        return made.identity()

    assert identity(None) == identity("first") != identity("last")


# Classes --------------------------------------------------------------------------------------------------------------


def test_a_forgotten_decorator_is_said_when_the_component_is_made() -> None:
    class Bare(Chooser):
        share: float = option(0.5, help="of it")

        def choose(self, tasks: list[str], most: int) -> list[str]:
            return tasks

    with pytest.raises(
        PluginError,
        match=r"Bare has options \(share\) but is not decorated: put @crosstask.component above `class Bare`",
    ):
        Bare()

    class Child(First):  # inherits a decorated class, and adds an option
        rate: float = option(0.5, help="of it")

    with pytest.raises(PluginError, match=r"Child has options \(rate\) but is not decorated"):
        Child()


def test_a_component_that_is_no_attrs_class_still_has_a_state_and_options() -> None:
    class Plain(Chooser):
        def choose(self, tasks: list[str], most: int) -> list[str]:
            return tasks

    assert (Plain().options(), Plain().state_dict()) == ({}, {})


def test_a_hook_may_take_a_part_of_its_parameters(registry: Registry) -> None:
    last = Last()
    assert last.choose(["a", "b"], 1) == ["b"]
    assert last.choose(tasks=["a", "b"], most=1) == ["b"]
    with Run(registry) as run:
        assert run.call(run.component("chooser", "last"), "choose", **ASKED) == ["b"]

    class Silent(Observer):
        """Hears that, and nothing of it."""

        def __init__(self) -> None:
            self.times = 0

        def stage_started(self) -> None:
            self.times += 1

    silent = Silent()
    with Run(registry, observers=[silent]) as run:
        run.tell("stage_started", stage="x", total=3)
    assert silent.times == 1
    with pytest.raises(
        PluginError, match=r"Odd.choose must take \(self, tasks, most\) as the contract says, not \(self, t"
    ):

        class Odd(Chooser):
            def choose(self, tasks: list[str], limit: int) -> list[str]:  # type: ignore[override]
                return tasks

    with pytest.raises(PluginError, match=r"Swapped.choose must take"):

        class Swapped(Chooser):
            def choose(self, most: int, tasks: list[str]) -> list[str]:  # type: ignore[override]
                return tasks


def test_whoever_implements_or_wraps_a_deprecated_hook_is_warned(registry: Registry) -> None:
    said = "hook 'pick' is deprecated: use choose; it goes with chooser 2.0"
    with pytest.warns(DeprecationWarning, match=f"Picks: {said}"):

        class Picks(First):
            def pick(self, tasks: list[str]) -> str | None:
                return tasks[0]

    class Wraps(Wrapper):
        @hookimpl(wrapper=True)
        def pick(self) -> Generator[None, Any, Any]:
            return (yield)

    with Run(registry) as run, pytest.warns(DeprecationWarning, match=f"wrapper Wraps: {said}"):
        run.add(Wraps())
    with warnings.catch_warnings():  # to use a component that does not implement it is nothing
        warnings.simplefilter("error")
        with Run(registry) as run:
            run.call(First(), "choose", **ASKED)


def test_contract_methods_that_are_no_hooks_may_be_called_anything() -> None:
    @component
    class Fine(Executor):
        def submit(self, job: Job) -> Any:
            return self.submitted(job)

        def submitted(self, job: Job) -> Any:  # near a hook, but the hook is there
            return job

        def _submi(self) -> None:  # private: nobody's hook
            """Not called."""

    assert hooks_of(Fine).keys() == {"submit"}
    with pytest.raises(PluginError, match="executor Fine: submit must return a Future, got a Job"):
        LocalContext().call(Fine(), "submit", job=Job(max))


def test_a_contract_of_a_test_works_without_any_plugin() -> None:
    class Greeter(Component):
        point: ClassVar[str] = "greeter"

        @hook(first=True, returns=str)
        def greet(self, name: str) -> str:
            return f"hello {name}"

    @component
    class Loud(Greeter):
        """Shouts."""

        def greet(self, name: str) -> str:
            return f"HELLO {name}"

    with Run(Registry()) as run:
        assert run.call(Loud(), "greet", name="x") == "HELLO x"


def test_answers_of_hooks_without_a_type_are_not_checked() -> None:
    class Silent(Observer):
        """Hears nothing."""

    check_answer(Silent(), "run_started", object())


# Contexts -------------------------------------------------------------------------------------------------------------


def test_local_context_keeps_and_runs() -> None:
    context = LocalContext(seed=3)
    context.remember("models", "k", {"a": 1})
    assert context.recall("models", "k").payload == {"a": 1}  # type: ignore[union-attr]
    assert context.recall("models", "other") is None
    assert list(context.jobs([Job(max, (1, 2)), Job(min, (1, 2))])) == [(0, 2), (1, 1)]
    assert context.tell("stage_progress", stage="x", detail="y") == []
    assert context.called is None
    assert context.workers == 1
    assert context.seed_for("a", 1) == LocalContext(seed=3).seed_for("a", 1) != context.seed_for("a", 2)
    drawn = [torch.rand(3, generator=context.generator("a")) for _ in range(2)]
    assert torch.equal(*drawn)


def test_a_component_works_without_a_run_through_a_local_context(registry: Registry) -> None:
    """As the documentation shows it: a component made by hand, another by name, and one made of others."""
    context = LocalContext(seed=1, registry=registry)
    assert context.call(First(), "choose", **ASKED) == ["a", "b"]
    made = context.component("chooser", "last")
    assert made.context is context
    assert context.call(made, "choose", **ASKED) == ["b"]
    whole = Twice(first="last", more=["first"])
    whole.bind(context)
    assert whole.choose(**ASKED) == ["b", "a", "b"]
    with pytest.raises(PluginError, match="chooser Wrong: choose must return a list, got a str"):
        context.call(Wrong(), "choose", **ASKED)


def test_a_local_context_finds_what_is_installed(installed: Registry) -> None:
    usual = Usual()
    assert usual.choose(**ASKED) == ["a", "b"]
    assert usual.made_of("inner")[0].origin == "chooser 'first' (crosstask-fakes 1.0)"


@component
class Wrong(Chooser):
    """Answers with a string."""

    def choose(self, tasks: list[str], most: int) -> Any:
        return tasks[0]


def test_a_context_tells_a_plugin_its_settings(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from crosstask.settings import Settings

    (tmp_path / "pyproject.toml").write_text('[tool.crosstask.fakes]\nplace = "here"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CROSSTASK_FAKES_TOKEN", "t")
    assert LocalContext().settings("fakes") == {"place": "here", "token": "t"}
    assert LocalContext().settings("others") == {}
    with Run(Registry(Settings(tables={"fakes": {"place": "there"}}))) as run:
        assert run.settings("fakes") == {"place": "there", "token": "t"}


def test_telling_what_nobody_can_hear_is_refused_whether_somebody_listens_or_not(registry: Registry) -> None:
    from crosstask_fakes.components import FakeObserver

    for observers in ([], [FakeObserver()]):
        with Run(registry, observers=observers) as run, pytest.raises(PluginError, match="no hook 'stage_starts'; did"):
            run.tell("stage_starts", stage="x")


def test_a_stored_result_is_not_taken_for_one_under_a_wrapper(registry: Registry, tmp_path: Path) -> None:
    from crosstask import Budget, ModelSpec, TransferEngine

    def gain(by: float | None) -> float | None:
        with TransferEngine(
            registry=registry,
            store=tmp_path / "s.db",
            observers=[Divides(by=by)] if by else [],
            discoverers=[],
            model=ModelSpec(hidden=(8,)),
            train=Budget(steps=3),
            budget=Budget(steps=3),
            seeds=1,
        ) as engine:
            for number in range(2):
                engine.register_task(blobs(f"task{number}", seed=number))
            return engine.transfer_knowledge("task0", "task1").convergence_speed_gain

    plain = gain(None)
    assert gain(2.0) == 0.5
    assert gain(4.0) == 0.25
    assert gain(None) == plain


def test_a_single_component_is_no_list() -> None:
    from crosstask import Transfer, part

    @component
    class Whole(Transfer):
        """Has one part."""

        inner: Part = part("transfer", help="one")

        def learn(self, model, source, task, budget, generator):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    with pytest.raises(OptionError, match="is a single component of 'transfer', got a list of 2"):
        Whole(inner=["a", "b"])
