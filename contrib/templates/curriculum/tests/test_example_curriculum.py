"""Every check of the contract, and what is special about this curriculum."""

from crosstask.testing import conformance, small_graph, small_portfolio
from crosstask_example_curriculum import ExampleCurriculum

test_conformance = conformance(ExampleCurriculum)


def test_the_best_helper_comes_right_before_the_target() -> None:
    portfolio = small_portfolio(models=False)
    graph = small_graph(portfolio)
    best = graph.best_sources("shuffled", 1)[0].source
    plan = ExampleCurriculum().plan(portfolio, graph, "shuffled", 3)
    assert plan.task_sequence[-2:] == (best, "shuffled") or best in portfolio.prerequisite_graph()
