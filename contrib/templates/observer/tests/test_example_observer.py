"""Every check of the contract, and what is special about this observer."""

import json
from pathlib import Path

from crosstask.testing import conformance
from crosstask_example_observer import ExampleObserver

test_conformance = conformance(ExampleObserver)


def test_one_line_for_each_event(tmp_path: Path) -> None:
    observer = ExampleObserver(path=str(tmp_path / "events.jsonl"))
    observer.stage_finished("discover", None)
    observer.training_step("multitask", 3, {"losses": {"a": 0.5}})
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert lines == [
        {"event": "stage", "stage": "discover"},
        {"event": "step", "stage": "multitask", "step": 3, "losses": {"a": 0.5}},
    ]
