"""The engine as coroutines: the same methods, run one after another in a thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from crosstask.adapting import Adapted
from crosstask.descriptors import TaskDescriptor
from crosstask.engine import KnowledgeDistiller, Strategy, TransferEngine
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.options import describe
from crosstask.points.distillation import Distilled
from crosstask.points.stage import Outcome
from crosstask.records import Advice, Curriculum, CurriculumResult, TransferResult
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task

P = ParamSpec("P")
R = TypeVar("R")


class CrossTaskTransferEngine:
    """`TransferEngine` whose long work is coroutines. Calls are queued: the engine never works on two at once, and a
    plain call waits for what was asked before it.

    The dimensions go to those of the default discoverers that have options of these names; `options` are those of
    `TransferEngine`. What the engine holds (`tasks`, `transfer_edges`, `curricula` …) is read from here, too.
    """

    def __init__(
        self,
        task_embedding_dim: int = 128,
        hidden_dim: int = 256,
        auto_discover: bool = True,
        *,
        engine: TransferEngine | None = None,
        **options: Any,
    ) -> None:
        if engine is None:
            named = "discoverers" in options
            if not named:
                registry = options.setdefault("registry", Registry.installed())
                options["discoverers"] = _sized(registry, task_embedding_dim, hidden_dim)
            engine = TransferEngine(auto_discover=auto_discover, **options)
            engine.discoverers_named = named
        self.engine = engine
        """The engine itself; read its `graph` and `portfolio` between calls."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crosstask")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.engine!r})"

    def _now(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            waiting = self._thread.submit(functools.partial(method, *args, **kwargs))
        except RuntimeError:  # closed: what it holds can still be read
            return method(*args, **kwargs)
        return waiting.result()

    # What the engine holds --------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, TaskDescriptor]:
        """As `TransferEngine.tasks`."""
        return self.engine.tasks

    @property
    def transfer_edges(self) -> list[TransferEdge]:
        """As `TransferEngine.transfer_edges`."""
        return self.engine.transfer_edges

    @property
    def meta_knowledge(self) -> list[Distilled]:
        """As `TransferEngine.meta_knowledge`."""
        return self.engine.meta_knowledge

    @property
    def curricula(self) -> list[Curriculum]:
        """As `TransferEngine.curricula`."""
        return self.engine.curricula

    @property
    def transfer_history(self) -> list[TransferResult]:
        """As `TransferEngine.transfer_history`."""
        return self.engine.transfer_history

    @property
    def knowledge_distiller(self) -> KnowledgeDistiller:
        """As `TransferEngine.knowledge_distiller`."""
        return self.engine.knowledge_distiller

    async def __aenter__(self) -> CrossTaskTransferEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(method, *args, **kwargs))

    async def close(self) -> None:
        """Stop the thread, and the engine."""
        await self._do(self.engine.close)
        self._thread.shutdown()

    def register_task(
        self,
        task_or_descriptor: Task | TaskDescriptor,
        trained_model: nn.Module | None = None,
        *,
        unseen: bool = False,
    ) -> None:
        """As `TransferEngine.register_task`."""
        self._now(self.engine.register_task, task_or_descriptor, trained_model, unseen=unseen)

    def register(self, portfolio: Portfolio) -> None:
        """As `TransferEngine.register`."""
        self._now(self.engine.register, portfolio)

    async def train(self, tasks: Iterable[str] | None = None) -> None:
        """As `TransferEngine.train`."""
        await self._do(self.engine.train, tasks)

    async def discover(self, discoverers: Iterable[Strategy] | None = None) -> TransferGraph:
        """As `TransferEngine.discover`."""
        return await self._do(self.engine.discover, discoverers)

    def get_transfer_graph_metrics(self) -> dict[str, Any]:
        """As `TransferEngine.get_transfer_graph_metrics`."""
        return self._now(self.engine.get_transfer_graph_metrics)

    def export_transfer_graph(self, output_path: str | Path) -> Path:
        """As `TransferEngine.export_transfer_graph`."""
        return self._now(self.engine.export_transfer_graph, output_path)

    async def transfer_knowledge(
        self,
        source_task: str,
        target_task: str,
        transfer_strategy: Strategy = None,
        *,
        samples: bool = False,
    ) -> TransferResult:
        """As `TransferEngine.transfer_knowledge`."""
        return await self._do(
            self.engine.transfer_knowledge, source_task, target_task, transfer_strategy, samples=samples
        )

    def get_best_transfer_strategy(self, source: str, target: str) -> str:
        """As `TransferEngine.get_best_transfer_strategy`."""
        return self._now(self.engine.get_best_transfer_strategy, source, target)

    async def generate_curriculum(self, target_task: str, strategy: Strategy = None, max_tasks: int = 5) -> Curriculum:
        """As `TransferEngine.generate_curriculum`."""
        return await self._do(self.engine.generate_curriculum, target_task, strategy, max_tasks)

    async def run_curriculum(
        self,
        curriculum: Curriculum,
        transfer_strategy: Strategy = None,
        *,
        planner: Strategy | None = None,
        gate: bool = True,
    ) -> CurriculumResult:
        """As `TransferEngine.run_curriculum`."""
        return await self._do(self.engine.run_curriculum, curriculum, transfer_strategy, planner=planner, gate=gate)

    async def distill(
        self, tasks: Sequence[str], strategy: Strategy = None, samples: torch.Tensor | None = None
    ) -> Distilled:
        """As `TransferEngine.distill`."""
        return await self._do(self.engine.distill, tasks, strategy, samples)

    async def synthesize_zero_shot_model(
        self,
        new_task: str | Task | TaskDescriptor,
        synthesis_strategy: Strategy = None,
        inputs: torch.Tensor | None = None,
        *,
        expect: bool = True,
    ) -> nn.Module:
        """As `TransferEngine.synthesize_zero_shot_model`."""
        make = self.engine.synthesize_zero_shot_model
        return await self._do(make, new_task, synthesis_strategy, inputs, expect=expect)

    async def advise(self, target: str, transfer_strategy: Strategy = None, *, share: float = 0.25) -> Advice:
        """As `TransferEngine.advise`."""
        return await self._do(self.engine.advise, target, transfer_strategy, share=share)

    async def adapt(
        self, source: str | Sequence[str] | Curriculum, target: str | None = None, strategy: Strategy = None
    ) -> Adapted:
        """As `TransferEngine.adapt`."""
        return await self._do(self.engine.adapt, source, target, strategy)

    async def run_stage(self, name: str, **options: Any) -> Outcome:
        """As `TransferEngine.run_stage`."""
        return await self._do(functools.partial(self.engine.run_stage, name, **options))


def create_cross_task_transfer_engine(
    task_embedding_dim: int = 128,
    hidden_dim: int = 256,
    auto_discover: bool = True,
    registry: Registry | None = None,
    **options: Any,
) -> CrossTaskTransferEngine:
    """The same as `CrossTaskTransferEngine`."""
    chosen = options if registry is None else {**options, "registry": registry}
    return CrossTaskTransferEngine(task_embedding_dim, hidden_dim, auto_discover, **chosen)


def _sized(registry: Registry, task_embedding_dim: int, hidden_dim: int) -> list[Any]:
    """The discoverers that manifests mark as default, with these sizes where they are options of theirs."""
    sizes = {"task_embedding_dim": task_embedding_dim, "hidden_dim": hidden_dim}
    chosen: list[Any] = []
    for name in registry.defaults("discovery"):
        known = {told["name"] for told in describe(registry.component_class("discovery", name))}
        chosen.append(registry.create("discovery", name, {k: v for k, v in sizes.items() if k in known}))
    return chosen
