"""How far a run has come, as its folder says while it works."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from crosstask.report import following
from crosstask.report.following import FILE, Follower, Line, read_progress


def follower(folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> Follower:
    if monkeypatch is not None:
        monkeypatch.setattr(following, "_EVERY", 0.0)
    made = Follower(folder=str(folder), run_id="r1")
    made.run_started(None)
    return made


def test_a_curve_keeps_at_most_200_points_evenly_spread() -> None:
    line = Line()
    for step in range(1, 5001):
        if line.wants(step):
            line.add(step, {"a": 1 / step})
            assert len(line.steps) <= 200
    assert 100 <= len(line.steps) <= 200
    assert line.steps[-1] > 4900
    assert max(b - a for a, b in itertools.pairwise(line.steps)) <= 2 * line.stride
    assert line.values["a"] == pytest.approx([1 / step for step in line.steps])


def test_what_is_repeated_replaces_and_what_comes_later_has_no_past() -> None:
    line = Line()
    line.add(1, {"a": 5.0})
    line.add(2, {"a": 4.0})
    line.add(3, {"a": 3.0, "b": None})
    assert line.values == {"a": [5.0, 4.0, 3.0], "b": [None, None, None]}
    line.add(2, {"a": 9.0, "c": 1.0})
    assert (line.steps, line.values) == ([1, 2], {"a": [5.0, 9.0], "b": [None, None], "c": [None, 1.0]})
    line.add(1, {"a": 7.0})
    assert (line.steps, line.values) == ([1], {"a": [7.0], "b": [None], "c": [None]}), "another seed"


def test_parts_and_figures_are_written_as_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = follower(tmp_path, monkeypatch)
    assert read_progress(tmp_path, "r1").parts == ()
    made.stage_started("outer", 2)
    made.stage_started("train", None)
    made.stage_progress("train", "task <1>")
    made.training_step("outer", 1, {"losses": {"t": torch.tensor(0.5), "u": math.inf}, "scores": {"t": 1}, "on": True})
    made.training_step("outer", 2, {"loss": 2, "many": torch.ones(3), "odd": object(), "text": "7"})
    made.training_step("outer", 3, {"losses": {"t": 0.1}, "task": "t"})
    (outer, train), curves = read_progress(tmp_path, "r1").parts, read_progress(tmp_path, "r1").curves
    assert (outer.done, outer.total, outer.ended) == (2, 2, False)
    assert (train.done, train.total, train.detail) == (1, None, "task <1>")
    assert curves["outer"].steps == (1, 2), "a training of one task is a part of the stage"
    assert curves["outer"].values == {"t": (0.5, None), "u": (None, None), "loss": (None, 2.0)}
    made.stage_finished("train", None)
    made.stage_finished("nobody", None)
    made.run_finished(None, None)
    told = read_progress(tmp_path, "r1")
    assert [part.ended for part in told.parts] == [False, True]
    assert told.seconds >= told.parts[0].seconds > 0
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "nothing is left beside it"


def test_it_is_written_at_most_twice_a_second_and_nothing_is_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = follower(tmp_path), Path.replace
    writings: list[int] = []

    def replace(self: Path, to: Path) -> Path:
        writings.append(1)
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    made.stage_started("s", 100)
    for step in range(1, 51):
        made.training_step("s", step, {"loss": 1.0})
    assert len(writings) == 1
    end = time.monotonic() + 10
    while read_progress(tmp_path, "r1").parts[0].done < 50:  # though it is told no more
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(writings) == 2
    made.training_step("s", 100, {"loss": 1.0})
    made.run_finished(None, None)
    (tmp_path / FILE).write_text("another run's")
    if made._later is not None:
        made._later.join()
    assert (tmp_path / FILE).read_text() == "another run's"


def test_what_plugins_take_for_numbers_and_names_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = follower(tmp_path, monkeypatch)
    odd: Any = made
    odd.stage_started(7, numpy.int64(4))
    odd.stage_progress(7, ("a", 1))
    odd.training_step(7, torch.tensor(2), {3: numpy.float32(0.5), "nan": numpy.float64("nan")})
    odd.stage_started("x", "many")
    odd.stage_started("y", math.inf)
    odd.stage_progress("y", "z" * 1000)
    found = read_progress(tmp_path, "r1")
    assert [(part.name, part.total, part.done) for part in found.parts] == [("7", 4, 2), ("x", None, 0), ("y", None, 1)]
    assert found.parts[0].detail == "('a', 1)"
    assert len(found.parts[2].detail) == 200
    assert found.curves["7"].values == {"3": (0.5,), "nan": (None,)}


def test_every_step_is_counted_and_some_are_kept(tmp_path: Path) -> None:
    made = follower(tmp_path)
    made.stage_started("s", 1000)
    for step in range(1, 1000):
        made.training_step("s", step, {"loss": 1.0})
    made.run_finished(None, None)
    found = read_progress(tmp_path, "r1")
    assert found.parts[0].done == 999
    assert len(found.curves["s"].steps) <= 200


def test_curves_go_on_in_a_resumed_run_and_are_not_another_runs(tmp_path: Path) -> None:
    first = follower(tmp_path)
    for step in (1, 2, 3):
        first.training_step("s", step, {"loss": float(step)})
    first.run_finished(None, None)
    again = follower(tmp_path)
    again.training_step("s", 3, {"loss": 30.0})
    again.run_finished(None, None)
    assert read_progress(tmp_path, "r1").curves["s"].values == {"loss": (1.0, 2.0, 30.0)}
    assert read_progress(tmp_path, "r1").parts == ()
    other = Follower(folder=str(tmp_path), run_id="r2")
    other.run_started(None)
    assert read_progress(tmp_path, "r2").curves == {}
    assert read_progress(tmp_path, "r1").curves == {}


@pytest.mark.parametrize("text", ["", "[]", '{"run_id": 1}', '{"run_id": "r1", "parts": 3}', "\udcff", "[" * 90000])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_progress(tmp_path, "r1").parts == ()


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = follower(tmp_path)

    def full(self: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    made.stage_started("s", 1)
    monkeypatch.undo()
    assert json.loads((tmp_path / FILE).read_text())["parts"] == []
    os.remove(tmp_path / FILE)  # noqa: PTH107
    made.folder = str(tmp_path / "gone")
    made.stage_finished("s", None)
