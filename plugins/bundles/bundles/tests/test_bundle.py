"""Manifests and the files that they become."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import crosstask_bundles.bundle as module
from crosstask import ModelSpec, TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge
from crosstask.options import OptionError
from crosstask.points.distillation import Distilled
from crosstask.records import Curriculum, MetaKnowledge
from crosstask.testing import full_disk
from crosstask_bundles import (
    BundledTask,
    BundleError,
    Origin,
    TransferManifest,
    create_transfer_manifest,
    open_bundle,
    place,
    write_bundle,
)
from crosstask_bundles.index import add_to_index
from crosstask_bundles.signing import NAMESPACE
from crosstask_bundles.testing import CREATED, small_bundle, small_manifest


def edge(source: str = "a", target: str = "b", **more: Any) -> TransferEdge:
    return TransferEdge(source=source, target=target, **{"transfer_coefficient": 0.25, "found_by": "probe", **more})


def knows(**more: Any) -> MetaKnowledge:
    return MetaKnowledge(kind="k", source_tasks=("a",), **more)


def whole() -> TransferManifest:
    """One of everything."""
    knowledge = MetaKnowledge(kind="prototypes", source_tasks=("a", "b"), embedding=(0.5, -1.0))
    described = TaskDescriptor(task_id="a", input_shape=(4,), output_dim=3)
    return create_transfer_manifest(
        transfer_edges=[edge(evidence=Evidence.MEASURED, origin="run 1"), edge("b", "a")],
        meta_knowledge=[
            Distilled(knowledge, {"mean": torch.arange(3.0)}),
            MetaKnowledge(kind="x", source_tasks=("a",)),
        ],
        tasks=[BundledTask(descriptor=described, content="c" * 24)],
        curricula=[Curriculum(target="b", task_sequence=("a", "b"))],
        weights={"a": ModelSpec(hidden=[5]).build(described, 0)},
        adapters={"lora": {"down": torch.ones(2, 4), "up": torch.zeros(4, 2)}},
        name="whole <i>\x1b",
        licence="CC-BY-4.0",
        licence_text="Attribution.",
        origin=Origin(run_id="run 1", name="mine", seed=3),
        created=CREATED,
    )


def test_a_manifest_and_its_json_are_the_same() -> None:
    manifest = whole()
    plain = json.loads(json.dumps(manifest.to_json(), allow_nan=False))
    assert TransferManifest.from_json(plain) == manifest
    assert plain["schema"] == "crosstask/bundle/1"
    assert [each["evidence"] for each in plain["edges"]] == ["measured", "predicted"]
    assert plain["edges"][0]["origin"] == "run 1"
    assert manifest.evidence() == {"predicted": 1, "measured": 1}
    assert [task.descriptor.task_id for task in manifest.tasks] == ["a", "b"]  # the second by an edge alone
    assert manifest.tasks[1].content is None
    assert set(manifest.members) == {
        "LICENSE", "adapters/0.safetensors", "knowledge/0.safetensors", "weights/0.safetensors"
    }  # fmt: skip
    assert list(manifest.to_frame()["found_by"]) == ["probe", "probe"]
    assert "2 tasks, 2 edges" in manifest._headline()
    graph = manifest.graph()
    assert graph.fingerprint("a") == "c" * 24
    assert graph.coefficient("a", "b") == 0.25


def test_of_nothing_but_edges_and_knowledge() -> None:
    """The call of the classic form."""
    manifest = create_transfer_manifest(transfer_edges=[edge()], meta_knowledge=[])
    assert manifest.created.endswith("+00:00")
    assert manifest.origin.made_by.startswith("crosstask ")
    assert (manifest.licence, manifest.members, manifest.payload) == ("", {}, {})


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    manifest = whole()
    bundle = write_bundle(manifest, tmp_path / "new" / "whole.ctb")
    assert bundle.manifest == manifest
    assert (bundle.signature, bundle.signed_by) == (False, None)
    assert bundle.short == f"whole <i>\x1b {bundle.digest[:8]}"
    assert torch.equal(bundle.adapter("lora")["down"], torch.ones(2, 4))
    first, second = bundle.knowledge()
    assert torch.equal(first.tensors["mean"], torch.arange(3.0))
    assert (first.knowledge.embedding, second.tensors) == ((0.5, -1.0), {})
    inputs, model = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), bundle.model("a")
    assert torch.equal(model(inputs), ModelSpec(hidden=[5]).build(manifest.tasks[0].descriptor, 0)(inputs))
    assert bundle.read("LICENSE") == b"Attribution."
    for call, told in (
        (lambda: bundle.model("b"), "weights of task 'b' are not in the bundle; valid: a"),
        (lambda: bundle.adapter("lore"), "did you mean 'lora'"),
        (lambda: bundle.read("weights/1.safetensors"), "no member 'weights/1.safetensors'"),
        (lambda: bundle.read("manifest.json"), "no member 'manifest.json'"),
    ):
        with pytest.raises(BundleError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert told in str(caught.value)


def test_it_is_a_zip_that_other_tools_read(tmp_path: Path) -> None:
    file = write_bundle(whole(), tmp_path / "whole.ctb").path
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"
        assert archive.namelist()[-1] == "SHA256SUMS"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path / "unpacked")
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "unpacked", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == 5


def test_the_same_parts_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_bundle(whole(), tmp_path / name).path.read_bytes() for name in ("one", "other"))
    assert one == other
    text = write_bundle(whole(), tmp_path / "text", text=True)
    assert text.manifest == whole()
    assert text.path.read_text("ascii").startswith("-----BEGIN CROSSTASK BUNDLE-----\nUEsDB")
    assert torch.equal(text.adapter("lora")["up"], torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"transfer_edges": [edge(), edge()]}, "edges[1]: 'a' -> 'b' by 'probe' is twice"),
        ({"transfer_edges": 3}, "transfer_edges"),
        ({"transfer_edges": ["a"]}, "each of transfer_edges must be a TransferEdge, got a str"),
        ({"meta_knowledge": [3]}, "each of meta_knowledge must be a MetaKnowledge"),
        ({"tasks": ["a"]}, "each of tasks must be a TaskDescriptor"),
        ({"tasks": [TaskDescriptor(task_id="a")] * 2}, "task 'a' is in the bundle twice"),
        ({"curricula": [3]}, "curricula"),
        ({"name": " "}, "must not be empty"),
        ({"name": "\ud800"}, "text that is none"),
        ({"weights": {"a": {}}}, "weights['a']: weights are tensors by name, at least one"),
        ({"weights": {"a": {"x": 3}}}, "at least one"),
        ({"adapters": {"a": 3}}, "a module, tensors by name or a path, got a int"),
        ({"adapters": {"a": Path("/no/such/file")}}, "cannot be read"),
        ({"meta_knowledge": [knows(embedding=(float("nan"),))]}, "written as JSON"),
        ({"meta_knowledge": [knows(options={"x": [float("inf")]})]}, "an option is inf, which cannot be written"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_bundled(parts: dict[str, Any], told: str) -> None:
    with pytest.raises((BundleError, OptionError, DataError)) as caught:
        create_transfer_manifest(**parts)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"members": {"manifest.json": {"size": 1, "sha256": "0"}}}, "is the bundle's own"),
        ({"members": {"../x": {"size": 1, "sha256": "0"}}}, "leads out of the folder"),
        ({"members": {"x": {"size": -1, "sha256": "0"}}}, "size must be >= 0"),
        ({"members": {"x": {"size": 1, "sha256": "0"}}}, "member 'x' is nobody's"),
        ({"weights": [{"member": "weights/9.safetensors", "task_id": "a"}]}, "no member 'weights/9.safetensors'"),
        ({"edges": [{"source": "a", "target": "c", "transfer_coefficient": 0.1}]}, "no task 'c' in the bundle"),
        ({"edges": [{"source": "a", "target": "a", "transfer_coefficient": 0.1}]}, "to itself"),
        ({"edges": 3}, "edges must be a list"),
    ],
)
def test_manifests_that_contradict_themselves(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BundleError) as caught:
        TransferManifest.from_json({**small_manifest().to_json(), **change})
    assert told in str(caught.value)


def test_weights_must_be_of_a_task_and_of_one_only() -> None:
    plain = whole().to_json()
    weights = plain["weights"][0]
    for changed, told in (
        ([{**weights, "task_id": "c"}], "weights of a task that is not in the bundle: 'c'"),
        ([weights, weights], "weights of task 'a' is in the bundle twice"),
    ):
        with pytest.raises(BundleError) as caught:
            TransferManifest.from_json({**plain, "weights": changed})
        assert told in str(caught.value)


def test_weights_from_a_file(tmp_path: Path) -> None:
    member = small_bundle("from a file")
    made = create_transfer_manifest(adapters={"own": {"x": torch.ones(3)}})
    (tmp_path / "x.safetensors").write_bytes(made.payload["adapters/0.safetensors"])
    again = create_transfer_manifest(adapters={"own": tmp_path / "x.safetensors"})
    assert again.members == made.members
    with pytest.raises(BundleError, match="no safetensors file"):  # a zip
        create_transfer_manifest(adapters={"own": member.path})


def test_a_model_without_a_known_class_needs_trust_or_a_module(tmp_path: Path) -> None:
    made = create_transfer_manifest(weights={"a": nn.Linear(4, 2)})
    bundle = write_bundle(made, tmp_path / "own.ctb")
    with pytest.raises(DataError, match="trust=True"):
        bundle.model("a")
    assert torch.equal(
        bundle.model("a", into=nn.Linear(4, 2)).weight, bundle.tensors("weights/0.safetensors")["weight"]
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.ctb"
    file.write_text("something else")
    with pytest.raises(BundleError, match="is there already"):
        write_bundle(small_manifest(), file)
    assert file.read_text() == "something else"
    file.unlink()
    first = write_bundle(small_manifest(), file)
    before = file.stat()
    assert write_bundle(small_manifest(), file).digest == first.digest  # the same may be there
    assert file.stat() == before
    with pytest.raises(BundleError, match="is there already"):
        write_bundle(small_manifest(coefficient=0.1), file)
    with pytest.raises(BundleError, match="is there already"):
        place(file, tmp_path)
    read = open_bundle(file).manifest
    larger = create_transfer_manifest(adapters={"own": {"x": torch.ones(3)}})
    assert read.payload == {}
    with pytest.raises(BundleError, match="not at hand: this manifest was read, not made"):
        write_bundle(TransferManifest.from_json(larger.to_json()), tmp_path / "other.ctb")


def test_somebody_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears between the look and the writing stays, with and without links on the file system."""
    file = tmp_path / "mine.ctb"
    monkeypatch.setattr(Path, "exists", lambda path: path != file and os.path.lexists(path))

    def no_links(*_: Any) -> None:
        raise OSError("not supported")

    file.write_text("theirs")
    with pytest.raises(BundleError, match="is there already"):
        write_bundle(small_manifest(), file)
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", no_links)
    file.unlink()
    assert write_bundle(small_manifest(), file).manifest == small_manifest()
    part = tmp_path / "part"
    part.write_text("mine")
    with pytest.raises(BundleError, match="is there already"):
        module._named_as(part, file)


