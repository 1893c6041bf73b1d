"""Files whose text is nested too deeply, or holds numbers of too many digits, for Python to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crosstask import OptionError, RecipeError, Registry, StoreError, TransferEngine
from crosstask.cli.plugins import check
from crosstask.isolated import _Child
from crosstask.learning.checkpoint import load_state
from crosstask.learning.model_files import load_model
from crosstask.recipe import load_recipe
from crosstask.settings import load_settings
from crosstask.store.processes import signed, still_at_work

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "1" * 5000
DOTTED = ".".join("a" * 3000)
TOO_MUCH = {"deep": DEEP, "digits": DIGITS}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_engines_models_and_checkpoints(text: str, tmp_path: Path) -> None:
    head = tmp_path / "engine" / "engine.json"
    head.parent.mkdir()
    head.write_text(text)
    with pytest.raises(StoreError, match=f"cannot read engine {head.parent}: "):
        TransferEngine.open(head.parent)
    with TransferEngine() as engine, pytest.raises(StoreError, match=str(head.parent)):
        engine.save(head.parent)
    assert head.read_text() == text
    path = tmp_path / "it.safetensors"
    save_file({"0": torch.zeros(1)}, path, metadata={"crosstask": text, "state": text})
    with pytest.raises(StoreError, match=f"cannot read model {path}: "):
        load_model(path)
    with pytest.raises(StoreError, match=f"cannot read checkpoint {path}: "):
        load_state(path)


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_recipes_and_settings(text: str, tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "it.toml"
    path.write_text(f"[look]\ndiscoverers = {text}\n")
    with pytest.raises(RecipeError, match=f"{path}: "):
        load_recipe(path, registry)
    (tmp_path / "pyproject.toml").write_text(f"[tool.crosstask]\nallow = {text}\n")
    with pytest.raises(OptionError, match=f"{tmp_path / 'pyproject.toml'}: cannot be read: "):
        load_settings({}, tmp_path)
    path.write_text('[source]\nuse = "fake"\n')
    with pytest.raises(RecipeError, match=r"seeds must be an integer, got '"):
        load_recipe(path, registry, [f"seeds={text}"])
    assert check._toml(text) == text


def test_tables_in_tables(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "it.toml"
    path.write_text(f"{DOTTED} = 1\n")
    with pytest.raises(RecipeError, match=rf"^{path}: tables are nested more than 100 deep: a\.a\.a"):
        load_recipe(path, registry)
    path.write_text("")
    with pytest.raises(RecipeError, match=r"^command line: tables are nested more than 100 deep: a\.a\.a"):
        load_recipe(path, registry, [f"{DOTTED}=1"])


def test_the_mark_of_a_process_and_what_foreign_code_writes(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text(json.dumps(signed()))
    assert still_at_work(mark) is not None
    for text in (DEEP, DIGITS, *(json.dumps(signed() | {"pid": pid}) for pid in (float("inf"), 10**40))):
        mark.write_text(text)
        assert still_at_work(mark) is None
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as pipe, os.fdopen(theirs, "wb") as writing:
        writing.write(f"{'[' * 50_000}\n".encode() + b'{"ready": 1}\n{"say": 2}\n')
        writing.close()
        assert list(_Child(pipe, lambda: 0, lambda: None).lines()) == [{}, {"say": 2}]
