"""A run in a process of its own that waits in the middle of a training until a file is there: OUT, FILE, [--resume]."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))

from crosstask import Extension, Plugin, component, option, record
from crosstask.job import run_recipe
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.recipe import recipe_from
from crosstask_fakes.registry import with_fakes

STEPS, STOP = 8, 3


@record
class Waited:
    """What `Waiting` came to."""

    score: float


@component
class Waiting(Stage):
    """Tells of the steps of a training, and waits after the third one."""

    Result: ClassVar[type] = Waited
    after: ClassVar[tuple[str, ...]] = ("look",)
    file: str = option(help="for which it waits")

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="waiting", total=STEPS)
        for step in range(1, STEPS + 1):
            losses = {"task0": 1 / step, "<b>task1": 2 / step}
            self.context.tell("training_step", stage="waiting", step=step, metrics={"losses": losses})
            end = time.monotonic() + 60
            while step == STOP and not Path(self.file).exists():
                assert time.monotonic() < end, "nobody let it go on"
                time.sleep(0.02)
        result = Waited(score=0.75)
        self.context.tell("stage_finished", stage="waiting", result=result)
        return Outcome(result)

    @classmethod
    def summary(cls, result: Waited) -> dict[str, Any]:
        return {"waited_score": result.score}

    @classmethod
    def sections(cls, result: Waited, graph: Any) -> list[Section]:
        return [Section("Waited", f"<p>{result.score}</p>")]


def registry() -> Any:
    """With the stage above."""
    found = with_fakes()
    extension = Extension("stage", "waiting", "slow_run:Waiting")
    found.register(Plugin("waits", [extension], api=(2, 0)), distribution="waits", version="1")
    return found


if __name__ == "__main__":
    out, file, *more = sys.argv[1:]
    values = {
        "name": "slow <i>run",
        "source": "fake",
        "model": {"hidden": [8]},
        "train": {"steps": 20},
        "transfer": "fake",
        "prepare": {"task": "task0"},
        "look": {},
        "waiting": {"file": file},
    }
    known = registry()
    run_recipe(None if more else recipe_from(values, known), Path(out), registry=known, resume=bool(more))
