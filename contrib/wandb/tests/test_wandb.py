"""Offline runs of Weights & Biases, read back from their files: records of its own protocol, in LevelDB's log."""

import base64
import hashlib
import json
import struct
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import wandb
from wandb.proto import wandb_internal_pb2

from crosstask import RunRecord
from crosstask.errors import PluginError
from crosstask.testing import conformance
from crosstask_trackers.testing import EVERY, Heard, expected_figures, short_run, small_run
from crosstask_wandb import Wandb
from crosstask_wandb.wandb import _has_key


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODE": "offline", "DATA_DIR": tmp_path, "CACHE_DIR": tmp_path, "CONFIG_DIR": tmp_path}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


test_conformance = conformance(Wandb, options={"mode": "disabled"})


def records(file: Path) -> Iterator[Any]:
    """Of a .wandb file: after seven bytes that say what it is, blocks of 32 KiB with pieces of records in them."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found = wandb_internal_pb2.Record()
            found.ParseFromString(record)
            record = b""
            yield found


class Read:
    """What offline runs hold, once so many have ended: wandb's own process writes the last of it by and by."""

    def __init__(self, folder: Path, ends: int = 1) -> None:
        until, found = time.monotonic() + 60, list[Any]()
        while sum(each.WhichOneof("record_type") == "exit" for each in found) < ends and time.monotonic() < until:
            time.sleep(0.1)
            self.files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
            found = [record for file in self.files for record in records(file)]
        self.runs = [each.run for each in found if each.WhichOneof("record_type") == "run"]
        self.config: dict[str, Any] = {}
        for run in self.runs:
            self.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.axes: dict[str, str] = {}
        self.exits, self.artifacts = [], []
        for each in found:
            match each.WhichOneof("record_type"):
                case "history":
                    told = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in each.history.item}
                    self.history.append(told)
                case "summary":
                    self.summary |= {
                        "/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in each.summary.update
                    }
                case "metric":
                    self.axes[each.metric.name] = each.metric.step_metric
                case "exit":
                    self.exits.append(each.exit.exit_code)
                case "artifact":
                    self.artifacts.append(each.artifact)


def test_everything_of_a_run_is_there(tmp_path: Path) -> None:
    heard = Heard()
    record = small_run(
        tmp_path / "out", heard, observers=[{"use": "wandb", "every": EVERY, "project": "p", "folder": "w"}]
    )
    found = Read(tmp_path / "w")
    assert {(run.run_id, run.display_name, run.project) for run in found.runs} == {(record.run_id, "small", "p")}
    assert found.exits == [0]
    expected = {(name, step): value for name, step, value in expected_figures(heard)}
    written = {
        (name, row["multitask/step"]): value
        for row in found.history
        if "multitask/step" in row
        for name, value in row.items()
        if name.startswith("multitask/") and name != "multitask/step"
    }
    assert written == expected
    assert {found.axes[name] for name, _ in expected} == {"multitask/step"}
    assert found.config["recipe.source.options.train"] == 200
    assert found.config["seed"] == 0
    scores = record.results["multitask"]["scores"]
    assert {t: found.summary[f"multitask/result/scores/{t}"] for t in scores} == scores
    assert found.summary["status"] == "finished"

    files = found.files[0].parent / "files"
    (told,) = [row["tables/transfers/path"] for row in found.history if "tables/transfers/path" in row]
    table = json.loads((files / told).read_text())
    graph = json.loads((tmp_path / "out" / "graph.json").read_text())
    assert table["columns"][:6] == ["source", "target", "coefficient", "low", "high", "n"]
    assert {tuple(row[:3]) for row in table["data"]} == {
        (e["source"], e["target"], e["transfer_coefficient"]) for e in graph["edges"]
    }
    (size,) = [(row["graph/width"], row["graph/height"]) for row in found.history if "graph/width" in row]
    assert size == (1800, 1280)
    (page,) = [row["report/path"] for row in found.history if "report/path" in row]
    report = (tmp_path / "out" / "report.html").read_bytes()
    assert (files / page).read_bytes() == report

    (artifact,) = [each for each in found.artifacts if each.type == "crosstask-run"]
    assert artifact.name == f"crosstask-{record.run_id}"
    digests = {entry.path: entry.digest for entry in artifact.manifest.contents}
    assert set(digests) == {
        "report.html", "graph.json", "graph.graphml", "graph.png", "run.json", "results/multitask.json",
    }  # fmt: skip
    for name in ("report.html", "graph.json", "graph.graphml"):
        content = (tmp_path / "out" / name).read_bytes()
        assert digests[name] == base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize(("stop", "code"), [(RuntimeError("lost"), 1), (KeyboardInterrupt(), 130)], ids=repr)
def test_one_that_was_stopped_says_so_and_is_gone_on_with(tmp_path: Path, stop: BaseException, code: int) -> None:
    short_run(Wandb(every=1), range(1, 7), stop)
    found = Read(tmp_path, ends=1)
    assert found.exits == [code]
    assert found.summary["error"].startswith(type(stop).__name__)
    time.sleep(1.01 - time.time() % 1)  # before 0.20 a folder is called by the second
    short_run(Wandb(every=1), range(7, 23))
    found = Read(tmp_path, ends=2)
    assert {run.run_id for run in found.runs} == {"again"}
    assert sorted(found.exits) == sorted([code, 0])
    losses = [(r["multitask/step"], r["multitask/losses/digits"]) for r in found.history if "multitask/step" in r]
    assert sorted(losses) == [(step, 1 / step) for step in range(1, 23)]


def test_the_users_own_run_is_not_touched(tmp_path: Path) -> None:
    own = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    made = Wandb(folder="elsewhere")
    made.training_step("s", 1, {"loss": 1.0})
    made.close()
    own.log({"mine": 1})
    own.finish()
    (row,) = Read(tmp_path / "elsewhere").history
    assert (row["s/loss"], row["s/step"]) == (1.0, 1)
    assert [set(row) & {"mine", "s/loss"} for row in Read(tmp_path).history] == [{"mine"}]


def test_without_a_key_it_says_so_and_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("crosstask_trackers.line._PAUSE", 0.01)
    with structlog.testing.capture_logs() as told:
        made = Wandb(mode="online")
        made.stage_started("s", 1)
        made.close()
    assert told[0]["why"].endswith("wandb has no key: run `wandb login`, set WANDB_API_KEY, or say mode = 'offline'")


@pytest.mark.parametrize("key", [None, "0123"])
def test_releases_whose_login_would_ask_are_not_asked(key: str | None) -> None:
    def login(key: str | None = None, relogin: bool | None = None) -> bool:
        pytest.fail("it would ask")

    def newer(prompt: bool = True) -> bool:
        assert not prompt
        return key is not None

    older = types.SimpleNamespace(login=login, api=types.SimpleNamespace(api_key=key))
    assert _has_key(older) == _has_key(types.SimpleNamespace(login=newer)) == (key is not None)


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PluginError, match=r"^crosstask-wandb needs wandb: pip install wandb$"):
        Wandb().run_started(RunRecord(run_id="r", name="n"))
