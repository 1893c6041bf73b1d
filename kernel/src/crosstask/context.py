"""The context of a component that works without a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from crosstask.components import Component, Context, Job, Remembered, check_answer, run_now
from crosstask.registry import Registry

if TYPE_CHECKING:
    import torch


class LocalContext(Context):
    """A component used without a run: serial, remembers in memory, tells nobody."""

    def __init__(self, seed: int = 0, device: str = "cpu", registry: Registry | None = None) -> None:
        self.seed, self.device = seed, device
        self._registry = registry
        self._memory: dict[tuple[str, str], Remembered] = {}

    def jobs(self, jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[int, Any]]:
        for index, job in enumerate(jobs):
            known = None if job.key is None else self.recall(*job.key)
            yield index, run_now(job).result() if known is None else known

    def recall(self, kind: str, key: str, claim: bool = True) -> Remembered | None:
        return self._memory.get((kind, key))

    def remember(self, kind: str, key: str, payload: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        self._memory[kind, key] = Remembered(payload, dict(tensors or {}))

    def call(self, component: Component, hook: str, **arguments: Any) -> Any:
        answer = getattr(component, hook)(**arguments)
        check_answer(component, hook, answer)
        return answer

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        return []

    def component(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        if self._registry is None:
            self._registry = Registry.installed()
        made = self._registry.create(point, name, options)
        made.bind(self)
        return made
