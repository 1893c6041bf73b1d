"""The base of every contract: a component is an attrs class whose hook methods pluggy can call, and so can you."""

from __future__ import annotations

import functools
import inspect
from abc import ABC
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import attrs
import pluggy

from crosstask.errors import CrosstaskError, PluginError, nearest
from crosstask.options import options_of

if TYPE_CHECKING:
    from crosstask.context import Context

F = TypeVar("F", bound=Callable[..., Any])

_spec = pluggy.HookspecMarker("crosstask")
hookimpl = pluggy.HookimplMarker("crosstask")
"""pluggy's marker. Components need it only for wrappers: `@hookimpl(wrapper=True)`."""


def hook(*, first: bool = False, returns: type | None = None, of: type | None = None) -> Callable[[F], F]:
    """Declare a contract method as a hook spec (and its own default implementation).

    A *first* hook is answered by one component; any other is answered by each. An answer that is not an instance of
    `returns` (of items that are `of`) is refused in the component's name. Parameters of hooks have no defaults, because
    pluggy never passes those that do.
    """

    def mark(function: F) -> F:
        function.crosstask_answer = (returns, of)  # type: ignore[attr-defined]
        return hookimpl(_spec(firstresult=first)(function))

    return mark


def check_answer(component: Component, hook: str, answer: Any) -> None:
    """PluginError in the component's name if its answer is of the wrong type."""
    returns, of = getattr(hooks_of(type(component)).get(hook), "crosstask_answer", (None, None))
    if returns is not None and not isinstance(answer, returns):
        got = "nothing" if answer is None else f"a {type(answer).__name__}"
        raise PluginError(f"{component.origin}: {hook} must return a {returns.__name__}, got {got}")
    wrong = next((item for item in answer if not isinstance(item, of)), None) if of is not None else None
    if of is not None and wrong is not None:
        raise PluginError(f"{component.origin}: {hook} must return a list of {of.__name__}, got {wrong!r} in it")


