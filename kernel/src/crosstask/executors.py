"""The two built-in executors: here and now, or a pool of processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import connection, spawn
from pathlib import Path
from typing import Any, NoReturn

import attrs

from crosstask.components import Job, job_failed, may_be_raised, run_now, what_was_raised
from crosstask.errors import OptionError, PluginError, RunError
from crosstask.logs import logger
from crosstask.options import component, option
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
    """Runs jobs in spawned worker processes, one torch thread each.

    A job that raises, calls `os._exit`, exceeds a limit or loses its process fails alone: RunError, or its own
    exception with the worker's traceback as the cause. Others go on, and a fresh worker takes the place of one that
    ended. Workers end when this process ends, however it does. `shutdown` ends them at once, with what they are doing.
    """

    workers: int | None = option(None, ge=1, help="number of processes (default: the cores this process may use)")
    timeout: float | None = option(
        None, gt=0, help="seconds that a job may take, once its worker has read it and imported what it needs"
    )
    memory: int | None = option(
        None,
        ge=1,
        help="MiB of memory that a worker may hold during a job, what Python and torch take included (Linux)",
    )
    retries: int = option(
        1, ge=0, help="how often a job is begun again whose worker was lost; never after an exception of its own"
    )
    _pool: _Pool | None = attrs.field(default=None, init=False, repr=False)

    def capacity(self) -> int:
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def submit(self, job: Job) -> Future[Any]:
        if self._pool is None or self._pool.process != os.getpid():  # not that of which this process is a forked copy
            limits = _Limits(self.timeout, self.memory, self.retries)
            if self.memory is not None and not _STATM.exists():
                raise OptionError(f"{self.origin}: memory can be limited on Linux only; leave the option out")
            if os.name != "posix":
                raise PluginError(f"{self.origin} needs Linux, macOS or another POSIX system; use executor 'serial'")
            self._pool = _Pool(self.capacity(), limits)
            # An executor that is dropped without a shutdown takes its workers along, when they have done what they had.
            weakref.finalize(self, self._pool.retire).atexit = False
        return self._pool.submit(job)

    def shutdown(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()


# The pool. Not concurrent.futures' own, which is broken as a whole by the first worker that is lost, nor that of
# another library: docs/decisions/executor-pool.md says why. Each worker has a thread here that starts it, feeds it and
# judges it, and a pipe of its own, so that nothing another worker does can reach it.

_STATM = Path("/proc/self/statm")
_LOOK = 0.02
"""Seconds between two looks at the memory of a worker."""
_BEGUN = b""
"""What a worker says when it has read a job, before it does it."""
_IMPORTS = 60.0
"""Seconds beyond the timeout in which it must have read it: what a job imports is not its time."""
_STARTS = 30
"""How often a worker that is killed before it is ready is started again."""
_GRACE = 5.0
"""Seconds that an idle worker has to end by itself."""

_starting = False
"""In a worker: its program is being imported. One that starts a run then would start workers without end."""


@attrs.frozen
class _Limits:
    timeout: float | None
    memory: int | None
    retries: int


@attrs.frozen
class _Task:
    job: str
    packed: bytes
    future: Future[Any]


class _Pool:
    """Threads that each keep one worker. They start as jobs come, up to `size`."""

    def __init__(self, size: int, limits: _Limits) -> None:
        self.size, self.limits = size, limits
        self.lock = threading.Lock()
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.idle = threading.Semaphore(0)
        self.keepers: list[_Keeper] = []
        self.stopped = False
        self.process = os.getpid()
        _pools.add(self)

    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            # By pickle itself: ForkingPickler would put every tensor into shared memory, with a file descriptor each.
            packed = pickle.dumps((job.function, job.args))
        except Exception as error:
            future.set_exception(not_sent(job, error))
            return future
        with self.lock:
            if self.stopped:
                raise RunError(f"{job} comes too late: the executor was shut down")
            self.tasks.put(_Task(str(job), packed, future))
            if not self.idle.acquire(blocking=False) and len(self.keepers) < self.size:
                self.keepers.append(_Keeper(self))
        return future

    def retire(self) -> None:
        """No more jobs will come. Without the lock: the garbage collector calls it, anywhere."""
        for _ in range(self.size):
            self.tasks.put(None)

    def stop(self) -> None:
        """End every worker. Jobs that wait are cancelled, those under way fail."""
        if self.process != os.getpid():  # a forked copy: the workers are not its own
            return
        dropped = []
        with self.lock:
            self.stopped = True
            with contextlib.suppress(queue.Empty):
                while True:
                    dropped.append(self.tasks.get_nowait())
            for keeper in self.keepers:
                if keeper.busy and keeper.worker is not None:
                    keeper.worker.kill()
                self.tasks.put(None)
        for task in dropped:
            if task is not None and task.future.cancel():
                task.future.set_running_or_notify_cancel()
        for keeper in self.keepers:
            if keeper.thread is not threading.current_thread():  # as in a callback of a future
                keeper.thread.join()
        _pools.discard(self)


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for pool in list(_pools):
        pool.stop()


class _Keeper:
    """A thread of the pool, and its worker.

    The thread starts the worker itself and outlives it: Linux tells a child of the end of the thread that started it.
    """

    def __init__(self, pool: _Pool) -> None:
        self.pool, self.limits = pool, pool.limits
        self.worker: _Worker | None = None
        self.busy = False
        self.thread = threading.Thread(target=self._run, name="crosstask-worker", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            if task.future.set_running_or_notify_cancel():
                try:
                    result = self._done(task.job, task.packed)
                except BaseException as error:
                    task.future.set_exception(job_failed(task.job, error))
                else:
                    task.future.set_result(result)
                    del result
            self.busy = False
            del task  # neither job nor result is held while it waits
        if self.worker is not None:
            self.worker.end(_GRACE)

    def _next(self) -> _Task | None:
        try:
            return self.pool.tasks.get_nowait()
        except queue.Empty:
            self.pool.idle.release()
            return self.pool.tasks.get()

    def _done(self, job: str, packed: bytes) -> Any:
        """The result of a job, or its exception."""
        timeout, memory = self.limits.timeout, self.limits.memory
        lost = 0
        while True:
            worker = self._ready(job)
            fresh, worker.fresh = worker.fresh, False
            begun = False
            try:
                worker.pipe.send_bytes(packed)
                answer = worker.receive(None if timeout is None else timeout + _IMPORTS, memory)
                if begun := answer == _BEGUN:
                    answer = worker.receive(timeout, memory)
            except TimeoutError:
                self._end()
                raise RunError(f"{job} took more than the {timeout:g} s of the executor's timeout") from None
            except _TooMuchError as error:
                self._end()
                if fresh:
                    raise RunError(
                        f"{job} took memory until its worker held {error.mebibytes} MiB, more than the {memory} MiB of "
                        "the executor's memory"
                    ) from None
                continue  # some of it is what other jobs left behind: only in a fresh worker is it the job's alone
            except (EOFError, OSError):
                ended = _how_it_ended(self._end(grace=1.0))
                if self.pool.stopped:
                    self._stopped(job)
                if not begun and not fresh:  # it had ended before it was given the job
                    continue
                lost += 1
                if lost > self.limits.retries:
                    times = f", {lost} times in a row" if lost > 1 else ""
                    raise RunError(f"{job} lost its worker process, which {ended}{times}") from None
                logger().warning("worker lost, the job begins again", job=job, worker=ended)
                continue
            return result_of(job, answer)

    def _ready(self, job: str) -> _Worker:
        """The worker, started if there is none, or none that is alive and within the limit of memory."""
        for _ in range(_STARTS):
            with self.pool.lock:
                if self.pool.stopped:
                    self._stopped(job)
                self.busy = True
                if self.worker is not None and self.worker.alive() and not self._too_large():
                    return self.worker
            self._end()
            with self.pool.lock:
                if self.pool.stopped:
                    self._stopped(job)
                self.worker = _Worker()
            try:
                wrong = self.worker.receive(None, None)
            except (EOFError, OSError):
                code = self._end(grace=1.0)
                if self.pool.stopped:
                    self._stopped(job)
                if code is not None and code >= 0:
                    break
                logger().warning("worker lost as it started, another is started", job=job, worker=_how_it_ended(code))
                continue
            if wrong:
                self._end()
                told, trace = pickle.loads(wrong)  # noqa: S301 -- written by our own worker
                raise RunError(
                    f"{job} cannot start: importing the program that runs, a new worker process {told}"
                ) from WorkerTraceback(trace)
            if self._too_large():
                held = self.worker.memory()
                raise RunError(
                    f"{job} cannot start: a new worker process holds {held} MiB already, more than the "
                    f"{self.limits.memory} MiB of the executor's memory"
                )
            return self.worker
        raise RunError(f"{job} cannot start: a new worker process {_how_it_ended(code)} before it was ready")

    def _too_large(self) -> bool:
        limit = self.limits.memory
        return limit is not None and self.worker is not None and self.worker.memory() > limit

    def _end(self, grace: float = 0.0) -> int | None:
        """End the worker, if there is one. Its exit code."""
        worker, self.worker = self.worker, None
        return None if worker is None else worker.end(grace)

    def _stopped(self, job: str) -> NoReturn:
        raise RunError(f"{job} was stopped: the executor was shut down")


class _TooMuchError(Exception):
    """A worker holds more memory than it may."""

    def __init__(self, mebibytes: int) -> None:
        super().__init__(mebibytes)
        self.mebibytes = mebibytes


class _Worker:
    """A spawned process and the pipe to it. Not forked: a copy of a process in which torch has threads can hang.

    Not multiprocessing's Process, beside which a process for its resources stays until this one ends, and which imports
    the user's program before anything can bind its life to ours.
    """

    def __init__(self) -> None:
        if _starting:
            raise RunError('it must start its run under `if __name__ == "__main__":`, for workers import it, too')
        self.fresh = True
        prepared = spawn.get_preparation_data("crosstask-worker")
        prepared["authkey"] = bytes(prepared["authkey"])
        self.pipe, theirs = connection.Pipe()
        try:
            handle = theirs.fileno()
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            self.process = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), *flags, "-c", _BOOT.format(handle)],
                stdin=subprocess.DEVNULL,
                pass_fds=[handle],
                process_group=0,  # Ctrl-C stops the run, and the run stops its workers, with what they have started
            )
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        with contextlib.suppress(ConnectionError):  # if it has ended, that is found when it does not answer
            for part in (sys.path, os.getpid(), prepared):
                self.pipe.send_bytes(pickle.dumps(part))

    def alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> int:
        """MiB of resident memory; 0 once it has ended."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def receive(self, timeout: float | None, memory: int | None) -> bytes:
        """Its next message. EOFError or OSError if it ends instead, TimeoutError, _TooMuchError."""
        until = None if timeout is None else time.monotonic() + timeout
        # Its end closes the pipe, unless a process that it has forked holds it open: so it is looked at, too.
        step = 1.0 if memory is None else _LOOK
        while not self.pipe.poll(step if until is None else min(step, max(0.0, until - time.monotonic()))):
            if not self.alive():
                if self.pipe.poll(0):
                    break
                raise EOFError
            if until is not None and time.monotonic() >= until:
                raise TimeoutError
            if memory is not None and (held := self.memory()) > memory:
                raise _TooMuchError(held)
        return self.pipe.recv_bytes()

    def kill(self) -> None:
        """The process and what it has started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def end(self, grace: float) -> int | None:
        """Close the pipe, at which it ends by itself if it is idle; kill it after `grace` seconds. Its exit code."""
        self.pipe.close()
        if grace:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE)
        return self.process.returncode


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "went away"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (the system does that when memory runs out)" if name == "SIGKILL" else "")


# What a worker says: the pickle of (None, result) or of (failure, None).


@attrs.frozen
class _Failure:
    """Why a job has no result, in parts that can be pickled whatever it raised."""

    told: str
    trace: str
    error: bytes | None = None


class WorkerTraceback(Exception):  # noqa: N818 -- as a cause it is only shown
    """The traceback of an exception in a worker process, as text."""

    def __str__(self) -> str:
        return f"in a worker process\n\n{self.args[0]}"


def not_sent(job: Job, error: Exception) -> RunError:
    """What is said of a job that cannot be pickled."""
    told = RunError(f"{job} cannot be sent to another process: pickling it {what_was_raised(error)}")
    told.__cause__ = error
    return told


def result_of(job: str, answer: bytes) -> Any:
    """What a worker's answer says: the job's result, or its exception is raised, RunError with its text where it cannot
    be sent. `answer` is unpickled, so it comes from a worker of ours.
    """
    try:
        failure, result = pickle.loads(answer)  # noqa: S301 -- written by our own worker
    except BaseException as error:
        raise RunError(
            f"{job} has a result that cannot be read here: unpickling it {what_was_raised(error)}"
        ) from error
    if failure is None:
        return result
    cause = WorkerTraceback(failure.trace)
    if failure.error is not None:
        try:
            known = pickle.loads(failure.error)  # noqa: S301 -- as above
            known.__cause__ = cause
        except BaseException:
            pass
        else:
            raise known
    raise RunError(f"{job} {failure.told}") from cause


# In the worker.

_BOOT = (
    "import pickle, sys\n"
    "from multiprocessing.connection import Connection\n"
    "pipe = Connection({})\n"
    "try: sys.path[:] = pickle.loads(pipe.recv_bytes())\n"
    "except EOFError: sys.exit(1)\n"
    "from crosstask.executors import _serve\n"
    "_serve(pipe)\n"
)


def _serve(pipe: connection.Connection[bytes, bytes]) -> None:
    """The life of a worker: one job after the other, until the pipe is closed."""
    global _starting
    with contextlib.suppress(EOFError, ConnectionError):  # the other end is gone
        _live_with(pickle.loads(pipe.recv_bytes()))  # noqa: S301 -- written by the process that started this one
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        prepared = pickle.loads(pipe.recv_bytes())  # noqa: S301 -- as above
        _starting = True
        try:
            spawn.prepare(prepared)  # its path, its arguments and its main module, as multiprocessing does
            import torch
        except BaseException as error:
            pipe.send_bytes(pickle.dumps((what_was_raised(error), _trace(error))))
            return
        _starting = False
        pipe.send_bytes(b"")
        while True:
            packed = pipe.recv_bytes()
            torch.set_num_threads(1)
            answer = _answer(packed, lambda: pipe.send_bytes(_BEGUN))
            del packed
            pipe.send_bytes(answer)
            del answer


def _live_with(parent: int) -> None:
    """End when the process `parent` ends: at once on Linux, whatever this one does; elsewhere within half a second."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, name="crosstask-watch", daemon=True).start()


