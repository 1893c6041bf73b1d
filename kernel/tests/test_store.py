"""The store: round trips, damage, versions, several writers, claims; SQLite here, PostgreSQL where a server can be
started.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from structlog.testing import capture_logs

from crosstask import StoreError, open_store
from crosstask.points.store import Holder, check_kind
from crosstask.store import Store, sql, upkeep, urls
from crosstask.store.processes import birth, has_ended, host
from crosstask.store.sql import SqlStore


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


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "swap"])
def test_damaged_weights_are_a_miss_with_one_warning_and_made_again(tmp_path: Path, damage: str) -> None:
    made = open_store(str(tmp_path / "s.db"))
    made.put("models", "k", 1, tensors={"w": torch.arange(100.0)})
    (path,) = (tmp_path / "s.weights").iterdir()
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "swap":  # a whole file, but another one
        made.put("models", "other", 1, tensors={"w": torch.ones(3)})
        (other,) = set((tmp_path / "s.weights").iterdir()) - {path}
        shutil.copy(other, path)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else data[:-1] + b"\x00\x01")
    with capture_logs() as logged:
        assert made.get("models", "k") is None
        assert made.get("models", "k") is None
    ((kind, key, told),) = [(each["kind"], each["key"], each["damage"]) for each in logged]
    assert (kind, key) == ("models", "k")
    assert path.name in told
    made.put("models", "k", 1, tensors={"w": torch.arange(100.0)})
    assert torch.equal(made.get("models", "k").tensors["w"], torch.arange(100.0))  # type: ignore[union-attr]
    assert path.read_bytes() == data
    made.close()


CHANGES = {
    "cut off": "payload = substr(payload, 1, 5)",
    "emptied": "payload = ''",
    "no text": "payload = x'00ff'",
    "not UTF-8": "payload = CAST(x'22ff22' AS TEXT)",
    "another value that can be read": "payload = replace(payload, '1', '2')",
    "another structure": "payload = '{}'",
    "not a number": "payload = '{\"a\": NaN}', digest = NULL",
    "nested without end": "payload = replace(hex(zeroblob(50000)), '0', '['), digest = NULL",
    "a date that is none": "payload = 'x', created = 'yesterday'",
    "another row's weights": "weights = NULL",
    "weights elsewhere": "weights = '../victim.txt'",
    "weights elsewhere, of a store without digests": "weights = '../victim.txt', digest = NULL",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_row_is_a_miss_and_is_replaced(tmp_path: Path, change: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    made = open_store(str(tmp_path / "s.db"))
    assert isinstance(made, SqlStore)
    for key in ("k", "other"):
        made.put("models", key, {"a": 1}, tensors={"w": torch.ones(3)})
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute(f"UPDATE crosstask_models SET {CHANGES[change]} WHERE key = 'k'")
    connection.close()
    with capture_logs() as logged:
        assert made.get("models", "k") is None
        assert [key for key, _ in made.entries("models")] == ["other"]
        made.put("models", "k", {"a": 1}, tensors={"w": torch.ones(3)})
        assert made.get("models", "k").payload == {"a": 1}  # type: ignore[union-attr]
    assert [each["key"] for each in logged] == ["k"]
    assert [key for key, _ in made.entries("models")] == ["k", "other"]
    made.close()
    assert victim.read_text() == "mine"


def test_a_row_names_files_of_the_store_only(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "deep" / "s.db"))
    made.put("models", "k", 1, tensors={"w": torch.ones(3)})
    victim = tmp_path / "deep" / "victim.txt"
    victim.write_text("mine")
    for name in ("../victim.txt", str(victim), "sub/../../victim.txt"):
        with sqlite3.connect(tmp_path / "deep" / "s.db") as connection:
            connection.execute("UPDATE crosstask_models SET weights = ?, digest = NULL", (name,))
        connection.close()
        assert made.get("models", "k") is None
        assert upkeep.repair(made).damaged[0].damage == f"{name!r} is not the name of a weights file of the store"
        assert victim.read_text() == "mine"
        made.put("models", "k", 1, tensors={"w": torch.ones(3)})
    (tmp_path / "deep" / "s.weights" / "notes.txt").write_text("somebody's")
    assert upkeep.collect(made, older_than=-60) == []
    assert (tmp_path / "deep" / "s.weights" / "notes.txt").exists()
    made.close()


def test_a_store_of_the_first_version_is_read_and_gets_digests(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.executescript(
            "CREATE TABLE crosstask (version INTEGER PRIMARY KEY); INSERT INTO crosstask VALUES (1);"
            "CREATE TABLE crosstask_models (number INTEGER PRIMARY KEY, key VARCHAR(64) NOT NULL UNIQUE, run_id "
            "VARCHAR(64) NOT NULL, created DATETIME NOT NULL, payload TEXT NOT NULL, weights VARCHAR(80));"
            "INSERT INTO crosstask_models VALUES (1, 'old', 'r', '2026-01-01 00:00:00.000000', '[1, 2]', NULL)"
        )
    connection.close()
    made = open_store(str(tmp_path / "s.db"))
    made.put("models", "new", 3)
    assert list(made.entries("models")) == [("old", [1, 2]), ("new", 3)]
    with sqlite3.connect(tmp_path / "s.db") as connection:
        digests = dict(connection.execute("SELECT key, digest IS NULL FROM crosstask_models").fetchall())
    connection.close()
    assert digests == {"old": 1, "new": 0}
    made.close()


def test_what_is_no_json_is_refused(store: Store) -> None:
    for payload in (float("nan"), {1, 2}, object()):
        with pytest.raises(StoreError, match="models 'k' cannot be kept: its payload is no plain JSON"):
            store.put("models", "k", payload)
    assert store.get("models", "k") is None


# A store that goes away -----------------------------------------------------------------------------------------------


def test_a_store_that_is_deleted_or_replaced_while_it_is_used_is_said(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "s.db"))
    made.put("models", "k", 1)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(tmp_path / "s.db", copy)
    for each in tmp_path.glob("s.db*"):
        each.unlink()
    uses = (
        lambda: made.put("models", "k2", 1),
        lambda: made.get("models", "k"),
        lambda: made.claim("models", "k3", holder("a")),
        lambda: list(made.entries("models")),
        lambda: made.kinds(),
    )
    for use in uses:
        with pytest.raises(StoreError, match=r"the store .*s\.db was deleted or moved away while it was in use"):
            use()
    copy.rename(tmp_path / "s.db")
    with pytest.raises(StoreError, match=r"s\.db was replaced by another file"):
        made.put("models", "k2", 1)
    made.close()


def test_a_disk_that_is_full_is_said_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    made = open_store(str(tmp_path / "s.db"))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StoreError, match=r"cannot write weights to .*s\.weights: No space left on device"):
            made.put("models", "k", 1, tensors={"w": torch.ones(3)})
    assert list((tmp_path / "s.weights").iterdir()) == []
    assert made.get("models", "k") is None
    made.close()


# Who sees what --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cr%40t-word@127.0.0.1:9/none",
        "postgresql+psycopg://me@127.0.0.1:9/none?password=s3cr%40t-word",
        "postgresql+psycopg://127.0.0.1:9/none?sslpassword=s3cr%40t-word&password=s3cr%40t-word",
        "nonsense://me:s3cr@t-word@x",
        "post gres://me:s3cr@t-word@x:port",
        "postgresql+psycopg://me:s3cr@t-word@127.0.0.1:no-port/x",
        "sqlite://me:s3cr@t-word@host/x.db",
    ],
)
def test_a_password_is_in_no_message(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "t-word" not in f"{error} {error.args}", "in a message that a traceback shows"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "***" in str(caught.value)
    assert "t-word" not in urls.shown(url)


def test_a_plugins_opener_may_not_give_it_away_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosstask.builtin import PLUGIN
    from crosstask.registry import Registry

    def refuse(self: object, url: str, weights: Path | None) -> Store:
        raise StoreError(f"cannot open {url!r}: no user me with word-of-mine")

    registry = Registry()
    registry.register(PLUGIN)
    monkeypatch.setattr("crosstask.store.sql.SqlStoreOpener.open", refuse)
    name = registry.names("store")[0]
    with pytest.raises(StoreError) as caught:
        open_store(f"{name}://me:word-of-mine@host/x", registry=registry)
    assert str(caught.value) == f"cannot open '{name}://me:***@host/x': no user me with ***"


def test_other_databases_of_the_process_are_left_alone(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "s.db"))
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x)"))
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "delete"
    other.dispose()
    made.close()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_are_readable_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    made = open_store(str(tmp_path / "s.db"))
    before = os.umask(umask)
    try:
        made.put("models", "k", 1, tensors={"w": torch.ones(3)})
    finally:
        os.umask(before)
    (path,) = (tmp_path / "s.weights").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    made.close()


# Claims ---------------------------------------------------------------------------------------------------------------


def holder(name: str, pid: int | None = None, where: str | None = None) -> Holder:
    pid = os.getpid() if pid is None else pid
    return Holder(name, f"run-{name}", host() if where is None else where, pid, birth(pid))


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that other processes can see."""
    url = str(tmp_path / "shared.db")
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
    made = open_store(url, tmp_path / "weights")
    yield made
    made.close()


