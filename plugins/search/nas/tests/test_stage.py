"""The searches in the stage: which one is the default, and that a network of ours is built for other tasks."""

from __future__ import annotations

import torch

from crosstask.engine import TransferEngine
from crosstask.records import Budget
from crosstask.testing import reference_registry, small_portfolio
from crosstask_nas import create_nas_search_space
from crosstask_nas.plugin import PLUGIN as NAS
from crosstask_search.plugin import PLUGIN as SEARCH


def test_bayesian_is_the_default_and_an_architecture_fits_every_task() -> None:
    models = create_nas_search_space((2,), 2, max_layers=2, widths=(2, 8)).models
    registry = reference_registry(SEARCH, NAS)
    with TransferEngine(train=Budget(steps=5), seeds=1, discoverers=[], registry=registry) as engine:
        engine.register(small_portfolio(models=False))
        outcome = engine.run_stage("search", task="moons", models=models, evaluations=3)
        darts = engine.run_stage("search", task="moons", search={"use": "darts", "steps": 3}, evaluations=1).record
        assert darts.search.startswith("search 'darts'")
        assert outcome.record.search.startswith("search 'bayesian'")
        network = outcome.artifacts["model"].build(engine.portfolio["quarters"].descriptor, 0)
        assert network(torch.zeros(3, 2)).shape == (3, 4)
