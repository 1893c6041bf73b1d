"""A bundle in a file: written whole or not at all, and verified before anything in it is read."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs
from safetensors.torch import load
from torch import Tensor, nn

from crosstask.errors import nearest, of_kind
from crosstask.learning.model_files import load_model
from crosstask.options import structure
from crosstask.points.distillation import Distilled
from crosstask.writing import atomic, unwritten
from crosstask_bundles.archive import MOST_BYTES, Entry, chunks, read_layout, write_archive
from crosstask_bundles.errors import BundleError
from crosstask_bundles.manifest import LICENCE, MANIFEST, SIGNATURE, SUMS, BundledWeights, TransferManifest, digest
from crosstask_bundles.signing import sign as signed
from crosstask_bundles.signing import signer
from crosstask_bundles.strict import check_safetensors, header_length, read_json

SUFFIX = ".ctb"
MOST_TEXT = 64 << 20
"""Bytes of a manifest, and of a bundle written as text."""
_ARMOUR = ("-----BEGIN CROSSTASK BUNDLE-----\n", "-----END CROSSTASK BUNDLE-----\n")


@attrs.frozen(eq=False)
class Bundle:
    """A bundle that was verified. What it holds is read from the file when it is asked for, and checked once more.

    `digest` is the SHA-256 of its manifest, which tells it from every other; `signed_by` who signed it, where that was
    asked; `signature` whether there is one.
    """

    path: Path
    manifest: TransferManifest
    digest: str
    signature: bool = False
    signed_by: str | None = None
    _head: bytes = attrs.field(default=b"", repr=False)
    _entries: dict[str, Entry] = attrs.field(factory=dict, repr=False)

    @property
    def short(self) -> str:
        """Its name with the beginning of its digest."""
        return f"{self.manifest.name} {self.digest[:8]}"

    def read(self, member: str) -> bytes:
        """The bytes of a member that the manifest names."""
        if member not in self.manifest.members:
            raise BundleError(f"{self.path}: no member {member!r}{nearest(member, self.manifest.members)}")
        with _opened(self.path, MOST_BYTES) as file:
            data = b"".join(chunks(file, self._entries[member]))
        if digest(data) != self.manifest.members[member].sha256:
            raise BundleError(f"{self.path}: member {member!r} has changed since it was verified")
        return data

    def tensors(self, member: str) -> dict[str, Tensor]:
        """The tensors of a member by name."""
        made: dict[str, Tensor] = load(self.read(member))
        return made

    def model(self, task_id: str, *, into: nn.Module | None = None, trust: bool = False) -> nn.Module:
        """The model of a task, as `crosstask.learning.model_files.load_model` makes it: no code of the file's choosing
        runs without `trust`.
        """
        named = {each.task_id: each for each in self.manifest.weights}
        return self._module(_named(named, task_id, f"{self.path}: weights of task"), into, trust)

    def adapter(self, name: str) -> dict[str, Tensor]:
        """The tensors of an adapter."""
        named = {each.name: each for each in self.manifest.adapters}
        return self.tensors(_named(named, name, f"{self.path}: adapter").member)

    def _module(self, weights: BundledWeights, into: nn.Module | None, trust: bool) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            data = self.read(weights.member)
            with atomic(file, needed=len(data), kind=BundleError) as part:
                part.write_bytes(data)
            return load_model(file, into=into, trust=trust)

    def knowledge(self) -> list[Distilled]:
        """What was distilled, with its tensors."""
        return [
            Distilled(each.knowledge, self.tensors(each.member) if each.member else {})
            for each in self.manifest.knowledge
        ]

    def extract(self, folder: str | Path) -> list[Path]:
        """Write the manifest and every member into a folder. What is there with the same bytes stays; BundleError, and
        nothing written, where something else is, or the disk is full.
        """
        root = Path(structure(folder, Path, "where a bundle is unpacked"))
        wanted = {MANIFEST: self._head, **{n: self.read(n) for n in sorted(self.manifest.members)}}
        for name, data in wanted.items():
            file = root / name
            if not file.resolve().is_relative_to(root.resolve()):
                raise BundleError(f"{file} leads out of {root}: a link is there")
            if file.exists() and (not file.is_file() or file.read_bytes() != data):
                raise BundleError(f"{file} is there already, and is not what the bundle holds: name another folder")
        missing = {name: data for name, data in wanted.items() if not (root / name).exists()}
        made: list[Path] = []
        try:
            for name, data in missing.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                _write_new(root / name, data)
                made.append(root / name)
        except OSError as error:
            for file in made:
                with contextlib.suppress(OSError):
                    file.unlink()
            raise BundleError(unwritten(error, root, "into", sum(map(len, missing.values())))) from None
        return [root / name for name in wanted]


def _named(named: dict[str, BundledWeights], key: str, what: str) -> BundledWeights:
    if key not in named:
        raise BundleError(f"{what} {key!r} are not in the bundle{nearest(key, named)}")
    return named[key]


def manifest_bytes(manifest: TransferManifest) -> bytes:
    """The manifest as it stands in the file."""
    plain = manifest.to_json()
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _sums(found: dict[str, str]) -> bytes:
    """The member `SHA256SUMS`, which `sha256sum -c` reads, too."""
    return "".join(f"{found[name]}  {name}\n" for name in sorted(found)).encode("ascii")


# Writing --------------------------------------------------------------------------------------------------------------


def write_bundle(
    manifest: TransferManifest, path: str | Path, *, sign: str | Path | None = None, text: bool = False
) -> Bundle:
    """Write a bundle, whole or not at all, and verify it. Nothing is overwritten: BundleError where something else is;
    the same bundle may be there. `sign` is a private key of SSH's; with `text` the file is lines of Base64.
    """
    of_kind(manifest, TransferManifest, "what is written as a bundle")
    target = Path(structure(path, Path, "where a bundle is written"))
    if missing := [name for name in manifest.members if name not in manifest.payload]:
        raise BundleError(f"the bytes of member {missing[0]!r} are not at hand: this manifest was read, not made")
    data = _bytes_of(manifest, None if sign is None else Path(sign))
    if text:
        data = _armoured(data)
    _place(data, target, verify=True)
    return open_bundle(target)


def _bytes_of(manifest: TransferManifest, key: Path | None) -> bytes:
    head = manifest_bytes(manifest)
    if len(head) > MOST_TEXT:
        raise BundleError(f"the manifest has {len(head)} bytes; {MOST_TEXT} are allowed: export fewer edges")
    members = [(MANIFEST, head), *sorted(manifest.payload.items())]
    if key is not None:
        members.append((SIGNATURE, signed(head, key)))
    members.append((SUMS, _sums({name: digest(data) for name, data in members})))
    made = io.BytesIO()
    write_archive(made, members)
    return made.getvalue()


def _write_new(target: Path, data: bytes, *, verify: bool = False) -> None:
    """Write a file that is not there, whole or not at all. BundleError if it is there meanwhile."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")  # threads may write it at the same time
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if verify:
            open_bundle(part)
        _named_as(part, target)
    finally:
        part.unlink(missing_ok=True)


