"""Executors: where jobs run."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future
from typing import Any, ClassVar

from crosstask.components import Component, Job, hook


class Executor(Component):
    """Runs jobs: here, in other processes, on other machines. Results must not depend on which.

    A job that fails fails alone, and whoever waits for it is told: no future may stay open. A run names the job and the
    component that asked for it in what is raised (`crosstask.components.job_failed`).
    """

    point: ClassVar[str] = "executor"

    @abstractmethod
    @hook(first=True, returns=Future)
    def submit(self, job: Job) -> Future[Any]:
        """Start a job. Whatever it raises, `sys.exit` too, is its future's exception, with its text if not its type."""

    def capacity(self) -> int:
        """How many jobs it works on at once."""
        return 1

    def shutdown(self) -> None:
        """Stop: jobs that have not started are dropped, others may be. Afterwards every future is done or cancelled."""
