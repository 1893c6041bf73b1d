"""What made the run: its recipe and the options of each result, for whoever wants to repeat it."""

from __future__ import annotations

import json
from typing import Any

from crosstask.graph import TransferGraph
from crosstask.options import unstructure
from crosstask.records import RunRecord
from crosstask.report.page import details, escape, note, words

TITLE = "Recipe"


def render(record: RunRecord, graph: TransferGraph) -> str:
    parts: dict[str, Any] = {
        "Recipe": record.recipe,
        "Graph metrics": graph.metrics() if graph.task_ids else None,
        "Versions": record.versions,
    }
    for name, result in record.results.items():  # what a stage says of its own options
        if isinstance(result, dict) and result.get("options"):
            parts[f"Options of {words(name)}"] = result["options"]
    shown = "".join(
        details(escape(name), f"<pre>{escape(json.dumps(unstructure(part), indent=2, ensure_ascii=False))}</pre>")
        for name, part in parts.items()
        if part
    )
    return shown or note("The run recorded neither a recipe nor options.")
