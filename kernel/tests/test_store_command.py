"""`crosstask store`: what is kept, whether it is whole, and how it is put in order."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import crosstask.cli
from crosstask import Registry, StoreError, TaskDescriptor, TransferEdge, TransferGraph, open_store
from crosstask.options import structure
from crosstask.points.store import Holder
from crosstask.store import Store
from crosstask.store.graphs import keep_graph
from crosstask.store.processes import birth, host


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(crosstask.cli.cli, ["store", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def data(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture
def out(tmp_path: Path, installed: Registry) -> Path:
    """A run's folder with a small store."""
    made = open_store(str(tmp_path / "out" / "store.db"))
    for number in range(3):
        payload = {"what": f"model {number}", "score": 0.5}
        made.put("models", f"k{number}", payload, tensors={"w": torch.full((3,), float(number))}, run_id=f"r{number}")
    made.put("transfers", "t", {"source": "[bold]a[/]\x1b[2J"})
    made.close()
    return tmp_path / "out"


@pytest.fixture
def store(out: Path) -> Iterator[Store]:
    made = open_store(str(out / "store.db"))
    yield made
    made.close()


def test_list(out: Path) -> None:
    rows = data("list", "--out", out)
    assert [(row["kind"], row["entries"], row["damaged"]) for row in rows] == [("models", 3, 0), ("transfers", 1, 0)]
    rows = data("list", "models", "--store", f"sqlite:///{out / 'store.db'}")
    assert [(row["key"], row["run"], row["what"]) for row in rows] == [
        ("k0", "r0", "what: model 0"),
        ("k1", "r1", "what: model 1"),
        ("k2", "r2", "what: model 2"),
    ]
    assert "models" in run("list", "--out", out)
    assert "\x1b[2J" not in run("list", "transfers", "--out", out)


def test_runs_are_listed_as_they_stand(out: Path, store: Store) -> None:
    """One that says it runs and gives no sign of life was interrupted."""
    for run_id, status in (("done", "finished"), ("dead", "running"), ("alive", "running"), ("marked", "running")):
        payload = {"folder": str(out), "record": {"run_id": run_id, "name": "n", "status": status}}
        store.put("runs", run_id, payload)
    store.put("runs", "strange", [1])
    store.beat(Holder("h", "alive", host(), os.getpid(), birth(os.getpid())))
    told = {"host": host(), "pid": os.getpid(), "born": birth(os.getpid())}
    (out / ".running-marked").write_text(json.dumps(told))
    assert {row["key"]: row["status"] for row in data("list", "runs", "--out", out)} == {
        "done": "finished",
        "dead": "interrupted",
        "alive": "running",
        "marked": "running",
        "strange": None,
    }


def test_check_and_repair(out: Path, store: Store) -> None:
    assert data("check", "--out", out) == {
        "entries": 4, "damaged": [], "unused": [], "database": None, "dead_claims": 0,
    }  # fmt: skip
    assert run("check", "--out", out).startswith("4 entries, 0 damaged; 0 weights files")
    name = next(row.weights for row in store.rows("models"))
    (out / "store.weights" / str(name)).write_bytes(b"")
    told = run("check", "--out", out, code=1)
    assert f"models k0: weights file {out / 'store.weights' / str(name)} is damaged" in told
    assert data("check", "--out", out, code=1)["damaged"][0]["key"] == "k0"
    assert [row["key"] for row in data("repair", "--out", out)["removed"]] == ["k0"]
    assert run("repair", "--out", out) == "0 of 3 entries and 0 dead claims removed\n"
    run("check", "--out", out)


def test_a_database_that_is_damaged_is_said(out: Path) -> None:
    path = out / "store.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    result = CliRunner().invoke(crosstask.cli.cli, ["store", "check", "--out", str(out)])
    assert result.exit_code == 1
    assert isinstance(result.exception, StoreError | SystemExit)
    assert "damaged" in result.output or "malformed" in str(result.exception)


