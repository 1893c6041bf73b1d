"""Bundles that somebody has made to do harm, or that came to harm: each is refused, with what is wrong."""

from __future__ import annotations

import io
import json
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from crosstask_bundles import BundleError, TransferManifest, create_transfer_manifest, open_bundle, write_bundle
from crosstask_bundles.archive import write_archive
from crosstask_bundles.bundle import _sums, _verified, manifest_bytes
from crosstask_bundles.manifest import digest
from crosstask_bundles.testing import small_manifest


def with_weights() -> TransferManifest:
    small = small_manifest()
    weights = {"layer": torch.arange(6.0).reshape(2, 3)}
    return create_transfer_manifest(
        small.edges, tasks=small.tasks, weights={"a": weights}, licence_text="As you like.", created=small.created
    )


def members_of(manifest: TransferManifest, plain: Any = None) -> list[tuple[str, bytes]]:
    """The members of a bundle, with another text for a manifest and right digests."""
    head = manifest_bytes(manifest) if plain is None else plain
    head = head if isinstance(head, bytes) else json.dumps(head).encode()
    members = [("manifest.json", head), *sorted(manifest.payload.items())]
    return [*members, ("SHA256SUMS", _sums({name: digest(data) for name, data in members}))]


def refused(data: bytes, tmp_path: Path, **how: Any) -> str:
    file = tmp_path / "hostile.ctb"
    file.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        open_bundle(file, **how)
    assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value)


