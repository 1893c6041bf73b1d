"""What was taken from bundles, as a stage's result tells it."""

from __future__ import annotations

import attrs

from crosstask.options import option, record


@record
class BundleUse:
    """What came from one bundle: `matched` are its tasks that are known here, by the name that they have here; `edges`
    how many of each evidence were taken, `left_out` how many are between tasks that nobody knows here.
    """

    name: str
    digest: str
    licence: str = ""
    run_id: str = ""
    made_by: str = ""
    created: str = ""
    signed_by: str | None = None
    matched: dict[str, str] = attrs.field(factory=dict)
    edges: dict[str, int] = attrs.field(factory=dict)
    left_out: int = 0


@record
class TakenEdge:
    """An edge as it stands after the import: pooled of several measurements where there are."""

    source: str
    target: str
    mean: float
    evidence: str
    found_by: str
    low: float | None = None
    high: float | None = None
    measurements: int = option(1, ge=1, help="how many were pooled")


@record
class BundlesResult:
    """The stage `bundles`. `conflicts` are pairs whose measurements differ by more than their errors, in words."""

    uses: tuple[BundleUse, ...] = ()
    edges: tuple[TakenEdge, ...] = ()
    conflicts: tuple[str, ...] = ()
