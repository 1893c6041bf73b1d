"""For tests of trackers: a small run on digits, what it tells written down beside the tracker, and ways to stop it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from crosstask.job import run_recipe
from crosstask.options import component, state
from crosstask.points.observer import Observer
from crosstask.recipe import recipe_from
from crosstask.records import RunRecord
from crosstask.registry import Registry

STEPS, EVERY = 22, 5
WRITTEN = (1, 5, 10, 15, 20, 22)
"""The steps of the run that a tracker writes with `every` = EVERY: the last has scores."""


@component
class Heard(Observer):
    """Remembers every step of the joint training; raises `stop`, if one is given, at the seventh."""

    steps: dict[int, dict[str, Any]] = state(factory=dict)
    stop: Any = state(None)

    hears_every_step: ClassVar[bool] = False

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        self.steps[step] = metrics
        if self.stop is not None and step == 7:
            raise self.stop


def small_run(out: Path, *observers: Observer, resume: bool = False, **tables: Any) -> RunRecord:
    """Three tasks of digits: what descriptors say of their transfer, and a joint training balanced by RGB."""
    registry = Registry.installed()
    recipe = recipe_from(
        {
            "name": "small",
            "seeds": 2,
            "source": {"use": "digits", "train": 200, "tasks": ["digits", "parity", "high"]},
            "train": {"steps": 20},
            "budget": {"steps": 10},
            "discovery": {"discoverers": ["skills"]},
            "multitask": {
                "tasks": ["digits", "parity", "high"],
                "balancer": "rgb",
                "budget": {"steps": STEPS, "evaluate_every": 10},
            },
            **tables,
        },
        registry,
    )
    return run_recipe(recipe, out, registry=registry, observers=observers, resume=resume)


def expected_figures(heard: Heard) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of every figure that a tracker is to have written of the joint training."""
    for step in WRITTEN:
        for kind, values in heard.steps[step].items():
            for name, value in values.items():
                yield f"multitask/{kind}/{name}", step, value


def short_run(tracker: Observer, steps: Iterable[int], error: BaseException | None = None) -> None:
    """What a run with the id "again" tells, of which some steps are done before it ends; call it twice to resume."""
    record = RunRecord(run_id="again", name="short")
    tracker.run_started(record)
    tracker.stage_started("multitask", STEPS)
    for step in steps:
        tracker.training_step("multitask", step, {"losses": {"digits": 1 / step}})
    if error is None:
        tracker.stage_finished("multitask", None)
    tracker.run_finished(record, error)
