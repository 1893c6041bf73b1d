"""One run: its seed, its components, its own pluggy managers (one for each extension point), its store and executor."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from crosstask.components import (
    Component,
    Context,
    Job,
    Remembered,
    check_answer,
    hooks_of,
    warn_if_deprecated,
)
from crosstask.errors import CrosstaskError, PluginError, nearest
from crosstask.executors import SerialExecutor
from crosstask.logs import logger
from crosstask.options import unstructure
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.store import Store
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry

if TYPE_CHECKING:
    import torch


@attrs.frozen
class Traced:
    """One call of a hook, for `--trace`."""

    hook: str
    component: str
    distribution: str
    seconds: float
    answer: str

    def __str__(self) -> str:
        return f"{self.hook}  {self.component}  {self.seconds * 1000:.1f} ms  {self.answer}".rstrip()


class Run(Context):
    """The context that components of one run share. Close it (or use `with`) to stop its executor.

    `trace` is called with every finished call of a hook.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        seed: int = 0,
        run_id: str = "",
        device: str = "cpu",
        store: Store | None = None,
        executor: Executor | None = None,
        observers: Iterable[Observer | Wrapper] = (),
        trace: Any = None,
    ) -> None:
        self.registry, self.seed, self.run_id, self.device = registry, seed, run_id, device
        self.store = store
        self.log = logger().bind(run=run_id)
        self._memory: dict[tuple[str, str], Remembered] = {}
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._components: list[Component] = []
        self._wraps: list[_Wrapped] = []
        self._asked: list[Component] = []
        self._trace = trace
        for observer in observers:
            self.add(observer)
        self.executor = executor or SerialExecutor()
        self.add(self.executor)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.executor.shutdown()

    @property
    def called(self) -> Component | None:
        return self._asked[-1] if self._asked else None

    def settings(self, plugin: str) -> dict[str, Any]:
        return self.registry.settings.table(plugin)

    def add(self, component: Component) -> Component:
        """Bind a component to the run and register its hooks. Adding one twice does nothing."""
        if not any(component is known for known in self._components):
            if isinstance(component, Wrapper):
                self._wrap(component)
            else:
                manager = self._manager(component)
                try:
                    manager.register(component)
                except pluggy.PluginValidationError as error:
                    raise PluginError(f"{component.origin}: {error}") from None
            component.bind(self)
            self._components.append(component)
        return component

    def _manager(self, component: Component) -> pluggy.PluginManager:
        """The manager of a component's point. The contract is read off the component: no other point is imported."""
        point = component.point
        if point not in self._managers:
            manager = pluggy.PluginManager("crosstask")
            contract = next(cls for cls in type(component).__mro__ if "point" in vars(cls))
            if hooks_of(contract):
                manager.add_hookspecs(contract)
            self._managers[point] = manager
            for wrapped in self._wraps:
                if wrapped.point == point:
                    manager.register(wrapped.plugin())
        return self._managers[point]

    def _wrap(self, wrapper: Wrapper) -> None:
        """Register each marked method with the manager of the point whose hook it wraps."""
        made = []
        for name in dir(type(wrapper)):
            method = getattr(type(wrapper), name)
            marked = getattr(method, "crosstask_impl", None)
            if marked is None:
                if inspect.isfunction(method) and not name.startswith("_") and name in self._kernel_hooks():
                    raise PluginError(f"{wrapper.origin}: {name} must be marked @hookimpl(wrapper=True)")
                continue
            if not marked.get("wrapper"):
                raise PluginError(f"{wrapper.origin}: {name} must be marked @hookimpl(wrapper=True)")
            made.append(self._wrapped(wrapper, name, method))
        if not made:
            raise PluginError(f"{wrapper.origin} wraps no hook; mark a method with @hookimpl(wrapper=True)")
        for wrapped in made:
            self._wraps.append(wrapped)
            if wrapped.point in self._managers:
                self._managers[wrapped.point].register(wrapped.plugin())

    def _wrapped(self, wrapper: Wrapper, name: str, method: Any) -> _Wrapped:
        point, hook, only = getattr(method, "crosstask_wraps", ("", name, None))
        point, spec = self._hook(wrapper, point, hook)
        wanted = list(inspect.signature(spec).parameters)[1:]
        for parameter in list(inspect.signature(method).parameters)[1:]:
            if parameter not in wanted:
                raise PluginError(
                    f"{wrapper.origin}: {name} takes {parameter!r}, which hook {point}.{hook} does not pass"
                    f"{nearest(parameter, wanted)}"
                )
        if not inspect.isgeneratorfunction(inspect.unwrap(method)):
            raise PluginError(
                f"{wrapper.origin}: {name} must yield once: `answer = yield` gives the answer of what it wraps"
            )
        warn_if_deprecated(spec, wrapper.origin)
        return _Wrapped(wrapper, point, hook, getattr(wrapper, name), only or wrapper.only)

    def _kernel_hooks(self) -> dict[str, list[tuple[str, Any]]]:
        """Hook -> (point, spec) for the kernel's own points."""
        found: dict[str, list[tuple[str, Any]]] = {}
        for each in self.registry.points():
            if each.plugin is None:
                for name, spec in hooks_of(self.registry.contract(each.point.name)).items():
                    found.setdefault(name, []).append((each.point.name, spec))
        return found

    def _hook(self, wrapper: Wrapper, point: str, hook: str) -> tuple[str, Any]:
        """Which point's hook a wrapper means. The kernel's points are looked at first; contracts of plugins are
        imported only for a name that is left over, and one that cannot be is passed over.
        """
        known: dict[str, list[tuple[str, Any]]] = {}
        if point:
            specs = hooks_of(self.registry.contract(point))
            known = {name: [(point, spec)] for name, spec in specs.items()}
        else:
            known = self._kernel_hooks()
            if hook not in known:
                for each in self.registry.points():
                    if each.plugin is None or each.reason:
                        continue
                    try:
                        specs = hooks_of(self.registry.contract(each.point.name))
                    except CrosstaskError as error:
                        self.log.info("contract left out", point=each.point.name, reason=str(error))
                        continue
                    for name, spec in specs.items():
                        known.setdefault(name, []).append((each.point.name, spec))
        if hook not in known:
            raise PluginError(f"{wrapper.origin}: no hook {hook!r}{nearest(hook, known)}")
        if len(known[hook]) > 1:
            told = " and ".join(sorted(at for at, _ in known[hook]))
            raise PluginError(
                f"{wrapper.origin}: {told} both have a hook {hook!r}; say which with "
                f'@wraps("{known[hook][0][0]}.{hook}")'
            )
        return known[hook][0]

    def used(self) -> set[str]:
        """The origins (`crosstask-rgb 0.1.0`) of every component of the run so far."""
        return {component.offered_by for component in self._components}

    def wrapping(self) -> list[dict[str, Any]]:
        """The wrappers of the run: part of what determines every answer, and so of the keys of stored results."""
        return [c.identity() for c in self._components if isinstance(c, Wrapper)]

    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        return self.add(self.registry.create(point, name, options))

    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        self.add(component)
        manager = self._managers[component.point]
        others = [c for c in self._components if c.point == component.point and c is not component]
        others += [w.proxy for w in self._wraps if w.proxy is not None and not w.applies(component)]
        caller = manager.subset_hook_caller(hook, remove_plugins=others)
        self._asked.append(component)
        started = time.perf_counter()
        try:
            answer = caller(**arguments)
        except Exception as error:
            self._blame(error, component)
            self._traced(hook, component, started, f"raised {type(error).__name__}")
            if wrapper := self._not_once(error):
                raise PluginError(
                    f"{wrapper.origin}: {hook} must yield once: `answer = yield` gives the answer of what it wraps"
                ) from error
            raise
        except SystemExit as error:  # the run is not the plugin's to end, least of all as a success
            self._traced(hook, component, started, "raised SystemExit")
            raise PluginError(f"{component.origin}: {hook} called sys.exit({error.code})") from error
        finally:
            self._asked.pop()
        first = bool(getattr(manager.hook, hook).spec.opts.get("firstresult"))
        answer = answer if first else next(iter(answer), None)
        self._traced(hook, component, started, type(answer).__name__)
        try:
            check_answer(component, hook, answer)
        except PluginError as error:
            for wrapped in self._wraps:
                if (wrapped.point, wrapped.hook) == (component.point, hook) and wrapped.applies(component):
                    error.add_note(f"the answer passed through {wrapped.wrapper.origin}")
            raise
        return answer

    def tell(self, hook: str, **arguments: Any) -> None:
        if hook not in hooks_of(Observer):
            raise PluginError(f"observers have no hook {hook!r}{nearest(hook, hooks_of(Observer))}")
        manager = self._managers.get(Observer.point)
        if manager is None:  # nobody listens
            return
        started = time.perf_counter()
        try:
            getattr(manager.hook, hook)(**arguments)
        except Exception as error:
            self._blame(error, None)
            raise
        self._traced(hook, None, started, "")

    def _traced(self, hook: str, component: Component | None, started: float, answer: str) -> None:
        if self._trace is not None:
            who = ("every observer", "") if component is None else (component.origin, component.offered_by)
            self._trace(Traced(hook, *who, time.perf_counter() - started, answer))

    def _blame(self, error: BaseException, called: Component | None) -> None:
        """Note on an exception whose hook raised it: the innermost frame that belongs to a component of the run."""
        guilty, trace = called, error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            if isinstance(owner, Component):
                guilty = owner
            trace = trace.tb_next
        note = f"in {guilty.origin}" if guilty is not None else ""
        if note and note not in getattr(error, "__notes__", ()):
            error.add_note(note)

    def _not_once(self, error: Exception) -> Wrapper | None:
        """The wrapper of which pluggy says, by the place of its code, that it yielded not at all, or twice."""
        if isinstance(error, RuntimeError) and str(error).startswith("wrap_controller at "):
            for wrapped in self._wraps:
                code = inspect.unwrap(wrapped.method).__code__
                if f" {code.co_filename}:{code.co_firstlineno} " in str(error):
                    return wrapped.wrapper
        return None

    @property
    def workers(self) -> int:
        return self.executor.capacity()

    def jobs(self, jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[int, Any]]:
        # A few more in flight than workers: all stay busy, and a stopped run loses no more than these.
        limit = at_once or (2 * self.workers if self.workers > 1 else 1)
        waiting = enumerate(jobs)
        running: dict[Future[Any], int] = {}
        try:
            while True:
                for index, job in itertools.islice(waiting, limit - len(running)):
                    running[self.call(self.executor, "submit", job=job)] = index
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: running[f]):
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()

    def recall(self, kind: str, key: str) -> Remembered | None:
        known = self._memory.get((kind, key))
        if known is None and self.store is not None:
            known = self.store.get(kind, key)
            if known is not None:
                self._memory[kind, key] = known
        return known

    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        plain = unstructure(payload)
        self._memory[kind, key] = Remembered(plain, {n: t.detach().clone() for n, t in (tensors or {}).items()})
        if self.store is not None:
            self.store.put(kind, key, plain, tensors=tensors, run_id=self.run_id)


class _Proxy:
    """Holds one method of a wrapper under the name of the hook that it wraps."""


@attrs.define(eq=False)
class _Wrapped:
    """One hook that a wrapper wraps."""

    wrapper: Wrapper
    point: str
    hook: str
    method: Any
    only: str | None
    proxy: Any = None

    def plugin(self) -> Any:
        """What pluggy registers: an object with this method alone, under the hook's name."""
        if self.proxy is None:
            self.proxy = _Proxy()
            setattr(self.proxy, self.hook, self.method)
        return self.proxy

    def applies(self, component: Component) -> bool:
        return self.only is None or self.only == component.name
