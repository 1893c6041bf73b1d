"""Workers that are killed, starting, idle or busy; parents that are killed; and nothing that stays behind."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from crosstask import executors
from crosstask.components import Job
from crosstask.executors import ProcessExecutor, SerialExecutor
from crosstask.registry import Registry
from crosstask.run import Run
from kernel.tests.failing_jobs import (
    alive,
    children,
    covariance,
    eventually,
    keeps,
    leaves_a_fork,
    process_after,
    takes,
    written,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WAIT = 120  # seconds that nothing here takes, unless it hangs


@contextlib.contextmanager
def pool(workers: int = 1, **options: Any) -> Iterator[ProcessExecutor]:
    made = ProcessExecutor(workers=workers, **options)
    try:
        yield made
    finally:
        made.shutdown()


def noisy_covariance(seed: int, values: torch.Tensor) -> torch.Tensor:
    """A job that takes a while, and whose result depends on its arguments alone."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=values.dtype)
    time.sleep(0.02)
    return covariance(values + noise)


def test_200_jobs_whose_workers_are_killed_give_the_serial_results() -> None:
    values = torch.tensor(load_digits().data[:200])
    jobs = [Job(noisy_covariance, (seed, values), label=f"job {seed}") for seed in range(200)]
    with Run(Registry(), executor=SerialExecutor()) as run:
        expected = dict(run.jobs(jobs))
    chance, before, killed, found = random.Random(0), children(os.getpid()), 0, {}
    with Run(Registry(), executor=ProcessExecutor(workers=3, retries=4)) as run:
        for index, value in run.jobs(jobs):
            found[index] = value
            workers = sorted(children(os.getpid()) - before)
            if len(found) % 12 == 0 and workers:  # idle, starting or busy
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    killed += 1
    assert killed >= 10
    assert sorted(found) == list(range(200))
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert children(os.getpid()) - before == set()


def test_each_worker_is_another_process() -> None:
    with pool(2) as executor:
        found = {future.result(WAIT) for future in [executor.submit(Job(process_after, (2.0,))) for _ in range(2)]}
        assert len(found) == 2
        assert os.getpid() not in found


def test_an_idle_worker_that_was_killed_costs_no_job_its_retry() -> None:
    with pool(retries=0) as executor:
        for _ in range(2):
            worker = executor.submit(Job(os.getpid)).result(WAIT)
            os.kill(worker, signal.SIGKILL)
        assert executor.submit(Job(max, (1, 2))).result(WAIT) == 2


def test_a_worker_killed_while_it_starts_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    begin = executors._Worker.__init__

    def killed(self: Any) -> None:
        begin(self)
        started.append(self)
        if len(started) < 3:
            self.kill()

    monkeypatch.setattr(executors._Worker, "__init__", killed)
    with pool(retries=0) as executor:
        assert executor.submit(Job(max, (1, 2))).result(WAIT) == 2
    assert len(started) == 3
    monkeypatch.setattr(executors, "_STARTS", 2)
    started.clear()
    with pool() as executor:
        told = str(executor.submit(Job(max, (1, 2), "the job")).exception(WAIT))
    assert told.startswith("job 'the job' cannot start: a new worker process was killed by SIGKILL")


def test_a_lost_worker_is_noticed_though_a_copy_of_it_holds_its_pipe(tmp_path: Path) -> None:
    with pool(retries=0) as executor:
        began = time.monotonic()
        error = executor.submit(Job(leaves_a_fork, (str(tmp_path / "fork"),))).exception(WAIT)
        assert str(error).endswith("lost its worker process, which ended with exit code 7")
        assert time.monotonic() - began < 30
        assert eventually(lambda: not alive(written(tmp_path / "fork")), 2)


