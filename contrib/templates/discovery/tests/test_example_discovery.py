"""Every check of the contract, and what is special about this discovery."""

from crosstask.graph import TransferGraph
from crosstask.testing import conformance, small_portfolio
from crosstask_example_discovery import ExampleDiscovery

test_conformance = conformance(ExampleDiscovery)


def test_tasks_with_the_same_classes_are_joined() -> None:
    portfolio = small_portfolio(models=False)
    edges = ExampleDiscovery(strength=0.8).discover(portfolio, TransferGraph(t.descriptor for t in portfolio))
    assert {(e.source, e.target, e.transfer_coefficient) for e in edges} == {
        ("moons", "turned", 0.8),
        ("turned", "moons", 0.8),
    }