def packed(members: list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    write_archive(made, members)
    return made.getvalue()


def zipped(change: Callable[[zipfile.ZipInfo], None], name: str = "manifest.json", data: bytes = b"{}") -> bytes:
    """What Python's own zipfile writes of one member that was tampered with."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o100644 << 16
        change(info)
        archive.writestr(info, data)
    return made.getvalue()


def nothing(info: zipfile.ZipInfo) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/etc/passwd", "absolute path"),
        ("../outside", "leads out of the folder"),
        ("weights/../../outside", "leads out of the folder"),
        ("C:evil", "drive letter"),
        ("c:/evil", "drive letter"),
        ("weights\\0", "backslash"),
        ("a\x1b[31m", "control characters"),
        ("weights//0", "parts of a name"),
        (".hidden", "parts of a name"),
        ("weights/nul.safetensors", "device"),
        ("trailing.", "parts of a name"),
        ("n" * 300, "1 to 200 characters"),
    ],
)
def test_names_that_lead_elsewhere(name: str, told: str, tmp_path: Path) -> None:
    assert told in refused(zipped(nothing, name), tmp_path)
    with pytest.raises(BundleError, match=told):  # nor can one be written
        packed([(name, b"")])


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    data = zipped(nothing, "manifest.json").replace(b"manifest.json", b"m\xff\xfeifest.json")
    assert "not UTF-8" in refused(data, tmp_path)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFCHR, "device"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFIFO, "pipe"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFDIR, "folder"),
    ],
)
def test_members_that_are_no_files(mode: int, told: str, tmp_path: Path) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = (mode | 0o777) << 16

    assert f"is a {told}" in refused(zipped(change), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE])
def test_a_tar_with_links_and_devices_is_no_bundle(kind: bytes, tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("manifest.json")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert "no bundle" in refused(made.getvalue(), tmp_path)


def test_the_file_itself_is_a_link_or_is_not_there(tmp_path: Path) -> None:
    write_bundle(small_manifest(), tmp_path / "right.ctb")
    (tmp_path / "link.ctb").symlink_to(tmp_path / "right.ctb")
    for name, told in (("link.ctb", "no plain file"), ("missing.ctb", "no such file")):
        with pytest.raises(BundleError, match=told):
            open_bundle(tmp_path / name)


def test_duplicate_members(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("manifest.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.json", b"{}")
    assert "'manifest.json' appears twice" in refused(made.getvalue(), tmp_path)
    with pytest.raises(BundleError, match="appears twice"):  # also for a file system without upper and lower case
        packed([("License", b""), ("LICENSE", b"")])


def test_a_zip_bomb(tmp_path: Path) -> None:
    """A megabyte of zeros in a kilobyte: compressed members are refused before anything is unpacked."""

    def change(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    data = zipped(change, data=bytes(1 << 20))
    assert len(data) < 2000
    assert "compressed" in refused(data, tmp_path)


def test_an_encrypted_member(tmp_path: Path) -> None:
    data = bytearray(packed([("manifest.json", b"{}")]))
    directory = data.index(b"PK\1\2")
    data[directory + 8] |= 1
    assert "encrypted" in refused(bytes(data), tmp_path)


def set_sizes(data: bytes, packed_size: int, whole: int) -> bytes:
    """The sizes that the directory says of the first member."""
    place = data.index(b"PK\1\2") + 20
    return data[:place] + struct.pack("<2L", packed_size, whole) + data[place + 8 :]


def test_declared_sizes(tmp_path: Path) -> None:
    data = packed([("manifest.json", b"{}" * 50)])
    assert "two sizes" in refused(set_sizes(data, 10, 100), tmp_path)
    assert "says that it has 4294967295 bytes" in refused(set_sizes(data, 0xFFFFFFFF, 0xFFFFFFFF), tmp_path)
    assert "more than there are" in refused(set_sizes(data, 5000, 5000), tmp_path)  # beyond the file
    assert "directory" in refused(set_sizes(data, 10, 10), tmp_path)  # members that overlap or leave gaps


def test_a_file_over_the_limit_and_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(members_of(with_weights()))
    assert f"it has {len(data)} bytes; 1000 are allowed" in refused(data, tmp_path, limit=1000)
    monkeypatch.setattr("crosstask_bundles.archive.MOST_MEMBERS", 2)
    assert "members; 2 are allowed" in refused(data, tmp_path)
    with pytest.raises(BundleError, match="at most 2 members"):
        packed([("a", b""), ("b", b""), ("c", b"")])
    monkeypatch.setattr("crosstask_bundles.archive.MOST_BYTES", 2)
    with pytest.raises(BundleError, match="at most 2 bytes"):
        packed([("a", b"12345")])
    monkeypatch.setattr("crosstask_bundles.bundle.MOST_TEXT", 100)
    monkeypatch.setattr("crosstask_bundles.archive.MOST_MEMBERS", 20)
    assert "'manifest.json' has" in refused(data, tmp_path)
    with pytest.raises(BundleError, match="export fewer edges"):
        write_bundle(with_weights(), tmp_path / "large.ctb")


def test_wrong_hash_missing_and_extra_members(tmp_path: Path) -> None:
    members = dict(members_of(with_weights()))
    sums = members.pop("SHA256SUMS")

    def of(changed: dict[str, bytes], told: bytes = sums) -> str:
        return refused(packed([*changed.items(), ("SHA256SUMS", told)]), tmp_path)

    weights = members["weights/0.safetensors"]
    assert "'weights/0.safetensors' is not what SHA256SUMS says" in of(
        {**members, "weights/0.safetensors": weights[::-1]}
    )
    assert "'weights/0.safetensors' is in SHA256SUMS, and missing" in of(
        {n: d for n, d in members.items() if not n.startswith("weights")}
    )
    assert "'extra' is not in SHA256SUMS" in of({**members, "extra": b"x"})
    assert "SHA256SUMS is damaged" in of(members, sums + b"no line\n")
    # With right sums, but not those of the manifest, which alone is signed
    for changed, told in (
        ({**members, "weights/0.safetensors": weights[::-1]}, "not what the manifest says"),
        ({n: d for n, d in members.items() if not n.startswith("weights")}, "'weights/0.safetensors' is missing"),
        ({**members, "extra": b"x"}, "'extra' is not in the manifest"),
    ):
        assert told in of(changed, _sums({name: digest(data) for name, data in changed.items()}))
    assert "it has no SHA256SUMS" in refused(packed(list(members.items())), tmp_path)
    assert "it has no manifest.json" in refused(packed([("SHA256SUMS", b"")]), tmp_path)


def edges(plain: dict[str, Any], text: str) -> bytes:
    """The manifest with this number for a coefficient."""
    plain["edges"][0]["transfer_coefficient"] = "HERE"
    return json.dumps(plain).replace('"HERE"', text).encode()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("NaN", "the number NaN; numbers must be finite"),
        ("Infinity", "the number Infinity"),
        ("-Infinity", "the number -Infinity"),
        ("1e999", "not finite"),
        ("1.5", "transfer_coefficient must be >= -1 and <= 1, got 1.5"),
        ("-7", "must be >= -1 and <= 1"),
        ("9" * 5000, "an integer of 5000 digits"),
        ('"0.5"', "must be a number"),
        ("null", "must be a number"),
    ],
)
def test_coefficients_that_are_none(number: str, told: str, tmp_path: Path) -> None:
    manifest = small_manifest()
    assert told in refused(packed(members_of(manifest, edges(manifest.to_json(), number))), tmp_path)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("crosstask/bundle/2", "newer: upgrade"),
        ("crosstask/bundle/0", "older: export it again"),
        ("crosstask/transfer-graph/1", "not a bundle's manifest"),
        ("crosstask/bundle/99999999999999", "not a bundle's manifest"),
        (None, "not a bundle's manifest"),
        ({"<b>": 1}, "not a bundle's manifest"),
    ],
)
def test_another_schema(schema: Any, told: str, tmp_path: Path) -> None:
    plain = {**small_manifest().to_json(), "schema": schema}
    assert told in refused(packed(members_of(small_manifest(), plain)), tmp_path)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b'{"schema": "\xff\xfe"}', "not UTF-8 (byte 12)"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested 5000 deep; 32 are allowed"),
        (b"[" * 100_000, "nested 100000 deep"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "not a bundle's manifest"),
        (b'{"schema": 1, "schema": 2}', "'schema' twice"),
        (b'{"schema": "\\ud800"}', "text that is none"),
        (b'{"schema": ["\\udfff"]}', "text that is none"),
        (b'{"schema": "crosstask/bundle/1", "nmae": "x"}', "unknown option 'nmae'; did you mean 'name'?"),
    ],
)
def test_manifests_that_are_none(head: bytes, told: str, tmp_path: Path) -> None:
    assert told in refused(packed(members_of(small_manifest(), head)), tmp_path)


def with_member(data: bytes) -> bytes:
    """A bundle whose weights are these bytes, with right digests all along."""
    plain = with_weights().to_json()
    plain["members"]["weights/0.safetensors"] = {"size": len(data), "sha256": digest(data)}
    made = with_weights()
    made = made.with_payload({**made.payload, "weights/0.safetensors": data})
    return packed(members_of(made, plain))


def tensors(header: Any, data: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04K\x01.", "no safetensors file"),  # a pickle
        ((1 << 63).to_bytes(8, "little") + b"{}", "its header would have 9223372036854775808 bytes"),
        ((10**7).to_bytes(8, "little") + b"{}", "its header would have 10000000 bytes"),
        (tensors(b"{" * 50), "nested 50 deep"),
        (tensors(b"[]", b""), "no table"),
        (tensors({"t": {**GOOD, "shape": [2, 4]}}), "nothing that can be of tensor 't'"),
        (tensors({"t": {**GOOD, "dtype": "OBJECT"}}), "nothing that can be of tensor 't'"),
        (tensors({"t": {**GOOD, "data_offsets": [0, -24]}}), "nothing that can be of tensor 't'"),
        (tensors({"t": {**GOOD, "data_offsets": [0]}}), "nothing that can be of tensor 't'"),
        (tensors({"t": {**GOOD, "extra": 1}}), "nothing that can be of tensor 't'"),
        (tensors({"t": 5}), "nothing that can be of tensor 't'"),
        (tensors({"t": {**GOOD, "data_offsets": [4, 28]}}, bytes(28)), "does not begin where the one before it ends"),
        (tensors({"t": GOOD, "u": GOOD}), "does not begin where the one before it ends"),
        (tensors({"t": GOOD}, bytes(30)), "24 bytes, the file has room for 30"),
        (tensors({"__metadata__": {"a": 1}}, b""), "no table of texts"),
        (tensors({"__metadata__": {"crosstask": "[" * 99}}, b""), "nested 99 deep"),
    ],
)
def test_safetensors_that_are_none(data: bytes, told: str, tmp_path: Path) -> None:
    assert told in refused(with_member(data), tmp_path)


def test_right_safetensors_are_taken(tmp_path: Path) -> None:
    (tmp_path / "right.ctb").write_bytes(with_member(save({"layer": torch.ones(5, dtype=torch.bfloat16)})))
    assert open_bundle(tmp_path / "right.ctb").tensors("weights/0.safetensors")["layer"].sum() == 5


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    """Every byte of the file, one of its bits after the other."""
    whole = write_bundle(with_weights(), tmp_path / "whole.ctb").path.read_bytes()
    assert len(whole) > 3000
    changed = bytearray(whole)
    found = set()
    for place in range(len(whole)):
        changed[place] ^= (bit := 1 << (place * 5 % 8))
        try:
            _verified(io.BytesIO(changed), tmp_path, None, 1 << 20)
        except BundleError:
            found.add(place)
        changed[place] ^= bit
    assert found == set(range(len(whole)))
    assert _verified(io.BytesIO(changed), tmp_path, None, 1 << 20).manifest == with_weights()


def test_a_flipped_bit_in_a_bundle_written_as_text_is_found(tmp_path: Path) -> None:
    """Every 47th byte; each of them is a line's end now and then."""
    whole = write_bundle(with_weights(), tmp_path / "whole.ctb", text=True).path.read_bytes()
    for place in range(0, len(whole), 47):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place * 5 % 8)
        refused(bytes(changed), tmp_path)


