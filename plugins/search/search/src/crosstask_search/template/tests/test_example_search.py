"""Every check of the contract, and what is special about this search."""

from crosstask.context import LocalContext
from crosstask.testing import conformance
from crosstask_example_search import ExampleSearch
from crosstask_search import Parameter, SearchSpace, run_search

test_conformance = conformance(ExampleSearch)


def test_it_climbs() -> None:
    space = SearchSpace(parameters={name: Parameter(low=0, high=9, integer=True) for name in "abcd"})
    result = run_search(LocalContext(), ExampleSearch(restart=0.0), space, lambda point: sum(point.values()), 60)
    assert result.best is not None
    assert result.best.value is not None
    assert result.best.value >= 30  # random points come to 18 on average
