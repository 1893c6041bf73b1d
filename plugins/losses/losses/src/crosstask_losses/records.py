"""What training on several objectives came to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.showing import Shown


@record
class LossesResult(Shown):
    """A model trained on several objectives at once. `losses` (by objective), `terms` (by term; sums, metrics and
    losses apart too), `weights` (of terms), `balance` (of objectives, from the balancer), `cosines` (between the
    gradients of two objectives, "elbo, perceiver") and `conflicts` have a value for each of the recorded `steps`; one
    that was not there in a step is None.

    `before` and `after`: every term on the test data, as drawn and as trained, mean over batches. `objectives` says
    which terms each objective has.
    """

    task: str
    model: str
    balancer: str
    objectives: dict[str, tuple[str, ...]]
    steps: tuple[int, ...] = ()
    losses: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    terms: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    weights: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    balance: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    cosines: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    conflicts: dict[str, tuple[float | None, ...]] = attrs.field(factory=dict)
    before: dict[str, float] = attrs.field(factory=dict)
    after: dict[str, float] = attrs.field(factory=dict)
    parameters: int | None = option(None, ge=0, help="numbers that were trained")
    stopped: str = ""
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> list[dict[str, Any]]:
        owner = {term: name for name, terms in self.objectives.items() for term in terms}
        return [
            {"term": term, "objective": owner.get(term), "before": self.before.get(term), "after": value}
            for term, value in self.after.items()
        ]

    def _headline(self) -> str:
        return f"Trained on {', '.join(self.objectives)}, balanced by {self.balancer}"
