"""Every hook is documented, answers through a run, and can be wrapped: for each, an implementation that is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from crosstask.components import Component, hooks_of
from crosstask.manifest import POINTS
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry
from crosstask.run import Run

ROOT = Path(__file__).parents[1]


def contract(point: str) -> type[Component]:
    module, _, name = POINTS[point].partition(":")
    found: type[Component] = getattr(import_module(module), name)
    return found


HOOKS = [(point, hook) for point in POINTS for hook in hooks_of(contract(point))]


def named(value: object) -> str:
    return str(value)


@pytest.mark.parametrize(("point", "hook"), HOOKS, ids=named)
def test_hook_is_documented(point: str, hook: str) -> None:
    function = hooks_of(contract(point))[hook]
    text = inspect.getdoc(function)
    assert text, f"{point}.{hook} has no docstring"
    page = (ROOT / "docs" / "points" / f"{point}.md").read_text("utf-8")
    assert f"### {hook}\n" in page
    assert text.splitlines()[0] in page


@pytest.mark.parametrize(("point", "hook"), HOOKS, ids=named)
def test_hook_has_plain_parameters_and_types(point: str, hook: str) -> None:
    found = inspect.signature(hooks_of(contract(point))[hook])
    for parameter in list(found.parameters.values())[1:]:
        assert parameter.default is parameter.empty  # pluggy would not pass it
        assert parameter.annotation is not parameter.empty
    assert found.return_annotation is not found.empty


def implementation(point: str, hook: str, heard: list[dict[str, Any]], answer: Any) -> Component:
    """A component of a point whose hook notes its arguments and gives `answer`; its other hooks are never called."""
    base = contract(point)
    parameters = ", ".join(inspect.signature(hooks_of(base)[hook]).parameters)
    arguments = ", ".join(f"{name}={name}" for name in parameters.split(", ")[1:])
    scope: dict[str, Any] = {"heard": heard, "answer": answer}
    exec(f"def {hook}({parameters}):\n    heard.append(dict({arguments}))\n    return answer", scope)

    def unused(name: str) -> Callable[..., Any]:
        inside: dict[str, Any] = {}
        signature = ", ".join(inspect.signature(getattr(base, name)).parameters)
        exec(f"def {name}({signature}):\n    raise AssertionError('not asked')", inside)
        made: Callable[..., Any] = inside[name]
        return made

    methods = {name: unused(name) for name in base.__abstractmethods__} | {hook: scope[hook]}
    made: Component = type("Fake", (base,), methods)()
    return made


@pytest.mark.parametrize(("point", "hook"), HOOKS, ids=named)
def test_hook_gets_every_argument_and_its_answer_arrives(point: str, hook: str) -> None:
    """Also through a wrapper, which sees the answer."""
    spec = hooks_of(contract(point))[hook]
    returns, of = spec.crosstask_answer  # type: ignore[attr-defined]
    first = spec.crosstask_spec["firstresult"]  # type: ignore[attr-defined]
    answer: Any = object()
    if returns is list:
        answer = [of.__new__(of)]
    elif returns is not None:
        fake = type("Answer", (returns,), {"__init__": lambda self: None, "__repr__": lambda self: "an answer"})
        fake.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
        answer = fake()
    heard: list[dict[str, Any]] = []
    seen: list[Any] = []
    scope: dict[str, Any] = {"seen": seen}
    exec(f"def {hook}(self):\n    answer = yield\n    seen.append(answer)\n    return answer", scope)
    from crosstask.components import hookimpl

    wrapper = type("Seeing", (Wrapper,), {hook: hookimpl(wrapper=True)(scope[hook])})()
    arguments = {name: object() for name in list(inspect.signature(spec).parameters)[1:]}
    made = implementation(point, hook, heard, answer)
    with Run(Registry(), observers=[wrapper]) as run:
        assert run.call(made, hook, **arguments) is answer
    assert heard == [arguments]
    assert seen == [answer if first else [answer]]


@pytest.mark.parametrize("hook", [hook for point, hook in HOOKS if point == "observer"])
def test_every_observer_hears(hook: str) -> None:
    heard: list[dict[str, Any]] = []
    arguments = {
        name: object() for name in list(inspect.signature(hooks_of(contract("observer"))[hook]).parameters)[1:]
    }
    observers = [implementation("observer", hook, heard, None) for _ in range(2)]
    with Run(Registry(), observers=observers) as run:  # type: ignore[arg-type]
        run.tell(hook, **arguments)
    assert heard == [arguments, arguments]


def test_the_kernel_tells_every_lifecycle_hook() -> None:
    """Each of the observer's hooks is called somewhere in the kernel, under its own name."""
    source = "".join(file.read_text("utf-8") for file in (ROOT / "kernel" / "src" / "crosstask").rglob("*.py"))
    told = "".join(source.split())  # calls may be broken over lines
    for point, hook in HOOKS:
        if point == "observer":
            assert f'.tell("{hook}"' in told, hook
