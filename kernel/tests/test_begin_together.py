"""Runs that begin at once on one folder: one begins, whatever the file system knows of locks."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crosstask import Registry, RunError
from crosstask.job import load_portfolio, run_recipe
from crosstask.recipe import recipe_from
from crosstask.store import processes
from crosstask.store.processes import alone, signed, still_at_work


def gone() -> dict[str, Any]:
    """As a process signs that is no more: its number is taken by this one, which was born later."""
    return {**signed(), "born": "1"}


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_that_begin_at_once_one_is_refused(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    recipe = recipe_from({"source": "fake", "look": {}}, registry)
    if resume:
        run_recipe(recipe, tmp_path, registry=registry)
    together, refused = threading.Barrier(2), threading.Event()
    found: list[Any] = []
    opened = processes.alone

    def at_once(lock: Path) -> Any:
        together.wait(60)
        return opened(lock)

    def slowly(*given: Any) -> Any:
        assert refused.wait(60), "the other one was not refused"
        return load_portfolio(*given)

    monkeypatch.setattr("crosstask.job.alone", at_once)
    monkeypatch.setattr("crosstask.job.load_portfolio", slowly)

    def begin() -> None:
        try:
            found.append(run_recipe(recipe, tmp_path, registry=registry, resume=resume))
        except RunError as error:
            found.append(error)
            refused.set()

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    error, record = found
    assert isinstance(error, RunError)
    assert f"run {record.run_id}" in str(error)
    assert "at work" in str(error)
    assert "\n" not in str(error)
    assert record.status == "finished"
    assert not [each for each in tmp_path.iterdir() if each.name.startswith((".running", ".beginning", ".write"))]


@pytest.mark.parametrize("left_by_the_dead", [False, True])
def test_one_at_a_time_is_inside(tmp_path: Path, left_by_the_dead: bool) -> None:
    """Sixteen threads (to the file they are like processes) read a number, wait, and write the next one."""
    lock, number = tmp_path / "lock", tmp_path / "number"
    number.write_text("0")
    if left_by_the_dead:
        lock.write_text(json.dumps(gone()))

    def add() -> None:
        with alone(lock):
            value = int(number.read_text())
            time.sleep(0.002)
            number.write_text(str(value + 1))

    threads = [threading.Thread(target=add) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.read_text() == "16"
    assert [each.name for each in tmp_path.iterdir()] == ["number"]


def test_who_dies_inside_is_followed_and_who_lives_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    for text, age in ((json.dumps(gone()), 0), (json.dumps({**signed(), "host": "elsewhere"}), 3600), ("", 60)):
        lock.write_text(text)
        os.utime(lock, (time.time() - age,) * 2)
        with alone(lock):
            assert still_at_work(lock) is not None
        assert not lock.exists()
    for text, who in (
        (json.dumps(signed()), f"process {os.getpid()} on"),
        (json.dumps({**signed(), "host": "elsewhere:1"}), f"process {os.getpid()} on elsewhere"),
    ):
        lock.write_text(text)
        told = rf"a process \({who}.*\) holds .*lock: wait for it, or remove that file"
        with pytest.raises(RunError, match=told), alone(lock):
            pass
        assert lock.read_text() == text
    monkeypatch.setattr(processes, "PATIENCE", 3600)
    lock.write_text("")
    processes._take_away(lock)
    assert lock.exists(), "it was made a moment ago, and is about to be written"


def test_a_lock_that_somebody_else_has_taken_over_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.write_text(json.dumps(gone()))
    real, living = Path.open, json.dumps(signed())

    def late(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "lock.taking":
            monkeypatch.setattr(Path, "open", real)
            lock.write_text(living)  # between the look and the mark of who removes it
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "open", late)
    processes._take_away(lock)
    assert lock.read_text() == living
    assert [each.name for each in tmp_path.iterdir()] == ["lock"]


def test_who_dies_while_taking_over_hinders_nobody_for_long(tmp_path: Path) -> None:
    lock, taking = tmp_path / "lock", tmp_path / "lock.taking"
    lock.write_text(json.dumps(gone()))
    taking.touch()
    processes._take_away(lock)
    assert lock.exists(), "another one is about to remove it"
    os.utime(taking, (time.time() - 3600,) * 2)
    with alone(lock):
        assert still_at_work(lock) is not None
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_be_made_it_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"cannot write to .*nowhere: No such file"),
        alone(tmp_path / "nowhere" / "lock"),
    ):
        pass
