"""The base of every contract: a component is an attrs class whose hook methods pluggy can call, and so can you; and the
context that it works in: what it may ask of its run.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeGuard, TypeVar, cast

import attrs
import pluggy

from crosstask.errors import CrosstaskError, OptionError, PluginError, RunError, nearest
from crosstask.options import options_of, structure
from crosstask.parts import Choice, Reference

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from crosstask.records import Budget

F = TypeVar("F", bound=Callable[..., Any])

_spec = pluggy.HookspecMarker("crosstask")
hookimpl = pluggy.HookimplMarker("crosstask")
"""pluggy's marker. Components need it only for wrappers: `@hookimpl(wrapper=True)`."""


def hook(
    *, first: bool = False, returns: type | None = None, of: type | None = None, deprecated: str = ""
) -> Callable[[F], F]:
    """Declare a contract method as a hook spec (and its own default implementation).

    A *first* hook is answered by one component; any other is answered by each. An answer that is not an instance of
    `returns` (of items that are `of`) is refused in the component's name. Parameters of hooks have no defaults, because
    pluggy never passes those that do. `deprecated` says what to use instead and with which version the hook goes:
    whoever still implements or wraps it is warned with that text.
    """

    def mark(function: F) -> F:
        function.crosstask_answer = (returns, of)  # type: ignore[attr-defined]
        function.crosstask_deprecated = deprecated  # type: ignore[attr-defined]
        return hookimpl(_spec(firstresult=first)(function))

    return mark


def warn_if_deprecated(spec: Callable[..., Any], who: str, stacklevel: int = 3) -> None:
    """DeprecationWarning in the name of who implements or wraps a hook that will go."""
    if text := getattr(spec, "crosstask_deprecated", ""):
        warnings.warn(f"{who}: hook {spec.__name__!r} is deprecated: {text}", DeprecationWarning, stacklevel=stacklevel)


def wraps(target: str = "", *, only: str | None = None) -> Callable[[F], F]:
    """Mark a wrapper's method, and say what it wraps where its name alone does not.

    `target` is a hook (`"discover"`) or, where two extension points have a hook of that name, `"point.hook"`; left out,
    it is the method's name. `only` narrows it to the component of that name. `@hookimpl(wrapper=True)` is the same
    without a target.
    """

    def mark(function: F) -> F:
        point, _, name = target.rpartition(".")
        function.crosstask_wraps = (point, name or function.__name__, only)  # type: ignore[attr-defined]
        return hookimpl(wrapper=True)(function)

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


