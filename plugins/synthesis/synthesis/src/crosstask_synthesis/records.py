"""What the synthesis stage found out."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Provenance


@record
class SynthesisResult:
    """A model for an unseen task, made without training, judged on the task's test split if it has one.

    `full_training_score` is that of a network trained on all of the task's own data, where it has some.
    """

    task_id: str
    provenance: Provenance
    metric: str | None = None
    score: float | None = None
    full_training_score: float | None = None
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
