"""The libraries of Hugging Face, imported when something of theirs is used."""

from __future__ import annotations

import importlib
from typing import Any

from crosstask.errors import PluginError


def library(name: str) -> Any:
    """The module. PluginError, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        package = name.partition(".")[0]
        raise PluginError(f"crosstask-huggingface needs {package} for this: pip install {package}") from None
