"""What the distillation stage found out."""

from __future__ import annotations

from crosstask.options import record
from crosstask.records import MetaKnowledge


@record
class DistillationResult:
    """What several tasks have in common, and which distiller found it; the tensors are beside it."""

    knowledge: MetaKnowledge
    distiller: str = ""
