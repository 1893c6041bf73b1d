"""Jobs that raise, hang, leave, eat memory or lose their worker: each fails alone and is named."""

import contextlib
import os
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.datasets import load_digits

from crosstask import executors
from crosstask.components import Job, run_now
from crosstask.context import LocalContext
from crosstask.errors import OptionError, RunError
from crosstask.executors import ProcessExecutor, SerialExecutor, WorkerTraceback
from crosstask.options import component, option
from crosstask.points.executor import Executor
from crosstask.points.source import Source
from crosstask.registry import Registry
from crosstask.run import Run
from kernel.tests.failing_jobs import (
    CodedError,
    KeywordOnlyError,
    LockedError,
    OnlyHere,
    SpeechlessError,
    UnnotedError,
    a_lambda,
    alive,
    chained,
    children,
    counted_failure,
    covariance,
    eventually,
    keeps,
    keyword_only,
    killed_at_first,
    leaves,
    only_here,
    opens,
    process_after,
    raises,
    resident,
    sets_threads,
    starts_another,
    takes,
    threads,
    written,
)

WAIT = 60  # seconds that nothing here takes, unless it hangs


@contextlib.contextmanager
def pool(workers: int = 1, **options: Any) -> Iterator[ProcessExecutor]:
    made = ProcessExecutor(workers=workers, **options)
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessExecutor]:
    """For jobs that do their worker no harm."""
    with pool() as made:
        yield made


def failure(executor: Executor, function: Callable[..., Any], *args: Any, label: str = "the job") -> BaseException:
    error = executor.submit(Job(function, args, label, "source 'mine' (dist 1)")).exception(WAIT)
    assert error is not None
    return error


NAMED = "job 'the job' of source 'mine' (dist 1)"