def test_what_one_has_claimed_another_cannot_claim_until_it_is_given_up(shared: Store) -> None:
    a, b = holder("a"), holder("b")
    assert shared.claim("models", "k", a) is None
    assert shared.claim("models", "k", a) is None, "it is a's already"
    assert shared.claim("models", "k", b) == a
    assert shared.claim("transfers", "k", b) is None, "another kind"
    assert shared.claimed_by("models", "k") == a
    shared.unclaim(b, [("models", "k")])
    assert shared.claimed_by("models", "k") == a, "only who has it can give it up"
    shared.unclaim(a, [("models", "k")])
    assert shared.claimed_by("models", "k") is None
    assert shared.claim("models", "k", b) is None
    assert {each.name for each in shared.holders()} == {"a", "b"}
    shared.leave(b)
    assert [each.name for each in shared.holders()] == ["a"]
    assert shared.claim("models", "k", a) is None
    assert shared.claim("transfers", "k", a) is None
    assert "claims" not in shared.kinds()


def test_a_claim_ends_with_its_lease_unless_there_are_signs_of_life(shared: Store) -> None:
    elsewhere, here = holder("a", where="another machine"), holder("b")
    shared.lease = 0.6
    assert shared.claim("models", "k", elsewhere) is None
    for _ in range(4):
        time.sleep(0.3)
        shared.beat(elsewhere)
        assert shared.claim("models", "k", here) == elsewhere
    time.sleep(0.8)
    assert shared.claimed_by("models", "k") is None
    assert shared.claim("models", "k", here) is None
    assert shared.claim("models", "k", elsewhere) == here