@pytest.mark.parametrize("when", ["fsync", "link"])
def test_an_interrupted_export_leaves_nothing(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, when, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(whole(), tmp_path / "half.ctb")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for call in (
        lambda: write_bundle(small_manifest(), tmp_path / "file" / "x.ctb"),
        lambda: small_bundle().extract(tmp_path / "file" / "x"),
    ):
        with pytest.raises(BundleError, match="cannot write"):
            call()


def test_unpacking(tmp_path: Path) -> None:
    bundle = write_bundle(whole(), tmp_path / "whole.ctb")
    files = bundle.extract(tmp_path / "out")
    assert sorted(str(f.relative_to(tmp_path / "out")) for f in files) == sorted(
        [*bundle.manifest.members, "manifest.json"]
    )
    before = {file: file.stat() for file in files}
    assert {file: file.stat() for file in bundle.extract(tmp_path / "out")} == before  # twice changes nothing
    (tmp_path / "out" / "LICENSE").write_text("another")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(BundleError, match="not what the bundle holds"):
        bundle.extract(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()  # nothing is written where one is wrong
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "weights").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleError, match="leads out of"):
        bundle.extract(tmp_path / "linked")


# Signatures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of Anna and of somebody else, and the file of allowed signers with Anna's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("anna", "other"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(made, check=True)
    (folder / "signers").write_text(f"anna@example.org {(folder / 'anna.pub').read_text()}")
    (folder / "both").write_text(
        "".join(f"{name}@example.org {(folder / f'{name}.pub').read_text()}" for name in ("anna", "other"))
    )
    return folder


needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


@needs_ssh
def test_signed_by_whom_it_says(keys: Path, tmp_path: Path) -> None:
    bundle = write_bundle(whole(), tmp_path / "signed.ctb", sign=keys / "anna")
    assert bundle.signature
    assert bundle.signed_by is None  # nobody has asked
    assert open_bundle(bundle.path, signers=keys / "signers").signed_by == "anna@example.org"
    assert open_bundle(bundle.path, signers=keys / "both").signed_by == "anna@example.org"
    assert bundle.digest == write_bundle(whole(), tmp_path / "plain.ctb").digest


@needs_ssh
def test_signatures_that_do_not_count(keys: Path, tmp_path: Path) -> None:
    """By another key, of another manifest, for another purpose, none at all."""
    other = write_bundle(whole(), tmp_path / "other.ctb", sign=keys / "other").path
    plain = write_bundle(whole(), tmp_path / "plain.ctb").path
    for file, told in ((other, "signed by a key that"), (plain, "is not signed")):
        with pytest.raises(BundleError, match=told):
            open_bundle(file, signers=keys / "signers")
    head = module.manifest_bytes(small_manifest())
    for signature, told in (
        (module.signed(b"something else", keys / "anna"), "not one of 'anna@example.org'"),
        (ssh_signature(head, keys / "anna", "file"), "not one of 'anna@example.org'"),
        (b"garbage", "signed by a key that"),
    ):
        file = tmp_path / "wrong.ctb"
        members = [("manifest.json", head), ("manifest.json.sig", signature)]
        members.append(("SHA256SUMS", module._sums({name: module.digest(data) for name, data in members})))
        with file.open("wb") as opened:
            module.write_archive(opened, members)
        assert open_bundle(file).signature
        with pytest.raises(BundleError, match=told):
            open_bundle(file, signers=keys / "signers")


