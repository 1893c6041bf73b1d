"""The calls that the documentation promises, as written, on scikit-learn's digits with the built-in plugins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from crosstask import (
    Budget,
    CrossTaskTransferEngine,
    CurriculumStrategy,
    Distilled,
    SynthesisStrategy,
    Task,
    TaskDescriptor,
    TransferStrategy,
    create_cross_task_transfer_engine,
)

PIXELS, DIGITS = load_digits(return_X_y=True)
IMAGES = (PIXELS / 16).astype("float32")
LABELS = {
    "digits": DIGITS,
    "odd": DIGITS % 2,
    "loops": np.isin(DIGITS, (0, 6, 8, 9)).astype(int),
    "large": (DIGITS > 4).astype(int),
}


def task(name: str, count: int = 600) -> Task:
    labels = LABELS[name]
    return Task(
        descriptor=TaskDescriptor(
            task_id=name, domain="digits", required_skills=("strokes",), output_dim=int(labels.max()) + 1,
            input_shape=(64,), classes=tuple(f"{name} {n}" for n in range(int(labels.max()) + 1)),
        ),
        train=(IMAGES[:count], labels[:count]),
        validation=(IMAGES[900:1300], labels[900:1300]),
        test=(IMAGES[1300:], labels[1300:]),
    )  # fmt: skip


def network(outputs: int) -> nn.Module:
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def trained(name: str) -> nn.Module:
    from crosstask.learning import fit

    made = task(name)
    model = network(made.descriptor.output_dim or 0)
    fit(model, made, Budget(steps=300, learning_rate=5e-3), torch.Generator().manual_seed(0), curve_split=None)
    return model


FEW: dict[str, Any] = {"budget": Budget(steps=30, samples=50), "train": Budget(steps=100), "seeds": 2}


def test_the_engine(tmp_path: Path) -> None:
    engine = CrossTaskTransferEngine(task_embedding_dim=16, hidden_dim=32, auto_discover=True, **FEW)

    async def work() -> None:
        for name in ("digits", "odd", "loops"):
            engine.register_task(task(name), trained_model=trained(name))
        engine.register_task(task("large", 60))
        await engine.discover()
        curriculum = await engine.generate_curriculum(
            target_task="large", strategy=CurriculumStrategy.TRANSFER_POTENTIAL, max_tasks=3
        )
        assert curriculum.task_sequence[-1] == "large"
        assert isinstance(curriculum.expected_performance, float)
        assert curriculum.expected_interval is not None
        results = await engine.transfer_knowledge(
            source_task="digits", target_task="large", transfer_strategy=TransferStrategy.FINE_TUNING
        )
        for name in ("performance_gain", "convergence_speed_gain"):
            assert results[name] is None or isinstance(results[name], float)
        assert results.performance_gain.low <= results["performance_gain"] <= results.performance_gain.high
        done = await engine.run_curriculum(curriculum)
        assert type(done.model) is nn.Sequential
        assert engine.get_best_transfer_strategy(source="digits", target="large") in {s.value for s in TransferStrategy}
        new = TaskDescriptor(task_id="new", input_shape=(64,), output_dim=2, classes=("odd 0", "odd 1"),
                             domain="digits", required_skills=("strokes",))  # fmt: skip
        model = await engine.synthesize_zero_shot_model(
            new_task=new, synthesis_strategy=SynthesisStrategy.WEIGHTED_ENSEMBLE
        )
        outputs = model(torch.as_tensor(IMAGES[1300:]))
        assert float((outputs.argmax(1).numpy() == LABELS["odd"][1300:]).mean()) > 0.8
        knowledge = await engine.distill(["digits", "odd", "loops"], samples=torch.as_tensor(IMAGES[:200]))
        assert isinstance(knowledge, Distilled)
        distiller = engine.knowledge_distiller
        names = ("digits", "odd", "loops")
        given = {name: engine.engine.portfolio[name].model for name in names}
        found = distiller.distill_from_tasks(
            task_models=given,  # type: ignore[arg-type]
            task_descriptors={name: engine.tasks[name] for name in names},
            distillation_samples=torch.as_tensor(IMAGES[:200]),
        )
        changed = distiller.apply_meta_knowledge(network(2), found, adaptation_rate=0.1)
        assert type(changed) is nn.Sequential
        await engine.close()

    asyncio.run(work())
    assert set(engine.tasks) == {*LABELS, "new"}
    assert engine.tasks["digits"].embedding is not None
    edge = next(e for e in engine.transfer_edges if (e.source_task, e.target_task) == ("digits", "odd"))
    assert -1 <= edge.transfer_coefficient <= 1
    assert edge.shared_representations
    assert len(engine.curricula) == 1
    assert len(engine.meta_knowledge) == 2
    assert engine.transfer_history
    assert engine.get_transfer_graph_metrics()["tasks"] == 5
    assert engine.export_transfer_graph(output_path=tmp_path / "graph.json").exists()


def test_the_function_makes_the_same_thing() -> None:
    made = create_cross_task_transfer_engine(task_embedding_dim=16, hidden_dim=32, auto_discover=False, **FEW)
    assert type(made) is CrossTaskTransferEngine
    asyncio.run(made.close())


def test_discovery_from_models_alone() -> None:
    """No data: descriptors and trained models give edges, and what the models have in common."""
    engine = CrossTaskTransferEngine(**FEW)
    for name in ("digits", "odd"):
        engine.register_task(task(name).descriptor, trained_model=trained(name))
    engine.register_task(TaskDescriptor(task_id="other", input_shape=(64,), output_dim=2), network(2))
    graph = asyncio.run(engine.discover())
    edge = graph.edge("digits", "odd")
    assert edge is not None
    assert edge.shared_representations
    assert not edge.measured
    asyncio.run(engine.close())


@pytest.mark.parametrize("strategy", list(TransferStrategy))
def test_every_strategy_of_the_enum(strategy: TransferStrategy) -> None:
    engine = CrossTaskTransferEngine(auto_discover=False, discoverers=[], **{**FEW, "seeds": 1})
    engine.register_task(task("digits"), trained("digits"))
    engine.register_task(task("odd", 60))
    found = asyncio.run(engine.transfer_knowledge("digits", "odd", strategy))
    assert 0 <= found.score.mean <= 1
    asyncio.run(engine.close())
