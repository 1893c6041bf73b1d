"""The store: round trips, damage, versions, several writers; SQLite here, PostgreSQL where a server can be started."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from crosstask import StoreError, open_store
from crosstask.points.store import check_kind
from crosstask.store import Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server started for these tests, on a Unix socket only."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) if Path("/usr/lib/postgresql").exists() else []
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    # A folder of its own: pytest's can be entered by their owner only, and the server refuses to run as root;
    # Debian's package brings the user.
    binaries, folder = found[-1].parent, Path(tempfile.mkdtemp())
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    subprocess.run(
        [*user, binaries / "initdb", "-D", data, "-U", "tester", "-A", "trust"], check=True, capture_output=True
    )
    options = f"-c listen_addresses= -c unix_socket_directories={folder}"
    control = [*user, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    with (folder / "log").open("w") as log:
        if user:
            shutil.chown(folder / "log", "postgres")
        subprocess.run([*control, "-o", options, "start"], check=True, stdout=log, stderr=log)
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder)


@pytest.fixture(params=["memory", "file", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
        made = open_store(url, tmp_path / "weights")
    elif request.param == "memory":
        made = open_store("sqlite:///:memory:", tmp_path / "weights")
    else:
        made = open_store(str(tmp_path / "store.db"))
    yield made
    made.close()


def test_round_trip_with_and_without_tensors(store: Store) -> None:
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([True]),
        "c": torch.ones(2, dtype=torch.bfloat16),
    }
    tensors["tied"] = tensors["a"]
    store.put("models", "k1", {"x": [1, None, "ü"]}, tensors=tensors, run_id="r")
    store.put("models", "k2", 3)
    first, second = store.get("models", "k1"), store.get("models", "k2")
    assert first is not None
    assert second is not None
    assert first.payload == {"x": [1, None, "ü"]}
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in tensors.items())
    assert (second.payload, second.tensors) == (3, {})
    assert store.get("models", "other") is None
    assert store.get("tasks", "k1") is None
    assert [key for key, _ in store.entries("models")] == ["k1", "k2"]


def test_an_entry_is_kept_unless_replaced(store: Store) -> None:
    store.put("runs", "k", 1)
    store.put("runs", "k", 2)
    assert store.get("runs", "k").payload == 1  # type: ignore[union-attr]
    store.put("runs", "k", 3, replace=True)
    assert store.get("runs", "k").payload == 3  # type: ignore[union-attr]


def test_kinds_are_free_names_of_tables_that_are_made_when_first_used(store: Store) -> None:
    store.put("features", "k", 1)
    store.put("trials_2", "k", 2, tensors={"w": torch.ones(2)})
    assert store.get("features", "k").payload == 1  # type: ignore[union-attr]
    assert [entry for kind in ("features", "trials_2", "nobodys") for entry in store.entries(kind)] == [
        ("k", 1),
        ("k", 2),
    ]
    assert {"features", "trials_2"} <= set(store.kinds())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["", "Models", "no such kind", "9lives", "x" * 41, "models; drop table runs", 3, None])
def test_what_is_no_kind_is_refused(store: Store, kind: Any) -> None:
    for use in (lambda: store.put(kind, "k", 1), lambda: store.get(kind, "k"), lambda: list(store.entries(kind))):
        with pytest.raises(StoreError, match=r"a kind is a short name of lower-case letters, .* got"):
            use()
    with pytest.raises(StoreError, match="a kind is a short name"):
        check_kind(kind)


def test_a_weights_file_goes_with_the_last_entry_that_uses_it_whatever_its_kind(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "s.db"))
    for kind in ("models", "features"):
        made.put(kind, "k", 1, tensors={"w": torch.ones(3)})
    made.delete("models", "k")  # type: ignore[attr-defined]
    assert torch.equal(made.get("features", "k").tensors["w"], torch.ones(3))  # type: ignore[union-attr]
    made.delete("features", "k")  # type: ignore[attr-defined]
    assert not list((tmp_path / "s.weights").iterdir())
    made.close()


def test_reopened_store_remembers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.db"
    first = open_store(str(path))
    first.put("models", "k", {"a": 1}, tensors={"w": torch.ones(3)})
    first.close()
    second = open_store(f"sqlite:///{path}")
    found = second.get("models", "k")
    second.close()
    assert found is not None
    assert torch.equal(found.tensors["w"], torch.ones(3))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_weights_are_named_and_can_be_made_again(tmp_path: Path, damage: str) -> None:
    made = open_store(str(tmp_path / "s.db"))
    made.put("models", "k", 1, tensors={"w": torch.arange(100.0)})
    (path,) = (tmp_path / "s.weights").iterdir()
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else data[:-1] + b"\x00\x01")
    with pytest.raises(StoreError, match=path.name):
        made.get("models", "k")
    made.delete("models", "k")  # type: ignore[attr-defined]
    assert made.get("models", "k") is None
    made.put("models", "k", 1, tensors={"w": torch.arange(100.0)})
    assert made.get("models", "k") is not None
    made.close()


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    open_store(str(path)).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO crosstask VALUES (99)"))
    engine.dispose()
    with pytest.raises(StoreError, match=r"written by a newer crosstask .*99.*upgrade"):
        open_store(str(path))


@pytest.mark.parametrize("url", ["nonsense://x", "postgresql+psycopg://nobody@127.0.0.1:9/none", "://"])
def test_a_store_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(StoreError):
        open_store(url)


def test_a_store_in_memory_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = open_store(":memory:")
    made.put("models", "k", 1, tensors={"w": torch.ones(2)})
    assert torch.equal(made.get("models", "k").tensors["w"], torch.ones(2))  # type: ignore[union-attr]
    folder = made.weights  # type: ignore[attr-defined]
    made.close()
    assert not folder.exists()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("not a database, " * 100)
    with pytest.raises(StoreError, match="cannot open the store"):
        open_store(str(tmp_path / "s.db"))


def _write(path: str, worker: int) -> None:
    made = open_store(path)
    for number in range(25):
        made.put("transfers", f"shared-{number}", {"value": number}, tensors={"w": torch.full((50,), float(number))})
        made.put("transfers", f"{worker}-{number}", worker)
    made.close()


def test_several_processes_write_one_store(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    made = open_store(path)
    assert len(list(made.entries("transfers"))) == 25 + 3 * 25
    for number in range(25):
        found = made.get("transfers", f"shared-{number}")
        assert found is not None
        assert torch.equal(found.tensors["w"], torch.full((50,), float(number)))
    made.close()
    assert not list((tmp_path / "s.weights").glob("*.part"))
