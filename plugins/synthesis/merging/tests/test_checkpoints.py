"""Checkpoints of several files: merged as in memory, refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstask.errors import DataError, StoreError
from crosstask.testing import full_disk
from crosstask_merging import merge
from crosstask_merging.lora import LoRA, write_lora

INDEX = "model.safetensors.index.json"


def state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (5, 4), "a.bias": (5,), "b.weight": (3, 5), "norm.weight": (5,)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return made | {"steps": torch.tensor(7), "half": torch.randn(3, generator=generator).half()}


def divided(folder: Path, tensors: dict[str, Tensor], files: dict[str, list[str]]) -> Path:
    folder.mkdir()
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    places = {name: file for file, names in files.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps({"of": folder.name}))
    for name in ("tokenizer.json", "merges.txt", "chat_template.jinja", "trainer_state.json", "README.md"):
        (folder / name).write_text("{}")
    return folder


TWO = {
    "model-00001-of-00002.safetensors": ["a.weight", "half", "steps"],
    "model-00002-of-00002.safetensors": ["a.bias", "b.weight", "norm.weight"],
}
OTHER = {"x.safetensors": ["b.weight", "steps"], "y.safetensors": ["a.weight", "a.bias", "norm.weight", "half"]}


@pytest.mark.parametrize("method", ["uniform_soup", "ties", "dare", "slerp", "task_arithmetic"])
def test_several_files_give_what_one_gives(tmp_path: Path, method: str) -> None:
    """However each model is divided; the result is divided as the first."""
    states = [state(seed) for seed in range(3)]
    single = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, tensors in zip(single, states, strict=True):
        save_file(tensors, path)
    expected = load_file(merge(single[1:], tmp_path / "one.safetensors", method, base=single[0]))
    paths = [divided(tmp_path / "first", states[1], TWO), divided(tmp_path / "second", states[2], OTHER)]
    base = divided(tmp_path / "base", states[0], OTHER) / INDEX
    out = merge(paths, tmp_path / "out", method, base=base)
    found: dict[str, Tensor] = {}
    for file, names in TWO.items():
        part = load_file(out / file)
        assert sorted(part) == sorted(names)
        found |= part
        with safe_open(out / file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
            assert json.loads(opened.metadata()["crosstask"])["method"] == method
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    index = json.loads((out / INDEX).read_text())
    assert index["weight_map"] == {name: file for file, names in TWO.items() for name in names}
    assert index["metadata"] == {"total_parameters": 49, "total_size": 4 * (20 + 5 + 15 + 5) + 8 + 2 * 3}
    assert json.loads((out / "config.json").read_text()) == {"of": "first"}
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*TWO, INDEX, "config.json", "tokenizer.json", "merges.txt", "chat_template.jinja"]
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["first", "second", "base", "out", "one.safetensors", *(path.name for path in single)]
    )


def test_folders_of_one_file_and_a_single_file_of_several(tmp_path: Path) -> None:
    states = [state(seed) for seed in range(2)]
    paths = []
    for number, tensors in enumerate(states):
        folder = tmp_path / f"m{number}"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        paths.append(folder)
    out = merge(paths, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["model.safetensors"]
    mean = (states[0]["a.weight"] + states[1]["a.weight"]) / 2
    torch.testing.assert_close(load_file(out / "model.safetensors")["a.weight"], mean)
    whole = merge([divided(tmp_path / f"d{n}", s, TWO) for n, s in enumerate(states)], tmp_path / "all.safetensors")
    torch.testing.assert_close(load_file(whole)["a.weight"], mean)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (merge(paths, empty) / "model.safetensors").exists()


def test_a_folder_that_is_in_use_is_not_written_to_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    paths = [divided(tmp_path / f"m{n}", state(n), TWO) for n in range(2)]
    with pytest.raises(DataError, match="is there already: a merged checkpoint needs a folder of its own"):
        merge(paths, paths[0])
    broken = state(1)
    broken["norm.weight"][0] = float("inf")  # found in the second file, when the first is written
    bad = divided(tmp_path / "bad", broken, TWO)
    with pytest.raises(DataError, match=r"norm.weight' is not finite everywhere"):
        merge([paths[0], bad], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "m0", "m1"]


def index_of(**places: Any) -> str:
    return json.dumps({"weight_map": places})


BAD = {
    "no index of a checkpoint": "{",
    "no index of a checkpoint .*weight_map": "{}",
    "the index names no tensors": index_of(),
    "'a' lies in '../m0/x.safetensors', which is no file beside the index": index_of(a="../m0/x.safetensors"),
    "there is no 'model-1.safetensors', which it names": index_of(a="model-1.safetensors"),
    "'zz' is not in model-00001-of-00002.safetensors, where the index says": index_of(
        zz="model-00001-of-00002.safetensors"
    ),
    "pytorch_model-1.bin: such files are pickles": index_of(a="pytorch_model-1.bin"),
}


@pytest.mark.parametrize("said", BAD)
def test_an_index_that_does_not_hold_is_refused(tmp_path: Path, said: str) -> None:
    good, bad = (divided(tmp_path / f"m{n}", state(n), TWO) for n in range(2))
    (bad / INDEX).write_text(BAD[said])
    with pytest.raises(DataError, match=said):
        merge([good, bad], tmp_path / "out")


def test_pickles_are_refused_with_the_reason(tmp_path: Path) -> None:
    good = divided(tmp_path / "good", state(0), TWO)
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("{}")
        for path in (folder, folder / name):
            with pytest.raises(DataError, match="pickles, which run code when they are read: write the model again"):
                merge([good, path], tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"a folder without model.safetensors and model.safetensors.index.json"):
        merge([good, empty], tmp_path / "out")


def test_on_a_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    """A file, and a checkpoint of several whose second file finds no room."""
    big = {"a": torch.randn(100), "b": torch.randn(2000)}
    files = {"one.safetensors": ["a"], "two.safetensors": ["b"]}
    paths = [divided(tmp_path / f"m{n}", big, files) for n in range(2)]
    with full_disk(5_000):
        with pytest.raises(StoreError, match=r"cannot write merged checkpoint .*/out: .* bytes free, 8,400 needed\)"):
            merge(paths, tmp_path / "out")
        with pytest.raises(StoreError, match=r"cannot write merged weights .*/o\.safetensors: .* free, 8,400 needed\)"):
            merge(paths, tmp_path / "o.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m0", "m1"]


def test_no_adapter_is_half_written(tmp_path: Path) -> None:
    tensors = {f"base_model.model.a.lora_{end}.weight": torch.randn(shape) for end, shape in
               (("A", (4, 300)), ("B", (300, 4)))}  # fmt: skip
    lora = LoRA(tensors, {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["a"]}, "a")
    write_lora(lora, tmp_path / "there")
    before = {file.name: file.read_bytes() for file in (tmp_path / "there").iterdir()}
    for name in ("there", "new"):
        with full_disk(5_000), pytest.raises(StoreError, match=r"cannot write merged adapters .* free, 9,600 needed\)"):
            write_lora(attrs.evolve(lora, config={**lora.config, "lora_alpha": 8}), tmp_path / name)
    assert {file.name: file.read_bytes() for file in (tmp_path / "there").iterdir()} == before
    assert not list((tmp_path / "new").iterdir())
