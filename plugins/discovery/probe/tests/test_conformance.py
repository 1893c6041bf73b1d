"""Probe does what the contract of discoverers says, with the kit's own transfer method and little training."""

from crosstask import Portfolio
from crosstask.testing import conformance, reference_registry, small_portfolio
from crosstask_probe import Probe

REGISTRY = reference_registry(lp_ft="transfer")


def three_tasks() -> Portfolio:
    whole = small_portfolio()
    return Portfolio([whole["moons"], whole["halves"], whole["quarters"]], unseen=whole.unseen)


test_conformance = conformance(
    Probe, options={"seeds": 2, "steps": 2, "samples": 10}, registry=REGISTRY, portfolio=three_tasks
)
