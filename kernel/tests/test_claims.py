"""Runs that share a store share the work: each thing is made once, and nobody waits for ever."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from crosstask import Registry, open_store
from crosstask.components import Job, Remembered
from crosstask.context import LocalContext
from crosstask.options import component
from crosstask.points.executor import Executor
from crosstask.points.store import Holder
from crosstask.run import Run
from crosstask.store import Store
from crosstask.store.processes import birth, host

MADE: list[str] = []
LOCK = threading.Lock()


def make(key: str, seconds: float = 0.02) -> str:
    """What a job does: it takes a while, and is journalled."""
    with LOCK:
        MADE.append(key)
    time.sleep(seconds)
    return f"value of {key}"


@pytest.fixture
def runs(tmp_path: Path, registry: Registry) -> Iterator[Callable[[], Run]]:
    """Makes runs that share a store, each with a connection of its own, as if in processes of their own."""
    MADE.clear()
    opened: list[Store] = []

    def another() -> Run:
        opened.append(open_store(str(tmp_path / "s.db")))
        return Run(registry, run_id=f"r{len(opened)}", store=opened[-1])

    yield another
    for each in opened:
        each.close()


def by_jobs(run: Run, keys: Sequence[str]) -> dict[str, str]:
    jobs = [Job(make, (key,), key=("models", key)) for key in keys]
    found = {}
    for index, value in run.jobs(jobs):
        if isinstance(value, Remembered):
            found[keys[index]] = value.payload
        else:
            run.remember("models", keys[index], value)
            found[keys[index]] = value
    return found


def by_recalling_one_after_another(run: Run, keys: Sequence[str]) -> dict[str, str]:
    found = {}
    for key in keys:
        if (known := run.recall("models", key)) is None:
            run.remember("models", key, make(key))
            known = run.recall("models", key)
        assert known is not None
        found[key] = known.payload
    return found


def by_recalling_all_first(run: Run, keys: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    jobs, waiting = [], []
    for key in keys:
        if (known := run.recall("models", key)) is None:
            jobs.append(Job(make, (key,)))
            waiting.append(key)
            time.sleep(0.001)
        else:
            found[key] = known.payload
    for index, value in run.jobs(jobs):
        run.remember("models", waiting[index], value)
        found[waiting[index]] = value
    return found


KEYS = [f"k{number}" for number in range(12)]


def together(runs: Callable[[], Run], orders: Sequence[Sequence[str]], way: Callable[..., dict[str, str]]) -> None:
    start = threading.Barrier(len(orders))

    def work(order: Sequence[str]) -> dict[str, str]:
        with runs() as run:
            start.wait()
            return way(run, order)

    with ThreadPoolExecutor(len(orders)) as pool:
        for found in pool.map(work, orders, timeout=60):
            assert found == {key: f"value of {key}" for key in KEYS}


@pytest.mark.parametrize("way", [by_jobs, by_recalling_one_after_another, by_recalling_all_first])
@pytest.mark.parametrize("count", [2, 4])
def test_each_thing_is_made_once(runs: Callable[[], Run], way: Callable[..., Any], count: int) -> None:
    together(runs, [KEYS] * count, way)
    assert sorted(MADE) == sorted(KEYS)


@pytest.mark.parametrize("way", [by_jobs, by_recalling_one_after_another])
def test_whatever_the_order_in_which_they_want_them(runs: Callable[[], Run], way: Callable[..., Any]) -> None:
    together(runs, [KEYS, KEYS[::-1], KEYS[6:] + KEYS[:6]], way)
    assert sorted(MADE) == sorted(KEYS)


def test_who_claims_all_first_in_another_order_does_not_wait_for_ever(runs: Callable[[], Run]) -> None:
    """Each has what the other wants: one of them makes it a second time rather than wait."""
    together(runs, [KEYS, KEYS[::-1]], by_recalling_all_first)
    assert set(MADE) == set(KEYS)
    assert len(MADE) < 2 * len(KEYS)


def test_jobs_share_the_work(runs: Callable[[], Run]) -> None:
    """While one run is at a long job the other does the rest, and only then waits."""
    with runs() as first, runs() as second:
        known = iter(first.jobs([Job(make, ("long", 0.0), key=("models", "long"))]))
        _, value = next(known)  # done, and not yet remembered

        def rest() -> list[Any]:
            wanted = [Job(make, (key,), key=("models", key)) for key in ("long", "a", "b")]
            order = []
            for at, found in second.jobs(wanted):
                order.append((at, found))
                if not isinstance(found, Remembered):
                    second.remember("models", wanted[at].args[0], found)
            return order

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(rest)
            time.sleep(0.5)
            assert not waiting.done()
            first.remember("models", "long", value)
            assert list(known) == []
            order = waiting.result(30)
    assert [at for at, _ in order] == [1, 2, 0]
    assert order[2][1] == Remembered("value of long")
    assert sorted(MADE) == ["a", "b", "long"]


def test_what_is_known_is_no_job(runs: Callable[[], Run]) -> None:
    with runs() as run:
        run.remember("models", "a", 1)
        assert dict(run.jobs([Job(make, ("a",), key=("models", "a")), Job(make, ("b",))])) == {
            0: Remembered(1),
            1: "value of b",
        }
    local = LocalContext()
    local.remember("models", "a", 1)
    assert list(local.jobs([Job(make, ("a",), key=("models", "a"))])) == [(0, Remembered(1))]
    assert MADE == ["b"]


def fail(key: str) -> None:
    raise ValueError(key)


def test_a_job_that_fails_is_nobodys(runs: Callable[[], Run]) -> None:
    with runs() as first, runs() as second:
        with pytest.raises(ValueError, match="k"):
            list(first.jobs([Job(fail, ("k",), key=("models", "k"))]))
        assert second.store is not None
        assert second.store.claimed_by("models", "k") is None
        next(iter(first.jobs([Job(make, (key,), key=("models", key)) for key in KEYS])))  # and dropped
        assert [key for key in KEYS if second.store.claimed_by("models", key)] == []


def claimed(run: Run) -> list[str]:
    assert run.store is not None
    return [key for key in KEYS if run.store.claimed_by("models", key) is not None]


def test_a_hook_that_looks_and_does_not_make_leaves_no_claim(runs: Callable[[], Run]) -> None:
    seen: list[list[str]] = []

    @component
    class Looks(Executor):
        """Runs nothing: it looks for two things, and may fail."""

        def submit(self, job: Job) -> Future[Any]:
            assert self.context.recall("models", "k1", claim=False) is None
            assert self.context.recall("models", "k2") is None
            seen.append(claimed(other))
            if job.label == "fail":
                raise ValueError("no luck")
            return Future()

    with runs() as run, runs() as other:
        looks = Looks()
        assert run.recall("models", "k0") is None
        run.call(looks, "submit", job=Job(make))
        assert seen == [["k0", "k2"]]
        assert claimed(other) == ["k0"], "whoever asked the hook is still going to make it"
        with pytest.raises(ValueError, match="no luck"):
            run.call(looks, "submit", job=Job(make, label="fail"))
        assert claimed(other) == [], "a failure ends all that it was for"
        assert run.recall("models", "k3") is None
        run.forgo("models", "k3")
        assert claimed(other) == []
        assert run.recall("models", "k4") is None
    late = runs()
    assert claimed(late) == [], "a run that has ended has none"


def test_two_runs_in_one_thread_do_not_wait_for_one_another(runs: Callable[[], Run]) -> None:
    with runs() as first, runs() as second:
        assert first.recall("models", "k") is None
        assert second.recall("models", "k") is None


def test_a_run_that_waits_long_says_for_whom(runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.store.claims._TELL_AFTER", 0.1)
    with capture_logs() as logged, runs() as first, ThreadPoolExecutor(1) as pool:
        assert first.recall("models", "k") is None
        second = runs()
        waiting = pool.submit(second.recall, "models", "k")
        time.sleep(1)
        first.remember("models", "k", 1)
        assert waiting.result(30) == Remembered(1)
    (told,) = logged
    assert (told["log_level"], told["run"]) == ("warning", "r2")
    assert told["holder"].startswith("run r1 (process ")


def test_claims_are_kept_alive_while_the_run_lives(runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a lease, with nothing said to the store; a run that is dropped without a word ends."""
    monkeypatch.setattr("crosstask.points.store.Store.lease", 0.8)
    monkeypatch.setattr("crosstask.store.sql.has_ended", lambda *_: False)  # only the lease counts
    first, second = runs(), runs()
    assert first.recall("models", "k1") is None
    time.sleep(2)
    assert claimed(second) == ["k1"]
    del first
    gc.collect()
    deadline = time.monotonic() + 20
    while claimed(second) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert claimed(second) == []


def test_a_claim_whose_lease_ran_out_is_taken_over_by_one_that_holds_others(tmp_path: Path) -> None:
    """Only a run that held nothing took it over: with a claim of its own, it asked again and again for ever."""
    store = open_store(str(tmp_path / "s.db"))
    gone, here = (Holder(name, "r", host(), os.getpid(), birth(os.getpid())) for name in ("gone", "here"))
    store.lease = 0.05
    assert store.claim("models", "k", gone) is None
    time.sleep(0.1)
    store.lease = 60.0
    assert store.claim("models", "other", here) is None
    asking = threading.Thread(target=store.claim, args=("models", "k", here), daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()
    owner = store.claimed_by("models", "k")
    assert owner is not None
    assert owner.name == "here"
    store.close()
