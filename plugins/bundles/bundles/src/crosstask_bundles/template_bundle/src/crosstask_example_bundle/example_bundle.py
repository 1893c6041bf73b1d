"""The bundle of this package."""

from __future__ import annotations

from pathlib import Path

from crosstask.options import component
from crosstask_bundles import Carried


@component
class ExampleBundle(Carried):
    """What was measured between some tasks: `bundle.ctb` beside this file."""

    def file(self) -> Path:
        return Path(__file__).with_name("bundle.ctb")