# Exceptions


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize(
    ("function", "args", "kind", "text"),
    [
        (keyword_only, (), KeywordOnlyError, "refused with code 3"),
        (raises, (CodedError, 7), CodedError, "code 7"),
        (opens, ("/nowhere/at/all",), FileNotFoundError, "[Errno 2] No such file or directory: '/nowhere/at/all'"),
        (raises, (UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError, "can't decode byte 0xff"),
        (chained, (), LookupError, "nothing there"),
        (raises, (OptionError, "no such option"), OptionError, "no such option"),
        (raises, (ExceptionGroup, "both", [ValueError("one")]), ExceptionGroup, "both (1 sub-exception)"),
    ],
)
def test_an_exception_comes_back_as_itself(
    shared: ProcessExecutor, serial: bool, function: Any, args: Any, kind: type, text: str
) -> None:
    error = failure(SerialExecutor() if serial else shared, function, *args)
    assert type(error) is kind
    assert text in str(error)
    assert error.__notes__ == [f"in {NAMED}"]
    if not serial:
        assert isinstance(error.__cause__, WorkerTraceback)
        assert re.search(rf"in {function.__name__}\n.*{kind.__name__}: ", str(error.__cause__), re.DOTALL)
    if function is keyword_only:
        assert error.code == 3  # type: ignore[attr-defined]
    if function is chained:
        whole = "".join(traceback.format_exception(error))
        assert "KeywordOnlyError: refused with code 3" in whole


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize(
    ("function", "args", "told"),
    [
        (raises, (SystemExit, 0), "called sys.exit(0)"),
        (raises, (SystemExit,), "called sys.exit(None)"),
        (raises, (GeneratorExit,), "raised GeneratorExit"),
        (raises, (StopIteration, 4), "raised StopIteration: 4"),
        (raises, (SpeechlessError,), ".SpeechlessError: (its message cannot be shown: __str__ raised ValueError)"),
        (raises, (UnnotedError, "take this"), ".UnnotedError: take this"),
    ],
)
def test_what_must_not_be_raised_elsewhere_is_told(
    shared: ProcessExecutor, serial: bool, function: Any, args: Any, told: str
) -> None:
    error = failure(SerialExecutor() if serial else shared, function, *args)
    assert type(error) is RunError
    assert str(error).startswith(f"{NAMED} ")
    assert str(error).endswith(told)
    if serial:
        assert type(error.__cause__) is args[0]
    else:
        assert "in raises\n" in str(error.__cause__)
        assert isinstance(pickle.loads(pickle.dumps(error)), RunError)


def test_an_exception_that_cannot_be_pickled_is_told_with_its_traceback(shared: ProcessExecutor) -> None:
    error = failure(shared, raises, LockedError, "no key")
    assert type(error) is RunError
    assert re.fullmatch(re.escape(NAMED) + r" raised [\w.]*LockedError: no key", str(error))
    assert "in raises\n    raise make(*args, **named)" in str(error.__cause__)
    whole = "".join(traceback.format_exception(error))
    assert "LockedError: no key" in whole
    assert type(failure(SerialExecutor(), raises, LockedError, "no key")) is LockedError


def test_ctrl_c_is_not_the_jobs(shared: ProcessExecutor) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_now(Job(raises, (KeyboardInterrupt,)))
    assert str(failure(shared, raises, KeyboardInterrupt)) == f"{NAMED} raised KeyboardInterrupt"


@pytest.mark.parametrize(
    ("function", "args", "told"),
    [
        (a_lambda, (), r"has a result \(function\) that cannot be sent back: pickling it raised .*lambda"),
        (only_here, (ValueError,), "has a result that cannot be read here: unpickling it raised ValueError: only at"),
        (only_here, (SystemExit,), r"has a result that cannot be read here: unpickling it called sys.exit\('only at"),
        (lambda: 0, (), "cannot be sent to another process: pickling it raised .*lambda"),
        (len, (OnlyHere(ValueError),), "cannot be read in its worker process: unpickling it raised ValueError: only"),
        (len, (OnlyHere(SystemExit),), "cannot be read in its worker process: unpickling it called sys.exit"),
    ],
)
def test_what_cannot_travel_is_told(shared: ProcessExecutor, function: Any, args: Any, told: str) -> None:
    before = shared.submit(Job(os.getpid)).result(WAIT)
    error = failure(shared, function, *args)
    assert type(error) is RunError
    assert re.match(re.escape(NAMED) + " " + told, str(error)), error
    assert shared.submit(Job(os.getpid)).result(WAIT) == before  # the worker is as good as before


def test_a_job_without_a_label_goes_by_its_function() -> None:
    assert str(Job(os.getpid)) == "job posix.getpid"
    assert str(Job(keyword_only, component="x")).endswith("failing_jobs.keyword_only of x")
    assert str(Job(partial(os.getpid))) == "job functools.partial"
    assert str(Job(os.getpid, label="a -> b")) == "job 'a -> b'"


# Results


def test_tensors_travel_by_value_and_a_worker_has_one_thread(shared: ProcessExecutor) -> None:
    digits = torch.tensor(load_digits().data)
    found = shared.submit(Job(covariance, (digits,))).result(WAIT)
    assert numpy.allclose(found.numpy(), numpy.cov(digits.numpy(), rowvar=False))
    assert not found.is_shared()
    assert not digits.is_shared()
    shared.submit(Job(sets_threads, (3,))).result(WAIT)
    assert shared.submit(Job(threads)).result(WAIT) == 1


# Lost workers


def test_a_job_whose_worker_is_lost_is_begun_again_once(tmp_path: Path) -> None:
    with pool(2) as executor:
        others = [executor.submit(Job(process_after, (0.1,))) for _ in range(6)]
        lost = executor.submit(Job(leaves, (str(tmp_path / "left"), 0), "leaves"))
        back = executor.submit(Job(killed_at_first, (str(tmp_path / "killed"), 12), "comes back"))
        assert back.result(WAIT) == 144
        assert [type(future.result(WAIT)) for future in others] == [int] * 6
        error = lost.exception(WAIT)
    assert str(error) == "job 'leaves' lost its worker process, which ended with exit code 0, 2 times in a row"
    assert ((tmp_path / "left").stat().st_size, (tmp_path / "killed").stat().st_size) == (2, 2)


def test_retries_are_for_lost_workers_only(tmp_path: Path) -> None:
    with pool(retries=0) as executor:
        error = executor.submit(Job(killed_at_first, (str(tmp_path / "killed"), 12), "once")).exception(WAIT)
        assert str(error) == (
            "job 'once' lost its worker process, which was killed by SIGKILL "
            "(the system does that when memory runs out)"
        )
        assert executor.submit(Job(max, (1, 2))).result(WAIT) == 2
    with pool(retries=5) as executor:
        assert type(failure(executor, counted_failure, str(tmp_path / "own"))) is ValueError
    assert (tmp_path / "own").stat().st_size == 1


def test_a_worker_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.spawn, "get_executable", lambda: "/nowhere/python")
    with pool() as executor:
        error = failure(executor, max, 1, 2)
    assert isinstance(error, FileNotFoundError)
    assert error.__notes__ == [f"in {NAMED}"]


