"""`crosstask report --serve`: what it shows, that it only reads, and to whom it answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import slow_run
from click.testing import CliRunner

import crosstask.cli
from crosstask import RunError, RunRecord, TransferGraph, open_store
from crosstask.cli.serve import Runs, Server
from crosstask.descriptors import TaskDescriptor
from crosstask.job import load_run, run_recipe
from crosstask.learning.metrics import confidence_interval
from crosstask.options import unstructure
from crosstask.recipe import recipe_from
from crosstask.registry import Registry
from crosstask.report import render_report
from crosstask_fakes.registry import with_fakes

RECIPE: dict[str, Any] = {
    "name": "plain", "source": "fake", "model": {"hidden": [8]}, "train": {"steps": 20}, "transfer": "fake",
    "prepare": {"task": "task0"}, "look": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, "a"."""
    folder = tmp_path_factory.mktemp("runs")
    run_recipe(recipe_from(RECIPE, with_fakes()), folder / "a", registry=with_fakes())
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


Started = Callable[..., "Client"]


class Client:
    """Asks a server in this process."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection(self.server.host, self.server.server_port, timeout=20)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())

    def page(self, path: str = "/") -> str:
        status, text, _ = self.ask(path)
        assert status == 200, text
        return text


@pytest.fixture
def started() -> Iterator[Started]:
    servers: list[Server] = []

    def start(*folders: Path, registry: Registry | None = None, **options: Any) -> Client:
        host = options.pop("host", "127.0.0.1")
        server = Server(Runs(folders, **options), registry or with_fakes(), host)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return Client(server)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Body(HTMLParser):
    """The text of a page's <main>, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self._inside = "", False
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or tag == "main"
        if self._inside:
            self.elements.append(tag)
            self.addresses += [str(value) for name, value in attributes if name in ("href", "src", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "main"

    def handle_data(self, data: str) -> None:
        self.text += data if self._inside else ""


def wait(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return result


# What it shows --------------------------------------------------------------------------------------------------------


def test_runs_are_listed_and_each_has_its_page_and_its_own_report(folder: Path, started: Started) -> None:
    record = load_run(folder / "a")
    client = started(folder)
    listing = Body(client.page())
    assert "plain" in listing.text
    assert "2 of 2" in listing.text
    assert f"/runs/{record.run_id}" in listing.addresses
    page = Body(client.page(f"/runs/{record.run_id}"))
    assert "finished" in page.text
    assert "prepare, look" in page.text, "stages done"
    assert "edges found" in page.text
    assert client.page(f"/runs/{record.run_id}/report") == (folder / "a" / "report.html").read_text(), "as it is"
    assert started(folder / "a").page() == started(folder / "a").page(), "a run's own folder"


def test_a_report_is_rendered_again_only_when_the_run_has_changed(
    folder: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    real = render_report

    def counting(record: RunRecord, graph: Any, registry: Registry) -> str:
        rendered.append(record.status)
        return real(record, graph, registry)

    monkeypatch.setattr("crosstask.cli.serve.render_report", counting)
    client, record = started(folder), load_run(folder / "a")
    address = f"/runs/{record.run_id}/report"
    assert client.page(address) == client.page(address)
    assert rendered == ["finished"]
    changed = attrs.evolve(record, name="another", recipe={**record.recipe, "prefer": {}})
    (folder / "a" / "run.json").write_text(json.dumps(unstructure(changed)))
    assert "another" in client.page(address)
    (folder / "a" / "graph.json").unlink()
    assert "another" in client.page(address), "a run that has no graph yet"
    assert len(rendered) == 3


def test_runs_side_by_side_with_what_differs_and_their_reports(folder: Path, started: Started) -> None:
    run_recipe(recipe_from({**RECIPE, "prepare": {"task": "task1"}}, with_fakes()), folder / "b", registry=with_fakes())
    other = {**RECIPE, "source": {"use": "fake", "count": 4}}
    run_recipe(recipe_from(other, with_fakes()), folder / "c", registry=with_fakes())
    a, b, c = (load_run(folder / name).run_id for name in "abc")
    page = Body(started(folder).page(f"/compare?run={a}&run={b}&run={c}"))
    assert f"{b} beside {a}" in page.text
    assert "prepare.task" in page.text
    assert "They cannot be compared: only the second run has task" in page.text
    assert [address for address in page.addresses if address.endswith("/report")][::2] == [
        f"/runs/{run}/report" for run in (a, b, c)
    ]
    assert page.elements.count("iframe") == 3
    same = Body(started(folder).page(f"/compare?run={a}&run={a}"))
    assert "Nothing differs" in same.text
    status, told, _ = started(folder).ask("/compare")
    assert (status, "tick the runs" in told) == (404, True)


def test_long_lists_of_differences_are_cut_and_say_so(tmp_path: Path, started: Started) -> None:
    graph = TransferGraph()
    graph.add_task(TaskDescriptor(task_id="a"), "1")
    for name, shift in (("one", 0.0), ("two", 0.1)):
        values = {f"score {n}": unstructure(confidence_interval([n + shift, n + 0.1 + 1.1 * shift])) for n in range(60)}
        results = {"s": values, **{f"{name} {n}": {} for n in range(60)}}
        record = RunRecord(run_id=name, name=name, results=results, status="finished")
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(unstructure(record)))
        graph.export(tmp_path / name / "graph.json")
    page = Body(started(tmp_path).page("/compare?run=one&run=two"))
    assert "Scores, 50 of 60" in page.text
    assert "0.050 [−0.585, 0.685]" in page.text, "the interval of 0 and 0.1: 0.05 ± 12.706 * 0.05"
    assert "+0.105 [+0.041, +0.169] (paired)" in page.text, "of 0.1 and 0.11: 0.105 ± 12.706 * 0.005"
    assert page.elements.count("strong") == 50
    assert "and 70 more" in page.text


def test_copies_of_a_run_stay_apart_and_what_is_damaged_says_so(folder: Path, started: Started) -> None:
    shutil.copytree(folder / "a", folder / "copy")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    (folder / "deep").mkdir()
    (folder / "deep" / "run.json").write_text("[" * 90000)
    (folder / "not a run").mkdir()
    (folder / "elsewhere").symlink_to(folder / "a")
    run = load_run(folder / "a").run_id
    client = started(folder)
    listing = Body(client.page())
    assert {f"/runs/{run}", f"/runs/{run}~2", "/runs/broken", "/runs/deep"} <= set(listing.addresses)
    assert "elsewhere" not in listing.text
    assert "is not a run's record" in listing.text
    assert client.ask("/runs/broken")[0] == 500
    (folder / "copy" / "graph.json").write_text("[]")
    answers = [client.ask(f"/runs/{key}/report") for key in (run, f"{run}~2")]
    assert sorted(status for status, _, _ in answers) == [200, 500]
    assert any("not a transfer graph" in text or "graph.json" in text for _, text, _ in answers)


def test_no_run_yet_and_one_that_has_just_begun(tmp_path: Path, started: Started) -> None:
    client = started(tmp_path, tmp_path / "not there")
    assert "There is no run here yet" in client.page()
    (tmp_path / "new").mkdir()
    record = RunRecord(
        run_id="n", name="", recipe={"look": {}}, seconds=61.0, status="interrupted", error="KeyError: 'x'"
    )
    (tmp_path / "new" / "run.json").write_text(json.dumps(unstructure(record)))
    assert "1 min 1 s" in client.page()
    page = Body(client.page("/runs/n"))
    assert "What went wrong. KeyError: 'x'" in page.text
    assert "Report of what is finished so far" in page.text
    assert "no summary" in client.page("/runs/n/report").lower()


def test_what_nobody_expected_is_an_answer_too(folder: Path, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("never <b>mind")

    monkeypatch.setattr("crosstask.cli.serve.pages.listing", fails)
    status, text, _ = started(folder).ask()
    assert status == 500
    assert "ZeroDivisionError: never <b>mind" in Body(text).text


HOSTILE = '"><script>alert(1)</script>'


def test_text_from_a_run_is_never_markup(tmp_path: Path, started: Started) -> None:
    evil = RunRecord(
        run_id=f"../{HOSTILE}", name=HOSTILE, started=HOSTILE, error=HOSTILE, status="failed",
        recipe={HOSTILE: {}, "name": "x"}, summary={HOSTILE: HOSTILE, "i": {"mean": 1.0, "low": None}},
        results={HOSTILE: {}},
    )  # fmt: skip
    progress = {
        "run_id": evil.run_id,
        "parts": [{"name": HOSTILE, "total": 2, "done": 9, "detail": HOSTILE}, {"name": "none", "total": 0}],
        "curves": {HOSTILE: {"steps": [1, 2, 3], "values": {HOSTILE: [1.0, None], "n": [None, None]}}, "e": {}},
    }
    progress["curves"]["only none"] = {"steps": [1], "values": {"n": [None]}}  # type: ignore[index]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(unstructure(evil)))
        (tmp_path / name / "progress.json").write_text(json.dumps(progress))
    client = started(tmp_path)
    key = quote(evil.run_id, safe="")
    pages = ["/", f"/runs/{key}", f"/runs/{key}~2", f"/compare?run={key}&run={key}~2", f"/runs/{key}/report"]
    for address in pages:
        body = Body(client.page(address))
        assert "script" not in [tag for tag in body.elements if tag != "noscript"] or address.endswith("report")
        assert HOSTILE in body.text
        assert all(each.startswith(("/", "#")) for each in body.addresses)
        assert "<script>alert" not in client.page(address)
    assert f"/runs/{key}" in Body(client.page()).addresses
    status, text, _ = client.ask(f"/runs/{quote(HOSTILE)}")
    assert status == 404
    assert "<script>alert" not in text


# That it only reads ---------------------------------------------------------------------------------------------------


def test_nothing_is_written(folder: Path, started: Started) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    run = load_run(folder / "a").run_id
    before = state()
    client = started(folder)
    for address in ("/", f"/runs/{run}", f"/runs/{run}/report", f"/compare?run={run}&run={run}", "/nothing"):
        client.ask(address)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        status, told, headers = client.ask(f"/runs/{run}", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert told == "this server only reads"
    status, told, headers = client.ask("/", "HEAD")
    assert (status, told) == (200, "")
    assert int(headers["Content-Length"]) > 1000
    assert state() == before


@pytest.mark.parametrize(
    "address",
    [
        "/../../../../etc/passwd", "/runs/../../../../etc/passwd", "/runs/..%2f..%2f..%2fetc%2fpasswd/report",
        "/runs/%2e%2e/report", "/run.json", "/a/run.json", "//etc/passwd", "/runs/", "/runs/a", "/runs/%00", "/%ff",
        "/compare?run=../a", "/runs/x/graph.json", "http://evil.example/etc/passwd",
    ],
)  # fmt: skip
def test_nothing_but_runs_can_be_asked_for(folder: Path, started: Started, address: str) -> None:
    status, text, _ = started(folder).ask(address)
    assert status == (421 if "evil" in address else 404), "where the address has a host, it counts"
    assert "root:" not in text


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1", True), ("127.0.0.1:80", True), ("localhost:8765", True), ("[::1]:8765", True),
        ("192.168.1.7", True), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8765", False), ("evil.example#localhost", False), ("", False), ("[::1", False),
    ],
)  # fmt: skip
def test_it_answers_to_its_own_names_only(folder: Path, started: Started, host: str, answered: bool) -> None:
    """A page of another site may let a name of its own point to 127.0.0.1, and then read what is there."""
    status, text, _ = started(folder).ask("/", Host=host)
    assert (status == 200) == answered
    assert ("plain" in text) == answered
    assert answered or (status, text) == (421, "this server does not go by that name")


def test_pages_forbid_what_they_do_not_need(folder: Path, started: Started) -> None:
    run = load_run(folder / "a").run_id
    client = started(folder)
    for address in ("/", f"/runs/{run}", f"/runs/{run}/report", f"/compare?run={run}&run={run}", "/nothing"):
        _, text, headers = client.ask(address)
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
        assert not re.findall(r"https?://", text.partition("<script>")[0]), "nothing is asked of others"


def test_a_reader_who_goes_away_is_no_error(folder: Path, started: Started, capfd: pytest.CaptureFixture[str]) -> None:
    client = started(folder)
    for _ in range(3):
        with socket.create_connection(client.server.server_address[:2]) as gone:  # type: ignore[arg-type]
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert "plain" in client.page()
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        client.server.handle_error(None, ("", 0))
    assert capfd.readouterr().err == ""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        client.server.handle_error(None, ("", 0))
    assert "ZeroDivisionError" in capfd.readouterr().err


# Runs of a store ------------------------------------------------------------------------------------------------------


def test_runs_of_a_store_here_and_of_other_machines(folder: Path, tmp_path: Path, started: Started) -> None:
    run = load_run(folder / "a").run_id
    url = str(folder / "a" / "store.db")
    with_store = open_store(url)
    try:
        record = unstructure(load_run(folder / "a"))
        here = {"folder": str(folder / "a"), "record": record}
        with_store.put("runs", run, here, replace=True)
        for key, payload in {
            "far": {"folder": "/nowhere/x", "record": {**record, "run_id": "far", "status": "running"}},
            "replaced": {"folder": str(folder / "a"), "record": {**record, "run_id": "replaced"}},
            "odd": {"folder": 3, "record": record},
            "old": {"record": "?"},
        }.items():
            with_store.put("runs", key, payload)
        graph = json.loads((folder / "a" / "graph.json").read_text())
        with_store.put("graphs", "far", graph)
        client = started(store=with_store)
        listing = Body(client.page())
        assert {f"/runs/{run}", "/runs/far", "/runs/replaced"} == {
            each for each in listing.addresses if each.startswith("/runs/")
        }
        assert "in the store" in listing.text
        assert "interrupted" in Body(client.page("/runs/far")).text, "nobody works on it"
        assert "Transfer graph" in client.page("/runs/far/report")
        assert client.page("/runs/replaced/report")
        both = started(folder, store=with_store)
        assert len([a for a in Body(both.page()).addresses if a == f"/runs/{run}"]) == 1
        only = started(store=with_store, wanted=["far"])
        assert [a for a in Body(only.page()).addresses if a.startswith("/runs/")] == ["/runs/far"]
        assert Runs().graph(next(iter(Runs(store=with_store, wanted=["far"]).all().values()))).task_ids == []
    finally:
        with_store.close()


# While a run works ----------------------------------------------------------------------------------------------------


def begin(out: Path, go: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, slow_run.__file__, str(out), str(go), *more])


def test_a_run_in_another_process_is_followed_and_its_end_is_seen(tmp_path: Path, started: Started) -> None:
    client, go = started(tmp_path, registry=slow_run.registry()), tmp_path / "go"
    process = begin(tmp_path / "out", go)
    try:
        listing = wait(lambda: (page := Body(client.page())) and "2 of 3" in page.text and page)
        assert "running" in listing.text
        (address,) = {each for each in listing.addresses if each.startswith("/runs/")}
        page = wait(lambda: (page := Body(client.page(address))) and "3 of 8" in page.text and page)
        assert "slow <i>run" in client.page(address).replace("&lt;", "<").replace("&gt;", ">")
        assert "running" in page.text
        assert "prepare, look" in page.text, "stages done"
        assert "waiting" in page.text, "to come"
        assert "edges found" in page.text, "figures so far"
        assert "<b>task1" in page.text, "a curve's legend"
        assert page.elements.count("polyline") == 2
        assert "0.333 to 2.000 · step 3" in page.text
        early = client.page(f"{address}/report")
        assert "Transfer graph" in early
        assert "a model of task0" in early
        assert "Waited" not in early
        go.touch()
        assert process.wait(60) == 0
        done = Body(client.page(address))
        assert "finished" in done.text
        assert "waited score" in done.text
        assert "8 of 8" in done.text
        assert "Waited" in client.page(f"{address}/report")
    finally:
        process.kill()
        process.wait()


def test_a_killed_run_was_interrupted_and_goes_on_when_it_is_resumed(tmp_path: Path, started: Started) -> None:
    client, go, out = started(tmp_path, registry=slow_run.registry()), tmp_path / "go", tmp_path / "out"
    process = begin(out, go)
    try:
        listing = wait(lambda: (page := Body(client.page())) and "2 of 3" in page.text and page)
        (address,) = {each for each in listing.addresses if each.startswith("/runs/")}
        wait(lambda: "3 of 8" in Body(client.page(address)).text)
        process.kill()
        process.wait()
        page = Body(client.page(address))
        assert "interrupted" in page.text
        assert "not finished" in page.text
        assert "Transfer graph" in client.page(f"{address}/report"), "what was finished is there"
        assert CliRunner().invoke(crosstask.cli.cli, ["report", str(out)]).exit_code == 0
        process = begin(out, go, "--resume")
        page = wait(lambda: (page := Body(client.page(address))) and "running" in page.text and page)
        go.touch()
        assert process.wait(60) == 0
        assert "finished" in Body(client.page(address)).text
        steps = json.loads((out / "progress.json").read_text())["curves"]["waiting"]["steps"]
        assert steps == list(range(1, 9)), "once each"
    finally:
        process.kill()
        process.wait()


# The command ----------------------------------------------------------------------------------------------------------


def run_command(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "crosstask", "report", "--serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly(folder: Path, how: signal.Signals) -> None:
    process = run_command(str(folder), "--port", "0")
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)/) shows 1 runs and only reads; Ctrl-C ends it\n", said)
        assert found, said
        connection = http.client.HTTPConnection("127.0.0.1", int(found[2]), timeout=20)
        connection.request("GET", "/")
        assert "plain" in connection.getresponse().read().decode()
        process.send_signal(how)
        assert process.wait(20) == 0
        assert process.communicate() == ("", "")
    finally:
        process.kill()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, installed: Registry) -> list[Any]:
    """What would be served, and which address the browser was given."""
    seen: list[Any] = []

    def serve(server: Server) -> None:
        seen.append(server)
        server.server_close()

    monkeypatch.setattr("crosstask.cli.serve.serve", serve)
    monkeypatch.setattr("webbrowser.open", seen.append)
    return seen


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(crosstask.cli.cli, ["report", *arguments])


