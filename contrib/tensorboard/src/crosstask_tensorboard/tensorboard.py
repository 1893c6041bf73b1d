"""TensorBoard as a tracker: event files, written without TensorFlow and without torch's writer."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from crosstask.options import component, option
from crosstask_trackers import Point, Sink, TrackedRun, Tracker, library

_SHOWN = 200
"""Rows of a table that are shown as text; the file beside the events has all."""


@component
class TensorBoard(Tracker):
    """A folder of event files for each run: curves by step, tables and parameters as text, the graph as an image.

    Files, such as the report, are in its folder `files`: TensorBoard has no place for them.
    """

    folder: str | None = option(
        None, help="folder of runs, each in one of its name; in a recipe's run tensorboard in its folder, else runs"
    )

    plugin: ClassVar[str] = "tensorboard"

    def check(self) -> None:
        _import("tensorboard")

    def open(self, run: TrackedRun) -> Sink:
        usual = Path("runs") if run.folder is None else run.folder / "tensorboard"
        return TensorBoardSink(Path(self.said("folder") or usual).absolute() / run.run_id, run)


def _import(name: str) -> Any:
    return library(name, "tensorboard", "crosstask-tensorboard")


class TensorBoardSink(Sink):
    """A new event file; one of a run that is resumed stands beside that of its beginning, and both are shown as one."""

    def __init__(self, folder: Path, run: TrackedRun) -> None:
        self.folder = folder
        self._event = _import("tensorboard.compat.proto.event_pb2").Event
        self._summary = _import("tensorboard.compat.proto.summary_pb2")
        self._tensor = _import("tensorboard.compat.proto.tensor_pb2").TensorProto
        self._shape = _import("tensorboard.compat.proto.tensor_shape_pb2").TensorShapeProto
        self._text = _import("tensorboard.plugins.text.plugin_data_pb2").TextPluginData
        writer = _import("tensorboard.summary.writer.event_file_writer").EventFileWriter
        self._writer = writer(str(folder))
        self._said("run", f"{run.name}, run {run.run_id}")
        self._said("parameters", _markdown(("parameter", "value"), list(run.parameters.items())))

    def _add(self, values: list[Any], step: int, seconds: float) -> None:
        summary = self._summary.Summary(value=values)
        self._writer.add_event(self._event(step=step, wall_time=seconds, summary=summary))

    def _said(self, tag: str, text: str) -> None:
        about = self._summary.SummaryMetadata(
            plugin_data=self._summary.SummaryMetadata.PluginData(
                plugin_name="text", content=self._text(version=0).SerializeToString()
            )
        )
        shape = self._shape(dim=[self._shape.Dim(size=1)])
        tensor = self._tensor(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        self._add([self._summary.Summary.Value(tag=tag, metadata=about, tensor=tensor)], 0, time.time())
        self._writer.flush()

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            value = self._summary.Summary.Value
            self._add([value(tag=n, simple_value=v) for n, v in point.figures.items()], point.step, point.seconds)
        self._writer.flush()

    def figures(self, values: Mapping[str, float]) -> None:
        self.points([Point(series="", step=0, seconds=time.time(), figures=values)])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._said(f"tables/{name}", _markdown(columns, rows[:_SHOWN]))
        kept = self._place(f"tables/{name}.json")
        kept.write_text(json.dumps({"columns": columns, "data": rows}), "utf-8")

    def image(self, name: str, path: Path) -> None:
        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])  # of the first chunk of every PNG file
        image = self._summary.Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._add([self._summary.Summary.Value(tag=name, image=image)], 0, time.time())
        self._writer.flush()

    def file(self, name: str, path: Path) -> None:
        shutil.copyfile(path, self._place(name))

    def _place(self, name: str) -> Path:
        kept = self.folder / "files" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        return kept

    def end(self, status: str, error: str | None) -> None:
        self._said("status", status if error is None else f"{status}: {error}")
        self._writer.close()


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as TensorBoard's text plugin reads it."""

    def line(cells: Sequence[Any]) -> str:
        shown = ("–" if c is None else f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells)
        return f"| {' | '.join(' '.join(cell.replace('|', '&#124;').split()) for cell in shown)} |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])
