"""Every check of the contract, and what is special about this curriculum."""

from crosstask.testing import conformance, small_graph, small_portfolio
from crosstask_example_curriculum import ExampleCurriculum

test_conformance = conformance(ExampleCurriculum)


def test_the_best_helper_comes_right_before_the_target() -> None:
    portfolio = small_portfolio(models=False)
    graph = small_graph(portfolio)
    plan = ExampleCurriculum().plan(portfolio, graph, "halves", 3)
    assert [edge.source for edge in graph.best_sources("halves", 2)] == ["shuffled", "moons"]
    assert plan.task_sequence == ("moons", "shuffled", "halves")
    assert ExampleCurriculum(minimum=0.9).plan(portfolio, graph, "halves", 3).task_sequence == ("shuffled", "halves")
