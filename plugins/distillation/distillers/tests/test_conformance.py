"""The distillers do what the contract says."""

from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.testing import conformance
from crosstask_distillers import Representation, Strategy, WeightPrior
from crosstask_distillers.plugin import PLUGIN

FEW = Budget(steps=6, batch_size=8, evaluate_every=6)

test_representation = conformance(Representation, options={"steps": 5, "held_out": 1, "budget": FEW})
test_strategy = conformance(Strategy, options={"rates": [1e-2], "budget": Budget(steps=3, batch_size=8)})
test_prior = conformance(WeightPrior, options={"held_out": 1, "budget": FEW})


def test_the_representation_is_used_where_none_is_named() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    assert registry.default("distillation") == "representation"
