"""The report of a run: one HTML file that needs nothing else, neither network nor server.

Its sections come from the stages that ran (`Stage.sections`); this is the frame: who the run is, and what it was told.
For authors of sections: `page` has what is text, `figures` what are plots, `graph_view` the transfer graph.
"""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstask.errors import CrosstaskError, RunError
from crosstask.points.stage import Section
from crosstask.records import Unread
from crosstask.writing import atomic

if TYPE_CHECKING:
    from crosstask.graph import TransferGraph
    from crosstask.records import RunRecord
    from crosstask.registry import Registry


def available() -> bool:
    """Whether reports can be written: their figures need plotly, which comes with `crosstask-kernel[report]`."""
    return importlib.util.find_spec("plotly") is not None


def write_report(record: RunRecord, graph: TransferGraph, path: Path, registry: Registry) -> Path:
    """Write the report to `path` and return it; see `render_report`. RunError where it cannot be written; a report that
    was there stays then.
    """
    text, path = render_report(record, graph, registry), Path(path)
    data = text.encode()  # the page carries hashes of its scripts: no byte of them may be translated
    with atomic(path, "report", needed=len(data), kind=RunError) as part:
        part.write_bytes(data)
    return path


def render_report(record: RunRecord, graph: TransferGraph, registry: Registry) -> str:
    """The report's page. What did not run has no heading; a result that cannot be shown (its plugin is missing, or
    fails) is said in a sentence, and stops nothing. RunError without plotly.
    """
    if not available():
        raise RunError("the report needs plotly: pip install 'crosstask-kernel[report]'")
    # deferred: plotly is slow to import, and a command that only reads the path of a report must not pay for it
    from crosstask.report import header, page, recipe

    leading = [name for name in record.results if _leads(record, name, registry)]
    first = [section for name in leading for section in _sections(record, name, graph, registry)]
    others = [name for name in record.results if name not in leading]
    sections = [section for name in others for section in _sections(record, name, graph, registry)]
    marks: dict[str, str] = {}
    for section in (*first, *sections):
        for task, what in section.marks.items():
            marks[task] = f"{marks[task]}, {what}" if task in marks else what
    sections.append(Section(recipe.TITLE, recipe.render(record, graph)))
    return page.document(record.name, header.render(record, graph, first), sections, marks)


def _leads(record: RunRecord, name: str, registry: Registry) -> bool:
    """Whether a stage's sections stand at the head."""
    try:
        return bool(registry.component_class("stage", record.stage_of(name)).leads)  # type: ignore[attr-defined]
    except CrosstaskError:  # its plugin is missing: `_sections` says so in its place
        return False


def _sections(record: RunRecord, name: str, graph: TransferGraph, registry: Registry) -> list[Section]:
    from crosstask.report import page  # deferred, as above

    result: Any = record.result(name, registry)
    suffix = "" if record.stage_of(name) == name else f": {name}"
    title = page.words(record.stage_of(name)).capitalize()
    if isinstance(result, Unread):
        return [Section(title + suffix, page.note(page.escape(f"This result cannot be shown: {result.reason}")))]
    stage = registry.component_class("stage", record.stage_of(name))
    try:
        found = list(stage.sections(result, graph))  # type: ignore[attr-defined]
        if strangers := [each for each in found if not isinstance(each, Section)]:
            raise TypeError(f"sections must give Section objects, got {strangers[0]!r}")
        return [Section(each.title + suffix, each.html, each.marks) for each in found]
    except (Exception, SystemExit) as error:  # foreign code: its failure must not take the report with it
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = (
            f"This section failed: {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        )
        return [Section(title + suffix, page.note(page.escape(told)))]
