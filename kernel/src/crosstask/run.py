"""One run: its seed, its components, its own pluggy managers (one for each extension point), its store and executor."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
    job_failed,
    warn_if_deprecated,
)
from crosstask.errors import CrosstaskError, PluginError, RunError, nearest
from crosstask.executors import SerialExecutor
from crosstask.logs import logger
from crosstask.options import unstructure
from crosstask.points.executor import Executor
from crosstask.points.observer import Observer
from crosstask.points.store import Holder, Store
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry
from crosstask.steps import Listener, heard_by
from crosstask.store.claims import Claims, Key

if TYPE_CHECKING:
    import torch

_AT_ONCE = 16  # claims of others on which a run keeps an eye while it waits
_LOOK_AGAIN = 0.2  # seconds after which a worker without work looks whether another run gave up something


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
        self.log = logger().bind(**({"run": run_id} if run_id else {}))
        self.claims = None if store is None else Claims(store, run_id, self.log)
        self._memory: dict[Key, Remembered] = {}
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._components: list[Component] = []
        self._wraps: list[_Wrapped] = []
        self._asked: list[Component] = []
        self._stages: list[str] = []
        self._noting: list[set[str]] = []
        self._credited: set[str] = set()
        self._closing: list[Callable[[BaseException | None], None]] = []
        self._cut_short = False  # an observer stopped a training: what came of it follows from no key
        self._trace = trace
        for observer in observers:
            self.add(observer)
        self.executor = executor or SerialExecutor()
        self.add(self.executor)

    def __enter__(self) -> Run:
        if self.claims is not None:
            self.claims.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.executor.shutdown()
        finally:
            if self.claims is not None:
                self.claims.close()

    @property
    def called(self) -> Component | None:
        return self._asked[-1] if self._asked else None

    def when_closed(self, function: Callable[[BaseException | None], None]) -> None:
        self._closing.append(function)

    def closed(self, error: BaseException | None = None) -> None:
        """Call what asked for it with `when_closed`, the last that asked first."""
        while self._closing:
            self._closing.pop()(error)

    def settings(self, plugin: str) -> dict[str, Any]:
        return self.registry.settings.table(plugin)

    def add(self, component: Component) -> Component:
        """Bind a component to the run and register its hooks. Adding one twice does nothing."""
        for seen in self._noting:
            seen.add(component.offered_by)
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
        """The origins (`crosstask-rgb 0.1.0`) of every component of the run so far, and of those behind what was taken
        from the store (`credit`).
        """
        return {component.offered_by for component in self._components} | self._credited

    @contextlib.contextmanager
    def noting(self) -> Iterator[set[str]]:
        """Inside, the origins of all components that take part in the work are added to the set that is given."""
        seen: set[str] = set()
        self._noting.append(seen)
        try:
            yield seen
        finally:
            self._noting = [each for each in self._noting if each is not seen]

    def credit(self, distributions: Collection[str]) -> None:
        """Count what these distributions offer, as they are installed now, as used: an answer that is taken from the
        store was made with it.
        """
        found = {record.origin for record in self.registry.plugins() if record.distribution in distributions}
        for seen in (self._credited, *self._noting):
            seen |= found

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
        ended = False
        try:
            with heard_by(self._listener()):
                answer = caller(**arguments)
            ended = True
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
            # What it claimed and did not remember it will not make any more; nor will whoever asked it, if it failed
            outermost = len(self._asked) == 1 and component is not self.executor
            self._release_from(0 if outermost and not ended else len(self._asked))
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

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        if hook not in hooks_of(Observer):
            raise PluginError(f"observers have no hook {hook!r}{nearest(hook, hooks_of(Observer))}")
        manager = self._managers.get(Observer.point)
        if hook == "stage_started":
            self._stages.append(str(arguments.get("stage")))
        elif hook == "stage_finished" and self._stages:
            self._stages.pop()
        if manager is None:  # nobody listens
            return []
        started = time.perf_counter()
        try:
            answers: list[Any] = getattr(manager.hook, hook)(**arguments)
        except Exception as error:
            self._blame(error, None)
            raise
        self._traced(hook, None, started, "")
        return answers

    def _listener(self) -> Listener | None:
        """Who hears the steps of trainings; None if no observer does, which spares them looking at their losses."""
        if not any(isinstance(c, Observer) and _hears_steps(c) for c in self._components):
            return None

        def listen(step: int, metrics: dict[str, Any]) -> bool:
            stage = self._stages[-1] if self._stages else ""
            stop = True in self.tell("training_step", stage=stage, step=step, metrics=metrics)
            if stop and not self._cut_short:
                self._cut_short = True
                self.log.info("a training was stopped: results of this run are not stored", stage=stage, step=step)
            return stop

        return listen

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
        waiting = enumerate(map(self._named, jobs))
        others: deque[tuple[int, Job]] = deque()  # another run has claimed what they would make
        running: dict[Future[Any], tuple[int, Job]] = {}
        ended = False
        try:
            while True:
                looked = 0
                while len(running) < limit:
                    taken = next(waiting, None)
                    if taken is None:  # all that nobody else does is under way
                        if looked >= len(others):
                            break
                        taken, looked = others.popleft(), looked + 1
                    index, job = taken
                    known, owner = self._wanted(job)
                    if known is not None:
                        yield index, known
                    elif owner is not None:
                        others.append(taken)
                    else:
                        running[self.call(self.executor, "submit", job=job)] = taken
                if running:
                    pause = _LOOK_AGAIN if others and len(running) < limit else None
                    done, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
                    failed: Exception | None = None
                    for future in sorted(done, key=lambda f: running[f][0]):
                        index, job = running.pop(future)
                        if error := _why_failed(job, future):
                            failed = failed or error
                        else:
                            yield index, future.result()
                        self._release(job.key)  # if it was not remembered
                    if failed is not None:  # after the results that came with it, which are not to be lost
                        raise failed
                elif others and not self._wait_for_any(others):
                    index, job = others.popleft()
                    running[self.call(self.executor, "submit", job=job)] = (index, job)
                elif not others:
                    ended = True
                    return
        finally:
            for future in running:
                future.cancel()
            for _, job in running.values():
                self._release(job.key)
            if not ended and not self._asked:
                self._release_from(0)

    def _named(self, job: Job) -> Job:
        """The job with the component that asked for it."""
        return job if job.component or self.called is None else attrs.evolve(job, component=self.called.origin)

    def _wanted(self, job: Job) -> tuple[Remembered | None, Holder | None]:
        """What is known of a job's result, and who else has claimed it. Neither: it is ours to do."""
        if job.key is None:
            return None, None
        known = self._known(*job.key)
        return self._claim(job.key) if known is None else (known, None)

    def _wait_for_any(self, others: Iterable[tuple[int, Job]]) -> bool:
        """Wait until one of the jobs that others do is done, or free. False: they wait for us."""
        assert self.claims is not None
        return self.claims.wait([job.key for _, job in others if job.key is not None][:_AT_ONCE])

    def recall(self, kind: str, key: str, claim: bool = True) -> Remembered | None:
        while True:
            known = self._known(kind, key)
            if known is not None or not claim:
                return known
            known, owner = self._claim((kind, key))
            if known is not None or owner is None:
                return known
            assert self.claims is not None
            if not self.claims.wait([(kind, key)]):
                return None

    def _known(self, kind: str, key: str) -> Remembered | None:
        known = self._memory.get((kind, key))
        if known is None and self.store is not None:
            known = self.store.get(kind, key)
            if known is not None:
                self._memory[kind, key] = known
        return known

    def _claim(self, key: Key) -> tuple[Remembered | None, Holder | None]:
        """Claim what is not known yet: what was finished meanwhile, or who else has it; neither if it is ours."""
        if self.claims is None or key in self.claims.held:
            return None, None
        owner = self.claims.take(key, len(self._asked))
        if owner is not None:
            return None, owner
        known = self._known(*key)  # finished between the look and the claim
        if known is not None:
            self._release(key)
        return known, None

    def _release(self, key: Key | None) -> None:
        if self.claims is not None and key is not None:
            self.claims.release([key])

    def _release_from(self, depth: int) -> None:
        if self.claims is not None:
            self.claims.release_from(depth)

    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        plain = unstructure(payload)
        self._memory[kind, key] = Remembered(plain, {n: t.detach().clone() for n, t in (tensors or {}).items()})
        if self.store is not None and not self._cut_short:
            self.store.put(kind, key, plain, tensors=tensors, run_id=self.run_id)
        self._release((kind, key))

    def past(self, kind: str) -> Iterator[tuple[str, Any]]:
        kept = {} if self.store is None else dict(self.store.entries(kind))
        own = {key: known.payload for (of, key), known in self._memory.items() if of == kind}
        return iter({**kept, **own}.items())

    def forgo(self, kind: str, key: str) -> None:
        self._release((kind, key))


def _why_failed(job: Job, future: Future[Any]) -> Exception | None:
    """What a job that is done has failed with, whatever the executor gave its future."""
    if future.cancelled():
        return RunError(f"{job} was dropped: the executor was shut down")
    error = future.exception()
    return None if error is None else job_failed(str(job), error)


def _hears_steps(observer: Observer) -> bool:
    return observer.hears_every_step and type(observer).training_step is not Observer.training_step


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