def test_the_command_with_its_options(folder: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = invoke("--serve", "--port", "0", "--open", "--json")
    assert result.exit_code == 0, result.output
    url = json.loads(result.output)["url"]
    assert served[0] == url == served[1].url
    run = load_run(folder / "a").run_id
    result = invoke("--serve", run, "--store", str(folder / "a" / "store.db"), "--port", "0", "--host", "::1")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("http://[::1]:")
    assert "whoever reaches" not in result.stderr
    assert "whoever reaches this machine" in invoke("--serve", "--port", "0", "--host", "0.0.0.0").stderr
    (folder / "my.toml").write_text("")
    (folder / "ab").mkdir()
    empty = invoke("--serve", "ab", "--port", "0")
    assert "shows 0 runs" in empty.stdout
    assert "ab holds no run yet, and none of its folders does; valid: a; runs" in empty.stderr
    assert "holds no run" not in invoke("--serve", ".", "--port", "0").stderr
    for arguments, told in {
        ("--serve", "nowhere"): "no folder nowhere; valid: a",
        ("--serve", "aa"): "no folder aa; did you mean 'a'?",
        ("--serve", "my.toml"): "my.toml is a file, not a folder of runs; valid: a",
        ("a_run",): "no run in a_run: run.json cannot be read (No such file or directory); valid: a",
        ("--serve", "x", "--store", str(folder / "a" / "store.db")): "the store has no run 'x'",
        ("--serve", "--store", "nowhere.db"): "no store at nowhere.db",
        ("--serve", "--host", "192.0.2.1"): "cannot serve on 192.0.2.1",
        ("--serve", "--host", "no such host"): "cannot serve on no such host",
    }.items():
        assert told in str(invoke(*arguments).exception)
    assert invoke().exit_code == 2
    assert "name the folder of one RUN" in invoke("a", "b").output
    monkeypatch.setattr("crosstask.report.available", lambda: False)
    assert "the report needs plotly" in str(invoke("--serve").exception)


def test_a_port_that_is_taken_is_said_with_the_next_free_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(Runs([folder]), with_fakes()) as first:
        port = first.server_address[1]
        with pytest.raises(RunError, match=rf"port {port} of 127.0.0.1 is taken; (\d+) is free: --port \1") as caught:
            Server(Runs([folder]), with_fakes(), port=port)
        free = int(str(caught.value).rpartition(" ")[2])
        assert free > port
        Server(Runs([folder]), with_fakes(), port=free).server_close()

        def never(*_: Any) -> None:
            raise OSError(98, "Address already in use")

        monkeypatch.setattr(socket.socket, "bind", never)
        with pytest.raises(RunError, match=r"is taken; --port 0 takes any that is free"):
            Server(Runs([folder]), with_fakes(), port=port)

    def refused(*_: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(socket.socket, "bind", refused)
    with pytest.raises(RunError, match=r"port 80 of 127.0.0.1 may not be used"):
        Server(Runs([folder]), with_fakes(), port=80)


def test_a_folder_that_goes_while_it_is_looked_at_is_an_answer_too(
    folder: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started(folder)

    def gone(_: Path) -> Iterator[Path]:
        raise FileNotFoundError("it was deleted")

    monkeypatch.setattr(Path, "iterdir", gone)
    status, text, _ = client.ask("/")
    assert status == 500
    assert "it was deleted" in text
