"""Random numbers of a source, one stream for each purpose."""

from __future__ import annotations

import numpy as np


def rng_for(seed: int, *purpose: str) -> np.random.Generator:
    """Random numbers for one purpose (`"split"`, or `"labels", "parity", "test"`), the same in every process.

    What one purpose draws leaves the draws of all others alone: another size of the test set, one task more or noise on
    the images change nothing else about a portfolio.
    """
    return np.random.default_rng([seed, *"/".join(purpose).encode()])
