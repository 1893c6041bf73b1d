"""From raw estimates to coefficients: z-scores inside each target, and a line through what was measured.

Raw values of an estimator cannot be compared across targets: most of a value is the target's difficulty.
"""

from __future__ import annotations

import attrs
import numpy as np

from crosstask.graph import Evidence, TransferGraph

Scores = dict[tuple[str, str], float]
"""Raw estimates, or scores made of them, by (source id, target id)."""

PRIOR_LEVEL, PRIOR_TARGET, PRIOR_SLOPE = 0.2, 0.2, 0.1
"""Standard deviations, before anything is measured, of the mean coefficient over all pairs, of a target's mean about
it, and of the slope about `scale`."""
PRIOR_NOISE, PRIOR_WEIGHT = 0.2, 5.0
"""Standard deviation of what is left, and for how many measured pairs this belief counts."""


@attrs.frozen
class Calibrated:
    """A coefficient in [-1, 1] and its standard error."""

    coefficient: float
    uncertainty: float


def with_known(raw: Scores, graph: TransferGraph, name: str) -> Scores:
    """The raw values, and for their targets those of the other sources that the graph has from before: the z-score of
    a new source is among all of them.
    """
    values = dict(raw)
    for target in {target for _, target in raw}:
        for source in graph.networkx.predecessors(target) if target in graph.networkx else ():
            known = graph.estimates(source, target).get(name)
            if known is not None:
                values.setdefault((source, target), known)
    return values


def within_targets(values: Scores) -> Scores:
    """z-scores among the sources of each target; 0 where all are equal, or there is one."""
    columns: dict[str, list[tuple[str, str]]] = {}
    for pair in values:
        columns.setdefault(pair[1], []).append(pair)
    found: Scores = {}
    for pairs in columns.values():
        column = np.array([values[pair] for pair in pairs])
        moved = column - column.mean()
        spread = moved.std()
        flat = spread <= 1e-12 * np.abs(column).max(initial=0.0)
        scores = np.zeros_like(moved) if flat else moved / spread
        found.update(zip(pairs, map(float, scores), strict=True))
    return found


def calibrated(values: Scores, graph: TransferGraph, scale: float) -> dict[tuple[str, str], Calibrated]:
    """Coefficients of raw values by pair: tanh(a + r_target + b z), z being the z-score inside the target.

    The level a, the targets' levels r and the slope b are the posterior of a Bayesian linear regression on the measured
    edges of the graph, in atanh of their coefficients. Before anything is measured a = r = 0 and b = `scale`: the sign
    of the coefficient then says no more than better or worse than the mean source of this target, and the uncertainty
    is as large as that. Every measurement, of whatever pair, makes the level and the slope better known.
    """
    scores = within_targets(values)
    pairs = list(scores)
    columns = {target: 2 + number for number, target in enumerate(dict.fromkeys(t for _, t in pairs))}
    design = np.zeros((len(pairs), 2 + len(columns)))
    design[:, 0] = 1.0
    design[:, 1] = [scores[pair] for pair in pairs]
    design[np.arange(len(pairs)), [columns[t] for _, t in pairs]] = 1.0
    rows, wanted = [], []
    for number, (source, target) in enumerate(pairs):
        edge = graph.edge(source, target) if target in graph.networkx else None
        if edge is not None and edge.evidence is Evidence.MEASURED:
            rows.append(number)
            wanted.append(np.arctanh(np.clip(edge.transfer_coefficient, -0.99, 0.99)))
    mean = np.zeros(design.shape[1])
    mean[1] = scale
    precision = np.diag(1 / np.array([PRIOR_LEVEL, PRIOR_SLOPE] + [PRIOR_TARGET] * len(columns)) ** 2)
    seen, left = design[rows], np.array(wanted) - design[rows] @ mean
    noise = PRIOR_NOISE**2
    for _ in range(3 if rows else 1):  # the size of the noise, and what follows from it
        covariance = np.linalg.inv(precision + seen.T @ seen / noise)
        moved = covariance @ (seen.T @ left) / noise
        missed = ((left - seen @ moved) ** 2).sum() + ((seen @ covariance) * seen).sum()
        noise = (missed + PRIOR_WEIGHT * PRIOR_NOISE**2) / (len(rows) + PRIOR_WEIGHT)
    levels = design @ (mean + moved)
    spread = np.sqrt(((design @ covariance) * design).sum(axis=1) + noise)
    coefficients = np.tanh(levels)
    # The slope of tanh carries the spread over; at the ends it is not taken for less than a tenth.
    errors = spread * np.maximum(1 - coefficients**2, 0.1)
    return {
        pair: Calibrated(float(coefficient), float(error))
        for pair, coefficient, error in zip(pairs, coefficients, errors, strict=True)
    }
