"""Every writer of big files on a full disk: one sentence, nothing half written, and what was there stays."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crosstask import CrosstaskError, ModelSpec, RunError, StoreError, TaskDescriptor, TransferEngine, open_store
from crosstask.drawing import Drawing
from crosstask.job import _write_text
from crosstask.learning.checkpoint import save_state
from crosstask.learning.model_files import save_model
from crosstask.testing import full_disk
from crosstask.writing import atomic, size_of, unwritten
from crosstask_fakes.registry import with_fakes


def held(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def model() -> nn.Module:
    return ModelSpec(hidden=(64, 64)).build(TaskDescriptor(task_id="a", input_shape=(64,), output_dim=10), 0)


def engine(folder: Path) -> Path:
    with TransferEngine(registry=with_fakes(), discoverers=["fake"]) as made:
        made.register_task(TaskDescriptor(task_id="a", input_shape=(64,), output_dim=10), model())
        return made.save(folder)


def state(path: Path) -> None:
    save_state(path, {"weights": torch.zeros(10_000), "step": 3})


def weights(path: Path) -> None:
    store = open_store(str(path.parent / "s.db"))
    try:
        with full_disk(1000):
            store.write_weights(f"{'0' * 40}.safetensors", bytes(10_000))  # type: ignore[attr-defined]
    finally:
        store.close()


def drawing(path: Path) -> Path:
    made = Drawing(400, 300, "big")
    for number in range(200):
        made.line([(number, 0), (0, number)], "accent")
    return made.save(path.with_suffix(".svg"))


def bit_by_bit(path: Path) -> None:
    with atomic(path) as part, part.open("wb", buffering=0) as file:
        for _ in range(3):
            file.write(bytes(700))  # of the second time the system takes what there is room for


def folder(path: Path) -> None:
    with atomic(path) as part:
        part.mkdir()
        (part / "one").write_bytes(bytes(900))
        (part / "two").write_bytes(bytes(600))
        save_file({"x": torch.zeros(1000)}, part / "three")


def empty_folder(path: Path) -> None:
    with atomic(path) as part:
        part.mkdir()


def broken(path: Path) -> None:
    with atomic(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def report(path: Path) -> None:
    with atomic(path, "report", kind=RunError) as part:
        part.write_text("")


WRITERS: list[tuple[Callable[[Path], object], type[CrosstaskError], str, int | None]] = [
    (lambda path: save_model(model(), path), StoreError, "cannot write model .*it", 4 * (64 * 64 * 2 + 64 * 12 + 10)),
    (state, StoreError, "cannot write checkpoint .*it", None),
    (engine, StoreError, r"cannot write model .*/it/models/0\.safetensors", 4 * (64 * 64 * 2 + 64 * 12 + 10)),
    (lambda path: _write_text(path, "x" * 10_000), RunError, "cannot write to .*it", 10_000),
    (drawing, CrosstaskError, r"cannot write picture .*it\.svg", None),
]


@pytest.mark.parametrize("number", range(len(WRITERS)))
@pytest.mark.parametrize("there", [False, True])
def test_a_writer_on_a_full_disk(tmp_path: Path, number: int, there: bool) -> None:
    write, kind, told, needed = WRITERS[number]
    if there:
        write(tmp_path / "it")
    before = held(tmp_path)
    assert bool(before) == there
    with full_disk(1000), pytest.raises(kind) as caught:
        write(tmp_path / "it")
    assert held(tmp_path) == before
    message = str(caught.value)
    count = r"[\d,]+" if needed is None else f"{needed:,}"
    pattern = rf"{told}: {os.strerror(errno.EFBIG)} \([\d,]+ bytes free, (more than )?{count} needed\)"
    assert re.fullmatch(pattern, message), message


def test_weights_of_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write weights to .*s\.weights: .* free, 10,000 needed\)"):
        weights(tmp_path / "it")
    assert not list((tmp_path / "s.weights").iterdir())


def test_of_what_size_is_not_known_it_is_more_than_was_written(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(StoreError, match=r"cannot write .*a: .*free, more than 1,000 needed"):
        bit_by_bit(tmp_path / "a")
    # 900 and 600, and what safetensors wrote of the third: nothing, or by older versions 1,000
    with full_disk(1000), pytest.raises(StoreError, match=r"cannot write .*b: .*free, more than (1|2),500 needed"):
        folder(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_folder_and_its_parents_appear_at_once(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "folder") as part:
        part.mkdir()
        (part / "a").write_text("a")
        assert not (tmp_path / "new" / "folder").exists()
    assert held(tmp_path) == {"new/folder/a": b"a"}
    with pytest.raises(StoreError, match="Directory not empty"):
        empty_folder(tmp_path / "new" / "folder")
    assert held(tmp_path) == {"new/folder/a": b"a"}


def test_what_is_not_the_disks_fault_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        broken(tmp_path / "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^cannot write report .*a: File exists$"):
        report(tmp_path / "file" / "a")
    assert unwritten(OSError("the cable is out"), tmp_path / "a") == f"cannot write {tmp_path / 'a'}: the cable is out"


def test_the_free_bytes_are_those_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []

    def usage(place: Path) -> object:
        found.append(place)
        if not place.exists():
            raise FileNotFoundError(place)
        return shutil._ntuple_diskusage(9_000, 8_000, 1_234)  # type: ignore[attr-defined]

    monkeypatch.setattr("crosstask.writing.shutil.disk_usage", usage)
    full = OSError(errno.ENOSPC, "No space left on device")
    told = unwritten(full, tmp_path / "no" / "a", "model", 5_000)
    assert told == f"cannot write model {tmp_path}/no/a: No space left on device (1,234 bytes free, 5,000 needed)"
    assert found == [tmp_path / "no" / "a", tmp_path / "no", tmp_path]
    assert unwritten(full, tmp_path, written=766).endswith("(2,000 bytes free, more than 766 needed)")
    assert size_of(tmp_path / "nothing") == 0


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name, told in (("a\0b", "no path holds a null character"), ("n" * 300, "File name too long")):
        with pytest.raises(StoreError, match=rf"cannot write model .*{told}"), atomic(tmp_path / name, "model") as part:
            part.write_text("")
        with pytest.raises(StoreError, match="cannot write engine"), TransferEngine(auto_discover=False) as engine:
            engine.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
