"""The simplest predictor: how much a source helps on average."""

from __future__ import annotations

import numpy as np

from crosstask_gnn.pairs import Array, Pairs


def source_mean(pairs: Pairs) -> Array:
    """[n, n]: for every pair the mean coefficient of what was measured from its source; of everything, if nothing was.

    It orders the sources of every target alike: what a predictor that looks at pairs must beat.
    """
    return np.repeat(_means(pairs.known)[:, None], pairs.count, axis=1)


def target_mean(pairs: Pairs) -> Array:
    """[n, n]: the same for the target of each pair. It knows how hard targets are, and nothing of their sources."""
    return np.repeat(_means(pairs.known.T)[None, :], pairs.count, axis=0)


def _means(rows: Array) -> Array:
    seen = ~np.isnan(rows)
    count, total = seen.sum(1), np.where(seen, rows, 0.0)
    overall = total.sum() / max(seen.sum(), 1)
    return np.where(count > 0, total.sum(1) / np.maximum(count, 1), overall)
