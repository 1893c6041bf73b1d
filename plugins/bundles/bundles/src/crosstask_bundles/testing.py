"""For tests of publishers and of packages with bundles: small bundles, a publisher, a server."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask_bundles.bundle import Bundle, open_bundle, place, write_bundle
from crosstask_bundles.contract import Publisher, name_of
from crosstask_bundles.manifest import BundledTask, TransferManifest, create_transfer_manifest
from crosstask_bundles.plugin import PLUGIN

CREATED = "2026-01-02T03:04:05+00:00"


def small_manifest(name: str = "small", coefficient: float = 0.5, licence: str = "CC0-1.0") -> TransferManifest:
    """Two tasks and what each gives the other."""
    tasks = [BundledTask(descriptor=TaskDescriptor(task_id=t), content=t * 24, fingerprint=t * 24) for t in "ab"]
    edges = [
        TransferEdge(
            source=source,
            target=target,
            transfer_coefficient=value,
            evidence=Evidence.MEASURED,
            found_by="probe",
            uncertainty=0.05,
        )
        for source, target, value in (("a", "b", coefficient), ("b", "a", -0.1))
    ]
    return create_transfer_manifest(edges, tasks=tasks, name=name, licence=licence, created=CREATED)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="crosstask-bundles-")


@functools.cache
def small_bundle(name: str = "small", coefficient: float = 0.5) -> Bundle:
    """The same in a file, which is removed when the process ends."""
    file = Path(_folder().name) / f"{len(list(Path(_folder().name).iterdir()))}.ctb"
    return write_bundle(small_manifest(name, coefficient), file)


@component
class ReferencePublisher(Publisher):
    """Files in a folder."""

    folder: str = option("published", help="where they go")

    def publish(self, bundle: Bundle) -> str:
        return str(place(bundle.path, Path(self.folder) / name_of(bundle)))


REFERENCE = Plugin(
    "reference-bundles",
    points=PLUGIN.points,
    extensions=[
        Extension(
            "publisher",
            "reference",
            "crosstask_bundles.testing:ReferencePublisher",
            summary="For checks.",
            default=True,
        ),
        Extension("discovery", "imported", "crosstask_bundles.imported:Imported", summary="For checks."),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""


class Server(ThreadingHTTPServer):
    """Keeps what is PUT, in memory; the attributes say how it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []
        self.status: int | None = None
        """Answered to every PUT instead, which then keeps nothing."""
        self.token = ""
        """Asked for, if there is one."""

    @property
    def url(self) -> str:
        """Of a folder on it."""
        return f"http://127.0.0.1:{self.server_address[1]}/bundles"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_PUT(self) -> None:
        self.server.headers.append(dict(self.headers))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = urllib.parse.unquote(self.path)
        if self.server.status is not None:
            self._answer(self.server.status)
        elif self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401)
        elif path in self.server.files and self.headers.get("If-None-Match") == "*":
            self._answer(412)
        else:
            self.server.files[path] = data
            self._answer(201)

    def do_GET(self) -> None:
        found = self.server.files.get(urllib.parse.unquote(self.path))
        self._answer(404 if found is None else 200, found or b"")

    def _answer(self, status: int, data: bytes = b"") -> None:
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server in a thread, on this machine."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def published(where: str) -> Bundle:
    """What a publisher says is at a path or URL, verified."""
    if where.startswith(("http://", "https://")):
        import urllib.request

        with urllib.request.urlopen(where, timeout=10) as answer:  # noqa: S310 -- http or https
            data = answer.read()
        file = Path(_folder().name) / "fetched.ctb"
        file.write_bytes(data)
        return open_bundle(file)
    return open_bundle(where)
