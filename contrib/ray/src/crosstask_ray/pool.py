"""Jobs under way on Ray: a coroutine for each, in a thread of the pool, that sends it, hears of it, and sends it again
if its worker was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import attrs
import ray
from ray import exceptions

from crosstask.components import Job, job_failed
from crosstask.errors import RunError
from crosstask.executors import not_sent, result_of
from crosstask.logs import logger
from crosstask_ray.cluster import Connection, most_at_once
from crosstask_ray.packing import Packed, Shelf, pack
from crosstask_ray.worker import Begun, task

_LOOK = 5.0
"""Seconds between two looks at whether a node is left that holds a job which has not begun."""

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.RaySystemError,
    exceptions.LocalRayletDiedError,
    exceptions.TaskCancelledError,
)
"""What is nobody's fault but a machine's; a task that another program has cancelled was lost as well."""


@attrs.frozen
class Limits:
    cpus: float
    gpus: float
    workers: int | None
    timeout: float | None
    retries: int
    keep: int
    autoscaling: bool


@attrs.define(eq=False)
class _Sent:
    job: Job
    packed: Packed
    future: Future[Any]
    begun: Begun | None = None
    lost: int = 0


class Pool:
    """A connection, and the thread that hears of jobs."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self.connection, self.limits = connection, limits
        self.shelf = Shelf(limits.keep)
        self.lock = threading.Lock()
        self.stopped = self.retired = False
        self.following: dict[Future[Any], asyncio.Task[None]] = {}
        self.looked, self.room = -_LOOK, 0
        environment = {"runtime_env": connection.runtime_env} if connection.runtime_env else {}
        self.remote = task(num_cpus=limits.cpus, num_gpus=limits.gpus, **environment)
        self.loop = asyncio.new_event_loop()
        self.ending = asyncio.Event()
        self.places = asyncio.Semaphore(limits.workers) if limits.workers else contextlib.nullcontext()
        self.thread = threading.Thread(target=self._run, name="crosstask-ray", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            sent = _Sent(job, pack(job.function, job.args, self.shelf), future)
        except Exception as error:
            future.set_exception(not_sent(job, error))
            return future
        with self.lock:
            if self.stopped:
                raise RunError(f"{job} comes too late: the executor was shut down")
            self.loop.call_soon_threadsafe(self._follow, sent)
        return future

    def retire(self) -> None:
        """No more jobs will come: it ends when those under way have. The garbage collector calls it, anywhere."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._retire)

    def stop(self) -> None:
        """Jobs that have not begun are cancelled, those under way fail."""
        with self.lock:
            if not self.stopped:
                self.stopped = True
                self.loop.call_soon_threadsafe(self.ending.set)
        if threading.current_thread() is not self.thread:  # as in a callback of a future
            self.thread.join()

    # In the thread.

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._until_ended())
        finally:
            self.loop.close()
            self.shelf = Shelf(self.limits.keep)
            gc.collect()  # Ray ends the process where something of its dies after the connection
            self.connection.close()

    async def _until_ended(self) -> None:
        await self.ending.wait()
        for each in self.following.values():
            each.cancel()
        await asyncio.gather(*self.following.values(), return_exceptions=True)

    def _retire(self) -> None:
        self.retired = True
        if not self.following:
            self.ending.set()

    def _follow(self, sent: _Sent) -> None:
        future = sent.future
        follower = self.loop.create_task(self._settle(sent))
        self.following[future] = follower

        def settled(_: object) -> None:
            del self.following[future]
            if not future.done():  # the follower was cancelled, maybe before it had begun
                if future.running():
                    future.set_exception(RunError(f"{sent.job} was stopped: the executor was shut down"))
                elif future.cancel():
                    future.set_running_or_notify_cancel()
            if self.retired and not self.following:
                self.ending.set()

        follower.add_done_callback(settled)
        # Whoever cancels a future that has not begun ends its task.
        future.add_done_callback(lambda f: f.cancelled() and self.loop.call_soon_threadsafe(follower.cancel))

    async def _settle(self, sent: _Sent) -> None:
        """Whatever comes but an end of this coroutine, afterwards the future is done."""
        job, future = sent.job, sent.future
        try:
            async with self.places:
                result = await self._result(sent)
        except Exception as error:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(job_failed(str(job), error))
        else:
            future.set_result(result)

    async def _result(self, sent: _Sent) -> Any:
        job = sent.job
        while True:
            try:
                return result_of(str(job), await self._answer(sent))
            except _LOST as error:
                self._lost(sent, error)
            except exceptions.RayError as error:
                raise RunError(f"{job} cannot start on Ray: {error}") from error

    def _lost(self, sent: _Sent, error: Exception) -> None:
        """Count it and make it ready to be sent again. RunError if that was once too often."""
        job, begun, limits = sent.job, sent.begun, self.limits
        sent.lost += 1
        where = "before it said that it had begun" if begun is None else f"process {begun.process} on node {begun.node}"
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if sent.lost > limits.retries:
            times = f", {sent.lost} times in a row" if sent.lost > 1 else ""
            raise RunError(f"{job} lost its worker ({where}){times}: {what}") from error
        logger().warning("worker lost, the job begins again", job=str(job), worker=where, error=what)
        sent.begun = None
        if isinstance(error, exceptions.ObjectLostError):
            self.shelf.forget(sent.packed.references)
            sent.packed = pack(job.function, job.args, self.shelf)

    async def _answer(self, sent: _Sent) -> bytes:
        """What a worker says of a job. Whatever ends the wait ends the task."""
        packed = sent.packed
        self._check_room(sent.job)
        said = self.remote.remote(tuple(path for path in sys.path if path), packed.pickled, *packed.references)
        answered = False
        try:
            first = await self._first(sent, said)
            begun = pickle.loads(first)  # noqa: S301 -- written by our own worker
            if not isinstance(begun, Begun):
                answered = True
                return first
            sent.begun = begun
            if not sent.future.running() and not sent.future.set_running_or_notify_cancel():
                raise asyncio.CancelledError
            try:
                async with asyncio.timeout(self.limits.timeout):
                    answer: bytes = await (await anext(said))
            except TimeoutError:
                raise RunError(
                    f"{sent.job} took more than the {self.limits.timeout:g} s of the executor's timeout"
                ) from None
            answered = True
            return answer
        finally:
            if not answered:
                with contextlib.suppress(exceptions.RayError):
                    ray.cancel(said, force=True)
            del said  # not to live on in the traceback of an exception

    async def _first(self, sent: _Sent, said: Any) -> bytes:
        """The first thing that a worker says; RunError if no node is left that could ever hold the job."""
        waiting = asyncio.ensure_future(anext(said))
        try:
            while not (await asyncio.wait([waiting], timeout=_LOOK))[0]:
                self._check_room(sent.job)
            first: bytes = await waiting.result()
            return first
        finally:
            waiting.cancel()
            del said, waiting

    def _check_room(self, job: Job) -> None:
        limits = self.limits
        if time.monotonic() - self.looked >= _LOOK:
            self.room = most_at_once(limits.cpus, limits.gpus)
            self.looked = time.monotonic()
        if not self.room and not limits.autoscaling:
            raise RunError(f"{job} cannot start on Ray: {no_room(limits.cpus, limits.gpus)}")


def no_room(cpus: float, gpus: float) -> str:
    """Why no job can ever begin, with what there is."""
    wanted = " and ".join(_shares(cpus, gpus))
    held = [
        ", ".join(_shares(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)))
        for n in ray.nodes()
        if n["Alive"]
    ]
    return (
        f"a job needs {wanted}, which no node of the cluster has ({'; '.join(held)}); ask for less, or set "
        "autoscaling where the cluster adds nodes"
    )


def _shares(cpus: float, gpus: float) -> Iterator[str]:
    for name, share in (("CPU", cpus), ("GPU", gpus)):
        yield f"{share:g} {name}{'' if share == 1 else 's'}"