def ssh_signature(data: bytes, key: Path, namespace: str) -> bytes:
    assert namespace != NAMESPACE
    made = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(key)]
    return subprocess.run(made, input=data, capture_output=True, check=True).stdout


@needs_ssh
def test_keys_and_signers_that_are_none(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="no key at"):
        write_bundle(whole(), tmp_path / "x.ctb", sign=tmp_path / "none")
    with pytest.raises(BundleError, match="did not sign with"):
        write_bundle(whole(), tmp_path / "x.ctb", sign=keys / "signers")
    signed = write_bundle(whole(), tmp_path / "signed.ctb", sign=keys / "anna").path
    with pytest.raises(BundleError, match="no file of allowed signers"):
        open_bundle(signed, signers=tmp_path / "none")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BundleError, match="ssh-keygen of OpenSSH, which is not installed here: install it"):
        write_bundle(whole(), tmp_path / "x.ctb", sign=keys / "anna")
    assert not (tmp_path / "x.ctb").exists()


def test_on_a_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    manifest = whole()
    bundle = write_bundle(manifest, tmp_path / "whole.ctb")
    size = bundle.path.stat().st_size
    with full_disk(500):
        with pytest.raises(BundleError, match=rf"cannot write .*new\.ctb: .* bytes free, {size:,} needed\)"):
            write_bundle(manifest, tmp_path / "new.ctb")
        with pytest.raises(BundleError, match=r"cannot write .* bytes free, [\d,]+ needed\)"):
            bundle.extract(tmp_path / "out")
    with full_disk(100):
        with pytest.raises(BundleError, match=r"cannot write index .*index\.json: .* bytes free, more than"):
            add_to_index(tmp_path / "index.json", bundle, bundle.path)
        with pytest.raises(BundleError, match=r"cannot write .*model\.safetensors: .* bytes free, [\d,]+ needed\)"):
            bundle.model("a")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["whole.ctb"]
