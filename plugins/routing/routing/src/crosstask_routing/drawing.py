"""Random numbers of routers: seeded by their context, and continued from a state."""

from __future__ import annotations

from typing import Any

import numpy as np

from crosstask.errors import PluginError
from crosstask_routing.contract import Router


def generator_of(router: Router) -> np.random.Generator:
    """A generator that depends on the run's seed and the router's name."""
    return np.random.Generator(np.random.PCG64(router.context.seed_for("router", router.name)))


def state_of(rng: np.random.Generator) -> dict[str, Any]:
    """Where a generator stands, as plain JSON."""
    found: dict[str, Any] = dict(rng.bit_generator.state)
    return found


def continued(state: Any, who: str) -> np.random.Generator:
    """A generator that goes on from there. PluginError for anything else."""
    bits = np.random.PCG64()
    try:
        bits.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PluginError(f"{who}: this is not the state of its random numbers: {error}") from None
    return np.random.Generator(bits)