# Limits


def test_a_job_that_takes_too_long_ends_alone(tmp_path: Path) -> None:
    with pool(2, timeout=1.0) as executor:
        hanging = executor.submit(Job(starts_another, (str(tmp_path / "child"),), "hangs"))
        others = [executor.submit(Job(process_after, (0.2,))) for _ in range(8)]
        assert len({future.result(WAIT) for future in others}) <= 2
        assert str(hanging.exception(WAIT)) == "job 'hangs' took more than the 1 s of the executor's timeout"
        assert eventually(lambda: not alive(written(tmp_path / "child")), 2)  # with what it has started
        assert executor.submit(Job(max, (1, 2))).result(WAIT) == 2


def test_a_job_that_takes_too_much_memory_ends_alone() -> None:
    with pool(1) as executor:
        base = executor.submit(Job(resident, (0,))).exception(WAIT)
        assert isinstance(base, FileNotFoundError)
        base = executor.submit(Job(keeps, (0,))).result(WAIT)
    with pool(2, memory=base + 150) as executor:
        hungry = executor.submit(Job(takes, (1000, 600.0), "hungry"))
        others = [executor.submit(Job(takes, (20, 0.1))) for _ in range(8)]
        assert [future.result(WAIT) for future in others] == [20] * 8
        told = re.fullmatch(
            rf"job 'hungry' took memory until its worker held (\d+) MiB, more than the {base + 150} MiB of the "
            "executor's memory",
            str(hungry.exception(WAIT)),
        )
        assert told
        assert base + 150 < int(told[1]) < base + 1000


def test_options_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"timeout": 0}, {"memory": 0}, {"retries": -1}, {"workers": 0}, {"timeout": float("nan")}):
        with pytest.raises(OptionError, match=f"ProcessExecutor: {next(iter(wrong))} must be"):
            ProcessExecutor(**wrong)
    assert ProcessExecutor(timeout=2).options() == {"workers": None, "timeout": 2.0, "memory": None, "retries": 1}
    monkeypatch.setattr(executors, "_STATM", Path("/nowhere"))
    with pytest.raises(OptionError, match="memory can be limited on Linux only; leave the option out"):
        ProcessExecutor(memory=500).submit(Job(max, (1, 2)))
    assert ProcessExecutor().capacity() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert ProcessExecutor().capacity() == os.cpu_count()


# The end


def test_shutdown_ends_workers_at_once_and_leaves_no_job_open(tmp_path: Path) -> None:
    before = children(os.getpid())
    executor = ProcessExecutor(workers=2)
    under_way = executor.submit(Job(starts_another, (str(tmp_path / "child"),), "endless"))
    written(tmp_path / "child")
    executor.submit(Job(max, (1, 2))).result(WAIT)
    assert len(children(os.getpid()) - before) == 2
    waiting = [executor.submit(Job(process_after, (600.0,))) for _ in range(5)]
    began = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - began < 5
    assert children(os.getpid()) - before == set()
    assert eventually(lambda: not alive(written(tmp_path / "child")), 2)
    assert str(under_way.exception(0)) == "job 'endless' was stopped: the executor was shut down"
    assert sum(future.cancelled() for future in waiting) >= 4
    for future in waiting:
        assert future.done()
        with pytest.raises((CancelledError, RunError)):
            future.result(0)
    assert executor.submit(Job(max, (1, 2))).result(WAIT) == 2  # it starts again
    executor.shutdown()
    assert children(os.getpid()) - before == set()


