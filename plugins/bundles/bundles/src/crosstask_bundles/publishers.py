"""The publishers `folder`, `index` and `http`."""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from crosstask.options import component, option
from crosstask_bundles.bundle import Bundle, place
from crosstask_bundles.contract import Publisher, name_of
from crosstask_bundles.errors import BundleError
from crosstask_bundles.index import add_to_index


@component
class Folder(Publisher):
    """Files in a folder, each under its bundle's name and digest, so that none replaces another."""

    folder: str = option("bundles", help="where the files go; made if it is not there")

    def publish(self, bundle: Bundle) -> str:
        return str(place(bundle.path, Path(self.folder) / name_of(bundle)))


@component
class Index(Publisher):
    """The same with a file `index.json` beside them, which lists every bundle with its length and SHA-256: what
    `imported` reads as a whole, and a static web server can offer.
    """

    folder: str = option("bundles", help="where the files and the index go; made if it is not there")

    def publish(self, bundle: Bundle) -> str:
        file = place(bundle.path, Path(self.folder) / name_of(bundle))
        add_to_index(file.parent / "index.json", bundle, file)
        return str(file)


@component
class Http(Publisher):
    """One HTTP PUT to a server that you name, at `url`/NAME-DIGEST.ctb.

    The request says `If-None-Match: *`, so that a server that knows it overwrites nothing (a bundle that is there is
    fetched, and must be the same), and a `Repr-Digest` (RFC 9530) with which it can check what has arrived. A token is
    read from an environment variable, is sent with https only, or to this machine, and stands in no message. Redirects
    are not followed.
    """

    url: str = option(help="of the folder on the server: https://…")
    token: str = option("", help="name of the environment variable that holds a bearer token")
    timeout: float = option(60.0, gt=0, help="seconds without an answer")

    def publish(self, bundle: Bundle) -> str:
        where = self._address(name_of(bundle))
        data = bundle.path.read_bytes()
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
        headers = {
            "Content-Type": "application/vnd.crosstask.bundle+zip",
            "If-None-Match": "*",
            "Repr-Digest": f"sha-256=:{digest}:",
        }
        status, _ = self._ask("PUT", where, headers, data)
        if status == 412:  # it is there already
            status, there = self._ask("GET", where, {}, None, len(data) + 1)
            if status != 200 or there != data:
                raise BundleError(f"{where} is there already, and is not this bundle (status {status})")
        elif status not in (200, 201, 204):
            raise BundleError(f"{where}: the server answered {status}; a PUT ends with 200, 201 or 204")
        return where

    def _address(self, name: str) -> str:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BundleError(f"url must be http://… or https://…, got {parts.scheme or self.url[:40]!r}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise BundleError(
                "url must be a server and a path, without a login, ? or #: name a token's variable instead"
            )
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self.token and parts.scheme != "https" and not local:
            raise BundleError(f"a token is not sent to {parts.hostname} without https")
        return f"{self.url.rstrip('/')}/{urllib.parse.quote(name)}"

    def _ask(
        self, method: str, where: str, headers: dict[str, str], data: bytes | None, most: int = 0
    ) -> tuple[int, bytes]:
        """(status, at most so many bytes of the answer)."""
        if self.token:
            if not (secret := os.environ.get(self.token)):
                raise BundleError(f"token: there is no environment variable {self.token!r}")
            headers = {**headers, "Authorization": f"Bearer {secret}"}
        request = urllib.request.Request(where, data, headers, method=method)  # noqa: S310 -- http or https, see above
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                return int(answer.status), answer.read(most) if most else b""
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, b""
        except (
            OSError,
            ValueError,
        ) as error:  # no network, a name that nobody knows, a time-out, a header that is none
            reason = getattr(error, "reason", None) or type(error).__name__
            raise BundleError(f"{where}: {reason}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that sends us elsewhere is told of, not obeyed: the user named this one."""

    def redirect_request(self, *_: object) -> None:
        return None