def test_the_claims_of_a_process_that_has_ended_are_free_at_once(shared: Store) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        dead, later = holder("dead", child.pid), Holder("later", "r", host(), child.pid, "1")
        assert shared.claim("models", "k", dead) is None
        assert shared.claim("models", "k", holder("b")) == dead
        assert has_ended(later.host, later.pid, later.born), "another process had that number before"
        child.kill()
        deadline = time.monotonic() + 20
        while not has_ended(dead.host, dead.pid, dead.born) and time.monotonic() < deadline:
            time.sleep(0.01)  # before anybody has waited for it: its number is still taken
        assert shared.claimed_by("models", "k") is None
        assert shared.claim("models", "k", holder("b")) is None
    assert not has_ended("another machine", child.pid, ""), "nothing is known of those"


def test_whoever_closes_a_circle_of_waits_does_not_wait(shared: Store) -> None:
    a, b, c = holder("a"), holder("b"), holder("c")
    for each, key in ((a, "1"), (b, "2"), (c, "3")):
        assert shared.claim("models", key, each) is None
    assert shared.wait_for(a, "models", "2")
    assert shared.wait_for(b, "models", "3")
    assert not shared.wait_for(c, "models", "1")
    shared.unclaim(b, [("models", "2")])
    shared.stop_waiting(a, "models", "2")
    assert shared.wait_for(c, "models", "1"), "a waits for nobody any more"


def test_nothing_is_claimed_in_a_store_that_nobody_else_can_see() -> None:
    made = open_store(":memory:")
    assert made.claim("models", "k", holder("a")) is None
    assert made.claim("models", "k", holder("b")) is None
    made.close()


def test_of_those_that_claim_at_once_one_has_it(shared: Store, tmp_path: Path) -> None:
    """Each with connections of its own, as processes have; tests/torture has the processes."""
    assert isinstance(shared, SqlStore)
    made: list[str] = []
    together = threading.Barrier(4)

    def work(number: int) -> None:
        own = open_store(shared._given, tmp_path / "weights")  # type: ignore[attr-defined]
        me = holder(f"w{number}")
        together.wait()
        for step in range(30):
            key = f"k{(step * 7 + number) % 30}"
            if own.get("models", key) is None and own.claim("models", key, me) is None:
                if own.get("models", key) is None:
                    made.append(key)
                    own.put("models", key, number)
                own.unclaim(me, [("models", key)])
        own.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(made) == sorted({f"k{n}" for n in range(30)}), "each once"


# Upkeep ---------------------------------------------------------------------------------------------------------------