class Component(ABC):
    """Base of the contracts in `crosstask.points`; do not derive from it directly, derive from a contract.

    Hook methods of subclasses are marked as pluggy implementations automatically.
    """

    point: ClassVar[str]
    """Name of the extension point; set by the contract."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Properties that this component claims; the conformance kit holds it to them. Each contract lists its own."""

    _context: Context | None = None
    _origin: str | None = None
    _parts: dict[str, list[Any]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            if "ClassVar" not in str(annotation) and name in _RESERVED:
                raise PluginError(f"{cls.__name__}: an option cannot be called {name!r}: every component has it")
        hooks = hooks_of(cls)
        if hooks and not cls._is_contract():
            _refuse_misspelt(cls, hooks)
        for name, spec in hooks.items():
            own = vars(cls).get(name)
            if own is None or own is spec:
                continue
            if not inspect.isfunction(own):
                raise PluginError(f"{cls.__name__}.{name} is a hook of {cls.point!r} and must be a plain method")
            _check_signature(cls, name, own, spec)
            if not hasattr(own, "crosstask_impl"):
                hookimpl(own)

    @classmethod
    def _is_contract(cls) -> bool:
        """Whether the class declares its point itself, as contracts do."""
        return "point" in vars(cls)

    @property
    def context(self) -> Context:
        """What the component may ask for: seeds, jobs, remembered results, other components; small outside a run."""
        if self._context is None:
            from crosstask.context import LocalContext

            self._context = LocalContext()
        return self._context

    def bind(self, context: Context) -> None:
        """Give the component, and those it is made of, their run. Called by the run."""
        self._context = context
        for made in self._parts.values() if self._parts else ():
            for each in made:
                each.bind(context)

    def made_of(self, option: str) -> list[Any]:
        """The components that an option declared with `crosstask.part` names; made when first asked for, then kept.

        Call their hooks directly: what wraps a hook in a run changes the answer of the whole, once, not of each part.
        """
        if self._parts is None:
            self._parts = {}
        if option not in self._parts:
            point, value = getattr(attrs.fields(cast(Any, type(self))), option).metadata["part"], getattr(self, option)
            chosen = value if isinstance(value, tuple) else () if value is None else (value,)
            try:
                self._parts[option] = [self.context.resolve(point, choice) for choice in chosen]
            except CrosstaskError as error:
                raise type(error)(f"{self.origin}: {option}: {error}") from error
        return self._parts[option]

    def all_parts(self) -> dict[str, list[Any]]:
        """All components this one is made of, by option."""
        fields = attrs.fields(cast(Any, type(self))) if attrs.has(type(self)) else ()
        return {f.name: self.made_of(f.name) for f in fields if "part" in f.metadata}

    def __getstate__(self) -> dict[str, Any]:
        """A component sent to another process leaves its run behind."""
        return {name: value for name, value in vars(self).items() if name != "_context"}

    @property
    def origin(self) -> str:
        """`balancer 'rgb' (crosstask-rgb 0.1.0)`, for messages."""
        return self._origin or f"{self.point} {type(self).__name__}"

    def options(self) -> dict[str, Any]:
        """The options that made this component, JSON-ready."""
        return options_of(self) if attrs.has(type(self)) else {}

    def __unstructure__(self) -> dict[str, Any]:
        """As an option of another component: which class with which options."""
        return {"use": f"{type(self).__module__}:{type(self).__qualname__}", "options": self.options()}

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart: every field declared with `crosstask.state`, and the state of every part."""
        own = {f.name: getattr(self, f.name) for f in _state_fields(type(self))}
        return own | {name: [part.state_dict() for part in made] for name, made in self.all_parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; refuses a dict of another shape."""
        parts = self.all_parts()
        known = {f.name for f in _state_fields(type(self))} | set(parts)
        if known != set(state):
            raise PluginError(f"{self.origin}: state has {sorted(state)}, expected {sorted(known)}")
        for name, value in state.items():
            if name not in parts:
                setattr(self, name, value)
            elif len(value) != len(parts[name]):
                raise PluginError(f"{self.origin}: state has {len(value)} {name}, expected {len(parts[name])}")
            else:
                for made, saved in zip(parts[name], value, strict=True):
                    made.load_state_dict(saved)


_RESERVED = {name for name in vars(Component) if not name.startswith("_")} - {"capabilities"}


@functools.cache
def hooks_of(cls: type) -> dict[str, Callable[..., Any]]:
    """Hook name -> spec function, for a contract or a class derived from one."""
    classes = [vars(base) for base in reversed(cls.__mro__)]
    return {name: value for own in classes for name, value in own.items() if hasattr(value, "crosstask_spec")}


def _state_fields(cls: type) -> list[attrs.Attribute[Any]]:
    return [f for f in attrs.fields(cls) if f.metadata.get("state")] if attrs.has(cls) else []


def _refuse_misspelt(cls: type, hooks: dict[str, Callable[..., Any]]) -> None:
    """A method that looks like a hook of the contract but is none would never be called."""
    for name, value in vars(cls).items():
        if not inspect.isfunction(value) or any(hasattr(base, name) for base in cls.__mro__[1:]):
            continue
        if hasattr(value, "crosstask_impl"):
            point = cls.point  # type: ignore[attr-defined]
            raise PluginError(f"{cls.__name__}.{name} is marked as a hook; {point!r} has none{nearest(name, hooks)}")
        meant = None if name.startswith("_") else _misspelt(name, [h for h in hooks if h not in vars(cls)])
        if meant is not None and getattr(cls, meant) is hooks[meant]:
            raise PluginError(
                f"{cls.__name__}.{name} is no hook of {cls.point!r}; is {meant!r} meant? "  # type: ignore[attr-defined]
                "If not, let its name begin with an underscore"
            )


def _misspelt(name: str, hooks: list[str]) -> str | None:
    """The hook that this name is one or two letters away from."""
    from difflib import get_close_matches  # deferred, and only reached by classes with a public method of their own

    return next(iter(get_close_matches(name, hooks, n=1, cutoff=0.85)), None)


def _check_signature(cls: type, name: str, own: Callable[..., Any], spec: Callable[..., Any]) -> None:
    expected = list(inspect.signature(spec).parameters)
    given = inspect.signature(own).parameters
    if list(given) != expected and not getattr(own, "crosstask_impl", {}).get("wrapper"):
        wanted, got = ", ".join(expected), ", ".join(given)
        raise PluginError(f"{cls.__name__}.{name} must take ({wanted}) as the contract says, not ({got})")
    defaults = [p.name for p in given.values() if p.default is not p.empty]
    if defaults:
        raise PluginError(f"{cls.__name__}.{name}: {defaults[0]!r} must not have a default; pluggy would never pass it")
