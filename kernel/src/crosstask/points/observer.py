"""Observers: loggers, progress bars, trackers. They listen to the lifecycle of a run and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from crosstask.graph import TransferEdge
    from crosstask.records import RunRecord
    from crosstask.tasks import Task


class Observer(Component):
    """Override the hooks you want to hear; every observer of a run hears every call. None of them may be abstract."""

    point: ClassVar[str] = "observer"

    hears_every_step: ClassVar[bool] = True
    """Whether trainings of single tasks are to tell it of every step, for which they look at their loss each time;
    where it is False, `training_step` hears only of stages that tell of their own steps.
    """

    @hook()
    def run_started(self, record: RunRecord) -> None:
        """A run begins (or continues, when it is resumed)."""

    @hook()
    def task_registered(self, task: Task) -> None:
        """A task joined the portfolio."""

    @hook()
    def edges_discovered(self, edges: list[TransferEdge], discoverer: str) -> None:
        """A discoverer finished; these are the edges it found."""

    @hook()
    def stage_started(self, stage: str, total: int | None) -> None:
        """A stage of work begins; `total` is how many parts it has, if that is known."""

    @hook()
    def stage_progress(self, stage: str, detail: str) -> None:
        """One part of a stage is done."""

    @hook()
    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> bool | None:
        """One optimiser step of a training in this process; `metrics` holds losses by task, and where they are known
        weights and gradient conflicts; `task` is there where a single task is trained. An answer of True asks that this
        training stop now.
        """
        return None

    @hook()
    def stage_finished(self, stage: str, result: Any) -> None:
        """A stage ended with this result (a record of `crosstask.records`, or None)."""

    @hook()
    def run_finished(self, record: RunRecord, error: BaseException | None) -> None:
        """A run ended; `error` is what stopped it, if something did."""
