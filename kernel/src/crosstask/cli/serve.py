"""A local web page over runs, which only reads: `crosstask report --serve`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from crosstask.errors import CrosstaskError, RunError, UnknownComponentError, nearest, told
from crosstask.graph import TransferGraph
from crosstask.job import load_run, still_running, terminable
from crosstask.options import structure
from crosstask.points.store import Store
from crosstask.records import RunRecord
from crosstask.registry import Registry
from crosstask.report import pages, render_report
from crosstask.report.comparison import compare
from crosstask.report.following import FILE, read_progress
from crosstask.report.pages import Seen
from crosstask.store.graphs import KIND

_PAGES = 8  # reports that are kept as they were rendered


class Runs:
    """The runs in folders and in a store, as they stand when they are asked for.

    A folder is a run's, or one whose own folders are; links that lead elsewhere are not followed. Of a folder only
    `run.json`, `graph.json`, `progress.json` and the mark of a run at work are read. `wanted` are the only runs of the
    store to be shown, by their ids.
    """

    def __init__(self, folders: Sequence[Path] = (), store: Store | None = None, wanted: Sequence[str] = ()) -> None:
        self.folders, self.store, self.wanted = folders, store, wanted
        self._read: dict[Path, tuple[Any, Any]] = {}

    def all(self) -> dict[str, Seen]:
        """By the name under which they are asked for, their id, the newest first."""
        found = list(self._of_folders())
        found += self._of_store({each.folder.resolve() for each in found if each.folder is not None})
        seen: dict[str, Seen] = {}
        for each in sorted(found, key=lambda run: run.record.started, reverse=True):
            key, number = each.record.run_id, 1
            while key in seen:  # a copy of a run's folder
                key, number = f"{each.record.run_id}~{number + 1}", number + 1
            seen[key] = attrs.evolve(each, key=key)
        return seen

    def graph(self, run: Seen) -> TransferGraph:
        """The transfer graph of a run as far as it was written; from a store, what was measured of it."""
        if run.folder is not None:
            path = run.folder / "graph.json"
            return TransferGraph.load(path) if path.is_file() else TransferGraph()
        known = self.store.get(KIND, run.record.run_id) if self.store is not None else None
        return TransferGraph() if known is None else TransferGraph.from_json(known.payload)

    def _of_folders(self) -> Iterator[Seen]:
        for folder in self.folders:
            inside = sorted(path for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() else []
            for path in [folder, *inside]:
                if (path / "run.json").is_file():
                    yield self._of_folder(path)

    def _of_folder(self, folder: Path) -> Seen:
        try:
            record = self._once(folder / "run.json", load_run)
        except RunError as error:
            return Seen(RunRecord(run_id=folder.name, name=folder.name, status="failed"), folder, damage=str(error))
        if record.status == "running" and still_running(folder, record.run_id) is None:
            record = attrs.evolve(record, status="interrupted")
        return Seen(record, folder, self._once(folder / FILE, lambda at: read_progress(at, record.run_id)))

    def _once(self, path: Path, read: Callable[[Path], Any]) -> Any:
        """What is read of a file's folder, once as long as the file is the same."""
        stamp = stamp_of(path)
        if self._read.get(path, (None,))[0] != stamp:
            self._read[path] = stamp, read(path.parent)
        return self._read[path][1]

    def _of_store(self, known: set[Path]) -> Iterator[Seen]:
        if self.store is None:
            return
        at_work = {holder.run_id for holder in self.store.holders()}
        for key, payload in self.store.entries("runs"):
            if self.wanted and key not in self.wanted:
                continue
            try:
                record: RunRecord = structure(payload["record"], RunRecord, "stored run")
                folder = Path(payload["folder"])
            except (ValueError, KeyError, TypeError):  # damaged, or of another release
                continue
            if (folder / "run.json").is_file():  # here, and not another machine's
                here = self._of_folder(folder)
                if here.record.run_id == record.run_id:
                    if folder.resolve() not in known:
                        yield here
                    continue
            gone = record.status == "running" and record.run_id not in at_work
            yield Seen(attrs.evolve(record, status="interrupted") if gone else record)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Is another when the file is."""
    try:
        told = path.stat()
    except OSError:
        return ()
    return told.st_mtime_ns, told.st_size, told.st_ino


class Server(ThreadingHTTPServer):
    """Answers GET alone, from what `Runs` has, to those who call it by an address, `localhost` or its own name: no page
    of another site can reach it under a name that it lets point here (DNS rebinding).
    """

    daemon_threads = True

    def __init__(self, runs: Runs, registry: Registry, host: str = "127.0.0.1", port: int = 0) -> None:
        self.runs, self.registry, self.host = runs, registry, host
        self._rendered: list[tuple[Any, str]] = []
        self._rendering = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise RunError(_taken(host, port, error)) from None

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Without asking for the host's full name, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who went away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def is_called(self, host: str) -> bool:
        """Whether a `Host` header is one that only somebody on purpose sends here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self.host):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def page(self, address: str) -> tuple[str, int]:
        """The page at an address of this server, and its status."""
        asked = urlsplit(address)
        try:
            runs = self.runs.all()
            match [unquote(part) for part in asked.path.split("/")[1:]]:
                case [""]:
                    return pages.listing(list(runs.values())), 200
                case ["runs", key]:
                    return pages.one(_find(runs, key)), 200
                case ["runs", key, "report"]:
                    return self._report(_find(runs, key)), 200
                case ["compare"]:
                    return self._compared([_find(runs, key) for key in parse_qs(asked.query).get("run", [])]), 200
                case _:
                    return pages.refused("there is no such page"), 404
        except UnknownComponentError as error:
            return pages.refused(str(error)), 404
        except CrosstaskError as error:  # such as a graph.json that is damaged
            return pages.refused(str(error)), 500
        except Exception as error:  # of files that nobody knows how they came to be
            return pages.refused(told(error)), 500

    def _report(self, run: Seen) -> str:
        """The same page that `crosstask report` writes, of what there is of the run now."""
        known = (run.key, run.record, run.folder and stamp_of(run.folder / "graph.json"))
        with self._rendering:
            for key, text in self._rendered:
                if key == known:
                    return text
            prefer = run.record.recipe.get("prefer")
            registry = self.registry.preferring(prefer if isinstance(prefer, dict) else {})
            text = render_report(run.record, self.runs.graph(run), registry)
            self._rendered = [(known, text), *self._rendered[: _PAGES - 1]]
        return text

    def _compared(self, chosen: list[Seen]) -> str:
        if not chosen:
            raise UnknownComponentError("tick the runs that are to be laid side by side")
        (first, *others) = [(run.record, self.runs.graph(run)) for run in chosen]
        return pages.compared(chosen, [compare(first, other) for other in others])


