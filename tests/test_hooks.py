"""Every hook, the kernel's and those of families, is documented, answers through a run, and can be wrapped: for each,
an implementation that is called.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstask import Extension, Plugin, Point, component
from crosstask.components import Component, hook, hooks_of, wraps
from crosstask.errors import PluginError
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.settings import Settings

ROOT = Path(__file__).parents[1]
MEMBERS = [f"crosstask-{file.parent.name}" for file in ROOT.glob("plugins/*/*/pyproject.toml")]
BUILT_IN = Registry.installed(Settings(allow=("crosstask-kernel", *MEMBERS)))
POINTS = [each.point.name for each in BUILT_IN.points()]


def contract(point: str) -> type[Component]:
    return BUILT_IN.contract(point)


HOOKS = [(point, name) for point in POINTS for name in hooks_of(contract(point))]


def named(value: object) -> str:
    return str(value)


SAID = {"loss": {"total": "whole", "weighting": {"part": "weight"}}}
"""What a class must say of itself beside its hooks."""

each_hook = pytest.mark.parametrize(("point", "name"), HOOKS, ids=named)


def test_families_bring_points() -> None:
    brought = {each.point.name for each in BUILT_IN.points() if each.plugin is not None}
    assert brought >= {
        "agent", "alignment", "bundle", "continual", "detector", "federation", "loss", "publisher", "recommender",
        "router", "sampler", "search", "sharing", "world",
    }  # fmt: skip
    assert not [each.reason for each in BUILT_IN.points() if each.reason]


@each_hook
def test_hook_is_documented(point: str, name: str) -> None:
    text = inspect.getdoc(hooks_of(contract(point))[name])
    assert text, f"{point}.{name} has no docstring"
    page = (ROOT / "docs" / "points" / f"{point}.md").read_text("utf-8")
    assert f"### {name}\n" in page
    assert text.splitlines()[0] in page


@each_hook
def test_hook_has_plain_parameters_and_types(point: str, name: str) -> None:
    found = inspect.signature(hooks_of(contract(point))[name])
    for parameter in list(found.parameters.values())[1:]:
        assert parameter.default is parameter.empty  # pluggy would not pass it
        assert parameter.annotation is not parameter.empty
    assert found.return_annotation is not found.empty


def implementation(point: str, name: str, heard: list[dict[str, Any]], answer: Any) -> Component:
    """A component of a point whose hook notes its arguments and gives `answer`; its other hooks are never called."""
    base = contract(point)
    parameters = ", ".join(inspect.signature(hooks_of(base)[name]).parameters)
    arguments = ", ".join(f"{each}={each}" for each in parameters.split(", ")[1:])
    scope: dict[str, Any] = {"heard": heard, "answer": answer}
    exec(f"def {name}({parameters}):\n    heard.append(dict({arguments}))\n    return answer", scope)

    def unused(other: str) -> Callable[..., Any]:
        inside: dict[str, Any] = {}
        signature = ", ".join(inspect.signature(getattr(base, other)).parameters)
        exec(f"def {other}({signature}):\n    raise AssertionError('not asked')", inside)
        made: Callable[..., Any] = inside[other]
        return made

    methods = {other: unused(other) for other in base.__abstractmethods__} | {name: scope[name]}
    made: Component = type("Fake", (base,), {**methods, **SAID.get(point, {})})()
    return made


def an_answer(point: str, name: str) -> Any:
    """Something that a run accepts as the answer of a hook."""
    returns, of = hooks_of(contract(point))[name].crosstask_answer  # type: ignore[attr-defined]
    if returns is None:
        return object()
    if returns is list:
        return [of.__new__(of)]
    if issubclass(returns, Path):
        return returns("answer")
    if hasattr(returns, "_fields"):  # a named tuple
        return returns(*map(named, returns._fields))
    fake = type("Answer", (returns,), {"__init__": lambda self, *_, **__: None, "__repr__": lambda self: "an answer"})
    fake.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return fake()


def seeing(point: str, name: str, seen: list[Any], method: str, only: str | None = None) -> Wrapper:
    """A wrapper that keeps the answers of one hook and who gave them; its method is called `method`."""
    scope: dict[str, Any] = {"seen": seen}
    exec(
        f"def {method}(self):\n    answer = yield\n    seen.append((self.context.called, answer))\n    return answer",
        scope,
    )
    made: Wrapper = type("Seeing", (Wrapper,), {method: wraps(f"{point}.{name}", only=only)(scope[method])})()
    return made


@each_hook
def test_hook_gets_every_argument_and_its_answer_arrives(point: str, name: str) -> None:
    """Also through a wrapper, which sees the answer and who gave it."""
    spec = hooks_of(contract(point))[name]
    answer = an_answer(point, name)
    heard: list[dict[str, Any]] = []
    seen: list[Any] = []
    arguments = {each: object() for each in list(inspect.signature(spec).parameters)[1:]}
    made = implementation(point, name, heard, answer)
    with Run(BUILT_IN, observers=[seeing(point, name, seen, "look")]) as run:
        assert run.call(made, name, **arguments) is answer
    first = spec.crosstask_spec["firstresult"]  # type: ignore[attr-defined]
    assert heard == [arguments]
    assert seen == [(made, answer if first else [answer])]


@each_hook
def test_hook_is_wrapped_by_its_name_alone(point: str, name: str) -> None:
    """A method called like a hook wraps it, of the kernel's points and of families'; where two points have a hook of
    that name, it must say which.
    """
    sharing = [other for other, hook_name in HOOKS if hook_name == name]
    seen: list[Any] = []
    wrapper = seeing(point, name, seen, name)
    method = vars(type(wrapper))[name]
    method.crosstask_wraps = ("", name, None)  # as `@hookimpl(wrapper=True)` leaves it
    with Run(BUILT_IN) as run:
        if len(sharing) > 1:
            with pytest.raises(PluginError, match=f'both have a hook .*@wraps\\("[a-z_]+.{name}"\\)'):
                run.add(wrapper)
            return
        run.add(wrapper)
        made = implementation(point, name, [], an_answer(point, name))
        run.call(made, name, **dict.fromkeys(inspect.signature(getattr(made, name)).parameters))
    assert [called for called, _ in seen] == [made]


@pytest.mark.parametrize("name", [name for point, name in HOOKS if point == "observer"])
def test_every_observer_hears(name: str) -> None:
    heard: list[dict[str, Any]] = []
    arguments = {
        each: object() for each in list(inspect.signature(hooks_of(contract("observer"))[name]).parameters)[1:]
    }
    observers = [implementation("observer", name, heard, None) for _ in range(2)]
    with Run(BUILT_IN, observers=observers) as run:  # type: ignore[arg-type]
        run.tell(name, **arguments)
    assert heard == [arguments, arguments]


def test_every_lifecycle_hook_is_told() -> None:
    """Each of the observer's hooks is called somewhere in the kernel or a family's base, under its own name."""
    files = [*(ROOT / "kernel" / "src").rglob("*.py"), *ROOT.glob("plugins/*/*/src/**/*.py")]
    told = "".join("".join(file.read_text("utf-8").split()) for file in files)  # calls may be broken over lines
    for point, name in HOOKS:
        if point == "observer":
            assert f'.tell("{name}"' in told, name


# --- Two points may have hooks of one name: each has a manager of its own


class Balancing(Component):
    """A contributed contract whose hook has the name of one of the kernel's, and other parameters."""

    point = "test_balancing"

    @hook(first=True, returns=str)
    def balance(self, scales: int) -> str:
        """Which side is lower."""
        raise NotImplementedError


