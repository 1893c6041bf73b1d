"""The container of a bundle: a zip of stored members in one canonical form.

There is exactly one sequence of bytes for given members: no compression, no extra fields, no comments, one date, one
mode, members side by side from the first byte on. What is not that sequence is refused, so that every byte of a file is
either one of a member (of which there is a digest) or one that can be said beforehand.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import attrs

from crosstask_bundles.errors import BundleError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _MADE_BY, _DATE, _MODE = 20, 3 << 8 | 20, 0x21, 0o100644 << 16  # of Unix, the first of January 1980
_CHUNK = 1 << 20

MOST_MEMBERS = 10_000
MOST_BYTES = 2 << 30
"""Of a whole bundle, unless its reader says otherwise. (A zip without 64-bit extensions holds less than twice that.)"""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?<!\.)")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


@attrs.frozen
class Entry:
    """A member: its name, its bytes' number and CRC-32, and where they begin."""

    name: str
    size: int
    crc: int
    start: int


def check_name(name: str) -> str:
    """The name of a member, which is a short relative path of plain letters. BundleError says what is wrong with it."""
    told = f"member {name!r}"
    if not name or len(name) > 200:
        raise BundleError(f"{told[:60]}: a name has 1 to 200 characters")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise BundleError(f"{told}: its name holds control characters")
    if re.match(r"[A-Za-z]:", name):
        raise BundleError(f"{told}: its name begins with a drive letter")
    if "\\" in name:
        raise BundleError(f"{told}: its name holds a backslash")
    if name.startswith("/"):
        raise BundleError(f"{told}: its name is an absolute path")
    parts = name.split("/")
    if ".." in parts:
        raise BundleError(f"{told}: its name leads out of the folder (..)")
    if not all(map(_PART.fullmatch, parts)):
        raise BundleError(
            f"{told}: the parts of a name are letters, digits, '.', '_' and '-', and begin with the former"
        )
    if any(part.partition(".")[0].lower() in _DEVICES for part in parts):
        raise BundleError(f"{told}: its name is that of a device")
    return name


def _local(name: str, size: int, crc: int) -> bytes:
    raw = name.encode("ascii")
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(raw), 0) + raw


def _directory(entries: Iterable[tuple[str, int, int]]) -> bytes:
    """What stands after the members: the central directory and its end."""
    made, offset, count = io.BytesIO(), 0, 0
    for name, size, crc in entries:
        raw = name.encode("ascii")
        made.write(
            _CENTRAL.pack(b"PK\1\2", _MADE_BY, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(raw), 0, 0, 0, 0, _MODE,
                          offset) + raw
        )  # fmt: skip
        offset, count = offset + _LOCAL.size + len(raw) + size, count + 1
    return made.getvalue() + _END.pack(b"PK\5\6", 0, 0, count, count, made.tell(), offset, 0)


def write_archive(file: BinaryIO, members: Sequence[tuple[str, bytes]]) -> None:
    """Write members under their names, in this order. BundleError for what a reader would refuse."""
    if len(members) > MOST_MEMBERS:
        raise BundleError(f"a bundle holds at most {MOST_MEMBERS} members, not {len(members)}")
    names = [check_name(name) for name, _ in members]
    if twice := _twice(names):
        raise BundleError(f"member {twice!r} appears twice")
    if (total := sum(len(data) for _, data in members)) > MOST_BYTES:
        raise BundleError(f"a bundle holds at most {MOST_BYTES} bytes, not {total}")
    listed = []
    for name, data in members:
        crc = zlib.crc32(data)
        file.write(_local(name, len(data), crc))
        file.write(data)
        listed.append((name, len(data), crc))
    file.write(_directory(listed))