@attrs.frozen
class Job:
    """A call that may run in another process: a module-level function and arguments that can be pickled.

    As a string it is what messages call it: `job 'a -> b' of discovery 'mine' (crosstask-mine 0.1.0)`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    label: str = ""
    component: str = ""
    """Who asked for it, for messages; a run fills it in."""
    key: tuple[str, str] | None = None
    """The (kind, key) under which its result is going to be remembered. What is known already is not done again, nor
    what another run does: `Context.jobs` then yields what is remembered, a `Remembered`, as the job's result.
    """

    def __str__(self) -> str:
        called = getattr(self.function, "__qualname__", None) or type(self.function).__qualname__
        where = getattr(self.function, "__module__", None)
        named = f"job {self.label!r}" if self.label else f"job {where}.{called}" if where else f"job {called}"
        return f"{named} of {self.component}" if self.component else named


@attrs.frozen
class Remembered:
    """A stored result: its JSON payload and, if it had any, its tensors by name."""

    payload: Any
    tensors: dict[str, torch.Tensor] = attrs.field(factory=dict)


class Context(ABC):
    """Seeds, jobs, remembered results, other components, and a voice (`tell`)."""

    seed: int
    """Of the run: everything random follows from it."""
    device: str
    """torch's name of the device to train on."""
    budget: Budget | None = None
    """What a transfer into a target may spend, where an engine says so."""
    seeds: int | None = None
    """Repeats of what is given with a confidence interval, where an engine says so."""
    folder: Path | None = None
    """Where a run of a recipe writes its record, its graph and its report; None elsewhere."""

    def when_closed(self, function: Callable[[BaseException | None], None]) -> None:  # noqa: B027 -- an empty default
        """Have `function` called once, as the run is over or its engine closed, with the error that ended it, if one
        did. Without a run it is not called.
        """

    @property
    def called(self) -> Component | None:
        """The component that is being asked right now, the innermost one: a wrapper can see whom it wraps."""
        return None

    def settings(self, plugin: str) -> dict[str, Any]:
        """What the user's settings tell a plugin: `[tool.crosstask.NAME]` and CROSSTASK_NAME_KEY."""
        from crosstask.settings import load_settings  # deferred: few components ask

        return load_settings().table(plugin)

    def seed_for(self, *parts: object) -> int:
        """A seed that depends on the run's seed and on `parts` only, not on the order of calls or on the process."""
        text = "\x1f".join(map(str, (self.seed, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, *parts: object) -> torch.Generator:
        """A CPU generator seeded by `seed_for(*parts)`."""
        import torch

        return torch.Generator().manual_seed(self.seed_for(*parts))

    @property
    def workers(self) -> int:
        """How many jobs can run at the same time."""
        return 1

    def wrapping(self) -> list[dict[str, Any]]:
        """The wrappers of the run: part of what determines every answer, and so of the keys of stored results."""
        return []

    @abstractmethod
    def jobs(self, jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[int, Any]]:
        """Run jobs, yielding (index, result) as each is done, in any order. A job's exception is raised here.

        `jobs` may depend on results that were yielded before: each is taken only when it can start. `at_once` limits
        how many are then under way; by default there are a few more than workers.
        """

    @abstractmethod
    def recall(self, kind: str, key: str, claim: bool = True) -> Remembered | None:
        """What was remembered under `key`, if anything. `kind` is a table of the store (see `crosstask.store`).

        Who gets None is expected to make it and to `remember` it: where runs share a store it is then theirs, until the
        hook ends in which they asked, and others wait for it here. `claim=False` only looks.
        """

    @abstractmethod
    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        """Keep a finished result: it survives the process, and is not computed again."""

    def past(self, kind: str) -> Iterator[tuple[str, Any]]:
        """(key, payload) of all that was remembered of a kind, here and by earlier runs of the store; no tensors."""
        return iter(())

    def forgo(self, kind: str, key: str) -> None:
        """Say that what `recall` did not know will not be remembered after all, so that nobody waits for it."""
        return

    @abstractmethod
    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        """Call a hook of one component, through the wrappers of the run if there are any."""

    @abstractmethod
    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a lifecycle hook of every observer; their answers, but for None."""

    @abstractmethod
    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        """Another component by name, bound to this context."""

    def resolve(self, point: str, choice: Any) -> Component:
        """A component from what an option may say: a name, a table with `use`, a `Choice`, or the object itself."""
        if getattr(choice, "point", None) == point:
            if isinstance(choice, type):
                raise OptionError(f"{point} must be an object, got the class {choice.__name__}: {choice.__name__}()")
            choice.bind(self)
            return cast("Component", choice)
        chosen: Choice = structure(choice, Choice, point)
        return self.component(point, chosen.use, chosen.options)


class Component(ABC):
    """Base of the contracts in `crosstask.points`; do not derive from it directly, derive from a contract.

    Hook methods of subclasses are marked as pluggy implementations automatically.
    """

    point: ClassVar[str]
    """Name of the extension point; set by the contract."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Properties that this component claims; the conformance kit holds it to them. Each contract lists its own."""

    results_version: ClassVar[int] = 1
    """Raised when the same options and inputs give other results than before: what is stored is then made again."""

    _context: Context | None = None
    _origin: str | None = None
    _name: str | None = None
    _distribution: str = ""
    _parts: dict[str, list[Any]] | None = None
    _referred: dict[str, Any] | None = None
    _decorated: ClassVar[bool]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if "_decorated" not in vars(cls):
            if options := [name for name in dir(cls) if type(getattr(cls, name)).__name__ == "_CountingAttr"]:
                raise PluginError(
                    f"{cls.__name__} has options ({', '.join(options)}) but is not decorated: put @crosstask.component "
                    f"above `class {cls.__name__}`"
                )
            cls._decorated = True
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        contract: Any = next((base for base in cls.__mro__ if "point" in vars(base)), Component)
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            if "ClassVar" in str(annotation) or cls is contract:
                continue
            if name in _RESERVED:
                raise PluginError(f"{cls.__name__}: an option cannot be called {name!r}: every component has it")
            if name == "use":
                raise PluginError(
                    f"{cls.__name__}: an option cannot be called 'use': in a recipe that is the component"
                )
            if name in vars(contract) and not name.startswith("_"):
                raise PluginError(f"{cls.__name__}: an option cannot be called {name!r}: every {contract.point} has it")
        hooks = hooks_of(cls)
        if hooks and not cls._is_contract():
            _refuse_misspelt(cls, hooks)
        for name, spec in hooks.items():
            own = vars(cls).get(name)
            if own is None or own is spec:
                continue
            if not inspect.isfunction(own):
                raise PluginError(f"{cls.__name__}.{name} is a hook of {cls.point!r} and must be a plain method")
            warn_if_deprecated(spec, cls.__name__)
            own = _whole(cls, name, own, spec)
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

    def referred(self, option: str) -> Any:
        """The value of an option declared with `crosstask.reference`: as it was given, or what the stage that it names
        has provided (in a run, before `work` is called).
        """
        value = getattr(self, option)
        if isinstance(value, Reference):
            if option not in (self._referred or {}):
                raise PluginError(f"{self.origin}: {option} refers to stage {value.stage!r}, which has not run")
            value = (self._referred or {})[option]
        return value

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

    def references(self) -> dict[str, tuple[Reference, Any]]:
        """The options that refer to other stages, with the type that each wants."""
        fields = attrs.fields(cast(Any, type(self))) if attrs.has(type(self)) else ()
        found = {f.name: (getattr(self, f.name), f.metadata["reference"]) for f in fields if "reference" in f.metadata}
        return {name: (value, kind) for name, (value, kind) in found.items() if isinstance(value, Reference)}

    def __getstate__(self) -> dict[str, Any]:
        """A component sent to another process leaves its run behind."""
        return {name: value for name, value in vars(self).items() if name != "_context"}

    @property
    def origin(self) -> str:
        """`balancer 'rgb' (crosstask-rgb 0.1.0)`, for messages."""
        return self._origin or f"{self.point} {type(self).__name__}"

    @property
    def offered_by(self) -> str:
        """`crosstask-rgb 0.1.0`; empty for a component that was made by hand."""
        return self._distribution

    @property
    def name(self) -> str:
        """The name under which it was registered; for one made by hand, where its class is."""
        return self._name or f"{type(self).__module__}:{type(self).__qualname__}"

    def identity(self) -> dict[str, Any]:
        """What determines its results, for keys of stored ones: neither its distribution nor its release.

        The components that it is made of count with their own identity, whether they were named or are the default.
        """
        parts = {name: [part.identity() for part in made] for name, made in self.all_parts().items()}
        return {
            "point": self.point,
            "name": self.name,
            "options": {**self.options(), **_not_finite(self), **parts},
            "results_version": self.results_version,
        }

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


def _not_finite(made: Component) -> dict[str, str]:
    """Options that are infinite or no number: as plain data they are nothing, which would be another value."""
    fields = attrs.fields(cast(Any, type(made))) if attrs.has(type(made)) else ()
    values = {f.name: getattr(made, f.name) for f in fields if f.init}
    numbers = {name: value if isinstance(value, tuple | list) else (value,) for name, value in values.items()}
    wrong = {name: any(isinstance(n, float) and not math.isfinite(n) for n in own) for name, own in numbers.items()}
    return {name: repr(value) for name, value in values.items() if wrong[name]}


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


def _whole(cls: type, name: str, own: Callable[..., Any], spec: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation that takes a subset of its hook's parameters, as pluggy allows, made to take all of them: so it
    can be called directly, too.
    """
    expected, given = list(inspect.signature(spec).parameters), list(inspect.signature(own).parameters)
    if given == expected or not set(given) < set(expected) or given[:1] != expected[:1]:
        return own
    wanted = given[1:]

    @functools.wraps(own)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        told = dict(zip(expected[1:], args, strict=False)) | kwargs
        return own(self, **{key: told[key] for key in wanted})

    whole.__signature__ = inspect.signature(spec)  # type: ignore[attr-defined]
    setattr(cls, name, whole)
    return whole


def _check_signature(cls: type, name: str, own: Callable[..., Any], spec: Callable[..., Any]) -> None:
    expected = list(inspect.signature(spec).parameters)
    given = inspect.signature(own).parameters
    if list(given) != expected and not getattr(own, "crosstask_impl", {}).get("wrapper"):
        wanted, got = ", ".join(expected), ", ".join(given)
        raise PluginError(f"{cls.__name__}.{name} must take ({wanted}) as the contract says, not ({got})")
    defaults = [p.name for p in given.values() if p.default is not p.empty]
    if defaults:
        raise PluginError(f"{cls.__name__}.{name}: {defaults[0]!r} must not have a default; pluggy would never pass it")


def run_now(job: Job) -> Future[Any]:
    """A finished future of a job run here and now. Ctrl-C is not the job's, and is not held back."""
    future: Future[Any] = Future()
    try:
        future.set_result(job.function(*job.args))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        future.set_exception(job_failed(str(job), error))
    return future


def job_failed(job: str, error: BaseException) -> Exception:
    """What whoever waits for a job is to raise for its error: the error itself, with a note that names the job; a
    RunError caused by it where it must not be raised there (`sys.exit`, StopIteration) or has no message that can be
    shown.
    """
    if may_be_raised(error):
        try:
            note = f"in {job}"
            if job not in str(error) and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            return error
        except Exception:
            pass
    told = RunError(f"{job} {what_was_raised(error)}")
    told.__cause__ = error
    return told


def may_be_raised(error: BaseException) -> TypeGuard[Exception]:
    """Whether an error says something when it is raised elsewhere, and does not end a program or a loop there."""
    try:
        str(error)
    except Exception:
        return False
    return isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration)


def what_was_raised(error: BaseException) -> str:
    """`raised ValueError: the text`, whatever its `__str__` does."""
    try:
        if isinstance(error, SystemExit):
            return f"called sys.exit({error.code!r})"
        text = str(error)
    except Exception as failed:
        text = f"(its message cannot be shown: __str__ raised {type(failed).__name__})"
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"raised {name}: {text}" if text else f"raised {name}"
