"""Transfer between tasks that are learned by acting: what trainings with and without a source came to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge
from crosstask.learning.metrics import confidence_interval, relative_gain, standard_error
from crosstask_reinforcement.records import MeasuredTransfer
from crosstask_reinforcement.training import Trained


def measured_transfer(
    source: str,
    target: str,
    level: float,
    budget: int,
    with_source: Sequence[Trained],
    scratch: Sequence[Trained],
    taken: Sequence[str] = (),
) -> MeasuredTransfer:
    """Of the trainings on `target` alone, seed by seed: from the source's weights, and from scratch. DataError unless
    there is one of each for every seed.
    """
    if not with_source or [each.seed for each in with_source] != [each.seed for each in scratch]:
        raise DataError(f"transfer {source!r} -> {target!r}: there must be a control from scratch for each seed")
    steps = tuple(each.curves[target].first_reaching(level) for each in with_source)
    controls = tuple(each.curves[target].first_reaching(level) for each in scratch)
    shares, ratios, capped = [], [], False
    for own, control, trained in zip(steps, controls, scratch, strict=True):
        ours, theirs = (budget if each is None else each for each in (own, control))
        shares.append(relative_gain(float(theirs), float(ours), math.inf))
        first = trained.curves[target].steps[0]  # nothing sooner could have been seen from scratch
        capped |= control is None or ours < first
        ratios.append(math.log(max(theirs, first) / max(ours, first)))
    known = any(each is not None for each in (*steps, *controls))
    return MeasuredTransfer(
        source=source,
        target=target,
        level=level,
        budget=budget,
        steps=steps,
        scratch_steps=controls,
        coefficient=confidence_interval(shares, (-1.0, 1.0)),
        speed_gain=math.exp(sum(ratios) / len(ratios)) if known else None,
        speed_capped=known and capped,
        taken=tuple(taken),
    )


def edge_of(measured: MeasuredTransfer, found_by: str) -> TransferEdge:
    """The measured edge of the transfer graph. An environment step is a sample: its gain is that of speed."""
    share = measured.coefficient
    return TransferEdge(
        source=measured.source,
        target=measured.target,
        transfer_coefficient=share.mean,
        evidence=Evidence.MEASURED,
        found_by=found_by,
        uncertainty=standard_error(share),
        low=share.low,
        high=share.high,
        sample_efficiency_gain=measured.speed_gain,
        convergence_speed_gain=measured.speed_gain,
        speed_capped=measured.speed_capped,
    )