def _twice(names: Sequence[str]) -> str | None:
    """A name that appears twice, also as a file system without upper and lower case sees it."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None


def read_layout(file: BinaryIO, limit: int = MOST_BYTES) -> list[Entry]:
    """The members of a bundle, none of which was looked at yet. BundleError for anything but the canonical form."""
    size = file.seek(0, io.SEEK_END)
    if size > limit:
        raise BundleError(f"it has {size} bytes; {limit} are allowed")
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        raise BundleError("no bundle: it does not begin with a member as a zip does")
    count, length, offset = _end(file, size)
    file.seek(offset)
    raw = file.read(length)
    entries, at, place = [], 0, 0
    for _ in range(count):
        if len(raw) < at + _CENTRAL.size:
            raise BundleError("its directory is cut off")
        (_, _, _, flags, method, _, _, crc, packed, whole, named, extra, comment, _, _, mode, _) = _CENTRAL.unpack_from(
            raw, at
        )
        at += _CENTRAL.size
        name = _name(raw[at : at + named])
        at += named + extra + comment
        _check_entry(name, flags, method, packed, whole, mode >> 16, limit)
        entries.append(Entry(name, whole, crc, place + _LOCAL.size + named))
        place += _LOCAL.size + named + whole
    if twice := _twice([entry.name for entry in entries]):
        raise BundleError(f"member {twice!r} appears twice")
    _check_canonical(file, entries, offset)
    return entries


def _end(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(members, bytes of the directory, where it begins), from the last bytes."""
    file.seek(max(0, size - _END.size))
    tail = file.read(_END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\5\6"):
        raise BundleError("it is cut off, or something follows its end")
    _, disk, first, here, count, length, offset, comment = _END.unpack(tail)
    if disk or first or here != count or comment:
        raise BundleError("its end is not that of a bundle: one part, without a comment")
    if count > MOST_MEMBERS:
        raise BundleError(f"it has {count} members; {MOST_MEMBERS} are allowed")
    if offset + length + _END.size != size:
        raise BundleError("it is cut off, or something stands between its members and their directory")
    return count, length, offset


def _name(raw: bytes) -> str:
    try:
        return check_name(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"member {raw!r}: its name is not UTF-8") from None


def _check_entry(name: str, flags: int, method: int, packed: int, whole: int, mode: int, limit: int) -> None:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK:
             "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}  # fmt: skip
    if (kind := stat.S_IFMT(mode)) in kinds:
        raise BundleError(f"member {name!r} is {kinds[kind]}; a bundle holds plain files only")
    if flags & 1:
        raise BundleError(f"member {name!r} is encrypted")
    if method:
        raise BundleError(f"member {name!r} is compressed; members of a bundle are stored as they are")
    if packed != whole:
        raise BundleError(f"member {name!r} has two sizes, {packed} and {whole}")
    if whole > limit:
        raise BundleError(f"member {name!r} says that it has {whole} bytes; {limit} are allowed")


def _check_canonical(file: BinaryIO, entries: Sequence[Entry], offset: int) -> None:
    """Every byte that is not a member's, against what it must be."""
    listed = [(entry.name, entry.size, entry.crc) for entry in entries]
    for entry in entries:
        wanted = _local(entry.name, entry.size, entry.crc)
        if entry.start + entry.size > offset:
            raise BundleError(f"member {entry.name!r} says that it has {entry.size} bytes, more than there are")
        file.seek(entry.start - len(wanted))
        if file.read(len(wanted)) != wanted:
            raise BundleError(f"member {entry.name!r}: its header is not what its entry in the directory says")
    file.seek(offset)
    end = entries[-1].start + entries[-1].size if entries else 0
    if end != offset or file.read() != _directory(listed):
        raise BundleError("its directory is not that of a bundle (see the format)")


def chunks(file: BinaryIO, entry: Entry) -> Iterable[bytes]:
    """The bytes of a member, piece by piece; BundleError if they are not those that the archive told of."""
    file.seek(entry.start)
    left, crc = entry.size, 0
    while left:
        piece = file.read(min(_CHUNK, left))
        if not piece:
            raise BundleError(f"member {entry.name!r} is cut off")
        left, crc = left - len(piece), zlib.crc32(piece, crc)
        yield piece
    if crc != entry.crc:
        raise BundleError(f"member {entry.name!r} is damaged: its CRC-32 is another")
