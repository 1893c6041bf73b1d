"""One run: its seed, its components, its own pluggy PluginManager, its store and executor."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from crosstask.components import Component, check_answer, hooks_of
from crosstask.context import Context, Job, Remembered
from crosstask.errors import PluginError, nearest
from crosstask.logs import logger
from crosstask.manifest import POINTS
from crosstask.options import unstructure
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.store import Store
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry, _import

if TYPE_CHECKING:
    import torch


class Run(Context):
    """The context that components of one run share. Close it (or use `with`) to stop its executor."""

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
    ) -> None:
        self.registry, self.seed, self.run_id, self.device = registry, seed, run_id, device
        self.store = store
        self.log = logger().bind(run=run_id)
        self._memory: dict[tuple[str, str], Remembered] = {}
        self._manager = pluggy.PluginManager("crosstask")
        self._specified: set[str] = set()
        self._components: list[Component] = []
        for observer in observers:
            self.add(observer)
        self.executor = executor or self._serial()
        self.add(self.executor)

    def _serial(self) -> Executor:
        from crosstask.executors import SerialExecutor

        return SerialExecutor()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.executor.shutdown()

    def add(self, component: Component) -> Component:
        """Bind a component to the run and register its hooks. Adding one twice does nothing."""
        if not any(component is known for known in self._components):
            for point in [component.point] if component.point != "wrapper" else list(POINTS):
                self._specify(point)
            component.bind(self)
            try:
                self._manager.register(component)
                if component.point == "wrapper":
                    self._refuse_unknown(component)
            except pluggy.PluginValidationError as error:
                raise PluginError(f"{component.origin}: {error}") from None
            self._components.append(component)
        return component

    def _specify(self, point: str) -> None:
        if point not in self._specified:
            self._specified.add(point)
            contract = _import(POINTS[point], point)
            if hooks_of(contract):  # wrappers have none of their own
                self._manager.add_hookspecs(contract)

    def _refuse_unknown(self, wrapper: Component) -> None:
        """A method of a wrapper that wraps nothing would never be called."""
        known = {name for point in POINTS for name in hooks_of(_import(POINTS[point], point))}
        wraps = False
        for name in dir(type(wrapper)):
            marked = getattr(getattr(type(wrapper), name), "crosstask_impl", None)
            if marked is not None and name not in known:
                raise PluginError(f"{wrapper.origin}: no hook {name!r}{nearest(name, known)}")
            if name in known and not (marked or {}).get("wrapper"):
                raise PluginError(f"{wrapper.origin}: {name} must be marked @hookimpl(wrapper=True)")
            wraps = wraps or marked is not None
        if not wraps:
            raise PluginError(f"{wrapper.origin} wraps no hook; mark a method with @hookimpl(wrapper=True)")

    def wrapping(self) -> list[dict[str, Any]]:
        """The wrappers of the run: part of what determines every answer, and so of the keys of stored results."""
        return [{"wrapper": c.origin, "options": c.options()} for c in self._components if c.point == "wrapper"]

    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        return self.add(self.registry.create(point, name, options))

    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        self.add(component)
        others = [c for c in self._components if c.point == component.point and c is not component]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        try:
            answer = caller(**arguments)
        except Exception as error:
            self._blame(error, component)
            raise
        first = bool(getattr(self._manager.hook, hook).spec.opts.get("firstresult"))
        answer = answer if first else next(iter(answer), None)
        try:
            check_answer(component, hook, answer)
        except PluginError as error:
            for wrapper in self._components:
                if wrapper.point == "wrapper" and hasattr(wrapper, hook):
                    error.add_note(f"the answer passed through {wrapper.origin}")
            raise
        return answer

    def tell(self, hook: str, **arguments: Any) -> None:
        self._specify("observer")
        try:
            getattr(self._manager.hook, hook)(**arguments)
        except Exception as error:
            self._blame(error, None)
            raise

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
