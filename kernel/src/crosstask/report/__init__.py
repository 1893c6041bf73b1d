"""The report of a run: one HTML file that needs nothing else, neither network nor server.

Each section has a file with one function `render(record, graph) -> str`; `page` holds what they share as text,
`figures` what they share as plots.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosstask.graph import TransferGraph
    from crosstask.records import RunRecord


def write_report(record: RunRecord, graph: TransferGraph, path: Path) -> Path:
    """Write the report to `path` and return it. What the run did not do is said in a sentence."""
    # deferred: plotly is slow to import, and a command that only reads the path of a report must not pay for it
    from crosstask.report import (
        attribution,
        continual,
        curriculum,
        curves,
        distillation,
        few_shot,
        graph_view,
        header,
        matrix,
        multitask,
        page,
        recipe,
        search,
        synthesis,
    )

    found = {
        distillation: record.knowledge, few_shot: record.few_shot, continual: record.continual, search: record.search,
    }  # fmt: skip
    more = [module for module, result in found.items() if result is not None]
    # A run of one of these alone has no graph, and need not say so in six sections.
    whole = record.discovery or record.curriculum or record.synthesis or record.multitask or not more
    explained = [attribution] if record.attributions else []
    main = [graph_view, matrix, curriculum, curves, *explained, multitask, synthesis] if whole else []
    sections = [header, *main, *more, recipe]
    text = page.document(record.name, [(module.TITLE, module.render(record, graph)) for module in sections])
    # newline="": the page carries hashes of its scripts, so no byte of them may be translated
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return Path(path)
