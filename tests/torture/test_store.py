"""Many processes on one store, and some are killed: everything is measured once, and the figures are the same.

Slow, bounded and seeded. `run_journalled.py` is the process; its recipe measures 28 things on scikit-learn's digits.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crosstask import open_store
from crosstask.job import load_run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("run_journalled.py")
MEASUREMENTS = 24  # 4 models, 4 targets x 2 seeds from scratch, 12 pairs
WAIT = 600
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Process:
    """One `run_journalled.py`."""

    def __init__(self, folder: Path, name: str, *more: object, store: object = None) -> None:
        self.out, self.journal = folder / name, folder / "journal"
        arguments = [sys.executable, SCRIPT, store or folder / "store.db", self.out, self.journal, *more]
        self.errors = (folder / f"{name}.errors").open("w+")
        self.process = subprocess.Popen(
            list(map(str, arguments)), stdout=subprocess.PIPE, stderr=self.errors, text=True, env=ENVIRONMENT
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.said()

    def figures(self) -> Any:
        """What it found, when it has ended."""
        out, _ = self.process.communicate(timeout=WAIT)
        assert self.process.returncode == 0, self.said()
        return json.loads(out.splitlines()[-1])["figures"]

    def said(self) -> str:
        """What it wrote to standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.errors.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts processes in a folder, and ends them with the test."""
    begun: list[Process] = []

    def another(name: str, *more: object, folder: Path = tmp_path, store: object = None) -> Process:
        begun.append(Process(folder, name, *more, store=store))
        return begun[-1]

    yield another
    for each in begun:
        each.end()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The figures of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    process = Process(folder, "out")
    try:
        figures = process.figures()
    finally:
        process.end()
    assert len(measured(folder / "journal")) == MEASUREMENTS
    return figures


def measured(journal: Path) -> list[str]:
    return [line.rpartition(" ")[0] for line in journal.read_text().splitlines()] if journal.exists() else []


def twice(journal: Path) -> dict[str, int]:
    return {what: count for what, count in collections.Counter(measured(journal)).items() if count > 1}


def wait_until(done: Any, process: Process) -> None:
    deadline = time.monotonic() + WAIT
    while not done():
        assert process.process.poll() is None, process.said()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(("count", "workers"), [(2, 0), (4, 0), (2, 2)])
def test_processes_that_start_together_measure_everything_once(
    tmp_path: Path, start: Any, alone: Any, count: int, workers: int
) -> None:
    go = tmp_path / "go"
    processes = [start(f"out{n}", "--go", go, "--workers", workers) for n in range(count)]
    go.touch()
    assert [each.figures() for each in processes] == [alone] * count
    assert twice(tmp_path / "journal") == {}
    assert len(measured(tmp_path / "journal")) == MEASUREMENTS


@pytest.mark.parametrize("after", [1, 5, 9])  # the pairs go in one fleet: the last half is there at once
def test_when_one_is_killed_the_other_takes_over(tmp_path: Path, start: Any, alone: Any, after: int) -> None:
    first, second = start("first"), start("second", "--go", tmp_path / "go")
    wait_until(lambda: len(measured(tmp_path / "journal")) >= after, first)
    first.process.send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()
    begun = time.monotonic()
    assert second.figures() == alone
    assert time.monotonic() - begun < WAIT / 2
    assert twice(tmp_path / "journal") == {}
    assert load_run(tmp_path / "first").status == "interrupted"
    before = measured(tmp_path / "journal")
    assert len(before) in (MEASUREMENTS - 1, MEASUREMENTS)  # it may be killed between the store and the journal
    third = start("first", "--resume")
    assert third.figures() == alone
    assert measured(tmp_path / "journal") == before, "it measured nothing"


@pytest.mark.parametrize(("workers", "kills"), [(0, 50), (2, 14)])
def test_runs_that_are_killed_again_and_again_come_to_the_same_figures(
    tmp_path: Path, start: Any, alone: Any, workers: int, kills: int
) -> None:
    process = start("out", "--workers", workers, "--kills", kills, "--seed", 7)
    out, _ = process.process.communicate(timeout=2 * WAIT)
    assert process.process.returncode == 0, process.said()
    told = json.loads(out.splitlines()[-1])
    assert sum(told["kills"]) >= kills
    assert all(figures == alone for figures in told["figures"])
    journals = sorted(tmp_path.glob("journal*"))
    assert len(journals) == len(told["figures"])
    for journal in journals:
        assert twice(journal) == {}


def test_a_store_that_is_deleted_in_mid_run_is_said(tmp_path: Path, start: Any) -> None:
    process = start("out")
    wait_until(lambda: len(measured(tmp_path / "journal")) >= 5, process)
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    process.process.communicate(timeout=WAIT)
    assert process.process.returncode != 0
    (told,) = [line for line in process.said().splitlines() if line.startswith("crosstask.errors.StoreError: ")]
    assert "was deleted or moved away while it was in use" in told
    assert load_run(tmp_path / "out").status == "failed"


@pytest.mark.parametrize("limit", [120_000, 400_000])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, start: Any, alone: Any, limit: int
) -> None:
    process = start("out", "--limit", limit)
    process.process.communicate(timeout=WAIT)
    assert process.process.returncode != 0
    said = process.said()
    assert "StoreError: cannot " in said
    assert "OperationalError" not in said
    if (tmp_path / "out" / "run.json").exists():
        assert load_run(tmp_path / "out").status in ("failed", "interrupted")
    assert start("out", "--resume").figures() == alone
    assert twice(tmp_path / "journal") == {}


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere")
@pytest.mark.parametrize("what", ["folder", "store"])
def test_a_folder_that_is_read_only_is_said_before_any_work(tmp_path: Path, what: str) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    kept.mkdir()
    out.mkdir()
    open_store(str(kept / "store.db")).close()
    # Of root only the right to write what is read-only is taken away
    without = ["setpriv", "--bounding-set", "-dac_override", "--"] if os.getuid() == 0 else []
    arguments = [sys.executable, "-m", "crosstask", "run", "demo", "--out", out, "--store", kept / "store.db"]
    closed = [out] if what == "folder" else [kept / "store.db", kept]
    for path in closed:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        done = subprocess.run(
            list(map(str, [*without, *arguments])), env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT
        )
    finally:
        for path in closed:
            path.chmod(0o755)
    assert done.returncode == 2, done.stderr
    wanted = "cannot write to the output folder" if what == "folder" else "the store "
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert wanted in told
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []
