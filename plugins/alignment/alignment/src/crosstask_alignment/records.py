"""What an adaptation comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Interval
from crosstask.showing import Shown


@record
class AlignmentResult(Shown):
    """A model adapted from labelled source tasks to target tasks without their labels.

    By target, over the seeds: `adapted`, its test score; `source_only`, that of the same training without the
    alignment; `supervised`, that of the same training with the target's labels (none where it was not asked for);
    `chances`, that of always giving the most frequent answer. `sources_adapted`, `sources_only`: the scores on the
    sources' own test data, by source. `domain_accuracy` and `domain_accuracy_before`: with which a new critic tells the
    domains of test samples apart by the features of the adapted model, and of that without alignment;
    `domain_chance` is that of guessing. `terms` are the means of the alignment's term at `steps`. `notes` say what
    should be known, such as that nothing was gained.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    alignment: str
    weight: float
    metric: str
    adapted: dict[str, Interval]
    source_only: dict[str, Interval]
    domain_accuracy: Interval
    domain_accuracy_before: Interval
    domain_chance: float
    supervised: dict[str, Interval] = attrs.field(factory=dict)
    chances: dict[str, float] = attrs.field(factory=dict)
    sources_adapted: dict[str, Interval] = attrs.field(factory=dict)
    sources_only: dict[str, Interval] = attrs.field(factory=dict)
    steps: tuple[int, ...] = ()
    terms: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "target": target,
                "source only": self.source_only[target].mean,
                "adapted": adapted.mean,
                "supervised": self.supervised[target].mean if target in self.supervised else None,
                "chance": self.chances.get(target),
            }
            for target, adapted in self.adapted.items()
        ]

    def _headline(self) -> str:
        return f"{self.metric} without the targets' labels, by {self.alignment}"
