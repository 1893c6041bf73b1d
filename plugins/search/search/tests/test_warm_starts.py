"""What did well on related tasks comes first."""

from __future__ import annotations

import pytest

from crosstask.context import LocalContext
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.testing import small_portfolio
from crosstask_search.models import ModelSpace
from crosstask_search.networks import run_model_search
from crosstask_search.records import SearchResult, Trial
from crosstask_search.testing import ReferenceSearch
from crosstask_search.warm_starts import warm_starts_for


def test_warm_starts_follow_the_graph() -> None:
    portfolio = small_portfolio(models=False)
    graph = TransferGraph(task.descriptor for task in portfolio)
    for source, coefficient in (("moons", 0.9), ("halves", 0.2), ("shuffled", -0.5)):
        graph.add(TransferEdge(source=source, target="turned", transfer_coefficient=coefficient))
    models = ModelSpace(max_layers=1, widths=(4, 8, 16))

    def searched(task_id: str, values: dict[int, float]) -> SearchResult:
        trials = tuple(
            Trial(number=i, point={"layers": 1, "width1": w}, status="done", value=v)
            for i, (w, v) in enumerate(values.items())
        )
        return SearchResult(search="x", trials=trials, task_id=task_id)

    results = {
        "moons": [searched("moons", {4: 0.5, 8: 0.9, 16: 0.7})],
        "halves": [searched("halves", {4: 0.5, 8: 0.4, 16: 0.9})],
        "shuffled": [searched("shuffled", {4: 0.9})],
    }
    starts = warm_starts_for(LocalContext(), graph, "turned", models, 3, results)
    assert [s.point["width1"] for s in starts] == [8, 16, 4]
    assert [s.weight for s in starts] == pytest.approx([0.9 * 1, 0.9 * 0.5 + 0.2 * 1, 0.2 * 0.5])
    assert starts[0].source == "moons"
    assert warm_starts_for(LocalContext(), graph, "turned", models) == []


def test_model_search_starts_from_what_related_tasks_liked() -> None:
    portfolio = small_portfolio(models=False)
    graph = TransferGraph(task.descriptor for task in portfolio)
    graph.add(TransferEdge(source="moons", target="turned", transfer_coefficient=0.8))
    models, budget = ModelSpace(max_layers=2, widths=(4, 16)), Budget(steps=20, batch_size=16, learning_rate=0.01)
    with Run(Registry()) as run:
        first = run_model_search(run, ReferenceSearch(), models, portfolio["moons"], budget, 6, seeds=1)
        second = run_model_search(
            run, ReferenceSearch(), models, portfolio["turned"], budget, 3, seeds=1, graph=graph, warm=2
        )
    ranked = sorted(first.trials, key=lambda t: t.value or 0.0)
    assert second.warm_starts[0].point == ranked[-1].point
    assert second.trials[0].point == second.warm_starts[0].point
    assert second.warm_starts[0].source == "moons"
