"""What the distillation stage found out."""

from __future__ import annotations

from crosstask.options import record
from crosstask.records import MetaKnowledge
from crosstask.showing import Shown


@record
class DistillationResult(Shown):
    """What several tasks have in common, and which distiller found it; the tensors are beside it."""

    knowledge: MetaKnowledge
    distiller: str = ""

    def _rows(self) -> tuple[MetaKnowledge, ...]:
        return (self.knowledge,)

    def _headline(self) -> str:
        return f"Distilled by {self.distiller}"