def place(source: Path, target: Path) -> Path:
    """A copy of a bundle's file, whole or not at all; the same may be there already, anything else is an error."""
    _place(source.read_bytes(), target)
    return target


def _place(data: bytes, target: Path, *, verify: bool = False) -> None:
    try:
        if target.exists():
            if not target.is_file() or target.read_bytes() != data:
                raise BundleError(f"{target} is there already, and is not this bundle: name another file")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_new(target, data, verify=verify)
    except OSError as error:
        raise BundleError(unwritten(error, target, needed=len(data))) from None


def _named_as(part: Path, target: Path) -> None:
    """Give a file that is whole its name, unless something has it."""
    try:
        os.link(part, target)  # unlike a rename it never replaces
    except FileExistsError:
        raise BundleError(f"{target} is there already: name another file") from None
    except OSError:  # a file system without links
        if target.exists():
            raise BundleError(f"{target} is there already: name another file") from None
        part.replace(target)


def _armoured(data: bytes) -> bytes:
    lines = base64.encodebytes(data).decode("ascii")
    return "".join((_ARMOUR[0], lines, _ARMOUR[1])).encode("ascii")


# Reading --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """The file as the zip that it is, also where it is written as text."""
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError("it is no plain file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            if file.read(len(_ARMOUR[0])) != _ARMOUR[0].encode("ascii"):
                yield file
                return
            if file.seek(0, io.SEEK_END) > min(limit, MOST_TEXT):
                raise BundleError(f"a bundle written as text has at most {min(limit, MOST_TEXT)} bytes")
            file.seek(0)
            raw = file.read()
        body = raw[len(_ARMOUR[0]) : -len(_ARMOUR[1])]
        data = base64.b64decode(re.sub(rb"\n", b"", body), validate=False)
        if _armoured(data) != raw:
            raise BundleError("its text is not the Base64 that a bundle is written in, or it is cut off")
        yield io.BytesIO(data)
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"it cannot be read: {error}") from None


