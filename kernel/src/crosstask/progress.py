"""Progress bars: an observer that draws what the lifecycle hooks tell, in a terminal or a notebook."""

from __future__ import annotations

import atexit
from importlib.util import find_spec
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from crosstask.errors import printable
from crosstask.options import component, option, state
from crosstask.points.observer import Observer


@component
class Progress(Observer):
    """One bar for each stage that is at work: `TransferEngine(observers=[Progress()])`.

    In a terminal the bars are drawn on standard error, in a notebook with ipywidgets in the cell's output; elsewhere (a
    file, a pipe) a line is written as each stage ends. The bars are up only while something works.
    """

    quiet: bool = option(False, help="draw nothing")
    _bars: Bars | None = state(None)
    _tasks: dict[str, TaskID] = state(factory=dict)

    hears_every_step: ClassVar[bool] = False

    def _drawn(self) -> Bars:
        if self._bars is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            detail = TextColumn("{task.fields[detail]}", style="dim", markup=False)
            own = Console()
            cell = own.is_jupyter and all(map(find_spec, ("IPython", "ipywidgets")))
            console = own if cell else Console(stderr=True, force_jupyter=False)
            self._bars = Bars(*columns, TimeElapsedColumn(), detail, console=console)
            self._bars.start()
            atexit.register(self.stop)  # a script that fails: the cursor comes back
        return self._bars

    def stage_started(self, stage: str, total: int | None) -> None:
        if total != 0 and not self.quiet:
            title = printable(stage, lines=False).replace("_", " ").capitalize()
            self._tasks[stage] = self._drawn().add_task(f"{title:<24}", total=total, detail="")

    def stage_progress(self, stage: str, detail: str) -> None:
        if stage in self._tasks:
            self._drawn().update(self._tasks[stage], advance=1, detail=printable(detail, lines=False))

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        if stage in self._tasks and "task" not in metrics:  # of one task: a part of the stage, not its own steps
            self._drawn().update(self._tasks[stage], completed=step)

    def stage_finished(self, stage: str, result: Any) -> None:
        if stage in self._tasks:
            bars, bar = self._drawn(), self._tasks.pop(stage)
            total = bars.tasks[bars.task_ids.index(bar)].total
            bars.update(bar, completed=total or 1, total=total or 1, detail="")
            if not self._tasks:
                self.stop()  # nothing is at work: the terminal or the cell is its owner's again

    def run_finished(self, record: Any, error: BaseException | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            atexit.unregister(self.stop)
            self._tasks.clear()
