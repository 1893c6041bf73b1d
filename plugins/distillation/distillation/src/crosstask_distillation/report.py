"""Meta-knowledge: what several tasks have in common, and how far it carries to a task left out."""

from __future__ import annotations

from crosstask.records import MetaKnowledge
from crosstask.report.page import details, escape, note, number, words

TITLE = "Meta-knowledge"


def render(done: MetaKnowledge) -> str:
    """The HTML of the section."""
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
    # Paragraphs, not a table: the architecture of a network is a text that needs several lines
    conditions = [note(escape(f"{words(name)}: {value}")) for name, value in done.applicability_conditions.items()]
    return lead + (details("Where it applies", "".join(conditions)) if conditions else "")
