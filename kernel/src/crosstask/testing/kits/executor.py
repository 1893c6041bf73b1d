"""Checks of executors."""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import Future
from typing import Any

import torch

from crosstask.components import Job
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, expect

TIMEOUT = 120


def square(number: int) -> int:
    """A job."""
    return number * number


def mean_of(values: torch.Tensor) -> torch.Tensor:
    """A job with tensors."""
    return values.mean(dim=0)


def fail(text: str) -> None:
    """A job that fails."""
    raise LookupError(text)


class RefusedError(Exception):
    """An exception that cannot be made from its `args`, as pickle would."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"refused with code {code}")


def refuse(code: int) -> None:
    """A job that fails in a way that is hard to send."""
    raise RefusedError(code=code)


def leave() -> None:
    """A job that would end the program, as a success."""
    sys.exit(0)


def wait_a_little(seconds: float) -> float:
    """A job that takes time."""
    time.sleep(seconds)
    return seconds


class ExecutorKit(Kit):
    """Jobs are run, whatever they return or raise comes back. One pool is made per check, so there are few."""

    point = "executor"

    def inputs(self) -> dict[str, Any]:
        return {"jobs": [Job(square, (n,), label=str(n)) for n in range(6)]}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        futures = [call("submit", job=job) for job in inputs["jobs"]]
        return [future.result(TIMEOUT) for future in futures]

    # What a job does is not the executor's: these would start a pool each to find out nothing.
    check_same_seed_same_answer = None  # type: ignore[assignment]
    check_global_random_numbers_untouched = None  # type: ignore[assignment]
    check_state_round_trip = None  # type: ignore[assignment]
    check_state_is_a_snapshot = None  # type: ignore[assignment]
    check_inputs_untouched = None  # type: ignore[assignment]
    check_wrappers_see_it = None  # type: ignore[assignment]
    check_runs = None  # type: ignore[assignment]

    def check_works_outside_a_run(self) -> None:
        """Used directly, without any run, it answers."""
        component = self.make()
        try:
            expect(component.submit(Job(square, (3,))).result(TIMEOUT) == 9, f"{self.name} gives another result")
        finally:
            component.shutdown()

    def check_picklable(self) -> None:
        """It can be sent to another process before its first job."""
        import pickle

        copied = pickle.loads(pickle.dumps(self.make()))  # noqa: S301 -- made here
        expect(copied.options() == self.make().options(), f"{self.name} has other options after pickling")

    def check_results_and_exceptions_come_back(self) -> None:
        """In a run, each job's result comes with its number, tensors too; a job's exception is raised with its text."""
        component = self.make()
        values = torch.arange(12.0).reshape(4, 3)
        jobs = [*self.inputs()["jobs"], Job(mean_of, (values,))]
        with self.run(component) as run:
            run.executor = component  # the run stops it
            self._try(component, jobs, values, run)

    def _try(self, component: Any, jobs: list[Job], values: torch.Tensor, run: Any) -> None:
        found = dict(run.jobs(iter(jobs)))
        expect(sorted(found) == list(range(len(jobs))), f"{self.name}: results {sorted(found)} of {len(jobs)} jobs")
        wanted = {number: number * number for number in range(6)} | {6: mean_of(values)}
        told = difference(plain(wanted), plain(found), "results")
        expect(told is None, f"{self.name}: {told}")
        future = component.submit(Job(fail, ("no luck",)))
        expect(isinstance(future, Future), f"{self.name}.submit returned a {type(future).__name__}, not a Future")
        error = future.exception(TIMEOUT)
        expect(isinstance(error, LookupError), f"{self.name}: the job raised LookupError, its future has {error!r}")
        expect("no luck" in str(error), f"{self.name}: the exception lost its message: {error!r}")
        self._fail(component, run)

    def _fail(self, component: Any, run: Any) -> None:
        error = component.submit(Job(refuse, (3,))).exception(TIMEOUT)
        expect(
            "refused with code 3" in str(error),
            f"{self.name}: an exception whose arguments are keywords came back as {error!r}",
        )
        left = component.submit(Job(leave)).exception(TIMEOUT)  # before the run, which would wait for ever
        expect(left is not None, f"{self.name}: a job that leaves with sys.exit(0) has a result")
        name = "the one that leaves"
        try:
            answers = dict(run.jobs([Job(leave, label=name)]))
        except Exception as raised:
            told = [str(raised), *getattr(raised, "__notes__", ())]
            expect(
                any(name in text for text in told), f"{self.name}: of a job that leaves with sys.exit(0), {raised!r}"
            )
        else:
            expect(False, f"{self.name}: a job that leaves with sys.exit(0) has the result {answers[0]!r}")

    def check_capacity(self) -> None:
        """`capacity()` is a whole number, at least 1."""
        capacity = self.make().capacity()
        whole = isinstance(capacity, int) and not isinstance(capacity, bool) and math.isfinite(capacity)
        expect(whole and capacity >= 1, f"{self.name}.capacity() is {capacity!r}")

    def check_shutdown(self) -> None:
        """`shutdown()` may be called before the first job, and twice; after it nobody waits for a job for ever."""
        component = self.make()
        component.shutdown()
        component.shutdown()
        with self.run(component):  # some look at their run
            futures = [component.submit(Job(wait_a_little, (0.05,))) for _ in range(3)]
            component.shutdown()
        late = time.monotonic() + 5
        while (still := sum(not future.done() for future in futures)) and time.monotonic() < late:
            time.sleep(0.01)
        expect(not still, f"{self.name}: {still} of 3 futures are still open after shutdown()")


KIT = ExecutorKit