@pytest.mark.parametrize("text", [False, True], ids=["zip", "text"])
def test_a_truncated_file_is_found(text: bool, tmp_path: Path) -> None:
    whole = write_bundle(with_weights(), tmp_path / "whole.ctb", text=text).path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        refused(whole[:length], tmp_path)
    refused(whole + b"\n", tmp_path)
    refused(b"\n" + whole, tmp_path)


def test_a_member_that_is_cut_off_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(with_weights(), tmp_path / "whole.ctb")
    data = bundle.path.read_bytes()
    bundle.path.write_bytes(data[:100])  # since it was verified
    with pytest.raises(BundleError, match="cut off"):
        bundle.read("weights/0.safetensors")
    changed = data.replace(b"As you like.", b"Is you like.")
    bundle.path.write_bytes(changed)
    with pytest.raises(BundleError, match="CRC-32"):
        bundle.read("LICENSE")
    other = with_weights().with_payload({**with_weights().payload, "LICENSE": b"Is you like."})
    bundle.path.write_bytes(packed(members_of(other)))
    monkeypatch.setitem(bundle._entries, "LICENSE", entry_of(bundle.path, "LICENSE"))
    with pytest.raises(BundleError, match="has changed since it was verified"):
        bundle.read("LICENSE")


def entry_of(path: Path, name: str) -> Any:
    from crosstask_bundles.archive import read_layout

    with path.open("rb") as file:
        return next(entry for entry in read_layout(file) if entry.name == name)


