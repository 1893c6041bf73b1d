"""What made the run: its recipe and the options of each result, for whoever wants to repeat it."""

from __future__ import annotations

import json
from typing import Any

from crosstask.graph import TransferGraph
from crosstask.options import unstructure
from crosstask.records import RunRecord
from crosstask.report.page import details, escape, note

TITLE = "Recipe"


def render(record: RunRecord, graph: TransferGraph) -> str:
    parts: dict[str, Any] = {
        "Recipe": record.recipe,
        "Discovery": record.discovery,
        "Curriculum options": record.curriculum and record.curriculum.options,
        "Multi-task options": record.multitask and record.multitask.options,
        "Synthesis options": record.synthesis and record.synthesis.options,
        "Distillation options": record.knowledge and record.knowledge.options,
        "Few-shot options": record.few_shot and record.few_shot.options,
        "Continual options": record.continual and record.continual.options,
        "Search space": record.search and record.search.space,
        "Search options": record.search and record.search.options,
        "Graph metrics": graph.metrics() if graph.task_ids else None,
        "Versions": record.versions,
    }
    shown = "".join(
        details(name, f"<pre>{escape(json.dumps(unstructure(part), indent=2, ensure_ascii=False))}</pre>")
        for name, part in parts.items()
        if part
    )
    return shown or note("The run recorded neither a recipe nor options.")
