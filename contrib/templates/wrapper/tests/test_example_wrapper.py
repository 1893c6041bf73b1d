"""Every check of the contract, and what is special about this wrapper."""

import pytest

from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.testing import conformance, small_graph, small_portfolio
from crosstask.testing.references import ReferenceDiscoverer
from crosstask_example_wrapper import ExampleWrapper

test_conformance = conformance(ExampleWrapper)


def test_an_uncertain_edge_shrinks() -> None:
    found = checked_edges(doubt=1.0)
    assert found == pytest.approx(checked_edges(doubt=0.0) / 1.5)


def checked_edges(doubt: float) -> float:
    """The coefficient of the reference discoverer's first edge (0.5, without an uncertainty) inside the wrapper."""
    portfolio = small_portfolio(models=False)
    discoverer = ReferenceDiscoverer()
    with Run(Registry()) as run:
        run.add(ExampleWrapper(doubt=doubt))
        edges = run.call(discoverer, "discover", portfolio=portfolio, graph=small_graph(portfolio))
    return edges[0].transfer_coefficient
