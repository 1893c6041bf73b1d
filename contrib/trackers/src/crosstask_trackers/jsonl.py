"""A tracker that needs nothing: lines of JSON in a file."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from crosstask.options import component, option, unstructure
from crosstask_trackers.sink import Point, Sink, TrackedRun
from crosstask_trackers.tracker import Tracker


@component
class Jsonl(Tracker):
    """Appends a line of JSON to `path` for each thing it follows; files are copied to the folder beside it that is
    called like it, without its suffix. A run that is resumed goes on in the same file.
    """

    path: str | None = option(
        None, help="file to write; in a recipe's run tracked.jsonl in its folder, else crosstask-<run>.jsonl here"
    )

    plugin: ClassVar[str] = "trackers"

    def open(self, run: TrackedRun) -> Sink:
        usual = Path(f"crosstask-{run.run_id}.jsonl") if run.folder is None else run.folder / "tracked.jsonl"
        return JsonlSink(Path(self.said("path") or usual).absolute(), run)


class JsonlSink(Sink):
    """Lines `{"event": …, "time": …, …}`; numbers that are not finite are null."""

    def __init__(self, path: Path, run: TrackedRun) -> None:
        self.path, self.run_id = path, run.run_id
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write("run", name=run.name, parameters=dict(run.parameters))

    def _write(self, event: str, **told: Any) -> None:
        self._lines([{"event": event, "time": time.time(), "run": self.run_id, **told}])

    def _lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """All of them or none, from the beginning of a line: also after a full disk, or a process that was killed."""
        text = "".join(json.dumps(unstructure(line)) + "\n" for line in lines).encode()
        with self.path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                text = text if file.read(1) == b"\n" else b"\n" + text
            written = 0
            try:
                while written < len(text):  # at once, unless the disk is full
                    written += file.write(text[written:])
            except OSError:
                if written and file.seek(0, os.SEEK_END) == end + written:  # nobody wrote after us
                    file.truncate(end)
                raise

    def points(self, points: Sequence[Point]) -> None:
        told = [{"event": "step", "time": p.seconds, "run": self.run_id, **_step(p)} for p in points]
        self._lines(told)

    def figures(self, values: Mapping[str, float]) -> None:
        self._write("figures", values=values)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._write("table", name=name, columns=columns, rows=rows)

    def image(self, name: str, path: Path) -> None:
        self._keep("image", f"{name}{path.suffix}", path)

    def file(self, name: str, path: Path) -> None:
        self._keep("file", name, path)

    def _keep(self, event: str, name: str, path: Path) -> None:
        kept = self.path.with_suffix("") / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
        self._write(event, name=name, path=str(kept))

    def end(self, status: str, error: str | None) -> None:
        self._write("end", status=status, error=error)


def _step(point: Point) -> dict[str, Any]:
    return {"series": point.series, "step": point.step, "values": dict(point.figures)}