def _answer(packed: bytes, begin: Callable[[], None]) -> bytes:
    call = read_call(lambda: pickle.loads(packed))  # noqa: S301 -- written by the process that started this one
    if isinstance(call, bytes):
        return call
    begin()
    return answer_of(*call)


def read_call(read: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]) -> tuple[Any, Any] | bytes:
    """In a worker, of this executor or of another: the function and the arguments that `read` gives, or the answer that
    says why it cannot.
    """
    try:
        function, args = read()
    except BaseException as error:
        return _failed(error, "cannot be read in its worker process: unpickling it ")
    return function, args


def answer_of(
    function: Callable[..., Any], args: tuple[Any, ...], dumps: Callable[[Any], bytes] = pickle.dumps
) -> bytes:
    """In a worker: call it. What `result_of` reads where the job came from, whatever the function returns or raises."""
    try:
        result = function(*args)
    except BaseException as error:
        return _failed(error, "", _sendable(error))
    try:
        return dumps((None, result))
    except BaseException as error:
        kind = type(result).__name__
        return _failed(error, f"has a result ({kind}) that cannot be sent back: pickling it ")


def _failed(error: BaseException, when: str, packed: bytes | None = None) -> bytes:
    return pickle.dumps((_Failure(when + what_was_raised(error), _trace(error), packed), None))


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _sendable(error: BaseException) -> bytes | None:
    """The pickle of an exception if it comes back as the same, by its own way or past its constructor."""
    if may_be_raised(error):
        ways: tuple[Callable[[], bytes], ...] = (lambda: pickle.dumps(error), lambda: pickle.dumps(_Rebuilt(error)))
        for way in ways:
            with contextlib.suppress(BaseException):
                packed = way()
                back = pickle.loads(packed)  # noqa: S301 -- written in the line above
                if type(back) is type(error) and str(back) == str(error):
                    return packed
    return None


class _Rebuilt:
    """Pickles an exception without a call of its constructor, whose arguments `args` need not be."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self.error), self.error.args, vars(self.error))


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    made = cls.__new__(cls, *args)
    made.args = args
    vars(made).update(state)
    return made
