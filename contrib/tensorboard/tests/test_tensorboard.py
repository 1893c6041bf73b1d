"""Event files, read back with TensorBoard's own EventAccumulator."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crosstask import RunRecord
from crosstask.errors import PluginError
from crosstask.testing import conformance
from crosstask_tensorboard import TensorBoard
from crosstask_trackers.testing import EVERY, Heard, expected_figures, short_run, small_run

test_conformance = conformance(TensorBoard)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    found.Reload()
    return found


def text(events: EventAccumulator, tag: str) -> str:
    value: Any = events.Tensors(tag)[-1].tensor_proto.string_val[0]
    return str(value.decode())


def test_everything_of_a_run_is_there(tmp_path: Path) -> None:
    heard = Heard()
    record = small_run(tmp_path / "out", heard, observers=[{"use": "tensorboard", "every": EVERY}])
    folder = tmp_path / "out" / "tensorboard" / record.run_id
    events = read(folder)
    expected: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in expected_figures(heard):
        expected.setdefault(name, []).append((step, value))
    assert {name.split("/")[1] for name in expected} == {"losses", "weights", "conflicts", "scores"}
    for name, points in expected.items():
        found = [(each.step, each.value) for each in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in points]
        assert [value for _, value in found] == pytest.approx([value for _, value in points], rel=1e-6)  # float32
    scores = record.results["multitask"]["scores"]
    for task, score in scores.items():
        (point,) = events.Scalars(f"multitask/result/scores/{task}")
        assert point.value == pytest.approx(score, rel=1e-6)

    (image,) = events.Images("graph")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert (image.width, image.height) == (1800, 1280)
    assert text(events, "status") == "finished"
    assert text(events, "run") == f"small, run {record.run_id}"
    assert "| recipe.source.options.train | 200 |" in text(events, "parameters").splitlines()
    table = text(events, "tables/transfers").splitlines()
    assert table[0].startswith("| source | target | coefficient | low | high | n |")
    assert len(table) == 2 + 6
    graph = json.loads((tmp_path / "out" / "graph.json").read_text())
    edge = graph["edges"][0]
    assert any(
        row.startswith(f"| {edge['source']} | {edge['target']} | {edge['transfer_coefficient']:.4g} |") for row in table
    )
    kept = json.loads((folder / "files" / "tables" / "transfers.json").read_text())
    assert {tuple(row[:3]) for row in kept["data"]} == {
        (e["source"], e["target"], e["transfer_coefficient"]) for e in graph["edges"]
    }
    for name in ("report.html", "graph.json", "graph.graphml"):
        assert (folder / "files" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("stop", "status"),
    [(RuntimeError("lost"), "failed: RuntimeError: lost"), (KeyboardInterrupt(), "interrupted: KeyboardInterrupt: ")],
    ids=repr,
)
def test_one_that_was_stopped_says_so_and_is_gone_on_with(tmp_path: Path, stop: BaseException, status: str) -> None:
    short_run(TensorBoard(folder="logs", every=1), range(1, 7), stop)
    assert text(read(tmp_path / "logs" / "again"), "status") == status
    short_run(TensorBoard(folder="logs", every=1), range(7, 23))
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["again"]
    events = read(tmp_path / "logs" / "again")
    found = [(each.step, each.value) for each in events.Scalars("multitask/losses/digits")]
    assert found == [(step, pytest.approx(1 / step)) for step in range(1, 23)]
    assert text(events, "status") == "finished"


def test_from_python_it_is_a_folder_of_runs_and_cells_stay_in_their_cells(tmp_path: Path) -> None:
    made = TensorBoard()
    made.stage_started("a | b\nc", 3)
    made.close()
    (folder,) = (tmp_path / "runs").iterdir()
    assert text(read(folder), "tables/stages").splitlines()[2].startswith("| a &#124; b c | 3 | ")


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PluginError, match=r"^crosstask-tensorboard needs tensorboard: pip install tensorboard$"):
        TensorBoard().run_started(RunRecord(run_id="r", name="n"))
