"""Weights & Biases as a tracker."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from crosstask.errors import PluginError
from crosstask.options import component, option
from crosstask_trackers import Point, Sink, TrackedRun, Tracker, library

_EXIT = {"finished": 0, "failed": 1, "interrupted": 130}


@component
class Wandb(Tracker):
    """A run of Weights & Biases for each run, with its id: config, curves by step, tables, the graph, the report; all
    files are one artefact.

    The key is wandb's own, WANDB_API_KEY or `wandb login`. With mode "offline" nothing leaves the machine until
    `wandb sync`. A run that the user has begun is not touched.
    """

    project: str | None = option(None, help='project ("crosstask")')
    entity: str | None = option(None, help="user or team; wandb's own by default")
    mode: str | None = option(
        None, choices=(None, "online", "offline", "disabled"), help="wandb's own by default (WANDB_MODE)"
    )
    folder: str | None = option(None, help="where wandb keeps its folder of runs (WANDB_DIR, else the working folder)")

    plugin: ClassVar[str] = "wandb"
    usual: ClassVar[Mapping[str, Any]] = {**Tracker.usual, "project": "crosstask"}

    def check(self) -> None:
        _wandb()

    def open(self, run: TrackedRun) -> Sink:
        wandb = _wandb()
        mode = self.said("mode") or wandb.setup().settings.mode
        if mode == "online" and not _has_key(wandb):
            raise PluginError("wandb has no key: run `wandb login`, set WANDB_API_KEY, or say mode = 'offline'")
        folder = Path(self.said("folder") or os.environ.get("WANDB_DIR") or ".").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        made = wandb.init(
            project=self.said("project"),
            entity=self.said("entity"),
            mode=mode,
            dir=str(folder),
            id=run.run_id,
            name=run.name,
            config=dict(run.parameters),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        return WandbSink(wandb, made)


def _wandb() -> Any:
    return library("wandb", "wandb", "crosstask-wandb")


def _has_key(wandb: Any) -> bool:
    """Whether wandb knows a key. Nobody is asked for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:  # from 0.30 on
        return bool(wandb.login(prompt=False))
    return bool(wandb.api.api_key)


class WandbSink(Sink):
    """A run that was begun, or is gone on with."""

    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run
        self._known: set[str] = set()
        self._files: dict[str, Path] = {}
        self._tables: dict[str, tuple[list[str], list[list[Any]]]] = {}

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            axis = f"{point.series}/step"  # a step of its own for each series: wandb's only grows
            for name in point.figures.keys() - self._known:
                if axis not in self._known:
                    self._run.define_metric(axis, hidden=True)
                self._run.define_metric(name, step_metric=axis)
                self._known |= {name, axis}
            self._run.log({axis: point.step, **point.figures})

    def figures(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tables[f"tables/{name}"] = (list(columns), [list(row) for row in rows])

    def image(self, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))})
        self._files[f"{name}{path.suffix}"] = path

    def file(self, name: str, path: Path) -> None:
        self._files[name] = path
        if path.suffix == ".html":
            self._run.log({Path(name).stem: self._wandb.Html(str(path), inject=False)})

    def end(self, status: str, error: str | None) -> None:
        self._run.summary.update({"status": status, "error": error})
        for name, (columns, rows) in self._tables.items():  # once: every table that is logged is an artefact's version
            self._run.log({name: self._wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
        if self._files:
            made = self._wandb.Artifact(re.sub(r"[^\w.-]", "_", f"crosstask-{self._run.id}"), "crosstask-run")
            for name, path in self._files.items():
                made.add_file(str(path), name=name)
            self._run.log_artifact(made)
        self._run.finish(exit_code=_EXIT[status])
