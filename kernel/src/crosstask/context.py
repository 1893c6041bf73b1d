"""What a component may ask of the run it works in; outside a run, a small standalone version of the same."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import attrs

from crosstask.options import structure
from crosstask.parts import Choice

if TYPE_CHECKING:
    import torch

    from crosstask.components import Component
    from crosstask.registry import Registry


@attrs.frozen
class Job:
    """A call that may run in another process: a module-level function and arguments that can be pickled."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    label: str = ""


@attrs.frozen
class Remembered:
    """A stored result: its JSON payload and, if it had any, its tensors by name."""

    payload: Any
    tensors: dict[str, torch.Tensor] = attrs.field(factory=dict)


class Context(ABC):
    """Seeds, jobs, remembered results, other components, and a voice (`tell`)."""

    seed: int
    device: str

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

    @abstractmethod
    def jobs(self, jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[int, Any]]:
        """Run jobs, yielding (index, result) as each is done, in any order. A job's exception is raised here.

        `jobs` may depend on results that were yielded before: each is taken only when it can start. `at_once` limits
        how many are then under way; by default there are a few more than workers.
        """

    @abstractmethod
    def recall(self, kind: str, key: str) -> Remembered | None:
        """What was remembered under `key`, if anything. `kind` is a table of the store (see `crosstask.store`)."""

    @abstractmethod
    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        """Keep a finished result: it survives the process, and is not computed again."""

    @abstractmethod
    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        """Call a hook of one component, through the wrappers of the run if there are any."""

    @abstractmethod
    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a lifecycle hook of every observer."""

    @abstractmethod
    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        """Another component by name, bound to this context."""

    def resolve(self, point: str, choice: Any) -> Component:
        """A component from what an option may say: a name, a table with `use`, a `Choice`, or the object itself."""
        if getattr(choice, "point", None) == point:
            choice.bind(self)
            return cast("Component", choice)
        chosen: Choice = structure(choice, Choice, point)
        return self.component(point, chosen.use, chosen.options)


class LocalContext(Context):
    """A component used without a run: serial, remembers in memory, tells nobody."""

    def __init__(self, seed: int = 0, device: str = "cpu", registry: Registry | None = None) -> None:
        self.seed, self.device = seed, device
        self._registry = registry
        self._memory: dict[tuple[str, str], Remembered] = {}

    def jobs(self, jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[int, Any]]:
        for index, job in enumerate(jobs):
            yield index, job.function(*job.args)

    def recall(self, kind: str, key: str) -> Remembered | None:
        return self._memory.get((kind, key))

    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        self._memory[kind, key] = Remembered(payload, dict(tensors or {}))

    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        from crosstask.components import check_answer  # deferred: components know the context, not the reverse

        answer = getattr(component, hook)(**arguments)
        check_answer(component, hook, answer)
        return answer

    def tell(self, hook: str, **arguments: Any) -> None:
        return None

    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        if self._registry is None:
            from crosstask.registry import Registry

            self._registry = Registry.installed()
        made = self._registry.create(point, name, options)
        made.bind(self)
        return made


def run_now(job: Job) -> Future[Any]:
    """A finished future of a job run here and now."""
    future: Future[Any] = Future()
    try:
        future.set_result(job.function(*job.args))
    except Exception as error:
        future.set_exception(error)
    return future
