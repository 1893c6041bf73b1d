"""Meta-knowledge: what several tasks have in common, and how far it carries to a task left out."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.records import RunRecord
from crosstask.report.page import escape, note, number, table, words

TITLE = "Meta-knowledge"


def render(record: RunRecord, graph: TransferGraph) -> str:
    done = record.knowledge
    if done is None:
        return note("No meta-knowledge was distilled in this run.")
    score = (
        f" Its generalisation score, measured by leaving out one task at a time, is "
        f"<strong>{number(done.generalization_score)}</strong>."
        if done.generalization_score is not None
        else " Its generalisation was not measured."
    )
    domains = f" ({escape(', '.join(done.domains))})" if done.domains else ""
    lead = (
        f'<p class="lead">A {escape(done.kind)} was distilled from {len(done.source_tasks)} tasks'
        f"{domains}: {escape(', '.join(done.source_tasks))}.{score}</p>"
    )
    rows = [(escape(words(name)), escape(value)) for name, value in done.applicability_conditions.items()]
    return lead + (table("Where it applies", ("Condition", "Value"), rows) if rows else "")
