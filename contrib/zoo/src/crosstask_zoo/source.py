"""A recipe's source: a folder of saved models beside the tasks of another source."""

from __future__ import annotations

from pathlib import Path

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.source import Source
from crosstask.tasks import Portfolio
from crosstask_zoo.zoo import Zoo


@component
class ZooSource(Source):
    """Every saved model in `folder` as a task without data, and the tasks of `data`.

    Features that the models make of the tasks' samples are computed once; in a run with a store they are kept there.
    """

    folder: Path = option(help="the folder in which each saved model has its own")
    data: Part | None = part("source", None, help="the source of the tasks for which the models are ranked")
    models: tuple[str, ...] = option((), help="only these models")
    memory: int = option(1 << 28, ge=0, help="bytes of features that are held")
    disk: int = option(1 << 31, ge=0, help="bytes of features that are kept in the store of the run")

    def load(self) -> Portfolio:
        store = getattr(self.context, "store", None)
        zoo = Zoo(self.folder, store=store, memory=self.memory, disk=self.disk)
        found = zoo.portfolio(names=self.models or None)
        for inner in self.made_of("data"):
            theirs = inner.load()
            for task in theirs:
                if task.task_id in found:
                    raise DataError(f"{self.origin}: {task.task_id!r} is a model in {self.folder} and a task of `data`")
                found.add(task)
            for task in theirs.unseen:
                found.add(task, unseen=True)
        return found
