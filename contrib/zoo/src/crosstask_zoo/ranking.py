"""Which model of a zoo fits a task: each looked at once, without training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from crosstask.records import Advice, Interval
from crosstask.showing import Shown, figure


@attrs.frozen
class Ranked:
    """A model, and what was found of it."""

    name: str
    library: str
    architecture: str
    parameters: int | None
    looked: float | None = None
    """The task's metric of ridge regression on its features, each sample by the others."""
    estimates: Mapping[str, float] = attrs.field(factory=dict)
    """Raw values of estimators, by name; higher is better."""
    expected: Interval | None = None
    """The score to expect of learning from it, where that was tried or measured."""
    evidence: str = ""
    """What was done to find out, where more was done than to look."""
    score: float | None = None
    """By which it is ranked: the mean of the z-scores of the estimates that were asked for, else of `looked`."""
    unfit: str = ""
    """Why nothing can be said of it."""


@attrs.frozen
class Ranking(Shown):
    """Models of a zoo for one task, best first; those that do not fit it last."""

    task: str
    metric: str
    rows: tuple[Ranked, ...]
    advice: Advice | None = None
    """What `TransferEngine.advise` says of the best, where it was asked."""

    @property
    def names(self) -> list[str]:
        """Of the models that fit, best first."""
        return [row.name for row in self.rows if not row.unfit]

    def _rows(self) -> list[dict[str, Any]]:
        asked = list(dict.fromkeys(name for row in self.rows for name in row.estimates))
        return [
            {
                "model": row.name,
                "architecture": row.architecture,
                "parameters": row.parameters,
                self.metric: row.looked,
                **{name: row.estimates.get(name) for name in asked},
                "expected": row.expected,
                "why not": row.unfit or None,
            }
            for row in self.rows
        ]

    def _headline(self) -> str:
        return f"Models for {self.task}"

    def __str__(self) -> str:
        rows = self._rows()
        head = [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
        cells = [head, *([figure(row[name]) for name in head] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def ranked(task: str, metric: str, rows: Sequence[Ranked]) -> Ranking:
    """The rows, each with its score, in order."""
    asked = list(dict.fromkeys(name for row in rows for name in row.estimates))
    columns = [[row.estimates.get(name) for row in rows] for name in asked] or [[row.looked for row in rows]]
    scored = [_standard(column) for column in columns]
    found = []
    for row, own in zip(rows, zip(*scored, strict=True), strict=True):
        values = [value for value in own if value is not None]
        score = statistics.fmean(values) if values and not row.unfit else None
        found.append(attrs.evolve(row, score=score))
    found.sort(key=lambda row: (not row.unfit, row.score is not None, row.score or 0.0), reverse=True)
    return Ranking(task, metric, tuple(found))


def advised(ranking: Ranking, advice: Advice) -> Ranking:
    """The ranking with what the engine advises of its best models: those come first, in the order of the advice."""
    told = {row.source: row for row in advice.rows}
    rows = {row.name: row for row in ranking.rows}
    first = [
        attrs.evolve(rows[name], expected=said.expected, evidence=said.evidence)
        for name, said in told.items()
        if name in rows
    ]
    rest = [row for row in ranking.rows if row.name not in told]
    return attrs.evolve(ranking, rows=(*first, *rest), advice=advice)


def _standard(column: Sequence[float | None]) -> list[float | None]:
    known = [value for value in column if value is not None]
    spread = statistics.pstdev(known) if known else 0.0
    middle = statistics.fmean(known) if known else 0.0
    return [None if value is None else (value - middle) / spread if spread > 0 else 0.0 for value in column]
