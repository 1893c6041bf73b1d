"""Publishers against real folders, and a real server on this machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crosstask_bundles.index as module
from crosstask.errors import OptionError, UnknownComponentError
from crosstask.parts import Choice
from crosstask.registry import Registry
from crosstask.testing import reference_registry
from crosstask.testing.commands import installed
from crosstask_bundles import BundleError, Folder, Http, Index, open_bundle, publish_patch
from crosstask_bundles.cli import _value
from crosstask_bundles.index import listed, read_index
from crosstask_bundles.testing import REFERENCE, Server, published, serving, small_bundle, small_manifest


@pytest.fixture(autouse=True, scope="module")
def one_registry() -> Iterator[Registry]:
    """The manifests of all that is installed are read once."""
    with installed(Registry.installed()) as registry:
        yield registry


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def test_a_folder_keeps_each_under_its_name_and_digest(tmp_path: Path) -> None:
    where = Folder(folder=str(tmp_path / "new")).send(small_bundle("my tasks"))
    assert Path(where).name == f"my tasks-{small_bundle('my tasks').digest[:16]}.ctb"
    assert [file.name for file in (tmp_path / "new").iterdir()] == [Path(where).name]
    strange = Folder(folder=str(tmp_path / "new")).send(small_bundle("../<b>\x1b"))
    assert Path(strange).name.startswith("%2E.%2F%3Cb%3E%1B-")


def test_an_index_lists_them_with_their_digests(tmp_path: Path) -> None:
    publisher = Index(folder=str(tmp_path))
    files = [Path(publisher.send(small_bundle("one", value))) for value in (0.1, 0.2, 0.1)]
    rows = read_index(tmp_path / "index.json")
    assert [row.file for row in rows] == [files[0].name, files[1].name]
    assert files[2] == files[0]
    assert rows[0].sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert (rows[0].name, rows[0].licence, rows[0].tasks, rows[0].evidence) == ("one", "CC0-1.0", 2, {"measured": 2})
    assert listed(tmp_path / "index.json") == files[:2]
    assert {file.name for file in tmp_path.iterdir()} == {"index.json", *(file.name for file in files)}


def test_several_may_add_to_an_index_at_once(tmp_path: Path) -> None:
    bundles = [small_bundle("many", number / 10) for number in range(6)]
    threads = [threading.Thread(target=Index(folder=str(tmp_path)).send, args=(bundle,)) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row.digest for row in read_index(tmp_path / "index.json")} == {bundle.digest for bundle in bundles}


def test_an_index_that_is_locked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    (tmp_path / ".index.json.lock").touch()
    with pytest.raises(BundleError, match="if nobody is, remove"):
        Index(folder=str(tmp_path)).send(small_bundle())
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"file": "../x.ctb"}, "does not lie beside the index"),
        ({"file": "/x.ctb"}, "does not lie beside the index"),
        ({"file": "c:x.ctb"}, "does not lie beside the index"),
        ({"file": ".."}, "does not lie beside the index"),
        ({"file": "other.ctb"}, "'other.ctb' is missing"),
        ({"sha256": "0" * 64}, "its length or its SHA-256 is another"),
        ({"size": 5}, "its length or its SHA-256 is another"),
        ({"size": "5"}, "size must be an integer"),
        ({"extra": "5"}, "unknown option 'extra'"),
    ],
)
def test_an_index_that_lies(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    Index(folder=str(tmp_path)).send(small_bundle())
    index = tmp_path / "index.json"
    plain = json.loads(index.read_text())
    plain["bundles"][0] |= row
    index.write_text(json.dumps(plain))
    with pytest.raises(BundleError) as caught:
        listed(index)
    assert told in str(caught.value)


def test_indexes_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index.json"
    for text, told in (("[]", "its schema is not"), ('{"schema": 3}', "its schema is not"), ("{", "not JSON")):
        index.write_text(text)
        with pytest.raises(BundleError, match=told):
            read_index(index)
    with pytest.raises(BundleError, match="cannot be read"):
        read_index(tmp_path / "none.json")
    monkeypatch.setattr(module, "_MOST", 0)
    with pytest.raises(BundleError, match="at most 0 bytes"):
        read_index(index)


def test_http_puts_it_once(server: Server) -> None:
    bundle = small_bundle("over http")
    where = Http(url=server.url).send(bundle)
    assert published(where).digest == bundle.digest
    (path,) = server.files
    assert path == f"/bundles/over http-{bundle.digest[:16]}.ctb"
    (headers,) = server.headers
    assert headers["If-None-Match"] == "*"
    digest = base64.b64encode(hashlib.sha256(bundle.path.read_bytes()).digest()).decode()
    assert headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert Http(url=f"{server.url}/").send(bundle) == where  # it is there already, and the same
    server.files[path] = b"another"
    with pytest.raises(BundleError, match="is there already, and is not this bundle"):
        Http(url=server.url).send(bundle)
    assert server.files[path] == b"another"


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_http_says_what_the_server_answered(status: int, server: Server) -> None:
    """A redirect is an answer like another: nobody but the server that was named is asked."""
    server.status = status
    with pytest.raises(BundleError, match=f"the server answered {status}"):
        Http(url=server.url).send(small_bundle())
    assert server.files == {}


def test_http_with_a_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret"
    with pytest.raises(BundleError, match="answered 401"):
        Http(url=server.url).send(small_bundle())
    with pytest.raises(BundleError, match="no environment variable 'MY_TOKEN'"):
        Http(url=server.url, token="MY_TOKEN").send(small_bundle())
    monkeypatch.setenv("MY_TOKEN", "secret")
    publisher = Http(url=server.url, token="MY_TOKEN")
    assert published_is_there(publisher, server)
    assert "secret" not in repr(publisher) + str(publisher.options())
    monkeypatch.setenv("MY_TOKEN", "secret\nX-Other: 1")
    with pytest.raises(BundleError) as caught:
        publisher.send(small_bundle())
    assert "secret" not in str(caught.value)


def published_is_there(publisher: Http, server: Server) -> bool:
    publisher.send(small_bundle())
    return len(server.files) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "file:///etc"}, "url must be http://… or https://…, got 'file'"),
        ({"url": "example.org"}, "url must be http"),
        ({"url": "http://"}, "url must be http"),
        ({"url": "https://me:secret@example.org"}, "without a login"),
        ({"url": "https://example.org/?a=1"}, "without a login"),
        ({"url": "http://example.org", "token": "MY_TOKEN"}, "not sent to example.org without https"),
        ({"url": "http://127.0.0.1:9/"}, "refused"),
    ],
)
def test_http_addresses(options: dict[str, str], told: str) -> None:
    with pytest.raises(BundleError) as caught:
        Http(**options).send(small_bundle())
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_publish_patch(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of the classic form: awaited, with a publisher, its name, a table or the default."""
    monkeypatch.chdir(tmp_path)
    manifest = small_manifest("patch")
    default = asyncio.run(publish_patch(manifest))
    assert Path(default).parent == Path("bundles")
    assert open_bundle(default).manifest == manifest
    ways: list[Any] = [
        Folder(folder="bundles"),
        {"use": "folder", "folder": "bundles"},
        Choice(use="folder", options={"folder": "bundles"}),
        "folder",
    ]
    assert {asyncio.run(publish_patch(manifest, way)) for way in ways} == {default}
    assert published(asyncio.run(publish_patch(manifest, {"use": "http", "url": server.url}))).manifest == manifest
    found = asyncio.run(publish_patch(manifest, registry=reference_registry(REFERENCE)))
    assert Path(found).parent == Path("published")


def test_publish_patch_refuses(tmp_path: Path) -> None:
    for manifest, publisher, kind, told in (
        ({"edges": []}, "folder", ValueError, "must be a TransferManifest"),
        (small_manifest(), "foldr", UnknownComponentError, "did you mean 'folder'"),
        (small_manifest(), {"use": "folder", "path": "x"}, OptionError, "unknown option 'path'"),
        (small_manifest(), {"use": "http"}, OptionError, "missing option 'url'"),
    ):
        with pytest.raises(kind) as caught:
            asyncio.run(publish_patch(manifest, publisher))  # type: ignore[arg-type]
        assert told in str(caught.value)


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 10_000, "a word"])
def test_a_value_that_is_no_toml_is_text(text: str) -> None:
    assert (_value(text), _value("[1]")) == (text, [1])