class Weighing(Component):
    """Another contributed contract that has it."""

    point = "test_weighing"

    @hook(first=True, returns=str)
    def balance(self, load: int) -> str:
        """Whether it holds."""
        raise NotImplementedError

    @hook(first=True, returns=str)
    def weigh(self, load: int) -> str:
        """How heavy it is."""
        raise NotImplementedError


@component
class Left(Balancing):
    def balance(self, scales: int) -> str:
        return f"left of {scales}"


class Holds(Weighing):
    def balance(self, load: int) -> str:
        return f"holds {load}"

    def weigh(self, load: int) -> str:
        return f"{load} kg"


@pytest.fixture
def registry() -> Registry:
    """What is built in, and the two points."""
    made = Registry()
    made.records = list(BUILT_IN.records)
    points = [Point("test_balancing", f"{__name__}:Balancing"), Point("test_weighing", f"{__name__}:Weighing")]
    extensions = [Extension("test_balancing", "left", f"{__name__}:Left")]
    made.register(Plugin("scales", extensions, points=points, api=(2, 0)), distribution="crosstask-scales")
    return made


def test_hooks_of_one_name_do_not_meet(registry: Registry) -> None:
    weights = an_answer("balancer", "balance")
    balancer = implementation("balancer", "balance", [], weights)
    with Run(registry) as run:
        assert run.call(balancer, "balance", losses=None, gradients=None) is weights
        assert run.call(Left(), "balance", scales=3) == "left of 3"
        assert run.call(Holds(), "balance", load=2) == "holds 2"


def test_a_wrapper_says_which_of_two_hooks_it_means(registry: Registry) -> None:
    class Doubled(Wrapper):
        @wraps("test_balancing.balance")
        def one(self, scales: int) -> Any:
            return f"{(yield)}, {scales} again"

        @wraps("test_weighing.balance")
        def other(self, load: int) -> Any:
            return f"{(yield)}, really {load}"

    balancer = implementation("balancer", "balance", [], an_answer("balancer", "balance"))
    with Run(registry, observers=[Doubled()]) as run:
        assert run.call(Left(), "balance", scales=3) == "left of 3, 3 again"
        assert run.call(Holds(), "balance", load=2) == "holds 2, really 2"
        assert run.call(Holds(), "weigh", load=2) == "2 kg"
        assert run.call(balancer, "balance", losses=None, gradients=None) is not None


def test_a_wrapper_of_a_name_that_the_kernel_has_means_the_kernels(registry: Registry) -> None:
    """Contracts of plugins are looked at only for names that are left over."""
    seen: list[Any] = []
    wrapper = seeing("balancer", "balance", seen, "balance")
    vars(type(wrapper))["balance"].crosstask_wraps = ("", "balance", None)
    with Run(registry, observers=[wrapper]) as run:
        assert run.call(Left(), "balance", scales=3) == "left of 3"
    assert seen == []


def test_a_wrapper_takes_only_what_its_hook_passes(registry: Registry) -> None:
    class Wrong(Wrapper):
        @wraps("test_weighing.balance")
        def other(self, scales: int) -> Any:
            return (yield)

    with Run(registry) as run, pytest.raises(PluginError, match=r"takes 'scales', which hook test_weighing\.balance"):
        run.add(Wrong())


def test_a_wrapper_of_one_component_only(registry: Registry) -> None:
    seen: list[Any] = []
    with Run(registry, observers=[seeing("test_balancing", "balance", seen, "look", only="left")]) as run:
        run.call(Left(), "balance", scales=1)  # made by hand: it has no such name
        made = run.component("test_balancing", "left")
        run.call(made, "balance", scales=2)
    assert seen == [(made, "left of 2")]


def test_which_hooks_share_a_name_among_the_built_in_points() -> None:
    """Whoever wraps one of these must say which point is meant; known, so that a new one is noticed."""
    assert {name for name, count in Counter(name for _, name in HOOKS).items() if count > 1} == set()
