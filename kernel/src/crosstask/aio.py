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

from crosstask.engine import Strategy, TransferEngine
from crosstask.graph import TransferGraph
from crosstask.options import describe
from crosstask.points.distillation import Distilled
from crosstask.points.stage import Outcome
from crosstask.records import Curriculum, CurriculumResult, TransferResult
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task

P = ParamSpec("P")
R = TypeVar("R")


class CrossTaskTransferEngine:
    """`TransferEngine` with coroutines. Calls are queued: the engine never works on two at once.

    `engine` is the engine itself; read its `graph` and `portfolio` between calls.
    """

    def __init__(self, engine: TransferEngine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crosstask")

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

    async def register_task(self, task: Task, trained_model: nn.Module | None = None, *, unseen: bool = False) -> None:
        """As `TransferEngine.register_task`."""
        await self._do(self.engine.register_task, task, trained_model, unseen=unseen)

    async def register(self, portfolio: Portfolio) -> None:
        """As `TransferEngine.register`."""
        await self._do(self.engine.register, portfolio)

    async def train(self, tasks: Iterable[str] | None = None) -> None:
        """As `TransferEngine.train`."""
        await self._do(self.engine.train, tasks)

    async def discover(self, discoverers: Iterable[Strategy] | None = None) -> TransferGraph:
        """As `TransferEngine.discover`."""
        return await self._do(self.engine.discover, discoverers)

    async def get_transfer_graph_metrics(self) -> dict[str, Any]:
        """As `TransferEngine.get_transfer_graph_metrics`."""
        return await self._do(self.engine.get_transfer_graph_metrics)

    async def export_transfer_graph(self, path: str | Path) -> Path:
        """As `TransferEngine.export_transfer_graph`."""
        return await self._do(self.engine.export_transfer_graph, path)

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

    async def get_best_transfer_strategy(self, source: str, target: str) -> str:
        """As `TransferEngine.get_best_transfer_strategy`."""
        return await self._do(self.engine.get_best_transfer_strategy, source, target)

    async def generate_curriculum(self, target_task: str, strategy: Strategy = None, max_tasks: int = 5) -> Curriculum:
        """As `TransferEngine.generate_curriculum`."""
        return await self._do(self.engine.generate_curriculum, target_task, strategy, max_tasks)

    async def run_curriculum(
        self,
        curriculum: Curriculum,
        transfer_strategy: Strategy = None,
        *,
        planner: Strategy | None = None,
    ) -> CurriculumResult:
        """As `TransferEngine.run_curriculum`."""
        return await self._do(self.engine.run_curriculum, curriculum, transfer_strategy, planner=planner)

    async def distill(
        self, tasks: Sequence[str], strategy: Strategy = None, samples: torch.Tensor | None = None
    ) -> Distilled:
        """As `TransferEngine.distill`."""
        return await self._do(self.engine.distill, tasks, strategy, samples)

    async def synthesize_zero_shot_model(
        self,
        new_task: str | Task,
        synthesis_strategy: Strategy = None,
        inputs: torch.Tensor | None = None,
        *,
        expect: bool = True,
    ) -> nn.Module:
        """As `TransferEngine.synthesize_zero_shot_model`."""
        make = self.engine.synthesize_zero_shot_model
        return await self._do(make, new_task, synthesis_strategy, inputs, expect=expect)

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
    """An asynchronous engine with the discoverers that the installed plugins mark as default.

    The dimensions go to those of them that have options of these names; without any they have no effect. `options` are
    `TransferEngine`'s.
    """
    registry = registry or Registry.installed()
    if "discoverers" not in options:
        sizes = {"task_embedding_dim": task_embedding_dim, "hidden_dim": hidden_dim}
        chosen: list[Any] = []
        for name in registry.defaults("discovery"):
            known = {told["name"] for told in describe(registry.component_class("discovery", name))}
            fitting = {key: value for key, value in sizes.items() if key in known}
            chosen.append(registry.create("discovery", name, fitting))
        options["discoverers"] = chosen
    return CrossTaskTransferEngine(TransferEngine(auto_discover=auto_discover, registry=registry, **options))
