"""What happens in a run, as lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crosstask.graph import TransferEdge
from crosstask.options import component, option, state, unstructure
from crosstask.points.observer import Observer
from crosstask.records import RunRecord


@component
class ExampleObserver(Observer):
    """Appends a line to `path` for every event; without a path it only counts them."""

    path: str = option("", help="file to append to")

    events: int = state(0)

    def edges_discovered(self, edges: list[TransferEdge], discoverer: str) -> None:
        self._write("edges", discoverer=discoverer, count=len(edges))

    def stage_finished(self, stage: str, result: Any) -> None:
        self._write("stage", stage=stage)

    def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        self._write("step", stage=stage, step=step, losses=metrics.get("losses", {}))

    def run_finished(self, record: RunRecord, error: BaseException | None) -> None:
        self._write("end", run=record.run_id, error=None if error is None else str(error))

    def _write(self, event: str, **told: Any) -> None:
        self.events += 1
        if self.path:
            with Path(self.path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(unstructure({"event": event, **told})) + "\n")
