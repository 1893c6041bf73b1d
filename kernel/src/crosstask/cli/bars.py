"""Progress bars: an observer that draws what the lifecycle hooks tell."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crosstask.errors import printable
from crosstask.options import component, state
from crosstask.points.observer import Observer


@component
class Bars(Observer):
    """One bar per stage of a run, on standard error."""

    _progress: Progress | None = state(None)
    _bars: dict[str, TaskID] = state(factory=dict)

    def _started(self) -> Progress:
        if self._progress is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._progress = Progress(
                *columns, TextColumn("{task.fields[detail]}", style="dim", markup=False), console=Console(stderr=True)
            )
            self._progress.start()
        return self._progress

    def stage_started(self, stage: str, total: int | None) -> None:
        if total != 0:
            title = printable(stage, lines=False).replace("_", " ").capitalize()
            self._bars[stage] = self._started().add_task(f"{title:<24}", total=total, detail="")

    def stage_progress(self, stage: str, detail: str) -> None:
        if stage in self._bars:
            self._started().update(self._bars[stage], advance=1, detail=printable(detail, lines=False))

    hears_every_step: ClassVar[bool] = False

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        if stage in self._bars and "task" not in metrics:  # of one task: a part of the stage, not its own steps
            self._started().update(self._bars[stage], completed=step)

    def stage_finished(self, stage: str, result: Any) -> None:
        if stage in self._bars:
            bars, bar = self._started(), self._bars.pop(stage)
            total = bars.tasks[bars.task_ids.index(bar)].total
            bars.update(bar, completed=total or 1, total=total or 1, detail="")

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