def open_bundle(path: str | Path, *, signers: str | Path | None = None, limit: int = MOST_BYTES) -> Bundle:
    """A bundle, verified: its structure, the digest of every member, the signature, and only then the manifest.

    With `signers` (see `ssh-keygen`'s ALLOWED SIGNERS) it must be signed by one of them; `limit` is how many bytes it
    may have. BundleError says what is wrong, beginning with the file's name.
    """
    file = Path(structure(path, Path, "a bundle's file"))
    limit = structure(limit, int, "limit")
    try:
        with _opened(file, limit) as opened:
            return _verified(opened, file, None if signers is None else Path(signers), limit)
    except BundleError as error:
        told = str(error)
        raise BundleError(told if told.startswith(f"{file}: ") else f"{file}: {told}") from None


def _verified(file: BinaryIO, path: Path, signers: Path | None, limit: int) -> Bundle:
    entries = {entry.name: entry for entry in read_layout(file, limit)}
    if missing := [name for name in (MANIFEST, SUMS) if name not in entries]:
        raise BundleError(f"it has no {missing[0]}")
    for name in (MANIFEST, SUMS, SIGNATURE, LICENCE):
        if name in entries and entries[name].size > MOST_TEXT:
            raise BundleError(f"member {name!r} has {entries[name].size} bytes; {MOST_TEXT} are allowed")
    found, texts = {}, {}
    for name, entry in entries.items():
        known = hashlib.sha256()
        kept = []
        for piece in chunks(file, entry):
            known.update(piece)
            if name in (MANIFEST, SUMS, SIGNATURE):
                kept.append(piece)
        found[name], texts[name] = known.hexdigest(), b"".join(kept)
    sums = {name: value for name, value in found.items() if name != SUMS}
    if texts[SUMS] != _sums(sums):
        raise BundleError(_difference(texts[SUMS], sums))
    head = texts[MANIFEST]
    by = None
    if signers is not None:
        if SIGNATURE not in entries:
            raise BundleError(f"it is not signed, and must be by one of {signers}")
        by = signer(head, texts[SIGNATURE], signers)
    manifest = TransferManifest.from_json(read_json(head, "the manifest"))
    _check_listed(manifest, entries, found)
    for name in manifest.members:
        if name != LICENCE:
            _check_weights(file, entries[name])
    return Bundle(path, manifest, digest(head), SIGNATURE in entries, by, head, entries)


def _difference(told: bytes, found: dict[str, str]) -> str:
    """What a list of digests says that is not so."""
    lines = [line.split("  ", 1) for line in told.decode("ascii", "replace").splitlines()]
    listed = {line[1]: line[0] for line in lines if len(line) == 2}
    for name in found:
        if name not in listed:
            return f"member {name!r} is not in {SUMS}"
        if listed[name] != found[name]:
            return f"member {name!r} is not what {SUMS} says: its SHA-256 is {found[name][:16]}…"
    for name in listed:
        if name not in found:
            return f"member {name!r} is in {SUMS}, and missing"
    return f"{SUMS} is damaged"


def _check_listed(manifest: TransferManifest, entries: dict[str, Entry], found: dict[str, str]) -> None:
    """The members are those that the manifest names, which a signature covers, and no others."""
    for name, member in manifest.members.items():
        if name not in entries:
            raise BundleError(f"member {name!r} is missing")
        if (member.size, member.sha256) != (entries[name].size, found[name]):
            raise BundleError(f"member {name!r} is not what the manifest says: its size or its SHA-256 is another")
    if extra := [name for name in entries if name not in {*manifest.members, MANIFEST, SUMS, SIGNATURE}]:
        raise BundleError(f"member {extra[0]!r} is not in the manifest")


def _check_weights(file: BinaryIO, entry: Entry) -> None:
    file.seek(entry.start)
    what = f"member {entry.name!r}"
    first = file.read(min(8, entry.size))
    length = header_length(first, entry.size, what)
    check_safetensors(first + file.read(length), entry.size, what)
