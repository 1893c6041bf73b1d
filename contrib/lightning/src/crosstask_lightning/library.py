"""Lightning, imported when something of it is used."""

from __future__ import annotations

import importlib
from typing import Any

from crosstask.errors import PluginError


def lightning() -> Any:
    """The module `lightning.pytorch`. PluginError, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module("lightning.pytorch")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lightning":
            raise
        raise PluginError("crosstask-lightning needs lightning for this: pip install lightning") from None
