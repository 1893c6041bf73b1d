"""Executors: where jobs run."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future
from typing import Any, ClassVar

from crosstask.components import Component, Job, hook


class Executor(Component):
    """Runs jobs: here, in other processes, on other machines. Results must not depend on which."""

    point: ClassVar[str] = "executor"

    @abstractmethod
    @hook(first=True, returns=Future)
    def submit(self, job: Job) -> Future[Any]:
        """Start a job. Its exception, if it raises one, is the future's."""

    def capacity(self) -> int:
        """How many jobs it works on at once."""
        return 1

    def shutdown(self) -> None:
        """Stop; jobs that have not started are dropped."""
