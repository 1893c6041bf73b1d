"""What a federation comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Interval
from crosstask.showing import Shown


@record
class Lost:
    """A site that did not answer in a round, and why."""

    round: int
    site: str
    reason: str


@record
class FederatedResult(Shown):
    """A model learned by sites that keep their data.

    `score` is the mean of the sites' test scores after the last round, each by its number of test samples; `pooled`
    that of one training on all data in one place, with as many samples seen, `alone` that of each site's training on
    its own data (None where they were not asked for, or cannot be had). `scores`, `pooled_scores` and `alone_scores`
    are the same by site. `curve` and `curves` are means over the seeds after the rounds `rounds`; round 0 is before
    the first. `up` and `down` are the bytes of tensors that the sites and the server sent in each round (of the first
    seed), without names and transport. `shares` names the forms of what left a site, `stays` what did not.
    """

    federation: str
    metric: str
    sites: tuple[str, ...]
    samples: dict[str, int]
    tested: dict[str, int]
    score: Interval
    scores: dict[str, Interval]
    rounds: tuple[int, ...]
    curve: tuple[float, ...]
    curves: dict[str, tuple[float, ...]]
    shares: tuple[str, ...]
    up: tuple[int, ...]
    down: tuple[int, ...]
    stays: tuple[str, ...] = ()
    answered: tuple[int, ...] = ()
    pooled: Interval | None = None
    pooled_scores: dict[str, Interval] = attrs.field(factory=dict)
    alone: Interval | None = None
    alone_scores: dict[str, Interval] = attrs.field(factory=dict)
    lost: tuple[Lost, ...] = ()
    notes: tuple[str, ...] = ()
    source: str | None = None
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def sent(self) -> int:
        """Bytes in both directions, all rounds."""
        return sum(self.up) + sum(self.down)

    def _rows(self) -> list[dict[str, Any]]:
        def mean(found: dict[str, Interval], site: str) -> float | None:
            return found[site].mean if site in found else None

        return [
            {
                "site": site,
                "samples": self.samples[site],
                "federated": self.scores[site].mean,
                "pooled": mean(self.pooled_scores, site),
                "alone": mean(self.alone_scores, site),
            }
            for site in self.sites
        ]

    def _headline(self) -> str:
        return f"{self.metric} of {len(self.sites)} sites that keep their data, by {self.federation}"


@record
class SharedEdge:
    """What one site found of one published model: only this leaves it."""

    site: str
    source: str
    target: str
    coefficient: Interval
    score: Interval
    scratch_score: Interval
    samples: int


@record
class SharedEdgesResult(Shown):
    """Transfers that sites measured from published models, each on its own data; the edges are merged into one graph.

    `merged` are the coefficients of the merged graph by `source -> target`, with their standard errors. `bytes` is what
    all edges weigh as JSON.
    """

    method: str
    sites: tuple[str, ...]
    sources: tuple[str, ...]
    edges: tuple[SharedEdge, ...]
    merged: dict[str, float]
    uncertainty: dict[str, float | None]
    bytes: int
    lost: dict[str, str] = attrs.field(factory=dict)
    seed: int = 0
    seeds: int = 1

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"site": e.site, "source": e.source, "target": e.target, "coefficient": e.coefficient.mean,
             "low": e.coefficient.low, "high": e.coefficient.high} for e in self.edges
        ]  # fmt: skip

    def _headline(self) -> str:
        return f"Transfers measured at {len(self.sites)} sites, merged"
