"""The kit itself: what a check is, the checks of every contract, and how they are run with pytest or without.

A contract's checks are the methods `check_…` of its `Kit`: whoever defines an extension point names one in its manifest
(`Point(kit=…)`; those of the kernel's own points are in `crosstask.testing.kits`). Every check makes its own component
and inputs, so that they can run in any order, and says in its failure what was expected. The order within a kit is from
what is most basic on.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import attrs
import torch

from crosstask.components import Component, hooks_of, wraps
from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, OptionError, PluginError, nearest
from crosstask.manifest import KERNEL_POINTS, Plugin
from crosstask.options import build, describe, unstructure
from crosstask.points.wrapper import Wrapper
from crosstask.registry import PluginRecord, Registry, load
from crosstask.run import Run
from crosstask.settings import load_settings
from crosstask.testing.compare import difference, plain
from crosstask.testing.manifests import LIMIT_SECONDS, find_manifest, import_manifest, import_manifest_apart

if TYPE_CHECKING:
    from crosstask.tasks import Portfolio

F = TypeVar("F", bound=Callable[..., None])


class Call(Protocol):
    """Calls a hook of the component under test: directly, or through a run."""

    def __call__(self, hook: str, **arguments: Any) -> Any: ...


class CheckFailure(AssertionError):  # noqa: N818 -- pytest and authors read it as a failure, not as an error
    """A component does not do what its contract says."""


class NotApplicableError(Exception):
    """A check that means nothing here, with the reason."""


def expect(condition: object, message: str) -> None:
    """CheckFailure with `message` unless the condition holds."""
    if not condition:
        raise CheckFailure(message)


@contextlib.contextmanager
def refused(what: str, *kinds: type[Exception], naming: str = "") -> Iterator[None]:
    """The block must raise one of `kinds` (default: any error of crosstask's or a ValueError) with a message."""
    wanted = kinds or (CrosstaskError, ValueError)
    names = " or ".join(kind.__name__ for kind in wanted)
    try:
        yield
    except wanted as error:
        expect(str(error).strip(), f"{what}: {type(error).__name__} without a message")
        expect(naming in str(error), f"{what}: the message does not name {naming!r}: {error}")
    except Exception as error:
        raise CheckFailure(f"{what}: raised {type(error).__name__} ({error}), expected {names}") from error
    else:
        raise CheckFailure(f"{what}: accepted, expected {names}")


def claims(*capabilities: str) -> Callable[[F], F]:
    """A check only for components that claim one of these capabilities."""

    def mark(function: F) -> F:
        function.capabilities = capabilities  # type: ignore[attr-defined]
        return function

    return mark


@attrs.frozen(kw_only=True)
class Subject:
    """What is checked: a component class, the options to make it with, and what the author says about it."""

    component: type[Component]
    options: Mapping[str, Any] = attrs.field(factory=dict)
    twin: Callable[..., Any] | None = None
    manifest: str | None = None
    portfolio: Callable[[], Portfolio] | None = None
    registry: Registry | None = None
    url: str | None = None
    kit: type[Kit] | None = None
    wrappers: Callable[[], Sequence[Component]] = tuple

    @property
    def point(self) -> str:
        """The extension point of the component."""
        return self.component.point


class Kit(ABC):
    """The checks of one contract. This base holds those that every component must pass."""

    point: ClassVar[str]
    """The extension point whose contract it checks."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Every capability that the contract knows."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    # --- what a contract's kit defines

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Fresh, ordinary inputs, the same each time."""

    @abstractmethod
    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        """Use the component once on the inputs, as a run would, and return its answer."""

    # --- tools for checks

    def make(self) -> Any:
        """A new component with the author's options."""
        return build(self.subject.component, self.subject.options, self.name)

    @property
    def name(self) -> str:
        """Point and class of the component, for messages."""
        return f"{self.point} {self.subject.component.__name__}"

    def registry(self) -> Registry:
        """Where the component finds others: as given, else what its own manifest and the kernel offer."""
        if self.subject.registry is not None:
            return self.subject.registry
        from crosstask.builtin import PLUGIN

        registry = Registry()
        registry.register(PLUGIN)
        if self.point not in _OWN:  # who brings the point
            registry.records += [attrs.evolve(each, unusable=dict(each.unusable)) for each in _bases()]
        if self.subject.manifest is not None:
            with contextlib.suppress(Exception):  # what is wrong with it is for the checks of the manifest to say
                own = import_manifest(self.subject.manifest)
                if own is not PLUGIN:  # a base's is there already, perhaps as it was read in another process
                    registry.records = [record for record in registry.records if record.name != own.name]
                    registry.register(own)
        return registry

    @contextlib.contextmanager
    def run(self, *components: Component, seed: int = 0, device: str = "cpu") -> Iterator[Run]:
        """A run with these components (wrappers first)."""
        with Run(self.registry(), seed=seed, device=device) as run:
            for component in sorted([*self.subject.wrappers(), *components], key=lambda c: c.point != "wrapper"):
                run.add(component)
            yield run

    def answer(
        self,
        component: Component | None = None,
        inputs: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        wrappers: tuple[Component, ...] = (),
        noise: int | None = 0,
    ) -> Any:
        """What the component answers in a run, as a plain copy. `noise` seeds the global random numbers (None: not)."""
        made, given = self.make() if component is None else component, self.inputs() if inputs is None else inputs
        with self.run(*wrappers, made, seed=seed) as run:
            if noise is None:
                return plain(self.exercise(made, _through(run, made), given))
            with global_noise(noise):
                return plain(self.exercise(made, _through(run, made), given))

    # --- the checks of every component

    def check_manifest_is_light(self) -> None:
        """Importing the manifest is quick and silent, and imports no torch, numpy, networkx or structlog."""
        found = import_manifest_apart(self._manifest())
        expect(not found.error, f"{self.subject.manifest}: importing it failed:\n{found.error}")
        expect(
            not found.heavy,
            f"{self.subject.manifest}: importing it imports {', '.join(found.heavy)}; a manifest names code, it does "
            "not import it",
        )
        expect(not found.printed, f"{self.subject.manifest}: importing it prints {found.printed[:60]!r}")
        expect(
            found.seconds < LIMIT_SECONDS,
            f"{self.subject.manifest}: importing it took {found.seconds:.2f} s of CPU time; allowed: {LIMIT_SECONDS}",
        )

    def check_manifest_offers_the_component(self) -> None:
        """The manifest is of this API, and one of its extensions names this class under its extension point."""
        plugin = import_manifest(self._manifest())
        expect(isinstance(plugin, Plugin), f"{self.subject.manifest} is a {type(plugin).__name__}, not a Plugin")
        expect(plugin.compatible(), f"{self.subject.manifest} is for plugin API {plugin.api}")
        expect(not plugin.problems, f"{self.subject.manifest}: {'; '.join(plugin.problems)}")
        offers = [e for e in plugin.extensions if self._is_target(e.target)]
        told = ", ".join(f"{e.point} {e.name!r}: {e.target}" for e in plugin.extensions)
        expect(offers, f"{self.subject.manifest} does not offer {self.subject.component.__name__}; it offers {told}")
        for extension in offers:
            expect(
                extension.point == self.point,
                f"{extension.name!r} is declared as {extension.point!r}, the class is a {self.point!r}",
            )
            expect(extension.summary.strip(), f"{self.point} {extension.name!r} has no summary in the manifest")

    def check_documented(self) -> None:
        """The class has a docstring of its own, and each option a help text."""
        expect((vars(self.subject.component).get("__doc__") or "").strip(), f"{self.name} has no docstring")
        silent = [o["name"] for o in describe(self.subject.component) if not str(o["help"]).strip()]
        expect(not silent, f"{self.name}: no help for option {', '.join(silent)}; declare it with option(…, help=…)")

    def check_signatures(self) -> None:
        """Every method of the contract that the class overrides takes the contract's parameters by their names."""
        contract = contract_of(self.subject.component)
        for name, own in vars(self.subject.component).items():
            spec = vars(contract).get(name)
            if not inspect.isfunction(own) or not inspect.isfunction(spec) or name.startswith("__"):
                continue
            wanted, got = list(inspect.signature(spec).parameters), list(inspect.signature(own).parameters)
            expect(
                got[: len(wanted)] == wanted and _callable_with(own, len(wanted)),
                f"{self.name}.{name} must take ({', '.join(wanted)}) as the contract says, not ({', '.join(got)})",
            )

    def check_capabilities(self) -> None:
        """Each claimed capability is one that the contract knows."""
        claimed = self.subject.component.capabilities
        expect(isinstance(claimed, frozenset), f"{self.name}.capabilities must be a frozenset, got {claimed!r}")
        for capability in sorted(claimed - self.capabilities):
            raise CheckFailure(
                f"{self.name} claims {capability!r}, which the contract does not know"
                f"{nearest(capability, self.capabilities)}"
            )

    def check_unknown_option_refused(self) -> None:
        """An option that does not exist is refused, in Python and from TOML, with the nearest that does."""
        known = [o["name"] for o in describe(self.subject.component)]
        wrong = f"{known[0]}x" if known else "no_such_option"
        with refused(f"{self.name} with unknown option {wrong!r}", OptionError, naming=wrong):
            build(self.subject.component, {**self.subject.options, wrong: 1}, self.name)
        with refused(f"{self.subject.component.__name__}({wrong}=1)", TypeError, CrosstaskError, naming=wrong):
            self.subject.component(**self.subject.options, **{wrong: 1})

    def check_options_checked(self) -> None:
        """A value of the wrong type, and one outside the bounds, is refused for every option."""
        fields = {f.name: f for f in attrs.fields(self.subject.component)}  # type: ignore[arg-type]
        for option in describe(self.subject.component):
            name = option["name"]
            if fields[name].type not in (Any, "Any", object, "object"):
                self._refuses(name, object(), "an object")
            for value in _outside(fields[name]):
                self._refuses(name, value, repr(value))

    def check_options_round_trip(self) -> None:
        """`options()` is plain JSON, and makes the same component again."""
        component = self.make()
        options = component.options()
        try:
            copied = json.loads(json.dumps(options, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise CheckFailure(f"{self.name}.options() cannot be written as JSON: {error}") from None
        again = build(self.subject.component, copied, self.name).options()
        found = difference(plain(options), plain(again), "options()")
        expect(found is None, f"{self.name} made again from its own options differs: {found}")
        named = {f.name for f in attrs.fields(self.subject.component) if "part" in f.metadata}  # type: ignore[arg-type]
        for name, value in self.subject.options.items():
            if name in named:  # a part may be given by its name alone
                continue
            found = difference(plain(unstructure(value)), plain(options.get(name)), name)
            expect(found is None, f"{self.name}: option {found} (as given, as options() says)")

    def check_runs(self) -> None:
        """It answers ordinary inputs in a run."""
        self.answer()

    def check_wrappers_see_it(self) -> None:
        """Bound to the run that it is added to; wrappers hear its hooks, and passing the answer on changes nothing."""
        component = self.make()
        heard: list[str] = []
        with self.run(component) as run:
            expect(component.context is run, f"{self.name}: its context is not the run it was added to")
        contract = contract_of(self.subject.component)
        wrapped = self.answer(wrappers=(_spy(contract, heard),))
        if hooks_of(contract):
            expect(heard, f"{self.name}: no wrapper heard a hook of it")
        found = difference(self.answer(), wrapped, "answer")
        expect(found is None, f"{self.name} answers otherwise under a wrapper that changes nothing: {found}")

    def check_works_outside_a_run(self) -> None:
        """Called directly, without any run, it answers as in a run with the same seed."""
        component = self.make()
        if self.subject.registry is not None:
            component.bind(LocalContext(registry=self.subject.registry))
        with global_noise(0):
            direct = plain(self.exercise(component, _directly(component), self.inputs()))
        found = difference(direct, self.answer(), "answer")
        expect(found is None, f"{self.name} answers otherwise outside a run: {found}")

    def check_same_seed_same_answer(self) -> None:
        """Two new components with the same seed answer the same, whatever the state of global random numbers."""
        found = difference(self.answer(noise=1), self.answer(noise=2), "answer")
        expect(found is None, f"{self.name}: two answers to the same inputs and seed differ: {found}")

    def check_global_random_numbers_untouched(self) -> None:
        """It neither draws from nor seeds the global random numbers of torch, numpy and Python."""
        import random

        import numpy as np
        import rich.style  # noqa: F401 -- draws a number when it is first imported, which is nobody's fault here

        def states() -> Any:
            numpy_state = np.random.get_state(legacy=False)
            return plain({"torch": torch.get_rng_state(), "Python": random.getstate(), "numpy": numpy_state})

        component, inputs = self.make(), self.inputs()
        with global_noise(3):
            before = states()
            self.answer(component, inputs, noise=None)
            after = states()
        for what, state in before.items():
            changed = difference(state, after[what]) is not None
            expect(not changed, f"{self.name} changes {what}'s global random numbers; use self.context.generator(…)")

    def check_inputs_untouched(self) -> None:
        """What it is given is afterwards as it was: tensors, models, tasks, graph."""
        inputs = self.inputs()
        before = plain({name: value for name, value in inputs.items() if not isinstance(value, torch.Generator)})
        self.answer(inputs=inputs)
        after = plain({name: value for name, value in inputs.items() if not isinstance(value, torch.Generator)})
        found = difference(before, after, "inputs")
        expect(found is None, f"{self.name} changes what it is given: {found}")

    def check_picklable(self) -> None:
        """It can be sent to another process, before and after use, and works there."""
        component = self.make()
        expected = self.answer()
        try:
            sent = pickle.loads(pickle.dumps(component))  # noqa: S301 -- made here
            used = self.make()
            self.answer(used)
            pickle.loads(pickle.dumps(used))  # noqa: S301 -- made here
        except Exception as error:
            raise CheckFailure(f"{self.name} cannot be pickled: {type(error).__name__}: {error}") from error
        found = difference(expected, self.answer(sent), "answer")
        expect(found is None, f"{self.name} answers otherwise after pickling: {found}")

    def check_state_round_trip(self) -> None:
        """A new component given the `state_dict()` of a used one goes on as that one does."""
        used, fresh = self.make(), self.make()
        for _ in range(2):
            self.answer(used)
        state = plain_state(used.state_dict(), self.name)
        try:
            with self._place(fresh):
                fresh.load_state_dict(state)
        except Exception as error:
            raise CheckFailure(f"{self.name} does not load its own state: {type(error).__name__}: {error}") from error
        found = difference(self.answer(used), self.answer(fresh), "answer")
        expect(found is None, f"{self.name} restored from its state goes on otherwise: {found}")
        with (
            self._place(fresh),
            refused(f"{self.name}.load_state_dict of another shape", CrosstaskError, ValueError, KeyError),
        ):
            fresh.load_state_dict({"no such state": 0})

    def check_state_is_a_snapshot(self) -> None:
        """A `state_dict()` that was taken does not change while the component goes on."""
        component = self.make()
        self.answer(component)
        taken = component.state_dict()
        before = plain(taken)
        self.answer(component)
        found = difference(before, plain(taken), "state")
        expect(found is None, f"{self.name}: a state changed after it was taken: {found}")

    # --- private

    def _place(self, component: Component) -> contextlib.AbstractContextManager[Any]:
        """A run, if the component is made of others that it must find; most load their state without one."""
        return contextlib.nullcontext() if self.subject.registry is None else self.run(component)

    def _manifest(self) -> str:
        if self.subject.manifest is None:
            raise NotApplicableError("no manifest: the class is not in a package with a `plugin` module")
        return self.subject.manifest

    def _is_target(self, target: str) -> bool:
        module, _, name = target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in name.split("."):
                value = getattr(value, part)
        except Exception:  # a target that cannot be imported is not this class
            return False
        return value is self.subject.component

    def _refuses(self, name: str, value: object, shown: str) -> None:
        with refused(f"{self.name} with {name} = {shown}", CrosstaskError, ValueError, naming=name):
            build(self.subject.component, {**self.subject.options, name: value}, self.name)


def plain_state(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of a state, checked to be what can be stored: JSON and tensors."""

    def copy(value: Any, where: str) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        if isinstance(value, Mapping):
            return {key: copy(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copy(item, f"{where}[{i}]") for i, item in enumerate(value))
        expect(
            value is None or isinstance(value, bool | int | float | str),
            f"{name}: {where} is a {type(value).__name__}; a state is made of JSON and tensors",
        )
        return value

    return {key: copy(value, f"state {key!r}") for key, value in state.items()}


def contract_of(component: type[Component]) -> type[Component]:
    """The contract that a component fulfils: the class that declares its point."""
    return next(cls for cls in component.__mro__ if "point" in vars(cls))


@contextlib.contextmanager
def global_noise(seed: int) -> Iterator[None]:
    """Inside, torch's, numpy's and Python's global random numbers start from `seed`."""
    import random

    import numpy as np

    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)


def _through(run: Run, component: Component) -> Call:
    def call(hook: str, **arguments: Any) -> Any:
        return run.call(component, hook, **arguments)

    return call


def _directly(component: Component) -> Call:
    def call(hook: str, **arguments: Any) -> Any:
        return getattr(component, hook)(**arguments)

    return call


def _spy(contract: type[Component], heard: list[str]) -> Wrapper:
    """A wrapper of every hook of a contract that notes it and passes the answer on."""

    def listener(name: str) -> Any:
        @wraps(f"{contract.point}.{name}")
        def listen(self: object) -> Any:
            heard.append(name)
            return (yield)

        return listen

    current = [name for name, spec in hooks_of(contract).items() if not getattr(spec, "crosstask_deprecated", "")]
    methods = {name: listener(name) for name in current}
    made: Wrapper = type("Spy", (Wrapper,), methods)()
    return made


def _callable_with(function: Any, count: int) -> bool:
    """Whether parameters beyond the first `count` have defaults."""
    return all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in list(inspect.signature(function).parameters.values())[count:]
    )


def _outside(field: attrs.Attribute[Any]) -> Iterator[Any]:
    """A value just beyond each bound of an option (of its type, if it is a number or a tuple of numbers)."""
    for rule in filter(None, str(field.metadata.get("bounds", "")).split(" and ")):
        sign, text = rule.split(" ")
        limit = float(text)
        step = {">=": -1.0, ">": 0.0, "<=": 1.0, "<": 0.0}[sign]
        value: Any = limit + step
        if "float" not in str(field.type):
            value = int(value)
        yield [value] if "tuple" in str(field.type) else value
    if field.metadata.get("choices"):
        yield "no such choice"


# --- running them


@attrs.frozen
class Check:
    """One check of one component: its name, what it checks, and `run`, which raises if it fails."""

    name: str
    summary: str
    run: Callable[[], None]


@attrs.frozen
class Outcome:
    """What became of a check: passed, failed, skipped, expected (failed as announced) or unexpected (passed)."""

    name: str
    status: str
    summary: str
    message: str = ""

    @property
    def ok(self) -> bool:
        """Nothing is wrong: it passed, does not apply, or failed as expected."""
        return self.status in ("passed", "skipped", "expected")


def kit_for(subject: Subject) -> Kit:
    """The kit of the subject's contract: as given, else the one that whoever defines the point names in a manifest.
    PluginError if it is not a component of an extension point, or the point has no kit.
    """
    point = getattr(subject.component, "point", None)
    if not isinstance(subject.component, type) or not issubclass(subject.component, Component) or point is None:
        raise PluginError(
            f"{subject.component!r} is not a component; derive it from the contract of an extension point"
        )
    registry = _registry_with(point, subject.registry)
    kit = subject.kit or _kit_of(point, registry)
    known = point in _OWN or any(each.point.name == point for each in registry.points())
    contract = registry.contract(point) if known else contract_of(subject.component)
    if not issubclass(subject.component, contract):
        raise PluginError(
            f"{subject.component.__name__} says it is a {point!r} but does not derive from {contract.__name__}"
        )
    return kit(subject)


def _registry_with(point: str, given: Registry | None) -> Registry:
    """Where an extension point is looked up: the kernel's own need no plugin, others may be of one that was given."""
    if point in _OWN:
        return Registry()
    if given is not None and any(each.point.name == point for each in given.points()):
        return given
    return Registry.installed()


def _kit_of(point: str, registry: Registry) -> type[Kit]:
    found = registry.point(point)
    if not found.kit:
        raise PluginError(f"extension point {point!r} has no conformance kit; give one with kit=…")
    kit = load(found.kit, f"kit of extension point {point!r}")
    if not (isinstance(kit, type) and issubclass(kit, Kit)):
        raise PluginError(f"kit of extension point {point!r}: {found.kit} is not a crosstask.testing.kit.Kit")
    return kit


_OWN = frozenset(each.name for each in KERNEL_POINTS)


def _bases() -> tuple[PluginRecord, ...]:
    """The installed plugins that bring points: looked for again when something is installed, removed or set otherwise.
    Every check asks, and looking takes longer than most of them.
    """
    settings, folders = load_settings(), []
    for folder in sys.path:
        with contextlib.suppress(OSError):
            folders.append((folder, os.stat(folder or ".").st_mtime_ns))  # noqa: PTH116 -- twenty of them, each time
    state = (settings, folders, vars(Registry)["installed"])  # tests put another in its place
    if not _found or _found[0][0] != state:
        bases = tuple(r for r in Registry.installed(settings).records if r.plugin and r.plugin.points)
        _found[:] = [(state, bases)]
    return _found[0][1]


_found: list[tuple[Any, tuple[PluginRecord, ...]]] = []


def checks_of(
    component: type[Component],
    *,
    options: Mapping[str, Any] | None = None,
    twin: Callable[..., Any] | None = None,
    manifest: str | None = None,
    portfolio: Callable[[], Portfolio] | None = None,
    registry: Registry | None = None,
    url: str | None = None,
    kit: type[Kit] | None = None,
) -> list[Check]:
    """Every check that applies to a component, most basic first. For the arguments see `conformance`."""
    subject = Subject(
        component=component,
        options=dict(options or {}),
        twin=twin,
        manifest=manifest if manifest is not None else find_manifest(component),
        portfolio=portfolio,
        registry=registry,
        url=url,
        kit=kit,
    )
    made = kit_for(subject)
    found = []
    for name, function in _methods(type(made)).items():
        wanted = getattr(function, "capabilities", None)
        if wanted is not None and not set(wanted) & component.capabilities:
            continue
        if name == "check_agrees_with_twin" and twin is None:
            continue
        summary = (function.__doc__ or "").strip().splitlines()[0]
        found.append(Check(name, summary, getattr(made, name)))
    return found


def _methods(kit: type[Kit]) -> dict[str, Any]:
    """check_… methods, those of the base first, in the order of their definition; None takes an inherited one out."""
    found: dict[str, Any] = {}
    for base in reversed(kit.__mro__):
        found |= {name: value for name, value in vars(base).items() if name.startswith("check_")}
    return {name: value for name, value in found.items() if value is not None}


def announced(checks: list[Check], expected_failures: Mapping[str, str] | None) -> dict[str, str]:
    """The expected failures, checked: each names a check and gives a reason. OptionError otherwise."""
    given = dict(expected_failures or {})
    names = [check.name for check in checks]
    for name, reason in given.items():
        if name not in names:
            raise OptionError(f"expected_failures: no check {name!r}{nearest(name, names)}")
        if not isinstance(reason, str) or not reason.strip():
            raise OptionError(f"expected_failures: {name!r} needs a reason, got {reason!r}")
    return given


def run_checks(
    component: type[Component],
    *,
    expected_failures: Mapping[str, str] | None = None,
    strict: bool = True,
    **given: Any,
) -> list[Outcome]:
    """Run every check without pytest. For the arguments see `conformance`."""
    checks = checks_of(component, **given)
    expected = announced(checks, expected_failures)
    return [outcome_of(check, expected.get(check.name), strict) for check in checks]


def outcome_of(check: Check, expected: str | None = None, strict: bool = True) -> Outcome:
    """Run one check; whatever it raises is its outcome."""
    try:
        check.run()
    except NotApplicableError as reason:
        return Outcome(check.name, "skipped", check.summary, str(reason))
    except Exception as error:  # a component may raise anything: that is its failure
        if expected is not None:
            return Outcome(check.name, "expected", check.summary, expected)
        told = str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"
        return Outcome(check.name, "failed", check.summary, told)
    if expected is not None and strict:
        message = f"expected to fail ({expected}), but it passes: take it out of expected_failures"
        return Outcome(check.name, "unexpected", check.summary, message)
    return Outcome(check.name, "passed", check.summary)


def conformance(
    component: type[Component],
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    strict: bool = True,
    twin: Callable[..., Any] | None = None,
    manifest: str | None = None,
    portfolio: Callable[[], Portfolio] | None = None,
    registry: Registry | None = None,
    url: str | None = None,
    kit: type[Kit] | None = None,
) -> Any:
    """A pytest test function with one named case for each check of the component's contract:

        test_conformance = conformance(MyBalancer, options={"rate": 0.5})

    `expected_failures` maps names of checks to reasons; with `strict`, one that passes is a failure. `twin` is a
    slow and obviously right reference that answers are compared with (see the contract's kit for how it is called).
    `manifest` is the import string of the `Plugin`, by default `<package>.plugin:PLUGIN`; `portfolio` makes the
    tasks to use instead of the kit's, `registry` is where the component finds others that it asks for by name.
    `url`, for stores, may hold `{folder}`. `kit` is the kit of an extension point that no installed plugin defines.
    """
    import pytest  # deferred: the kit works without it

    checks = checks_of(
        component,
        options=options,
        twin=twin,
        manifest=manifest,
        portfolio=portfolio,
        registry=registry,
        url=url,
        kit=kit,
    )
    expected = announced(checks, expected_failures)

    def case(check: Check) -> Any:
        marks = [pytest.mark.xfail(reason=expected[check.name], strict=strict)] if check.name in expected else []
        return pytest.param(check, id=check.name, marks=marks)

    @pytest.mark.parametrize("check", [case(check) for check in checks])
    def test_conformance(check: Check) -> None:
        __tracebackhide__ = True
        try:
            check.run()
        except NotApplicableError as reason:
            pytest.skip(str(reason))

    test_conformance.__doc__ = f"{component.__name__} does what the contract of {component.point!r} says."
    test_conformance.conformance_of = component  # type: ignore[attr-defined]
    return test_conformance
