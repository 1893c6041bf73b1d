"""The two built-in executors: here and now, or a pool of processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from crosstask.components import Job, run_now
from crosstask.options import component, option, state
from crosstask.points.executor import Executor


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread: results do not depend on the number of cores, workers do not fight."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@component
class SerialExecutor(Executor):
    """Runs each job in this process when it is submitted."""

    def submit(self, job: Job) -> Future[Any]:
        with one_thread():
            return run_now(job)


@component
class ProcessExecutor(Executor):
    """Runs jobs in spawned worker processes, one torch thread each."""

    workers: int | None = option(None, ge=1, help="number of processes (default: the cores this process may use)")
    _pool: ProcessPoolExecutor | None = state(None)

    def capacity(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

    def submit(self, job: Job) -> Future[Any]:
        if self._pool is None:
            # Spawned, because a forked copy of a process in which torch has started threads can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.capacity(), mp_context=context, initializer=_start_worker)
        # Pickled here rather than by the pool: its own pickler would put every tensor into shared memory and hold a
        # file descriptor for each.
        packed = self._pool.submit(_work, pickle.dumps((job.function, job.args)))
        return _Unpacked(packed)

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class _Unpacked(Future[Any]):
    """A future of the unpickled result of a worker."""

    def __init__(self, packed: Future[bytes]) -> None:
        super().__init__()
        packed.add_done_callback(self._take)

    def _take(self, packed: Future[bytes]) -> None:
        if packed.cancelled():
            self.cancel()
            self.set_running_or_notify_cancel()
        elif error := packed.exception():
            self.set_exception(error)
        else:
            self.set_result(pickle.loads(packed.result()))  # noqa: S301 -- written by our own worker


def _start_worker() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the run, and the run stops its workers
    torch.set_num_threads(1)


def _work(packed: bytes) -> bytes:
    function, args = pickle.loads(packed)  # noqa: S301 -- written by the process that started this one
    return pickle.dumps(function(*args))
