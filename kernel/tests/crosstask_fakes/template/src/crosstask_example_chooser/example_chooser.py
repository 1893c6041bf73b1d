"""Every other task."""

from __future__ import annotations

from crosstask.options import component
from crosstask_fakes.contracts import Chooser


@component
class ExampleChooser(Chooser):
    """Chooses every other task."""

    def choose(self, tasks: list[str], most: int) -> list[str]:
        return tasks[::2][:most]