# In a run


class AllAtOnce(Executor):
    """Every job is done when it is waited for."""

    def capacity(self) -> int:
        return 4

    def submit(self, job: Job) -> Future[Any]:
        return run_now(job)


class Raw(AllAtOnce):
    """Keeps what a job raises as it is."""

    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(job.function(*job.args))
        except BaseException as error:
            future.set_exception(error)
        return future


class Dropping(AllAtOnce):
    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_failed_job_loses_no_result_that_came_with_it() -> None:
    with Run(Registry(), executor=AllAtOnce()) as run:
        found = run.jobs([Job(keyword_only, label="bad"), *(Job(pow, (n, 2)) for n in range(4))])
        assert [next(found) for _ in range(4)] == [(1, 0), (2, 1), (3, 4), (4, 9)]
        with pytest.raises(KeywordOnlyError) as raised:
            next(found)
    assert raised.value.__notes__ == ["in job 'bad'"]


def test_a_run_names_the_job_whatever_its_executor_gives() -> None:
    with Run(Registry(), executor=Raw()) as run, pytest.raises(RunError, match=r"^job 'bad' called sys.exit\(0\)$"):
        list(run.jobs([Job(raises, (SystemExit, 0), "bad")]))
    with (
        Run(Registry(), executor=Dropping()) as run,
        pytest.raises(RunError, match=r"^job 'bad' was dropped: the"),
    ):
        list(run.jobs([Job(max, (1, 2), "bad")]))
    with pytest.raises(RunError, match=r"^job 'bad' called sys.exit\(0\)$"):
        list(LocalContext().jobs([Job(raises, (SystemExit, 0), "bad")]))


@component
class Asks(Source):
    """Gives its run jobs."""

    leaves: bool = option(False, help="by sys.exit")

    def load(self) -> Any:
        job = Job(raises, (SystemExit, 0)) if self.leaves else Job(keyword_only, label="a -> b")
        return list(self.context.jobs([job]))


@pytest.mark.parametrize("serial", [True, False])
def test_a_run_names_the_component_that_asked(serial: bool) -> None:
    executor = SerialExecutor() if serial else ProcessExecutor(workers=1)
    with Run(Registry(), executor=executor) as run:
        with pytest.raises(KeywordOnlyError) as raised:
            run.call(Asks(), "load")
        assert "in job 'a -> b' of source Asks" in raised.value.__notes__
        with pytest.raises(RunError, match=r"\.raises of source Asks called sys\.exit\(0\)"):
            run.call(Asks(leaves=True), "load")


# The worker's part, here: what it says of a job


def test_answers_can_always_be_read() -> None:
    begun: list[Any] = []
    for function, args in [
        (keyword_only, ()),
        (raises, (LockedError, "x")),
        (raises, (SpeechlessError,)),
        (a_lambda, ()),
        (max, (1, 2)),
    ]:
        failed, result = pickle.loads(
            executors._answer(pickle.dumps((function, args)), partial(begun.append, function))
        )
        assert (failed is None) == (function is max)
        assert result == (2 if function is max else None)
    failed, _ = pickle.loads(executors._answer(b"nonsense", lambda: begun.append(None)))
    assert begun == [keyword_only, raises, raises, a_lambda, max]
    assert failed.told.startswith("cannot be read in its worker process: unpickling it raised _pickle.UnpicklingError")
    assert executors._how_it_ended(None) == "went away"
    assert executors._how_it_ended(-64) == "was killed by SIGRTMAX"
    assert executors._how_it_ended(-99) == "was killed by signal 99"
