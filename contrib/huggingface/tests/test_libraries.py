"""A library that is missing is one clear line."""

from pathlib import Path

import pytest

from crosstask.errors import PluginError
from crosstask_huggingface.libraries import library


def test_a_missing_library_is_said_with_the_command() -> None:
    with pytest.raises(
        PluginError, match="crosstask-huggingface needs no_such_thing for this: pip install no_such_thing"
    ):
        library("no_such_thing.part")


def test_what_a_library_itself_lacks_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library_that_lacks.py").write_text("import what_it_lacks")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="what_it_lacks"):
        library("library_that_lacks")