def _find(runs: Mapping[str, Seen], key: str) -> Seen:
    if key not in runs:
        raise UnknownComponentError(f"no run {key!r}{nearest(key, runs)}")
    if runs[key].damage:
        raise RunError(runs[key].damage)
    return runs[key]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = "crosstask", ""
    timeout = 20

    def do_GET(self) -> None:
        if not self.server.is_called(self.headers.get("Host", "")):
            self._answer("this server does not go by that name", 421, "text/plain")
            return
        self._answer(*self.server.page(self.path), "text/html")

    do_HEAD = do_GET  # noqa: N815 -- the names of http.server

    def _refuse(self) -> None:
        self._answer("this server only reads", 405, "text/plain", Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, text: str, status: int, kind: str, **more: str) -> None:
        body = text.encode("utf-8", "replace")
        fields = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "frame-ancestors 'self'; base-uri 'none'; object-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        self.send_response(status)
        for name, value in {**fields, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is told of what is asked."""


def _taken(host: str, port: int, error: OSError) -> str:
    """Why a port cannot be had, with the next one that can."""
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        return f"cannot serve on {host}: {error.strerror or error}"
    why = "is taken" if error.errno == errno.EADDRINUSE else "may not be used"
    for other in range(max(port + 1, 1024), min(port + 1024, 65536)):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, other))
            return f"port {port} of {host} {why}; {other} is free: --port {other}"
    return f"port {port} of {host} {why}; --port 0 takes any that is free"


def serve(server: Server) -> None:
    """Until Ctrl-C or SIGTERM."""
    with server, terminable(), contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.2)