def test_what_other_jobs_left_in_a_worker_does_not_count() -> None:
    with pool(1, memory=700) as executor:
        base = executor.submit(Job(keeps, (0,))).result(WAIT)
        room = 700 - base
        executor.submit(Job(keeps, (room * 2 // 3,))).result(WAIT)
        assert executor.submit(Job(takes, (room // 2, 0.5))).result(WAIT) == room // 2  # both do not fit


def test_a_limit_below_what_a_worker_takes_is_told() -> None:
    with pool(1, memory=20) as executor:
        told = str(executor.submit(Job(max, (1, 2), "the job")).exception(WAIT))
    assert re.fullmatch(
        r"job 'the job' cannot start: a new worker process holds \d+ MiB already, more than the 20 MiB of the "
        "executor's memory",
        told,
    )


def test_shutdown_while_workers_start() -> None:
    before = children(os.getpid())
    for pause in (0.0, 0.05, 0.4):
        executor = ProcessExecutor(workers=2)
        futures = [executor.submit(Job(process_after, (600.0,))) for _ in range(3)]
        time.sleep(pause)
        executor.shutdown()
        assert all(future.done() for future in futures)
    assert children(os.getpid()) - before == set()


def test_shutdown_in_the_callback_of_a_job() -> None:
    executor = ProcessExecutor(workers=1)
    stopped = threading.Event()

    def stop(_: Future[Any]) -> None:
        executor.shutdown()
        stopped.set()

    executor.submit(Job(process_after, (0.2,))).add_done_callback(stop)
    assert stopped.wait(WAIT)


def test_an_executor_that_is_dropped_does_what_it_had_and_takes_its_workers_along() -> None:
    before = children(os.getpid())
    assert ProcessExecutor(workers=1).submit(Job(process_after, (0.5,))).result(WAIT) != os.getpid()
    assert eventually(lambda: children(os.getpid()) - before == set())


def program(folder: Path, body: str, *, guard: bool = True, before: str = "") -> subprocess.Popen[str]:
    """A process that runs `body`; `here.NAME` is what this file defines."""
    script = folder / "program.py"
    condition = '__name__ == "__main__"' if guard else "True"
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    script.write_text(
        f"{before}import sys, time\n"
        f"sys.path[:0] = [{str(ROOT)!r}]\n"
        "import kernel.tests.failing_jobs as here\n"
        "from crosstask.components import Job\n"
        "from crosstask.executors import ProcessExecutor\n"
        "def mine(number):\n    return number + 1\n"
        f"if {condition}:\n{indented}\n"
    )
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("how", ["hangs", "hangs_deaf", "hangs_unbound"])
def test_a_killed_parent_leaves_no_worker(tmp_path: Path, how: str) -> None:
    running = program(
        tmp_path,
        "executor = ProcessExecutor(workers=2)\n"
        f"executor.submit(Job(here.{how}, ({str(tmp_path / 'busy')!r},)))\n"
        f"executor.submit(Job(here.count, ({str(tmp_path / 'idle')!r},))).result()\n"
        "time.sleep(600)",
    )
    busy = written(tmp_path / "busy")
    assert eventually((tmp_path / "idle").exists)
    workers = children(running.pid)
    assert busy in workers
    assert len(workers) == 2
    running.kill()
    running.communicate()
    assert eventually(lambda: not any(map(alive, workers)), 2)


def test_a_parent_killed_while_its_workers_start_leaves_none(tmp_path: Path) -> None:
    body = "executor = ProcessExecutor(workers=2)\nexecutor.submit(Job(max, (1, 2)))\ntime.sleep(600)"
    running = program(tmp_path, body)
    assert eventually(lambda: children(running.pid))
    workers = children(running.pid)
    running.kill()
    running.communicate()
    assert eventually(lambda: not any(map(alive, workers)), 2)


def test_ctrl_c_stops_the_run_and_its_workers(tmp_path: Path) -> None:
    running = program(
        tmp_path,
        "from crosstask.registry import Registry\nfrom crosstask.run import Run\n"
        "with Run(Registry(), executor=ProcessExecutor(workers=2)) as run:\n"
        f"    dict(run.jobs(Job(here.hangs, (f'{tmp_path}/busy{{n}}',)) for n in range(4)))",
    )
    workers = {written(tmp_path / "busy0"), written(tmp_path / "busy1")}
    for process in (running.pid, *workers):  # a shell's Ctrl-C reaches the run alone; even so workers are deaf to it
        os.kill(process, signal.SIGINT)
    _, errors = running.communicate(timeout=10)
    assert running.returncode != 0
    assert not any(map(alive, workers))
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_program_that_forgets_to_shut_down_ends(tmp_path: Path) -> None:
    running = program(
        tmp_path,
        "executor = ProcessExecutor(workers=2)\n"
        f"executor.submit(Job(here.hangs, ({str(tmp_path / 'busy')!r},)))\n"
        "print(executor.submit(Job(mine, (41,))).result())\n"  # a function of the program itself
        f"here.written(here.Path({str(tmp_path / 'busy')!r}))",
    )
    out, errors = running.communicate(timeout=WAIT)
    assert (out, errors, running.returncode) == ("42\n", "", 0)
    assert not alive(written(tmp_path / "busy"))


def test_a_program_without_a_guard_is_told(tmp_path: Path) -> None:
    running = program(tmp_path, "print(ProcessExecutor(workers=1).submit(Job(mine, (41,))).result())", guard=False)
    _, errors = running.communicate(timeout=WAIT)
    assert running.returncode == 1
    last = errors.rstrip().splitlines()[-1]
    assert "job __main__.mine cannot start: importing the program that runs, a new worker process raised" in last
    assert 'it must start its run under `if __name__ == "__main__":`, for workers import it, too' in last


def test_a_program_that_workers_cannot_import_is_told(tmp_path: Path) -> None:
    unless = "import multiprocessing\nif __name__ != '__main__':\n    raise ImportError('not here')\n"
    script = tmp_path / "program.py"
    running = program(tmp_path, "print(ProcessExecutor(workers=1).submit(Job(mine, (41,))).result())", before=unless)
    _, errors = running.communicate(timeout=WAIT)
    assert errors.rstrip().endswith(
        "importing the program that runs, a new worker process raised ImportError: not here"
    )
    assert f'File "{script}", line 3, in <module>' in errors


def test_a_forked_copy_has_workers_of_its_own() -> None:
    shared = ProcessExecutor(workers=1)
    worker = shared.submit(Job(os.getpid)).result(WAIT)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            executors._stop_all()
            code = 0 if shared.submit(Job(max, (1, 2))).result(WAIT) == 2 else 2
            shared.shutdown()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shared.submit(Job(os.getpid)).result(WAIT) == worker
    shared.shutdown()