def test_delete(out: Path, store: Store) -> None:
    with pytest.raises(StoreError, match=r"no entry 'k9' of kind 'models'.*alid: k0, k1, k2"):
        run("delete", "models", "k0", "k9", "--out", out)
    with pytest.raises(StoreError, match="the store has nothing of kind 'model'; did you mean 'models'"):
        run("delete", "model", "k0", "--out", out)
    with pytest.raises(StoreError, match="no entry of kind 'models' is of run 'r7'"):
        run("delete", "models", "--run", "r7", "--out", out)
    assert "say which entries" in run("delete", "models", "--out", out, code=2)
    assert len(list(store.rows("models"))) == 3, "nothing was deleted so far"
    assert data("delete", "models", "k0", "--out", out) == {"deleted": ["k0"]}
    assert data("delete", "models", "--run", "r1", "--out", out) == {"deleted": ["k1"]}
    assert run("delete", "models", "--all", "--out", out) == "1 entries of models deleted\n"
    assert list(store.rows("models")) == list((out / "store.weights").iterdir()) == []
    assert len(list(store.rows("transfers"))) == 1


def test_merge(out: Path, tmp_path: Path, store: Store) -> None:
    target = tmp_path / "new" / "all.db"
    told = data("merge", out, "--store", target)
    graph = told.pop("graph")
    assert told == {"added": 4, "known": 0, "different": 0, "damaged": 0, "joined": 0, "conflicts": []}
    assert (graph["tasks"], graph["pairs"], graph["conflicts"]) == (0, 0, [])
    store.put("models", "k1", "changed", replace=True)
    assert run("merge", out / "store.db", "--store", target) == (
        "0 entries added, 3 known already\n1 are known with other values, which stay:\n  models k1\n"
    )
    made = open_store(str(target))
    assert torch.equal(made.get("models", "k2").tensors["w"], torch.full((3,), 2.0))  # type: ignore[union-attr]
    made.close()


def test_graphs_of_two_stores_are_one_and_disagreement_is_told(out: Path, tmp_path: Path, store: Store) -> None:
    assert run("graph", "--out", out) == "no run of this store has measured transfer between tasks\n"
    other = open_store(str(tmp_path / "other.db"))
    for kept, run_id, value in ((store, "r1", 0.1), (other, "r2", 0.5), (other, "r1", 0.12)):
        graph = TransferGraph(TaskDescriptor(task_id=name) for name in "ab")
        told = {"evidence": "measured", "uncertainty": 0.02}
        graph.add(structure({"source": "a", "target": "b", "transfer_coefficient": value, **told}, TransferEdge))
        keep_graph(kept, graph, run_id)
    other.close()
    said = run("merge", tmp_path / "other.db", "--out", out).splitlines()
    assert said[:3] == [
        "1 entries added, 0 known already",
        "1 graphs of runs that both know hold the evidence of both",
        "graph: 2 tasks, 1 pairs measured, by 3 measurements",
    ]
    assert said[3].startswith("measurements disagree: a -> b: +0.100 ± 0.039 (r1) against ")
    assert said[3].count("against") == 2
    assert said[4:] == ["no pair was measured at two times: nothing ages"] or "nothing ages" in said[4]
    assert "1 entries" not in run("merge", tmp_path / "other.db", "--out", out)
    told = data("graph", "--out", out, "--export", tmp_path / "all.json")
    assert (told["pairs"], told["measurements"], len(told["conflicts"])) == (1, 3, 1)
    assert run("graph", "--out", out).splitlines() == said[2:]
    assert len(TransferGraph.load(tmp_path / "all.json").measured_edges()[0].measurements) == 3


def test_gc(out: Path) -> None:
    orphan = out / "store.weights" / f"{'0' * 40}.safetensors"
    orphan.write_bytes(b"")
    assert data("gc", "--out", out) == {"removed": []}, "it may be a run's that is at work"
    os.utime(orphan, (time.time() - 7200,) * 2)
    assert run("gc", "--out", out, "--older-than", 3) == "0 files removed\n"
    assert data("gc", "--out", out) == {"removed": [str(orphan)]}
    assert len(list((out / "store.weights").iterdir())) == 3


@pytest.mark.parametrize("command", ["list", "check", "repair", "gc", "graph"])
def test_no_store_is_made_where_there_is_none(tmp_path: Path, installed: Registry, command: str) -> None:
    for where in (["--out", tmp_path / "x"], ["--store", f"sqlite:///{tmp_path / 'x' / 'store.db'}"]):
        with pytest.raises(StoreError, match=r"no store at .*x/store\.db: say where it is with --store, or --out"):
            run(command, *where)
    assert not list(tmp_path.iterdir())
