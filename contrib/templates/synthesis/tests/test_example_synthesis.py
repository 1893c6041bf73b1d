"""Every check of the contract, and what is special about this synthesis."""

import pytest

from crosstask.testing import conformance, small_graph, small_portfolio
from crosstask_example_synthesis import ExampleSynthesis

test_conformance = conformance(ExampleSynthesis)


def test_only_models_of_the_same_classes_are_used() -> None:
    portfolio = small_portfolio()
    new = portfolio.unseen[0]
    made = ExampleSynthesis().synthesize(new.descriptor, list(portfolio), small_graph(portfolio), None)
    assert set(made.provenance.sources) == {"moons", "turned"}
    assert sum(made.provenance.sources.values()) == pytest.approx(1)
