"""Wrappers in a run: which hook of which point they mean, in which order they act, and whom they see."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, ClassVar

import attrs
import pytest

from crosstask.components import hookimpl, wraps
from crosstask.errors import PluginError
from crosstask.graph import TransferGraph
from crosstask.job import engine_for
from crosstask.manifest import Extension, Plugin, Point
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.wrapper import Wrapper
from crosstask.recipe import recipe_from
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.tasks import Portfolio
from crosstask.testing import blobs
from crosstask_fakes.choosers import Backwards, First, Last
from crosstask_fakes.components import FakeDiscoverer, FakeWrapper
from crosstask_fakes.contracts import Chooser

ASKED: dict[str, Any] = {"tasks": ["a", "b"], "most": 2}


@component
class Says(Wrapper):
    """Adds a word to what was chosen."""

    word: str = option(help="the word")

    @wraps("chooser.choose")
    def add(self) -> Generator[None, Any, Any]:
        return [*(yield), self.word]


def chosen(registry: Registry, *wrappers: Wrapper, by: str = "first") -> list[str]:
    with Run(registry, observers=wrappers) as run:
        found: list[str] = run.call(run.component("chooser", by), "choose", **ASKED)
    return found


def with_ranker(registry: Registry) -> Registry:
    ranker = Point("ranker", "crosstask_fakes.contracts:Ranker")
    backwards = Extension("ranker", "backwards", "crosstask_fakes.choosers:Backwards")
    registry.register(Plugin("rankers", [backwards], points=[ranker], api=(2, 0)), distribution="rankers")
    return registry


def test_wrappers_act_in_order_the_first_on_what_was_answered(registry: Registry) -> None:
    one, two, three = (Says(word=word) for word in ("one", "two", "three"))
    assert chosen(registry, one, two, three) == ["a", "b", "one", "two", "three"]
    assert chosen(registry, three, one) == ["a", "b", "three", "one"]
    with Run(registry) as run:  # whether they come before the first component of the point or after it
        run.add(two)
        first = run.component("chooser", "first")
        run.add(one)
        assert run.call(first, "choose", **ASKED) == ["a", "b", "two", "one"]


def test_wrappers_act_in_the_recipes_order(registry: Registry) -> None:
    registry.register(Plugin("says", [Extension("wrapper", "says", f"{__name__}:Says")], api=(2, 0)))
    words = [{"use": "says", "word": word} for word in ("z", "a", "m")]
    recipe = recipe_from({"source": "fake", "wrappers": words}, registry)
    with engine_for(recipe, registry, None) as engine:
        first = engine.run.component("chooser", "first")
        assert engine.run.call(first, "choose", **ASKED) == ["a", "b", "z", "a", "m"]
        assert [each["options"]["word"] for each in engine.run.wrapping()] == ["z", "a", "m"]


def test_two_wrappers_of_one_kind_are_two(registry: Registry) -> None:
    assert chosen(registry, Says(word="x"), Says(word="x")) == ["a", "b", "x", "x"]
    same = Says(word="x")
    assert chosen(registry, same, same) == ["a", "b", "x"]


# Which hook -----------------------------------------------------------------------------------------------------------


class ByName(Wrapper):
    """Names no point."""

    @hookimpl(wrapper=True)
    def choose(self, tasks: list[str]) -> Generator[None, Any, Any]:
        return [*(yield), "seen"]


class OfRankers(Wrapper):
    """Names its point, and has a method of another name."""

    @wraps("ranker.choose")
    def changed(self, tasks: list[str]) -> Generator[None, Any, Any]:
        return [*(yield), "ranked"]


def test_a_hook_of_one_name_in_two_points_must_be_named_with_its_point(registry: Registry) -> None:
    assert chosen(registry, ByName()) == ["a", "b", "seen"]
    both = with_ranker(registry)
    with pytest.raises(
        PluginError,
        match=r'wrapper ByName: chooser and ranker both have a hook \'choose\'; .*@wraps\("chooser\.choose"\)',
    ):
        chosen(both, ByName())
    with Run(both, observers=[OfRankers(), Says(word="chosen")]) as run:
        assert run.call(Backwards(), "choose", tasks=["a", "b"]) == ["b", "a", "ranked"]
        assert run.call(First(), "choose", **ASKED) == ["a", "b", "chosen"]


def test_two_points_may_have_a_hook_of_one_name_in_one_run(registry: Registry) -> None:
    with Run(with_ranker(registry)) as run:
        assert run.call(First(), "choose", **ASKED) == ["a", "b"]
        assert run.call(Backwards(), "choose", tasks=["a", "b"]) == ["b", "a"]


def test_a_name_means_the_kernels_hook_if_it_has_one(registry: Registry) -> None:
    portfolio = Portfolio([blobs("a"), blobs("b")])
    with Run(with_ranker(registry), observers=[FakeWrapper()]) as run:
        edges = run.call(FakeDiscoverer(), "discover", portfolio=portfolio, graph=TransferGraph())
        assert {edge.transfer_coefficient for edge in edges} == {-0.5}
        assert run.call(Backwards(), "discover", hidden=3) == 3


def test_no_contract_of_a_plugin_is_imported_for_a_hook_of_the_kernel(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = Registry.contract
    monkeypatch.setattr(Registry, "contract", lambda self, name: asked.append(name) or real(self, name))
    with Run(registry, observers=[FakeWrapper()]):
        assert "discovery" in asked
        assert "chooser" not in asked
    with Run(registry, observers=[ByName()]):
        assert "chooser" in asked


def test_a_broken_family_never_breaks_a_wrapped_run_of_others(registry: Registry) -> None:
    points = [
        Point("aaa", "crosstask_fakes_lost.contract:Lost"),
        Point("bbb", "crosstask_fakes.contracts:NoComponent"),
        Point("zzz", "crosstask_fakes.contracts:Nothing"),
    ]
    registry.register(Plugin("lost", points=points, api=(2, 0)), distribution="lost-dist")
    rival = Plugin("rival", points=[Point("aaa", "x:Y")], api=(2, 0))  # and a point that conflicts
    registry.register(rival, distribution="rival-dist")
    assert chosen(registry, ByName(), Says(word="!")) == ["a", "b", "seen", "!"]


def test_a_wrapper_of_a_point_that_cannot_be_used_says_why(registry: Registry) -> None:
    class Lost(Wrapper):
        @wraps("lost.find")
        def find(self) -> Generator[None, Any, Any]:
            return (yield)

    with pytest.raises(PluginError, match="unknown extension point 'lost'"):
        chosen(registry, Lost())
    registry.register(Plugin("lost", points=[Point("lost", "crosstask_fakes_lost.contract:Lost")], api=(2, 0)))
    with pytest.raises(PluginError, match=r"importing crosstask_fakes_lost\.contract failed"):
        chosen(registry, Lost())


# What a wrapper may not be --------------------------------------------------------------------------------------------


def refused(registry: Registry, body: dict[str, Any]) -> str:
    made: Wrapper = type("Bad", (Wrapper,), body)()
    with pytest.raises(PluginError) as caught:
        chosen(registry, made)
    return str(caught.value)


def test_parameters_of_a_wrapper_are_checked(registry: Registry) -> None:
    @wraps("chooser.choose")
    def choose(self: Any, task: Any) -> Any:
        return (yield)

    assert refused(registry, {"choose": choose}) == (
        "wrapper Bad: choose takes 'task', which hook chooser.choose does not pass; did you mean 'tasks'? Valid: most, "
        "tasks"
    )


def test_a_wrapper_must_yield(registry: Registry) -> None:
    @wraps("chooser.choose")
    def choose(self: Any) -> Any:
        return []

    assert refused(registry, {"choose": choose}) == (
        "wrapper Bad: choose must yield once: `answer = yield` gives the answer of what it wraps"
    )


def test_a_wrapper_that_yields_twice_or_never_is_blamed_itself(registry: Registry) -> None:
    @wraps("chooser.choose")
    def twice(self: Any) -> Any:
        yield
        return (yield)

    @wraps("chooser.choose")
    def never(self: Any) -> Any:
        if self.only == "nobody":
            yield
        return []

    for choose in (twice, never):
        assert refused(registry, {"choose": choose}).startswith("wrapper Bad: choose must yield once: `answer = yield`")


def test_a_hook_that_is_not_there(registry: Registry) -> None:
    @wraps("chooser.chose")
    def chose(self: Any) -> Any:
        return (yield)

    assert refused(registry, {"chose": chose}) == (
        "wrapper Bad: no hook 'chose'; did you mean 'choose'? Valid: choose, pick"
    )


# Whom it sees ---------------------------------------------------------------------------------------------------------


@component
class OnlyLast(Wrapper):
    """Wraps one component, by its class."""

    only: ClassVar[str | None] = "last"

    @wraps("chooser.choose")
    def more(self) -> Generator[None, Any, Any]:
        return [*(yield), "of last"]


@component
class OneOfEach(Wrapper):
    """Wraps one component by the mark of a method, and all by another."""

    @wraps("chooser.choose", only="first")
    def narrow(self) -> Generator[None, Any, Any]:
        return [*(yield), "of first"]

    @wraps("discover")
    def wide(self) -> Generator[None, Any, Any]:
        return [attrs.evolve(edge, found_by="wide") for edge in (yield)]


def test_only_narrows_a_wrapper_to_one_component(registry: Registry) -> None:
    assert chosen(registry, OnlyLast()) == ["a", "b"]
    assert chosen(registry, OnlyLast(), by="last") == ["b", "of last"]
    assert chosen(registry, OneOfEach(), OnlyLast()) == ["a", "b", "of first"]
    assert chosen(registry, OneOfEach(), OnlyLast(), by="last") == ["b", "of last"]
    with Run(registry, observers=[OneOfEach()]) as run:  # and in one run
        first, last = (run.component("chooser", name) for name in ("first", "last"))
        assert [run.call(each, "choose", **ASKED) for each in (first, last, first)] == [
            ["a", "b", "of first"],
            ["b"],
            ["a", "b", "of first"],
        ]
        portfolio = Portfolio([blobs("a"), blobs("b")])
        edges = run.call(FakeDiscoverer(), "discover", portfolio=portfolio, graph=TransferGraph())
        assert {edge.found_by for edge in edges} == {"wide"}


@component
class Asks(Chooser):
    """Calls another through the run."""

    inner: Part = part("chooser", help="asked")

    def choose(self, tasks: list[str], most: int) -> list[str]:
        (inner,) = self.made_of("inner")
        found: list[str] = self.context.call(inner, "choose", tasks=tasks, most=most)
        return found


def test_the_component_that_is_being_asked_is_the_innermost_one(registry: Registry) -> None:
    seen: list[tuple[str, str]] = []

    class Watches(Wrapper):
        @wraps("chooser.choose")
        def watch(self, tasks: list[str]) -> Generator[None, Any, Any]:
            before = self.context.called
            answer = yield
            after = self.context.called
            seen.append((before.name if before else "", after.name if after else ""))
            return answer

    with Run(registry, observers=[Watches()]) as run:
        assert run.called is None
        asks = Asks(inner="last")
        assert run.call(asks, "choose", **ASKED) == ["b"]
        assert seen == [("last", "last"), (asks.name, asks.name)]
        assert run.called is None
        run.add(Raises())
        with pytest.raises(ZeroDivisionError):
            run.call(Raises(), "choose", **ASKED)
        assert run.called is None, "after an exception, too"


@component
class Raises(Chooser):
    """Fails."""

    def choose(self, tasks: list[str], most: int) -> list[str]:
        return [str(1 / 0)]


def test_an_answer_of_the_wrong_kind_names_only_the_wrappers_that_it_passed(registry: Registry) -> None:
    class Spoils(Wrapper):
        only: ClassVar[str | None] = "first"

        @wraps("chooser.choose")
        def spoil(self) -> Generator[None, Any, Any]:
            yield

    with Run(registry, observers=[Spoils(), OnlyLast(), FakeWrapper()]) as run:
        assert run.call(Last(), "choose", **ASKED) == ["b"]
        with pytest.raises(PluginError, match="choose must return a list, got nothing") as caught:
            run.call(run.component("chooser", "first"), "choose", **ASKED)
    assert caught.value.__notes__ == ["the answer passed through wrapper Spoils"]


def test_trace_tells_every_call_of_a_hook(registry: Registry) -> None:
    told: list[Any] = []
    with Run(registry, observers=[Says(word="x")], trace=told.append) as run:
        run.call(run.component("chooser", "first"), "choose", **ASKED)
        with pytest.raises(ZeroDivisionError):
            run.call(Raises(), "choose", **ASKED)
    assert [(t.hook, t.component, t.distribution, t.answer) for t in told] == [
        ("choose", "chooser 'first' (crosstask-fakes 1.0)", "crosstask-fakes 1.0", "list"),
        ("choose", "chooser Raises", "", "raised ZeroDivisionError"),
    ]
    assert re.fullmatch(r"choose  chooser 'first' \(crosstask-fakes 1\.0\)  \d+\.\d ms  list", str(told[0]))
