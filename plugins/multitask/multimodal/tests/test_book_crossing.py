"""A real table of users, items and titles, as the source `ratings` gives it."""

import os
from pathlib import Path

import pytest

from crosstask.context import LocalContext
from crosstask.learning.modules import Headless, seeded
from crosstask.points.balancer import Balancer
from crosstask.points.source import Source
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask_multimodal import MultiModal, network
from crosstask_multitask.trainer import MultiTaskTrainer

DATA = Path(os.environ.get("CROSSTASK_DATA", Path(__file__).parents[5] / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "book_crossing.npz").exists(), reason="no Book-Crossing beside the checkout")
def test_ratings_are_learned_beside_readings_from_the_source() -> None:
    registry = Registry.installed()
    file = str((DATA / "book_crossing.npz").resolve())
    source = registry.create("source", "ratings", {"file": file, "text": "item_title"})
    balancer = registry.create("balancer", "equal")
    assert isinstance(source, Source)
    assert isinstance(balancer, Balancer)
    tasks = list(source.load())
    sizes = {name: 1 + int(part.max()) for name, part in tasks[0].data().inputs.parts.items()}
    with seeded(0):
        net = network(tasks[0].data().inputs.shapes, 1, sizes)
    module = MultiModal().build(tasks, Headless(net))
    budget = Budget(steps=150, batch_size=512, learning_rate=3e-3, evaluate_every=150)
    trainer = MultiTaskTrainer(module, tasks, balancer, budget, LocalContext())
    trainer.fit()
    scores = trainer.scores(tasks=["rating"])
    assert scores["rating"] > 0.1  # of the variance; the means of users and items together have .36
    assert len(trainer.history["reading"]) == 150
