"""Jobs in threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from crosstask.components import Job
from crosstask.options import component, option, state
from crosstask.points.executor import Executor


@component
class ExampleExecutor(Executor):
    """A pool of threads, started with the first job."""

    workers: int = option(2, ge=1, help="number of threads")
    _pool: ThreadPoolExecutor | None = state()

    def capacity(self) -> int:
        return self.workers

    def submit(self, job: Job) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        return self._pool.submit(job.function, *job.args)

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