def test_check_repair_and_gc(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "s.db"))
    for number in range(4):
        made.put("models", f"k{number}", number, tensors={"w": torch.full((3,), float(number))})
    made.put("features", "plain", 1)
    gone, changed = (row.weights for row in list(made.rows("models"))[:2])
    weights = tmp_path / "s.weights"
    (weights / str(gone)).unlink()
    (weights / str(changed)).write_bytes(b"x")
    orphan, part = weights / f"{'0' * 40}.safetensors", weights / f"{'1' * 32}.part"
    for path in (orphan, part):
        path.write_bytes(b"")
        os.utime(path, (time.time() - 7200,) * 2)
    fresh = weights / f"{'2' * 40}.safetensors"
    fresh.write_bytes(b"")
    assert isinstance(made, SqlStore)
    made.claim("models", "k9", Holder("gone", "r", host(), 2**22 + 1, "1"))
    found = upkeep.check(made)
    assert (found.entries, found.well) == (5, False)
    assert [row.key for row in found.damaged] == ["k0", "k1"]
    assert (found.unused, found.dead_claims) == ([orphan, part], 1)
    assert [row.key for row in upkeep.repair(made).damaged] == ["k0", "k1"]
    assert [key for key, _ in made.entries("models")] == ["k2", "k3"]
    assert upkeep.collect(made) == [orphan, part]
    assert fresh.exists(), "it may be of a run that is about to write its row"
    assert upkeep.check(made) == upkeep.Health(3, [], [])
    made.close()


def test_merge_takes_over_what_is_not_known(tmp_path: Path) -> None:
    ours, theirs = open_store(str(tmp_path / "a.db")), open_store(str(tmp_path / "b.db"))
    ours.put("models", "both", 1, tensors={"w": torch.ones(2)})
    theirs.put("models", "both", 1, tensors={"w": torch.ones(2)})
    ours.put("models", "other", "ours")
    theirs.put("models", "other", "theirs")
    theirs.put("features", "new", {"x": 1}, tensors={"w": torch.arange(4.0)}, run_id="r7")
    theirs.put("models", "broken", 1, tensors={"w": torch.zeros(5)})
    ours.put("models", "damaged here", 5, tensors={"w": torch.full((9,), 9.0)})
    theirs.put("models", "damaged here", 5, tensors={"w": torch.full((9,), 9.0)})
    for store, key in ((theirs, "broken"), (ours, "damaged here")):
        name = next(row.weights for row in store.rows("models") if row.key == key)
        (store.weights / str(name)).unlink()  # type: ignore[attr-defined]
    assert upkeep.merge(ours, theirs) == upkeep.Merged(
        added=2, known=1, different=1, damaged=1, conflicts=(("models", "other"),)
    )
    assert ours.get("models", "other").payload == "ours"  # type: ignore[union-attr]
    for kind, key, values in (
        ("features", "new", torch.arange(4.0)),
        ("models", "damaged here", torch.full((9,), 9.0)),
    ):
        assert torch.equal(ours.get(kind, key).tensors["w"], values)  # type: ignore[union-attr]
    assert next(iter(ours.rows("features"))).run_id == "r7"
    assert upkeep.merge(ours, theirs) == upkeep.Merged(
        known=3, different=1, damaged=1, conflicts=(("models", "other"),)
    )
    ours.close()
    theirs.close()


def test_rows_are_plain_json(tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "s.db"))
    made.put("models", "k", {"a": "ü"}, run_id="r")
    (row,) = made.rows("models")
    assert (row.kind, row.key, row.run_id, json.dumps(row.payload), row.weights, row.damage) == (
        "models",
        "k",
        "r",
        json.dumps({"a": "ü"}),
        None,
        None,
    )
    assert row.created is not None
    assert abs(row.created.timestamp() - time.time()) < 60
    made.close()


# Opening --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("message", "times", "waits"),
    [("database is locked", 2, 60), ("disk I/O error", 1, 60), ("database is locked", 9, 0)],
)
def test_two_that_open_a_new_file_at_once(
    message: str, times: int, waits: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not wait while both turn its log on: one of them fails at once, and is to ask again."""
    asked: list[str] = []

    class Cursor(sqlite3.Cursor):
        def execute(self, text: str, *more: Any) -> Any:
            if "journal_mode" in text:
                asked.append(text)
                if len(asked) <= times:
                    raise sqlite3.OperationalError(message)
            return super().execute(text, *more)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> Any:
            return super().cursor(Cursor)

    options = sql._engine_options

    def through(url: Any) -> Any:
        made = options(url)
        made["connect_args"]["factory"] = Connection
        return made

    monkeypatch.setattr(sql, "_engine_options", through)
    monkeypatch.setattr(sql, "BUSY_SECONDS", waits)
    if message == "database is locked" and waits:
        open_store(str(tmp_path / "store.db")).close()
        assert len(asked) >= 3
    else:
        with pytest.raises(StoreError, match=f"cannot open the store .*: {message}"):
            open_store(str(tmp_path / "store.db"))