def test_ends_and_directories_that_are_not_canonical(tmp_path: Path) -> None:
    data = packed(members_of(with_weights()))
    end = len(data) - 22
    for place, value, told in (
        (4, 1, "its end is not that of a bundle"),  # parts of a split archive
        (8, 1, "its end is not that of a bundle"),
        (20, 1, "its end is not that of a bundle"),  # a comment
        (16, 1, "cut off, or something stands between"),
    ):
        changed = bytearray(data)
        changed[end + place] ^= value
        assert told in refused(bytes(changed), tmp_path)
    whole = bytearray(data)
    for place in (end + 8, end + 10):
        whole[place] = 200  # more members than its directory has
    assert "its directory is cut off" in refused(bytes(whole), tmp_path)
    assert "is not what its entry in the directory says" in refused(data[:14] + b"\0\0\0\0" + data[18:], tmp_path)
    assert "does not begin with a member" in refused(packed([]), tmp_path)


def test_base64_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_bundle(with_weights(), tmp_path / "whole.ctb", text=True).path.read_bytes()
    assert "Base64" in refused(whole.replace(b"-----\n", b"-----\n\n", 1), tmp_path)
    assert "it cannot be read" in refused(whole[:33] + b"A\n" + whole[-31:], tmp_path)
    monkeypatch.setattr("crosstask_bundles.bundle.MOST_TEXT", 1000)
    assert "at most 1000 bytes" in refused(whole, tmp_path)
